//! pimd: a multicast router on the lab's LAN, with a network behind it.

use std::fs;
use std::fs::File;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use super::process::{Background, wait_until};
use super::{HOST_PORT, Lab, PARENT, PATIENCE};

/// The router's address on the LAN.
pub const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 254);
/// A host in the network behind the router.
pub const FAR: Ipv4Addr = Ipv4Addr::new(10, 98, 0, 2);

/// A running pimd; its namespaces, `router` and `far`, go with the lab.
pub struct Router(#[expect(dead_code, reason = "ends when dropped")] Background);

impl Lab {
    /// Puts a router on the LAN, which asks in IGMPv3; the switch asks no more.
    pub fn start_router(&self) -> Router {
        self.ip("sw", "link set br0 type bridge mcast_querier 0");
        // A bridge goes by what it has learned only when another's querier was there for ten
        // seconds; here the router decides what is on the LAN.
        super::run(self.enter("sw", "bridge").args([
            "link",
            "set",
            "dev",
            HOST_PORT,
            "mcast_flood",
            "on",
        ]));
        for node in ["router", "far"] {
            self.add_node(node);
        }
        let (router, far) = (self.namespace("router"), self.namespace("far"));
        self.ip("sw", &format!("link add p-router type veth peer name {PARENT} netns {router}"));
        self.ip("sw", "link set p-router master br0 up");
        self.ip("router", &format!("addr add {ROUTER}/24 dev {PARENT}"));
        self.ip("router", &format!("link set {PARENT} up"));
        self.ip("router", &format!("link add far0 type veth peer name lan0 netns {far}"));
        self.ip("router", "addr add 10.98.0.1/24 dev far0");
        self.ip("router", "link set far0 up");
        self.ip("far", &format!("addr add {FAR}/24 dev {PARENT}"));
        self.ip("far", &format!("link set {PARENT} up"));
        for node in ["router", "far"] {
            wait_until("the LAN interface is up", PATIENCE, || {
                let links =
                    super::json(self.enter(node, "ip").args(["-j", "link", "show", PARENT]));
                (links[0]["operstate"] == "UP").then_some(())
            });
        }
        let config = self.directory().join("pimd.conf");
        fs::write(&config, format!("phyint {PARENT} enable igmpv3\n")).expect("conf");
        let log = self.directory().join("pimd.log");
        let file = File::create(&log).expect("log");
        // Its pid file is always /run/pimd.pid, of which every lab needs one of its own.
        let script = "mount -t tmpfs none /run && exec \"$1\" -f --debug=igmp_proto -c \"$2\"";
        let mut command = self.enter("router", "unshare");
        command
            .args(["-m", "sh", "-c", script, "sh"])
            .arg(pimd())
            .arg(config)
            .stdout(Stdio::from(file.try_clone().expect("log")))
            .stderr(Stdio::from(file));
        let router = Router(Background::start(&mut command));
        wait_until("pimd serves the LAN", PATIENCE, || {
            let text = fs::read_to_string(&log).ok()?;
            text.contains(&format!("Sending IGMP v3 query on {PARENT}")).then_some(())
        });
        router
    }

    /// Groups that the router forwards to the LAN, as the kernel's forwarding cache has them.
    pub fn routed(&self, group: Ipv4Addr) -> bool {
        let cache = super::run(self.enter("router", "cat").arg("/proc/net/ip_mr_cache"));
        let [a, b, c, d] = group.octets();
        // Group, origin, input, packets, bytes, wrong, then outputs as VIF:TTL. The LAN is VIF 0.
        let number = format!("{:08X}", u32::from_ne_bytes([a, b, c, d]));
        let to_the_lan = |line: &str| line.split_whitespace().skip(6).any(|o| o.starts_with("0:"));
        cache.lines().any(|line| line.starts_with(&number) && to_the_lan(line))
    }
}

/// The program: `make test` unpacks its package and does not install it, since that would start a
/// router on the machine.
fn pimd() -> PathBuf {
    let unpacked = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/debian/usr/sbin/pimd");
    let found = [unpacked, PathBuf::from("/usr/sbin/pimd")].into_iter().find(|p| p.exists());
    found.expect("no pimd: run scripts/apt-unpack pimd target/debian (make test does)")
}

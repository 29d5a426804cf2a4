//! A media facility in network namespaces: a snooping switch, a sender, a container host.
//!
//! ```text
//!   src ---- lan0 | p-src   sw: br0   p-host | lan0 ---- host: containers
//!   10.99.0.3, .4            10.99.0.1         10.99.0.2
//! ```
//!
//! Namespace and container names carry the pid and a counter, so that labs stand side by side.
//! Whatever a test makes goes with its [`Lab`], also when the test fails.

mod bridged;
mod capture;
mod container;
mod cri;
mod daemon;
mod docker_driver;
mod engine;
mod facts;
mod family;
pub mod frames;
mod igmp;
mod numbered;
mod probe;
mod process;
mod router;
mod sockets;
mod tmux;
pub mod tracer;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fmt::Display;
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::timing::Timing;

pub use bridged::{BRIDGE, BRIDGE_ADDRESS, Udp};
pub use capture::Capture;
pub use container::{Bundle, Container, EngineCommands, Runtime};
pub use cri::{Cri, Pod};
pub use daemon::{Containerd, Dockerd, IMAGE, oci_archive};
pub use docker_driver::DockerDriver;
pub use engine::{Engine, hooks_dir};
pub use facts::{Leftovers, has_joined};
pub use family::{Family, mld};
pub use igmp::{Igmp, IgmpFrame, Record, RecordKind};
pub use numbered::{assert_whole, assert_whole_while, numbered, payloads, stream, stream_while};
pub use probe::{Receiver, Reception};
pub use process::{Background, alive, give, json, kill, output, run, wait_until};
pub use router::{FAR, ROUTER};
pub use sockets::{Change, Member, after, joined_by_one, set_source_filter, union};
pub use tmux::Pane;

/// The LAN interface in the host's and the sender's namespace.
pub const PARENT: &str = "lan0";
/// The switch, which is also the querier.
pub const SWITCH: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
/// The container host's own address.
pub const HOST: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);
/// The sender's addresses.
pub const SOURCES: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 99, 0, 3), Ipv4Addr::new(10, 99, 0, 4)];

/// The switch port of the container host.
pub const HOST_PORT: &str = "p-host";

/// What a test may wait for: far beyond what anything takes on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A facility, removed when dropped.
pub struct Lab {
    prefix: String,
    directory: TempDir,
    containers: RefCell<Vec<Container>>,
    bare: RefCell<Vec<&'static str>>,
    before: Leftovers,
    host_mac: String,
    _timing: Timing,
    /// Where `mcrun` and the programs beside it are.
    programs: RefCell<PathBuf>,
    /// Whether the container host is this very machine, with the directories that mcrun has there.
    is_machine: bool,
}

impl Lab {
    /// Builds a facility whose switch speaks this version of IGMP (2 or 3), treats the host's port
    /// as media networks do (immediate leave, no flooding of unknown groups) and asks once now and
    /// then every 20 seconds: longer than any test depends on.
    pub fn new(igmp_version: u8) -> Lab {
        Lab::make(igmp_version, false)
    }

    /// The same around this very machine, which is the container host: a virtual machine with
    /// `lan0`, whose other end `p-host` is plugged into the switch as long as the lab is there.
    pub fn on_this_machine(igmp_version: u8) -> Lab {
        Lab::make(igmp_version, true)
    }

    fn make(igmp_version: u8, is_machine: bool) -> Lab {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        need_root();
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        // The lab exists from here on, so that Drop removes a half-built one.
        let mut lab = Lab {
            prefix: format!("mcrun-{}-{number}", std::process::id()),
            directory: tempfile::Builder::new().prefix("mcrun-lab-").tempdir().expect("tempdir"),
            containers: RefCell::default(),
            bare: RefCell::default(),
            before: Leftovers::default(),
            host_mac: String::new(),
            _timing: Timing::start(),
            programs: RefCell::new(
                Path::new(env!("CARGO_BIN_EXE_mcrun")).parent().expect("a directory").to_owned(),
            ),
            is_machine,
        };
        lab.build(igmp_version);
        lab.host_mac = lab.link(PARENT)["address"].as_str().expect("a MAC").to_owned();
        lab.before = lab.leftovers();
        lab
    }

    fn build(&self, igmp_version: u8) {
        for node in ["sw", "host", "src"] {
            let namespace = self.namespace(node);
            run(Command::new("ip").arg("netns").args(match node {
                "host" if self.is_machine => vec!["attach", &namespace, "1"],
                _ => vec!["add", &namespace],
            }));
            self.ip(node, "link set lo up");
        }
        self.ip(
            "sw",
            &format!(
                "link add br0 type bridge mcast_snooping 1 mcast_igmp_version {igmp_version} \
                 mcast_query_interval 2000 mcast_startup_query_interval 2000 \
                 mcast_query_use_ifaddr 1"
            ),
        );
        self.ip("sw", &format!("addr add {SWITCH}/24 dev br0"));
        for node in ["host", "src"] {
            if node == "host" && self.is_machine {
                self.ip("host", &format!("link set {HOST_PORT} netns {}", self.namespace("sw")));
            } else {
                let (peer, link) = (self.namespace(node), format!("link add p-{node} type veth"));
                self.ip("sw", &format!("{link} peer name {PARENT} netns {peer}"));
            }
            self.ip("sw", &format!("link set p-{node} master br0 up"));
            self.ip(node, &format!("link set {PARENT} up"));
        }
        self.ip("sw", "link set br0 up");
        self.ip("host", &format!("addr replace {HOST}/24 dev {PARENT}"));
        for source in SOURCES {
            self.ip("src", &format!("addr add {source}/24 dev {PARENT}"));
        }
        let port = ["link", "set", "dev", HOST_PORT, "fastleave", "on", "mcast_flood", "off"];
        run(self.enter("sw", "bridge").args(port));
        for (node, link) in [("sw", "br0"), ("host", PARENT), ("src", PARENT)] {
            wait_until("a link comes up", PATIENCE, || {
                let links = json(self.enter(node, "ip").args(["-j", "link", "show", link]));
                (links[0]["operstate"] == "UP").then_some(())
            });
        }
        let querier_on = self.begin_to_ask();

        let rootfs = self.rootfs();
        for directory in ["bin", "dev", "proc", "sys", "tmp", "etc"] {
            fs::create_dir_all(rootfs.join(directory)).expect("rootfs directory");
        }
        install(&busybox(), &rootfs.join("bin/busybox"));
        for applet in ["sh", "sleep", "cat", "ip", "true", "false", "echo", "env", "id", "kill"] {
            std::os::unix::fs::symlink("busybox", rootfs.join("bin").join(applet)).expect("link");
        }
        install(Path::new(env!("CARGO_BIN_EXE_mcrun")), &rootfs.join("bin/mcrun"));
        fs::create_dir_all(self.config_dir()).expect("configuration directory");
        self.configure("");

        self.ask_from_now_on(querier_on);
    }

    /// A bridge takes its own querier for present when the response interval has passed since
    /// the querier was switched on (br_multicast_set_querier): a tenth of a second until then,
    /// and half a second for the tests. Less would be a response code of 0, which is IGMPv1.
    fn begin_to_ask(&self) -> Instant {
        // One after the other: of one command, the kernel would take the last setting first.
        for setting in ["mcast_querier 0", "mcast_query_response_interval 10", "mcast_querier 1"] {
            self.ip("sw", &format!("link set br0 type bridge {setting}"));
        }
        Instant::now()
    }

    /// Ends what [`Lab::begin_to_ask`] has begun then.
    fn ask_from_now_on(&self, since: Instant) {
        // The kernel has no event for the end of this delay.
        std::thread::sleep(Duration::from_millis(150).saturating_sub(since.elapsed()));
        self.ip("sw", "link set br0 type bridge mcast_query_response_interval 50");
    }

    /// The name of the namespace of `sw`, `host` or `src`.
    pub fn namespace(&self, node: &str) -> String {
        format!("{}-{node}", self.prefix)
    }

    /// A name that no other lab uses.
    pub fn name(&self, name: &str) -> String {
        format!("{}-{name}", self.prefix)
    }

    /// `program` in the network namespace of `node`.
    ///
    /// Not `ip netns exec`: the fresh /sys it mounts hides the cgroups from runc.
    pub fn enter(&self, node: &str, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/run/netns/{}", self.namespace(node)))
            .arg(program)
            .env("MCRUN_STATE_DIR", self.state_dir())
            .env("MCRUN_CONFIG_DIR", self.config_dir())
            .env("MCRUN_LIB_DIR", self.place("lib", "/var/lib/mcrun"))
            .env("MCRUN_LOG_DIR", self.log_dir());
        command
    }

    /// `ip ARGUMENTS` in the namespace of `node`.
    pub fn ip(&self, node: &str, arguments: &str) {
        run(Command::new("ip")
            .args(["-n", &self.namespace(node)])
            .args(arguments.split_whitespace()));
    }

    /// `mcrun` on the container host.
    pub fn mcrun<I: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = I>) -> Command {
        let mut command = self.enter("host", self.program("mcrun"));
        command.args(arguments);
        command
    }

    /// Uses the programs of this directory from now on.
    pub fn use_programs(&self, directory: &Path) {
        directory.clone_into(&mut self.programs.borrow_mut());
    }

    /// The path of one of mcrun's programs.
    pub fn program(&self, name: &str) -> PathBuf {
        self.programs.borrow().join(name)
    }

    /// A directory of this lab's own.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    fn place(&self, own: &str, of_the_machine: &str) -> PathBuf {
        match self.is_machine {
            true => of_the_machine.into(),
            false => self.directory().join(own),
        }
    }

    /// `MCRUN_STATE_DIR`.
    pub fn state_dir(&self) -> PathBuf {
        self.place("state", "/run/mcrun")
    }

    /// `MCRUN_LOG_DIR`.
    pub fn log_dir(&self) -> PathBuf {
        self.place("log", "/var/log/mcrun")
    }

    /// `MCRUN_CONFIG_DIR`.
    pub fn config_dir(&self) -> PathBuf {
        self.place("config", "/etc/mcrun")
    }

    /// Writes the administrator's `mcrun.toml`. Where the tests are to do without notifications, it
    /// turns them off, whatever else it says.
    pub fn configure(&self, rules: &str) {
        let file = self.config_dir().join("mcrun.toml");
        let mut text = rules.to_owned();
        if !notifications() {
            // Such kernels relay nothing either.
            for (section, key) in [("[proxy]\n", "notifications"), ("[relay]\n", "bpf")] {
                let off = format!("{section}{key} = false\n");
                // A section stands once.
                text = match text.contains(section) {
                    true if text.contains(&off) => text,
                    true => text.replace(section, &off),
                    false => format!("{text}\n{off}"),
                };
            }
        }
        if text.is_empty() {
            // As on most hosts: without the file.
            let _ = fs::remove_file(file);
        } else {
            fs::write(file, text).expect("mcrun.toml");
        }
    }

    /// The root file system of all containers: busybox and mcrun.
    pub fn rootfs(&self) -> PathBuf {
        self.directory().join("rootfs")
    }

    /// The MAC address of the container host.
    pub fn host_mac(&self) -> &str {
        &self.host_mac
    }

    /// A link of the container host, as `ip -j` tells.
    pub fn link(&self, name: &str) -> Value {
        json(self.enter("host", "ip").args(["-j", "-d", "link", "show", name]))[0].clone()
    }

    /// Groups the switch forwards to the container host, as `GROUP` or `GROUP@SOURCE`.
    pub fn forwarded(&self) -> BTreeSet<String> {
        self.forwarded_to(HOST_PORT)
    }

    /// Waits until the switch forwards a group, from whatever source, or `GROUP@SOURCE` to the
    /// container host: some time after the host has joined, since the kernel's reports wait, and
    /// those of the proxy need notifications.
    pub fn wait_forwarded(&self, wanted: impl Display) {
        self.wait_forwarded_to(HOST_PORT, &wanted.to_string());
    }

    /// The same, to the sender's namespace, where somebody has joined: a switch that hears a
    /// querier floods to nobody.
    pub fn wait_forwarded_to_source(&self, wanted: impl Display) {
        self.wait_forwarded_to("p-src", &wanted.to_string());
    }

    /// The same, to this port of the switch.
    pub fn wait_forwarded_to(&self, port: &str, wanted: &str) {
        wait_until(&format!("the switch forwards {wanted} to {port}"), PATIENCE, || {
            let forwarded = self.forwarded_to(port);
            let is_it = |e: &String| e == wanted || e.split('@').next() == Some(wanted);
            forwarded.iter().any(is_it).then_some(())
        });
    }

    fn forwarded_to(&self, port: &str) -> BTreeSet<String> {
        let answer = json(self.enter("sw", "bridge").args(["-j", "mdb", "show"]));
        let mut groups = BTreeSet::new();
        for entry in answer[0]["mdb"].as_array().into_iter().flatten() {
            let group = entry["grp"].as_str().unwrap_or_default();
            if entry["port"] == port {
                match entry["src"].as_str() {
                    Some(source) => groups.insert(format!("{group}@{source}")),
                    None => groups.insert(group.to_owned()),
                };
            }
        }
        groups
    }

    /// Makes the switch port drop every frame that does not come from the host's own MAC address.
    pub fn secure_port(&self) {
        let rules = format!(
            "table netdev security {{\n chain port {{\n \
             type filter hook ingress device \"{HOST_PORT}\" priority 0; policy accept;\n \
             ether saddr != {} counter drop\n }}\n}}\n",
            self.host_mac
        );
        let file = self.directory().join("security.nft");
        fs::write(&file, rules).expect("rules");
        run(self.enter("sw", "nft").arg("-f").arg(file));
    }

    /// Frames that [`Lab::secure_port`] has dropped.
    pub fn refused_frames(&self) -> u64 {
        let answer = json(self.enter("sw", "nft").args(["-j", "list", "ruleset"]));
        answer["nftables"]
            .as_array()
            .into_iter()
            .flatten()
            .flat_map(|object| object["rule"]["expr"].as_array().into_iter().flatten())
            .find_map(|expression| expression["counter"]["packets"].as_u64())
            .expect("the rule has a counter")
    }

    /// Captures the IGMP that the host puts on the switch port, from now on.
    pub fn capture(&self) -> Capture {
        self.capture_also("igmp")
    }

    /// Captures what the host puts on the switch port and the filter lets through.
    pub fn capture_also(&self, filter: &str) -> Capture {
        Capture::start(self, HOST_PORT, filter)
    }

    /// Whether the switch port forgets a group with its first leave; as the lab is made, it does.
    pub fn set_fast_leave(&self, on: bool) {
        let value = if on { "on" } else { "off" };
        run(self.enter("sw", "bridge").args(["link", "set", "dev", HOST_PORT, "fastleave", value]));
    }

    /// Makes the switch flood groups that nobody has reported to the host's port. A Linux bridge
    /// that does not withholds even 224.0.0.0/24, which every switch should flood (RFC 4541
    /// §2.1.2).
    pub fn flood(&self) {
        let port = ["link", "set", "dev", HOST_PORT, "mcast_flood", "on"];
        run(self.enter("sw", "bridge").args(port));
    }

    /// Makes one more namespace, which goes with the lab.
    fn add_node(&self, node: &'static str) {
        self.bare.borrow_mut().push(node);
        run(Command::new("ip").args(["netns", "add", &self.namespace(node)]));
        self.ip(node, "link set lo up");
    }

    /// Makes the switch send a general query now.
    pub fn query(&self) {
        self.ip("sw", "link set br0 type bridge mcast_querier 0");
        self.ip("sw", "link set br0 type bridge mcast_querier 1");
    }

    /// Asserts what must be true of every IGMP message that the port has seen: from the host's own
    /// addresses, and no query.
    pub fn assert_one_igmp_host(&self, seen: &[IgmpFrame]) {
        assert!(!seen.is_empty(), "the capture saw the host's reports");
        for frame in seen {
            assert_eq!(frame.mac, self.host_mac, "{frame:?}");
            assert_eq!(frame.source, HOST, "{frame:?}");
            assert_eq!(frame.ttl, 1, "{frame:?}");
            assert!(!matches!(frame.message, Igmp::Query { .. }), "{frame:?}");
        }
    }

    /// Asserts that the port has seen no leave, and no IGMP of another MAC address than the host's.
    pub fn assert_nothing_was_left(&self, seen: &[IgmpFrame]) {
        assert_eq!(seen.iter().find(|frame| frame.is_leave()), None);
        assert_eq!(seen.iter().find(|frame| frame.mac != self.host_mac), None);
    }

    /// Takes what is on the host now for what belongs there.
    pub fn settled(mut self) -> Lab {
        self.settle();
        self
    }

    /// The same.
    pub fn settle(&mut self) {
        self.before = self.leftovers();
    }

    /// Asserts that everything mcrun made on the host is gone, or goes within `limit`.
    pub fn assert_clean(&self, limit: Duration) -> Duration {
        let start = Instant::now();
        loop {
            let now = self.leftovers();
            if now == self.before {
                return start.elapsed();
            }
            assert!(
                start.elapsed() < limit,
                "left behind after {limit:?}: {:#?}\nat the start: {:#?}",
                now,
                self.before
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Command lines of the processes on the container host.
    pub fn host_processes(&self) -> Vec<(i32, String)> {
        let file = format!("/run/netns/{}", self.namespace("host"));
        process::in_namespace(Path::new(&file))
    }

    /// What is on the host now that a container could have left.
    pub fn leftovers(&self) -> Leftovers {
        Leftovers::read(self)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.tell();
        }
        for container in self.containers.take() {
            container.remove(self);
        }
        if self.is_machine {
            let switch = self.namespace("sw");
            let home = ["-n", &switch, "link", "set", HOST_PORT, "netns", "1"];
            let _ = Command::new("ip").args(home).output();
            let _ = Command::new("ip").args(["link", "set", HOST_PORT, "up"]).output();
        }
        let mut nodes = self.bare.take();
        nodes.extend(["host", "src", "sw"]);
        for node in nodes {
            let namespace = self.namespace(node);
            let file = format!("/run/netns/{namespace}");
            // All of the machine's processes are in its own namespace.
            let kept = node == "host" && self.is_machine;
            for (pid, _) in process::in_namespace(Path::new(&file)).iter().filter(|_| !kept) {
                process::kill(*pid);
            }
            // A namespace that was never made is not an error here.
            let _ = Command::new("ip").args(["netns", "del", &namespace]).output();
        }
        process::unmount_below(self.directory());
        process::remove_cgroups(&format!("{}-", self.prefix));
    }
}

impl Lab {
    /// Shows what a failed test wants to see.
    fn tell(&self) {
        for arguments in [&["ps"][..], &["groups"]] {
            if let Ok(output) = self.mcrun(arguments).output() {
                eprintln!("mcrun {arguments:?}:\n{}", String::from_utf8_lossy(&output.stdout));
            }
        }
        let Ok(containers) = fs::read_dir(self.state_dir().join("containers")) else { return };
        for container in containers.flatten() {
            if let Ok(log) = fs::read_to_string(container.path().join("proxy.log")) {
                eprintln!("{}:\n{log}", container.path().display());
            }
        }
    }
}

/// Whether the proxies under test act on the kernel's notifications of joins, and let the kernel relay:
/// unless `MCRUN_TEST_NOTIFICATIONS=off` asks for the way that serves kernels before 6.6.
pub fn notifications() -> bool {
    match std::env::var("MCRUN_TEST_NOTIFICATIONS").as_deref() {
        Err(std::env::VarError::NotPresent) | Ok("on") => true,
        Ok("off") => false,
        other => panic!("MCRUN_TEST_NOTIFICATIONS is on or off, not {other:?}"),
    }
}

/// Copies a program, by a process of its own: were it written by this one, a child that another
/// thread forks at that moment would hold it open for writing, and nobody could start it
/// (`ETXTBSY`).
pub fn install(program: &Path, to: &Path) {
    run(Command::new("cp").arg(program).arg(to));
}

/// The static busybox.
pub fn busybox() -> PathBuf {
    let path = PathBuf::from("/bin/busybox");
    let executable = fs::metadata(&path).is_ok_and(|m| m.permissions().mode() & 0o111 != 0);
    assert!(executable, "no /bin/busybox: install busybox-static (make test does)");
    path
}

/// A test that cannot run fails.
fn need_root() {
    // SAFETY: geteuid has no preconditions and cannot fail.
    let user = unsafe { libc::geteuid() };
    assert_eq!(user, 0, "these tests make network namespaces: run them as root");
}

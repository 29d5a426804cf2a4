//! A container on a LAN as homes have it, with a router's advertisements and with mDNS, behind a switch
//! that forgets soon what nobody reports.

use std::collections::BTreeSet;
use std::fs;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use mcrun::net::netns::NetNs;

use crate::lab::{
    Background, Container, Dockerd, Engine, Family, HOST, HOST_PORT, Lab, PARENT, PATIENCE, json,
    output, run, wait_until,
};

/// The router's address in the prefix that it advertises, and one behind it.
const ROUTER: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x98, 0, 0, 0, 0, 0, 1);
const BEHIND: Ipv6Addr = Ipv6Addr::new(0xfd42, 7, 0, 0, 0, 0, 0, 1);
/// The host's address on the LAN.
const HOST_IPV6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x99, 0, 0, 0, 0, 0, 1);
/// Seconds for which an advertisement counts. What it gives goes soon where no other follows.
const ADVERTISED: u32 = 30;
/// UDP port of Matter.
const MATTER: u16 = 5540;
/// What a container that was refused leaves is gone by then.
const SOON: Duration = Duration::from_secs(2);

/// A lab whose switch asks each second and forgets after three, and floods to all nodes.
fn lab() -> Lab {
    let lab = Ipv6Addr::lab(2);
    // To all nodes, which a Linux bridge counts among the groups that nobody has joined. Others are pruned
    // all the same while the bridge asks.
    lab.flood();
    for (setting, centiseconds) in
        [("query_interval", 100), ("startup_query_interval", 100), ("membership_interval", 300)]
    {
        lab.ip("sw", &format!("link set br0 type bridge mcast_{setting} {centiseconds}"));
    }
    lab.query();
    lab
}

/// The sender is a router: it advertises a prefix, itself, and a route to a network behind it.
fn advertise(lab: &Lab) -> Background {
    for setting in ["forwarding=1", "accept_dad=0"] {
        let setting = format!("net.ipv6.conf.all.{setting}");
        run(lab.enter("src", "sysctl").args(["-qw", &setting]));
    }
    lab.ip("src", &format!("addr add {ROUTER}/64 dev {PARENT} nodad"));
    lab.ip("src", &format!("addr add {BEHIND}/128 dev lo"));
    let (config, pid) = (lab.directory().join("radvd.conf"), lab.directory().join("radvd.pid"));
    let text = format!(
        "interface {PARENT} {{\n AdvSendAdvert on;\n MinRtrAdvInterval 3;\n MaxRtrAdvInterval 4;\n \
         AdvDefaultLifetime {ADVERTISED};\n prefix fd00:98::/64 {{ AdvOnLink on; AdvAutonomous on; \
         AdvPreferredLifetime {ADVERTISED}; AdvValidLifetime {ADVERTISED}; }};\n \
         route fd42:7::/48 {{ AdvRoutePreference high; AdvRouteLifetime {ADVERTISED}; }};\n}};\n"
    );
    fs::write(&config, text).expect("radvd.conf");
    let log = File::create(lab.directory().join("radvd.log")).expect("a file");
    let mut radvd = lab.enter("src", "radvd");
    radvd.args(["--nodaemon", "--logmethod", "stderr", "--config"]).arg(config);
    radvd.arg("--pidfile").arg(pid).stderr(log);
    Background::start(&mut radvd)
}

/// The address that a container has made of the router's prefix, once it can be used, and what it has of
/// routes.
fn wait_configured(container: &Container) -> Ipv6Addr {
    let address = wait_until("an address of the prefix is there", PATIENCE, || {
        let shown = container.ip("-6 addr show dev mc0 scope global");
        let all = shown[0]["addr_info"].as_array()?.clone();
        let usable = all.into_iter().find(|address| address["tentative"] != true)?;
        usable["local"].as_str()?.parse::<Ipv6Addr>().ok()
    });
    assert_eq!(address.segments()[..4], ROUTER.segments()[..4]);
    address
}

/// Waits until the switch has forgotten a group that it was told of and that nobody reports: so it would
/// have forgotten every other one.
fn wait_pruned(lab: &Lab) {
    const NOBODYS: &str = "ff0e::dead";
    let entry = ["mdb", "add", "dev", "br0", "port", HOST_PORT, "grp", NOBODYS, "temp"];
    run(lab.enter("sw", "bridge").args(entry));
    assert!(lab.forwarded().contains(NOBODYS));
    wait_until("the switch forgets", PATIENCE, || {
        (!lab.forwarded().contains(NOBODYS)).then_some(())
    });
}

/// Three echo requests, each answered. The address of the station has to be asked for: who asks has
/// forgotten it.
fn assert_pings(mut enter: impl FnMut(&str) -> Command, link: &str, to: Ipv6Addr) {
    run(enter("ip").args(["-6", "neigh", "flush", "dev", link]));
    let pinged = run(enter("/bin/busybox").args(["ping6", "-c", "3", "-W", "5", &to.to_string()]));
    assert!(pinged.contains("3 packets received"), "{pinged}");
}

/// Both routes of the router's advertisements lead to it.
fn assert_routes(lab: &Lab, container: &Container) {
    let router = lab.link_local("src", PARENT).expect("an address");
    let routes = container.ip("-6 route");
    for to in ["default", "fd42:7::/48"] {
        let found = routes.as_array().and_then(|all| all.iter().find(|route| route["dst"] == to));
        let route = found.unwrap_or_else(|| panic!("no route {to}: {routes}"));
        assert_eq!((&route["gateway"], &route["dev"]), (&router.to_string().into(), &"mc0".into()));
    }
}

#[test]
fn a_container_with_addresses_of_a_router_is_reached_however_often_the_switch_forgets() {
    stay_reachable(4, Duration::ZERO);
}

#[test]
#[ignore = "lasts ten minutes: make prune-ten-minutes"]
fn a_container_with_addresses_of_a_router_is_reached_for_ten_minutes_of_pruning() {
    stay_reachable(40, Duration::from_mins(10));
}

/// For so long, and until the switch has forgotten so often.
fn stay_reachable(prunings: u32, time: Duration) {
    let lab = lab();
    let capture = Ipv6Addr::capture(&lab);
    let _radvd = advertise(&lab);
    let container = lab.start_with("c", &["parent=lan0,ip=slaac"], &[]);
    let address = wait_configured(&container);
    // Whoever asks for its address asks this group.
    let [.., a, b, c] = address.octets();
    let own = Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c]).to_string();
    let (start, mut done) = (Instant::now(), 0);
    while done < prunings || start.elapsed() < time {
        assert_routes(&lab, &container);
        assert_pings(|program| lab.enter("src", program), PARENT, address);
        assert_pings(|program| container.enter(program), "mc0", ROUTER);
        assert_pings(|program| container.enter(program), "mc0", BEHIND);
        wait_pruned(&lab);
        assert!(lab.forwarded().contains(&own), "{own}: {:?}", lab.forwarded());
        done += 1;
    }
    assert_eq!(wait_configured(&container), address);
    eprintln!("pruned {done} times in {} s", start.elapsed().as_secs());
    Ipv6Addr::assert_one_host(&lab, &capture);

    // The router's address is refused, and the router is named.
    let links = json(lab.enter("src", "ip").args(["-j", "link", "show", PARENT]));
    let station = links[0]["address"].as_str().expect("a MAC address");
    let refused = lab.try_start("d", &[&format!("parent=lan0,ip={ROUTER}/64")], &[]);
    let told = String::from_utf8_lossy(&refused.stderr);
    let words = format!("{ROUTER} is in use on lan0, by {station}; give another address");
    assert!(!refused.status.success() && told.contains(&words), "{told}");
    lab.delete(&container);
    lab.assert_clean(SOON);
}

/// A running avahi-daemon, and its log.
struct Avahi {
    daemon: Background,
    log: PathBuf,
}

impl Avahi {
    /// Announces a host of this name, with a service of Matter, on one interface. `enter` makes a
    /// command in its network namespace.
    fn start(lab: &Lab, enter: impl FnMut(&str) -> Command, name: &str, interface: &str) -> Avahi {
        Self::announcing(lab, enter, name, interface, None)
    }

    /// The same, where the service is at another host's name and addresses.
    fn announcing(
        lab: &Lab,
        mut enter: impl FnMut(&str) -> Command,
        name: &str,
        interface: &str,
        at: Option<(&str, &[IpAddr])>,
    ) -> Avahi {
        let directory = lab.directory().join(name);
        fs::create_dir_all(directory.join("services")).expect("a directory");
        let config = format!(
            "[server]\nhost-name={name}\nallow-interfaces={interface}\nuse-ipv4=yes\nuse-ipv6=yes\n\
             enable-dbus=no\n[publish]\npublish-hinfo=no\npublish-workstation=no\n\
             [wide-area]\nenable-wide-area=no\n"
        );
        let host = at.map(|(host, _)| format!("<host-name>{host}.local</host-name>"));
        let service = format!(
            "<service-group><name>{name}</name><service><type>_matter._tcp</type>{}\
             <port>{MATTER}</port></service></service-group>\n",
            host.unwrap_or_default()
        );
        let hosts = at.into_iter().flat_map(|(host, addresses)| {
            addresses.iter().map(move |address| format!("{address} {host}.local\n"))
        });
        fs::write(directory.join("hosts"), hosts.collect::<String>()).expect("a file");
        fs::write(directory.join("avahi-daemon.conf"), config).expect("a file");
        fs::write(directory.join("services/matter.service"), service).expect("a file");
        let log = directory.join("log");
        // Its pid file and its services have fixed places.
        let script = "mount -t tmpfs none /run && mkdir /run/avahi-daemon && \
            mount --bind \"$1/services\" /etc/avahi/services && \
            mount --bind \"$1/hosts\" /etc/avahi/hosts && \
            exec avahi-daemon --no-drop-root --no-chroot --no-rlimits --no-proc-title \
            -f \"$1/avahi-daemon.conf\"";
        let mut command = enter("unshare");
        command.args(["-m", "sh", "-c", script, "sh"]).arg(&directory);
        let file = File::create(&log).expect("a file");
        let daemon =
            Background::start(command.stdout(file.try_clone().expect("a file")).stderr(file));
        let avahi = Avahi { daemon, log };
        wait_until("the service is announced", PATIENCE, || {
            avahi.text().contains("successfully established").then_some(())
        });
        avahi
    }

    fn text(&self) -> String {
        fs::read_to_string(&self.log).expect("the log")
    }

    /// What it has heard, as it shows that.
    fn caches(&self) -> String {
        let before = self.text().len();
        self.daemon.signal(libc::SIGUSR1);
        wait_until("the caches are shown", PATIENCE, || {
            let text = self.text().split_off(before);
            let caches = text.matches(";;; CACHE DUMP FOLLOWS ;;;").count();
            (caches == 2 && text.ends_with('\n')).then_some(text)
        })
    }

    /// The addresses of a host that it has heard: by which interface and family, and the address.
    fn heard(&self, host: &str) -> Vec<(String, IpAddr)> {
        let dump = self.caches();
        let mut by = String::new();
        let mut found = Vec::new();
        for line in dump.lines() {
            if let Some((_, interface)) = line.split_once(";;; INTERFACE ") {
                by = interface.trim_end_matches([' ', ';']).to_owned();
            } else if line.starts_with(&format!("{host}.local\t")) {
                let address = line.split_whitespace().find_map(|word| word.parse().ok());
                found.extend(address.map(|address| (by.clone(), address)));
            }
        }
        found
    }

    /// Waits until it has heard these addresses of a host: those of IPv6 by both families, those of IPv4
    /// by IPv4.
    fn wait_heard(&self, host: &str, interface: &str, addresses: &[IpAddr]) {
        let by = |family: &str, of: &[IpAddr]| {
            of.iter().map(|a| (format!("{interface}.{family}"), *a)).collect::<Vec<_>>()
        };
        let of_ipv6: Vec<_> = addresses.iter().copied().filter(IpAddr::is_ipv6).collect();
        let wanted = BTreeSet::from_iter([by("IPv4", addresses), by("IPv6", &of_ipv6)].concat());
        wait_until(&format!("{host} is heard at {wanted:?}"), PATIENCE, || {
            let heard: BTreeSet<_> = self.heard(host).into_iter().collect();
            wanted.is_subset(&heard).then_some(())
        });
    }
}

fn bound(net: &NetNs, address: IpAddr, port: u16) -> UdpSocket {
    let open = || UdpSocket::bind(SocketAddr::new(address, port)).expect("bound");
    let socket = net.run(open).expect("the namespace is there");
    socket.set_read_timeout(Some(PATIENCE)).expect("timeout");
    socket
}

/// As of a Matter device and its controller: both find each other by mDNS of both families, and speak UDP
/// with what was announced.
#[test]
fn a_matter_device_in_a_container_is_found_by_mdns_and_answers_at_what_it_has_announced() {
    let lab = lab();
    let capture = Ipv6Addr::capture(&lab);
    let _radvd = advertise(&lab);
    let container = lab.start_with(
        "c",
        &["parent=lan0,ip=10.99.0.11/24,ip=slaac,allow=matter,allow=mdns"],
        &[],
    );
    let address = wait_configured(&container);
    let of_device = [Ipv4Addr::station(11).into(), address.into()];
    let hub = Avahi::start(&lab, |program| lab.enter("src", program), "hub", PARENT);
    let device = Avahi::start(&lab, |program| container.enter(program), "device", "mc0");
    hub.wait_heard("device", PARENT, &of_device);
    // It was announced before the device listened.
    drop(hub);
    let hub = Avahi::start(&lab, |program| lab.enter("src", program), "hub", PARENT);
    device.wait_heard("hub", "mc0", &[ROUTER.into()]);
    // That of IPv4 is never pruned, and so not reported.
    wait_until("the group is joined", PATIENCE, || {
        let groups = lab.groups(&container);
        groups.iter().any(|g| g["group"] == "ff02::fb" && g["status"] == "joined").then_some(())
    });
    wait_pruned(&lab);
    assert!(lab.forwarded().contains("ff02::fb"), "{:?}", lab.forwarded());

    let answers = bound(&container.namespace(), Ipv6Addr::UNSPECIFIED.into(), MATTER);
    for source in [ROUTER, BEHIND] {
        let asks = bound(&lab.net("src"), source.into(), 0);
        asks.send_to(b"commission", (address, MATTER)).expect("sent");
        let mut payload = [0; 16];
        let (length, from) = answers.recv_from(&mut payload).expect("it is asked");
        assert_eq!((&payload[..length], from.ip()), (&b"commission"[..], source.into()));
        answers.send_to(b"done", from).expect("sent");
        let (length, from) = asks.recv_from(&mut payload).expect("it answers");
        assert_eq!((&payload[..length], from.ip()), (&b"done"[..], address.into()));
    }
    // The network behind the router is reached by the route that it has advertised, not by the default.
    let route = container.ip(&format!("-6 route get {BEHIND}"));
    let router = lab.link_local("src", PARENT).expect("an address");
    assert_eq!(route[0]["gateway"], router.to_string(), "{route}");
    let deleted = output(container.enter("ip").args(["-6", "route", "del", "default"]));
    assert!(deleted.status.success(), "{deleted:?}");
    assert_pings(|program| container.enter(program), "mc0", BEHIND);
    Ipv6Addr::assert_one_host(&lab, &capture);
    drop((hub, device));
    lab.delete(&container);
}

/// As of a bridge of Matter devices behind a relay on docker's network. It cannot be reached at its own
/// addresses, which are docker's: so it announces those of the host, where its port is published.
#[test]
fn a_matter_device_behind_a_relay_is_found_and_answers_at_the_hosts_addresses_that_it_announces() {
    let mut lab = lab();
    lab.ip("host", &format!("-6 addr add {HOST_IPV6}/64 dev {PARENT} nodad"));
    let daemon = Dockerd::start_filtering(&mut lab);
    let engine = Engine::docker(&lab, &daemon);
    let network = ["network", "create", "--ipv6", "--subnet", "fd00:31::/64", "home"];
    run(&mut engine.command(&network));
    let published = format!("{MATTER}:{MATTER}/udp");
    let attachment = "driver=relay,parent=lan0,allow=matter,allow=mdns";
    let options = ["--network", "home", "-p", &published, "--mcast", attachment];
    let container = engine.start("c", &options);
    let of_host = [HOST.into(), HOST_IPV6.into()];
    let hub = Avahi::start(&lab, |program| lab.enter("src", program), "hub", PARENT);
    let enter = |program: &str| container.enter(program);
    let device = Avahi::announcing(&lab, enter, "device", "eth0", Some(("box", &of_host)));
    hub.wait_heard("box", PARENT, &of_host);
    wait_until("the service is heard", PATIENCE, || {
        let is_service = |line: &str| {
            line.starts_with("device._matter._tcp.local")
                && line.contains("SRV")
                && line.contains(&format!(" {MATTER} box.local"))
        };
        hub.caches().lines().any(is_service).then_some(())
    });
    // What it says of itself is docker's, and leads nowhere on the LAN.
    let docker = "fd00:31::/64".parse::<ipnet::IpNet>().expect("a network");
    wait_until("its own address is heard", PATIENCE, || {
        hub.heard("device").iter().any(|(_, address)| docker.contains(address)).then_some(())
    });
    let route = output(lab.enter("src", "ip").args(["-6", "route", "get", "fd00:31::2"]));
    assert!(!route.status.success(), "{route:?}");
    drop(hub);
    let hub = Avahi::start(&lab, |program| lab.enter("src", program), "hub", PARENT);
    let of_hub = [Ipv4Addr::station(3).into(), Ipv6Addr::station(3).into()];
    device.wait_heard("hub", "eth0", &of_hub);

    let answers = bound(&container.namespace(), Ipv6Addr::UNSPECIFIED.into(), MATTER);
    for (source, to) in of_hub.into_iter().zip(of_host) {
        let asks = bound(&lab.net("src"), source, 0);
        let mut payload = [0; 16];
        asks.send_to(b"commission", (to, MATTER)).expect("sent");
        let (length, from) = answers.recv_from(&mut payload).expect("it is asked");
        assert_eq!(&payload[..length], b"commission");
        answers.send_to(b"done", from).expect("sent");
        let (length, from) = asks.recv_from(&mut payload).expect("it answers");
        assert_eq!((&payload[..length], from), (&b"done"[..], SocketAddr::new(to, MATTER)));
    }
    drop((hub, device));
    engine.run(&["kill", "--signal", "KILL"], &container);
    wait_until("nothing is left", PATIENCE, || lab.ps(&container).is_none().then_some(()));
}

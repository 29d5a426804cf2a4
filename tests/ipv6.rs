//! IPv6 addresses of containers: of routers, with and without a duplicate, and none at all.

use std::net::{Ipv6Addr, SocketAddrV6, UdpSocket};
use std::process::Output;
use std::time::Duration;

use serde_json::{Value, json};

use crate::lab::frames::{FrameSender, IPV6, Way, ethernet, icmpv6, ipv6, mac, udp};
use crate::lab::{Container, Lab, PARENT, PATIENCE, json as shown_by, run, wait_until};

const SOON: Duration = Duration::from_secs(2);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ROUTER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x99);
const GROUP: Ipv6Addr = Ipv6Addr::new(0xff0e, 0, 0, 0, 0, 0, 0, 7);
const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;

fn refused_in_one_line(lab: &Lab, refused: &Output, words: &str) {
    let errors = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && errors.contains(words), "{words}\n{errors}");
    assert_eq!(errors.trim().lines().count(), 1, "{errors}");
    lab.assert_clean(SOON);
}

/// The IPv6 addresses of an interface, as its kernel has them.
fn addresses(container: &Container, link: &str) -> Vec<Value> {
    let shown = container.ip(&format!("-6 addr show dev {link}"));
    shown[0]["addr_info"].as_array().cloned().unwrap_or_default()
}

fn texts(addresses: &[Value]) -> Vec<String> {
    addresses.iter().map(|a| a["local"].as_str().expect("an address").to_owned()).collect()
}

/// The type, source and target of the messages of neighbour discovery in these frames.
fn discovery(frames: &[Vec<u8>]) -> Vec<(u8, Ipv6Addr, Ipv6Addr)> {
    let address = |frame: &[u8], at: usize| {
        frame.get(at..at + 16).map_or(Ipv6Addr::UNSPECIFIED, |bytes| {
            <[u8; 16]>::try_from(bytes).expect("sixteen bytes").into()
        })
    };
    let is_message = |frame: &&Vec<u8>| {
        frame[12..14] == IPV6.to_be_bytes() && frame[20] == 58 && (133..=136).contains(&frame[54])
    };
    let messages = frames.iter().filter(is_message);
    messages.map(|frame| (frame[54], address(frame, 22), address(frame, 62))).collect()
}

/// A frame of a router that advertises a prefix, and a route to a network behind it.
fn advertisement(prefix: &str) -> Vec<u8> {
    let router = mac("02:00:00:00:99:01");
    let prefix: Ipv6Addr = prefix.parse().expect("an address");
    let behind: Ipv6Addr = "fd42:7::".parse().expect("an address");
    let lifetimes = [0, 0, 0x0e, 0x10, 0, 0, 0x0e, 0x10, 0, 0, 0, 0];
    let advertised = [
        // A router for half an hour (RFC 4861 §4.2), with a prefix on the link from which addresses
        // are made (§4.6.2), and a route to a network behind it (RFC 4191 §2.3).
        &[64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0][..],
        &[3, 4, 64, 0xc0],
        &lifetimes,
        &prefix.octets(),
        &[24, 2, 48, 0, 0, 0, 7, 8],
        &behind.octets()[..8],
        &[1, 1],
        &router,
    ]
    .concat();
    let message = icmpv6(ROUTER_ADVERTISEMENT, ROUTER, ALL_NODES, &advertised);
    let to = mac("33:33:00:00:00:01");
    ethernet(to, router, IPV6, &ipv6(58, ROUTER, ALL_NODES, &message))
}

/// Waits until an address of a node of the lab is one that it answers for.
fn wait_usable(lab: &Lab, node: &str, address: &str) {
    wait_until("an address is there", PATIENCE, || {
        let shown =
            shown_by(lab.enter(node, "ip").args(["-j", "-6", "addr", "show", "dev", PARENT]));
        let all = shown[0]["addr_info"].as_array()?.clone();
        let found = all.into_iter().find(|a| a["local"] == address)?;
        (found["tentative"] != true).then_some(())
    });
}

#[test]
fn a_router_gives_addresses_a_gateway_and_routes_and_they_are_what_the_container_sends_from() {
    let lab = Lab::new(2);
    // To all nodes, which a Linux bridge counts among the groups that nobody has joined.
    lab.flood();
    let capture = lab.capture_also("ip6");
    let container =
        lab.start_with("c", &["parent=lan0,ip=10.99.0.11/24,ip=slaac,mac=02:00:5e:10:00:07"], &[]);
    // It has a link-local address at once, and has asked for routers with it.
    let own: Ipv6Addr = "fe80::5eff:fe10:7".parse().expect("an address");
    let first = addresses(&container, "mc0");
    assert_eq!(texts(&first), [own.to_string()]);
    assert_ne!(first[0]["tentative"], true, "{first:?}");
    wait_until("the routers are asked", PATIENCE, || {
        let asked = discovery(&capture.frames());
        asked
            .iter()
            .any(|(kind, from, _)| (*kind, *from) == (ROUTER_SOLICITATION, own))
            .then_some(())
    });

    let sender = FrameSender::open(&lab.net("src"), PARENT);
    sender.send(&advertisement("2001:db8:7::"), Way::Ordinary);
    let made: Ipv6Addr = "2001:db8:7::5eff:fe10:7".parse().expect("an address");
    wait_until("the address is there", PATIENCE, || {
        texts(&addresses(&container, "mc0")).contains(&made.to_string()).then_some(())
    });
    wait_until("the address is announced", PATIENCE, || {
        let announced = |message: &(u8, _, _)| *message == (NEIGHBOUR_ADVERTISEMENT, made, made);
        discovery(&capture.frames()).iter().any(announced).then_some(())
    });
    // No other one, such as a temporary one.
    assert_eq!(addresses(&container, "mc0").len(), 2);
    wait_until("the address is shown", PATIENCE, || {
        let shown = lab.ps(&container)?["interfaces"][0].clone();
        assert_eq!(shown["addresses"], json!(["10.99.0.11/24"]), "{shown}");
        (shown["slaac_addresses"] == json!([format!("{made}/64")])).then_some(())
    });
    let inspected = run(&mut lab.mcrun(["inspect", &container.name]));
    assert!(inspected.contains(&format!("  address   {made}/64\n")), "{inspected}");
    let routes = container.ip("-6 route");
    let route = |to: &str| routes.as_array()?.iter().find(|route| route["dst"] == to).cloned();
    for to in ["default", "fd42:7::/48"] {
        let route = route(to).unwrap_or_else(|| panic!("no route {to}: {routes}"));
        assert_eq!((&route["gateway"], &route["dev"]), (&ROUTER.to_string().into(), &"mc0".into()));
    }
    // What it sends from there leaves, and from another address nothing does.
    let namespace = container.namespace();
    let bound = wait_until("the address can be used", PATIENCE, || {
        let bind = || UdpSocket::bind(SocketAddrV6::new(made, 0, 0, 0)).ok();
        namespace.run(bind).expect("the container runs")
    });
    let forger = FrameSender::open(&namespace, "mc0");
    let forged: Ipv6Addr = "2001:db8:7::bad".parse().expect("an address");
    let packet = ipv6(17, forged, GROUP, &udp(9, 9, b"forged"));
    let group_mac = mac("33:33:00:00:00:07");
    forger.send(&ethernet(group_mac, mac("02:00:5e:10:00:07"), IPV6, &packet), Way::Ordinary);
    let index = container.ip("link show mc0")[0]["ifindex"].as_u64().expect("an index") as u32;
    bound.send_to(b"genuine", SocketAddrV6::new(GROUP, 9, 0, index)).expect("sent");
    let frames = wait_until("the packet leaves", PATIENCE, || {
        let frames = capture.frames();
        frames.iter().any(|frame| frame.ends_with(b"genuine")).then_some(frames)
    });
    assert!(!frames.iter().any(|frame| frame.ends_with(b"forged")), "{frames:x?}");
    lab.delete(&container);
    lab.assert_clean(SOON);
}

#[test]
fn an_address_that_a_station_has_is_refused_and_named_with_the_station() {
    let lab = Lab::new(2);
    // The answer goes to all nodes.
    lab.flood();
    let address = "fd00:99::9";
    let links = shown_by(lab.enter("src", "ip").args(["-j", "link", "show", PARENT]));
    let station = links[0]["address"].as_str().expect("a MAC address").to_owned();
    lab.ip("src", &format!("addr add {address}/64 dev {PARENT} nodad"));
    wait_usable(&lab, "src", address);
    let words =
        format!("ip={address}/64: {address} is in use on lan0, by {station}; give another address");
    for options in ["", ",ip=10.99.0.11/24", ",igmp=off", ",mode=private"] {
        let wish = format!("parent=lan0,ip={address}/64{options}");
        refused_in_one_line(&lab, &lab.try_start("c", &[&wish], &[]), &words);
    }
    // The station's link-local address would be the container's.
    let own = station.parse::<mcrun::primitives::MacAddr>().expect("a MAC address");
    let own = own.link_local_address();
    wait_usable(&lab, "src", &own.to_string());
    let words =
        format!("mac={station}: {own}, the link-local address that follows from it, is in use");
    let wish = format!("parent=lan0,ip=slaac,mac={station}");
    refused_in_one_line(&lab, &lab.try_start("c", &[&wish], &[]), &words);
    // Of a pool, the next one is tried.
    let directory = lab.config_dir().join("networks");
    std::fs::create_dir_all(&directory).expect("directory");
    let network =
        "parent = \"lan0\"\nsubnet = \"fd00:99::/64\"\nrange = \"fd00:99::9-fd00:99::a\"\n";
    std::fs::write(directory.join("six.toml"), network).expect("network");
    let pooled = lab.start_with("pooled", &["net=six,ip=pool"], &[]);
    assert!(texts(&addresses(&pooled, "mc0")).contains(&"fd00:99::a".to_owned()));
    lab.delete(&pooled);
    let wish = format!("parent=lan0,ip={address}/64,conflict=off");
    let allowed = lab.start_with("c", &[&wish], &[]);
    assert!(texts(&addresses(&allowed, "mc0")).contains(&address.to_owned()));
    lab.delete(&allowed);
}

#[test]
fn an_address_of_a_routers_prefix_that_a_station_has_is_told_with_the_station() {
    let lab = Lab::new(2);
    lab.flood();
    let taken = "2001:db8:7::5eff:fe10:7";
    let links = shown_by(lab.enter("src", "ip").args(["-j", "link", "show", PARENT]));
    let station = links[0]["address"].as_str().expect("a MAC address").to_owned();
    lab.ip("src", &format!("addr add {taken}/64 dev {PARENT} nodad"));
    wait_usable(&lab, "src", taken);
    let wish = "parent=lan0,ip=slaac,mac=02:00:5e:10:00:07";
    let container = lab.start_with("c", &[wish], &[]);
    let shown = || lab.ps(&container).expect("it is there");
    assert_eq!(shown()["interfaces"][0]["slaac_addresses"], json!([]));
    let ps = run(&mut lab.mcrun(["ps"]));
    assert!(ps.contains(" slaac "), "{ps}");
    let sender = FrameSender::open(&lab.net("src"), PARENT);
    let notice = wait_until("it is told", PATIENCE, || {
        sender.send(&advertisement("2001:db8:7::"), Way::Ordinary);
        let notices = shown()["notices"].as_array().cloned().unwrap_or_default();
        notices.into_iter().find(|notice| notice["code"] == "duplicate-address")
    });
    assert_eq!((&notice["address"], &notice["station"]), (&json!(taken), &json!(station)));
    assert_eq!((&notice["interface"], &notice["parent"]), (&json!("mc0"), &json!("lan0")));
    let words = format!(
        "mc0: {taken}, which follows from a router's prefix, is in use on lan0, by {station}"
    );
    let inspected = run(&mut lab.mcrun(["inspect", &container.name]));
    assert!(inspected.contains(&words), "{inspected}");
    let (status, findings) = crate::operate::doctor::doctor(&lab, &[]);
    let found = findings.iter().find(|finding| finding["check"] == "duplicate-address");
    let text = found.and_then(|finding| finding["text"].as_str()).unwrap_or_default();
    assert!(status == 1 && text.starts_with(&words), "{findings:?}");
    // Another prefix is not concerned.
    wait_until("the other address is there", PATIENCE, || {
        sender.send(&advertisement("2001:db8:8::"), Way::Ordinary);
        let made = &shown()["interfaces"][0]["slaac_addresses"];
        (*made == json!(["2001:db8:8::5eff:fe10:7/64"])).then_some(())
    });
    // The kernel tries again with each advertisement.
    lab.ip("src", &format!("addr del {taken}/64 dev {PARENT}"));
    wait_until("the address is there", PATIENCE, || {
        sender.send(&advertisement("2001:db8:7::"), Way::Ordinary);
        let made = shown()["interfaces"][0]["slaac_addresses"].to_string();
        made.contains(taken).then_some(())
    });
    assert!(!shown()["warnings"].to_string().contains(taken));
    lab.delete(&container);
}

#[test]
fn an_address_that_nobody_has_is_asked_for_once_and_usable_at_once() {
    let lab = Lab::new(2);
    let address: Ipv6Addr = "fd00:99::11".parse().expect("an address");
    let capture = lab.capture_also("ip6");
    let container = lab.start_with("c", &["parent=lan0,ip=fd00:99::11/64"], &[]);
    let all = addresses(&container, "mc0");
    assert_eq!(all.len(), 2, "{all:?}");
    assert!(all.iter().all(|address| address["tentative"] != true), "{all:?}");
    let about = |kind: u8| {
        let all = discovery(&capture.frames());
        all.into_iter()
            .filter(|message| (message.0, message.2) == (kind, address))
            .collect::<Vec<_>>()
    };
    wait_until("the address is announced", PATIENCE, || {
        (!about(NEIGHBOUR_ADVERTISEMENT).is_empty()).then_some(())
    });
    let asked = about(NEIGHBOUR_SOLICITATION);
    assert_eq!(asked, [(NEIGHBOUR_SOLICITATION, Ipv6Addr::UNSPECIFIED, address)]);
    // It takes nothing of routers.
    let from_it = |message: &(u8, Ipv6Addr, Ipv6Addr)| texts(&all).contains(&message.1.to_string());
    let asks = |message: &(u8, Ipv6Addr, Ipv6Addr)| message.0 == ROUTER_SOLICITATION;
    assert!(!discovery(&capture.frames()).iter().any(|m| asks(m) && from_it(m)));
    lab.delete(&container);
}

#[test]
fn an_interface_without_ipv6_is_silent_and_one_with_ipv6_alone_has_its_link_local_address() {
    let lab = Lab::new(2);
    let capture = lab.capture_also("ip6 and ether src 02:00:5e:10:00:07");
    let plain = ["", ",ip=10.99.0.11/24", ",ip=10.99.0.11/24,ipv6=off"];
    for options in plain {
        let wish = format!("parent=lan0,mac=02:00:5e:10:00:07{options}");
        let container = lab.start_with("plain", &[&wish], &[]);
        assert_eq!(addresses(&container, "mc0"), [Value::Null; 0], "{options}");
        lab.delete(&container);
    }
    capture.igmp();
    assert!(capture.frames().iter().all(|frame| frame[12..14] != IPV6.to_be_bytes()));
    let wish = "parent=lan0,mac=02:00:5e:10:00:08,ip=none,ipv6=on";
    let container = lab.start_with("six", &[wish], &[]);
    assert_eq!(texts(&addresses(&container, "mc0")), ["fe80::5eff:fe10:8"]);
    let accepts = run(container.enter("cat").arg("/proc/sys/net/ipv6/conf/mc0/accept_ra"));
    assert_eq!(accepts.trim(), "0");
    lab.delete(&container);
    lab.assert_clean(SOON);
}

#[test]
fn where_ipv6_is_off_on_the_host_nothing_is_started() {
    let lab = Lab::new(2);
    run(lab.enter("host", "sysctl").args(["-qw", "net.ipv6.conf.lan0.disable_ipv6=1"]));
    for asked in ["ip=slaac", "ipv6=on", "ip=fd00:99::11/64"] {
        let words = format!("{asked}: IPv6 is off on the host's lan0, where the proxy speaks MLD");
        let refused = lab.try_start("c", &[&format!("parent=lan0,{asked}")], &[]);
        refused_in_one_line(&lab, &refused, &words);
    }
    // Whose kernel speaks for itself does not need the host's.
    let container = lab.start_with("c", &["parent=lan0,ip=fd00:99::11/64,igmp=native"], &[]);
    assert!(texts(&addresses(&container, "mc0")).contains(&"fd00:99::11".to_owned()));
    lab.delete(&container);
    for (wish, words) in [
        ("ip=slaac,driver=ipvlan,mode=l3", "ip=slaac: a link of ipvlan mode l3 hears no router"),
        ("ip=fd00::5/64,ipv6=off", "ipv6=off contradicts ip=fd00::5/64; give one of them"),
        (
            "ipv6=on,driver=relay",
            "ipv6=on: IPv6 is off on the host's lan0, where the proxy speaks MLD",
        ),
        ("ipv6=on,mtu=1000", "mtu=1000: IPv6 needs 1280"),
    ] {
        let refused = lab.try_start("c", &[&format!("parent=lan0,{wish}")], &[]);
        refused_in_one_line(&lab, &refused, words);
    }
}

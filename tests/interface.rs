//! The interface that a container gets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use crate::lab::{Container, Lab, PARENT, PATIENCE, run, wait_until};
use serde_json::Value;

fn link(container: &Container, name: &str) -> Value {
    container.ip(&format!("-d link show {name}"))[0].clone()
}

/// Addresses of an interface, as ADDRESS/PREFIX, without link-local ones.
fn addresses(container: &Container, name: &str) -> BTreeSet<String> {
    container.ip(&format!("addr show {name}"))[0]["addr_info"]
        .as_array()
        .expect("addresses")
        .iter()
        .filter(|address| address["scope"] == "global")
        .map(|a| format!("{}/{}", a["local"].as_str().expect("local"), a["prefixlen"]))
        .collect()
}

fn routes(container: &Container, family: &str) -> Vec<Value> {
    container.ip(&format!("{family} route")).as_array().expect("routes").clone()
}

fn sysctl(container: &Container, path: &str) -> u64 {
    let text = run(container.enter("cat").arg(format!("/proc/sys/net/{path}")));
    text.trim().parse().expect("a number")
}

#[test]
fn each_macvlan_mode_is_what_was_asked_for() {
    let lab = Lab::new(2);
    lab.configure("[attach]\nmode = [\"bridge\", \"private\", \"vepa\", \"passthru\"]\nip = [\"10.99.0.0/24\"]\n");
    for mode in ["bridge", "private", "vepa", "passthru"] {
        let container = lab.start_with(mode, &[&format!("parent={PARENT},mode={mode}")], &[]);
        let link = link(&container, "mc0");
        assert_eq!(link["linkinfo"]["info_kind"], "macvlan", "{link}");
        assert_eq!(link["linkinfo"]["info_data"]["mode"], mode, "{link}");
        assert_eq!(link["operstate"], "UP", "{link}");
        assert_eq!(link["link_index"], lab.link(PARENT)["ifindex"], "on the parent: {link}");
        let shown = lab.ps(&container).expect("mcrun ps knows the container");
        assert_eq!(shown["interfaces"][0]["driver"], "macvlan", "{shown}");
        assert_eq!(shown["interfaces"][0]["mode"], mode, "{shown}");
        assert_eq!(shown["interfaces"][0]["mac"], link["address"], "{shown}");
        lab.delete(&container);
        lab.assert_clean(Duration::from_secs(1));
    }
}

#[test]
fn addresses_mac_mtu_name_and_routes_are_what_was_asked_for() {
    let lab = Lab::new(2);
    let container = lab.start_with(
        "c",
        &["parent=lan0,name=media,mac=02:00:5e:10:00:07,mtu=1400,\
           ip=10.99.0.11/24,ip=10.98.0.11/16,ip=2001:db8::11/64,\
           gw=10.99.0.1,gw=2001:db8::1,metric=700,\
           route=192.0.2.0/24@10.99.0.9,route=198.51.100.0/24,route=2001:db8:1::/48@2001:db8::9"],
        &[],
    );
    let link = link(&container, "media");
    assert_eq!(link["address"], "02:00:5e:10:00:07");
    assert_eq!(link["mtu"], 1400);
    let wanted = ["10.99.0.11/24", "10.98.0.11/16", "2001:db8::11/64"];
    assert_eq!(addresses(&container, "media"), BTreeSet::from(wanted.map(String::from)));

    let (v4, v6) = (routes(&container, "-4"), routes(&container, "-6"));
    let route = |routes: &[Value], destination: &str| -> Value {
        let found = routes.iter().find(|route| route["dst"] == destination);
        found.unwrap_or_else(|| panic!("no route {destination}: {routes:?}")).clone()
    };
    let default = route(&v4, "default");
    assert_eq!(default["gateway"], "10.99.0.1", "{default}");
    assert_eq!(default["metric"], 700, "{default}");
    let default = route(&v6, "default");
    assert_eq!(default["gateway"], "2001:db8::1", "{default}");
    assert_eq!(default["metric"], 700, "{default}");
    assert_eq!(route(&v4, "192.0.2.0/24")["gateway"], "10.99.0.9");
    assert_eq!(route(&v4, "198.51.100.0/24")["dev"], "media");
    assert_eq!(route(&v6, "2001:db8:1::/48")["gateway"], "2001:db8::9");
    assert_eq!(route(&v4, "224.0.0.0/4")["dev"], "media", "joins without an interface go here");
}

#[test]
fn a_default_route_has_metric_500_unless_asked_otherwise() {
    let lab = Lab::new(2);
    let container = lab.start_with("c", &["parent=lan0,ip=10.99.0.11/24,gw=10.99.0.1"], &[]);
    let routes = routes(&container, "-4");
    let default = routes.iter().find(|route| route["dst"] == "default").expect("a default route");
    assert_eq!(default["metric"], 500, "{default}");
}

#[test]
fn an_interface_without_address_is_up_and_joins_pick_it() {
    let lab = Lab::new(2);
    let container = lab.start_with("c", &["parent=lan0"], &[]);
    assert_eq!(addresses(&container, "mc0"), BTreeSet::new());
    assert_eq!(link(&container, "mc0")["operstate"], "UP");
    let group = Ipv4Addr::new(239, 6, 1, 1);
    lab.assert_stream_arrives(&container, group);
}

#[test]
fn several_attachments_get_names_by_position_and_only_the_first_the_multicast_route() {
    let lab = Lab::new(2);
    // A second LAN: a link to the switch's side that nothing else uses.
    lab.ip("host", "link add blue type veth peer name bluep");
    lab.ip("host", "link set bluep up");
    lab.ip("host", "link set blue up");
    let container =
        lab.start_with("c", &["parent=lan0,ip=10.99.0.11/24", "parent=blue,ip=10.97.0.11/24"], &[]);
    assert_eq!(addresses(&container, "mc0"), BTreeSet::from(["10.99.0.11/24".to_owned()]));
    assert_eq!(addresses(&container, "mc1"), BTreeSet::from(["10.97.0.11/24".to_owned()]));
    let routes = routes(&container, "-4");
    let multicast: Vec<_> = routes.iter().filter(|route| route["dst"] == "224.0.0.0/4").collect();
    assert_eq!(multicast.len(), 1, "{multicast:?}");
    assert_eq!(multicast[0]["dev"], "mc0");
    let shown = lab.ps(&container).expect("mcrun ps knows the container");
    assert_eq!(shown["interfaces"].as_array().expect("interfaces").len(), 2, "{shown}");
    assert_eq!(shown["interfaces"][1]["parent"], "blue", "{shown}");
}

#[test]
fn the_containers_limits_for_groups_and_sources_are_raised() {
    let lab = Lab::new(2);
    let container = lab.start("c", "10.99.0.11");
    // The kernel's defaults are 20 and 10, mcrun's limits of one container 256 and 64.
    assert!(sysctl(&container, "ipv4/igmp_max_memberships") >= 256);
    assert!(sysctl(&container, "ipv4/igmp_max_msf") >= 64);
}

#[test]
fn the_address_is_announced_to_the_lan() {
    let lab = Lab::new(2);
    // By the proxy, and by the kernel where there is none.
    for (name, last, igmp) in [("served", 11, "proxy"), ("alone", 12, "off")] {
        is_announced(&lab, name, last, igmp);
    }
}

#[test]
fn another_container_learns_who_has_the_address_now() {
    let lab = Lab::new(2);
    let other = lab.start("other", "10.99.0.11");
    let neighbour = "10.99.0.12";
    let earlier = format!("neigh replace {neighbour} lladdr 02:00:5e:00:00:01 dev mc0 nud stale");
    run(other.enter("ip").args(earlier.split(' ')));
    let container = lab.start("c", neighbour);
    let mac = link(&container, "mc0")["address"].clone();
    wait_until("the neighbour's entry is renewed", PATIENCE, || {
        let entry = other.ip(&format!("neigh show {neighbour}"))[0].clone();
        (entry["lladdr"] == mac).then_some(())
    });
}

#[test]
fn when_the_address_is_announced_the_proxy_has_no_packet_socket_any_more_that_it_can_send_by() {
    let lab = Lab::new(2);
    let container = lab.start("c", "10.99.0.11");
    let proxy = lab.proxy_pid(&container);
    let held = || -> BTreeMap<String, String> {
        let fds = std::fs::read_dir(format!("/proc/{proxy}/fd")).expect("the proxy runs");
        let socket = |fd: std::io::Result<std::fs::DirEntry>| {
            let fd = fd.ok()?;
            let target = std::fs::read_link(fd.path()).ok()?.display().to_string();
            let inode = target.strip_prefix("socket:[")?.strip_suffix("]")?.to_owned();
            Some((fd.file_name().display().to_string(), inode))
        };
        fds.filter_map(socket).collect()
    };
    // The host's, and the container's: the last word of each line is an inode.
    let packet_sockets = || -> Vec<String> {
        let of =
            |pid: i32| std::fs::read_to_string(format!("/proc/{pid}/net/packet")).expect("a list");
        let lines = of(proxy) + &of(container.pid);
        lines.lines().filter_map(|line| line.split_whitespace().last()).map(str::to_owned).collect()
    };
    let descriptors = || -> Vec<String> {
        let known = packet_sockets();
        let of_packets = held().into_iter().filter(|(_, inode)| known.contains(inode));
        of_packets.map(|(descriptor, _)| descriptor).collect()
    };
    // Its system call filter denies to send by descriptor 0, and by those that count what arrives.
    let is_denied = |descriptor: &String| {
        let number: u32 = descriptor.parse().expect("a number");
        number == 0 || (120..127).contains(&number)
    };
    wait_until("the proxy has closed its other packet sockets", PATIENCE, || {
        let descriptors = descriptors();
        (descriptors.contains(&"0".to_owned()) && descriptors.iter().all(is_denied)).then_some(())
    });
}

fn is_announced(lab: &Lab, name: &str, last: u8, igmp: &str) {
    let capture = lab.capture_also("arp");
    let attachment = format!("parent=lan0,ip=10.99.0.{last}/24,igmp={igmp}");
    let container = lab.start_with(name, &[&attachment], &[]);
    let mac = link(&container, "mc0")["address"].as_str().expect("a MAC").to_owned();
    let octets: Vec<u8> =
        mac.split(':').map(|b| u8::from_str_radix(b, 16).expect("hexadecimal")).collect();
    wait_until("a gratuitous ARP request is on the wire", PATIENCE, || {
        // Sender hardware and protocol address, and the target equal to the sender (RFC 5944 4.6).
        let announces = |frame: &Vec<u8>| {
            frame.get(20..22) == Some(&[0, 1])
                && frame.get(22..28) == Some(&octets[..])
                && frame.get(28..32) == Some(&[10, 99, 0, last])
                && frame.get(38..42) == Some(&[10, 99, 0, last])
        };
        capture.frames().iter().any(announces).then_some(())
    });
}

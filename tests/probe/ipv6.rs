//! `mcrun probe` with groups of IPv6.

use std::process::{Command, Stdio};

use mcrun::net::netns::NetNs;
use mcrun::probe::Line;

use super::{Receiver, Running, lab, probe, receive_on};
use crate::lab::{PATIENCE, wait_until};

/// A namespace whose link `v0` carries IPv6: loopback carries no groups of IPv6.
fn linked() -> NetNs {
    let ns = lab();
    let ip = |arguments: &str| {
        let mut command = Command::new("ip");
        command.args(arguments.split_whitespace());
        ns.enter_on_exec(&mut command).unwrap();
        let output = command.output().unwrap();
        assert!(output.status.success(), "ip {arguments}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    ip("link add v0 type veth peer name v1");
    for link in ["v0", "v1"] {
        // Addresses that can be used at once: without duplicate address detection.
        ip(&format!("link set {link} addrgenmode none up"));
    }
    // One route to groups.
    ip("-6 route del multicast ff00::/8 dev v1 table local");
    for address in ["fe80::2", "fd00::2", "fd00::3"] {
        ip(&format!("addr add {address}/64 dev v0 nodad"));
    }
    wait_until("the link comes up", PATIENCE, || {
        ip("link show v0").contains("state UP").then_some(())
    });
    ns
}

#[test]
fn an_ipv6_stream_arrives_whole_from_the_source_that_was_asked_for() {
    let ns = linked();
    let to = "[ff3e::8000:1]:6000";
    let other = format!("send -i v0 --loop {to} --rate 500 --source fd00::3");
    let _other = Running(probe(&ns, &other).stdout(Stdio::null()).spawn().unwrap());
    let (both, _) =
        receive_on(&ns, "v0", &format!("{to} --count 20 --timeout 10s --source fd00::3"));
    assert_eq!(both.groups[0].report.lost, Some(0));
    let arguments = format!("{to} --count 2000 --timeout 10s --source fd00::2");
    let receiver = Receiver::start_on(&ns, "v0", &arguments);
    let arguments = format!("send -i v0 --loop --count 2000 --json --source fd00::2 {to}");
    let output = probe(&ns, &arguments).output().unwrap();
    let Line::Sent(sent) = serde_json::from_slice(&output.stdout).unwrap() else {
        panic!("{output:?}");
    };
    assert_eq!(sent.groups[0].report.source.ip().to_string(), "fd00::2");
    let (result, status, stderr) = receiver.finish();
    assert_eq!((status, stderr.as_str()), (0, ""));
    let group = &result.groups[0];
    assert_eq!((group.group.to_string().as_str(), group.port), ("ff3e::8000:1", 6000));
    assert_eq!((group.report.packets, group.report.lost), (2000, Some(0)));
    let sources: Vec<_> = group.report.sources.iter().map(|s| s.source.ip().to_string()).collect();
    assert_eq!(sources, ["fd00::2"]);

    // What came is named as it was asked for.
    let (result, status) = receive_on(&ns, "v0", "[ff15::9]:7000 --duration 50ms");
    assert_eq!((status, &result.broken[..]), (1, &["[ff15::9]:7000: nothing came".to_owned()][..]));
}

#[test]
fn a_group_of_the_link_is_measured_in_its_zone() {
    let ns = linked();
    let index = ns.run(|| nix::net::if_::if_nametoindex("v0").unwrap()).unwrap();
    let arguments = format!("send --loop --rate 500 ff02::1234%v0 ff15::1234%{index}");
    let mut command = probe(&ns, &arguments);
    let _sender = Running(command.stdout(Stdio::null()).spawn().unwrap());
    let mut command = probe(&ns, "recv ff02::1234%v0 ff15::1234 --count 20 --timeout 10s");
    let output = command.output().unwrap();
    let (text, told) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && text.contains("[ff02::1234]:5004"), "{text}\n{told}");
    for group in ["ff02::1234", "ff15::1234"] {
        let line = format!("mcrun probe: joined {group} on v0, port 5004\n");
        assert!(told.contains(&line), "{told}");
    }
    assert_eq!(text.matches(" packets, 0 lost (").count(), 2, "{text}");
}

#[test]
fn the_limit_of_a_groups_sources_is_named() {
    let ns = linked();
    let sources: String = (1..=65).map(|n| format!(" --source fd00::{n}")).collect();
    let output = probe(&ns, &format!("recv ff3e::1 -i v0{sources}")).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{stderr}");
    assert!(stderr.contains("net.ipv6.mld_max_msf limits the sources of a group"), "{stderr}");
}

//! `mcrun doctor CONTAINER GROUP` says where a stream ends.

use std::net::Ipv4Addr;

use serde_json::Value;
use socket2::SockRef;

use super::doctor::{doctor, flood_unasked, text, wait_status};
use crate::lab::{self, Lab, SOURCES, run};
use crate::relay::relayed_by_proxies;

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 20, 6, 1);
const LIMITED: Ipv4Addr = Ipv4Addr::new(239, 20, 6, 2);
const DENIED: Ipv4Addr = Ipv4Addr::new(239, 20, 6, 3);
/// A stream that the switch floods, and nobody has joined.
const UNASKED: Ipv4Addr = Ipv4Addr::new(239, 20, 6, 4);
/// A group that nobody sends to.
const ABSENT: Ipv4Addr = Ipv4Addr::new(239, 20, 6, 5);
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(239, 20, 6, 6);
/// Where the lab's streams go to.
const PORT: u16 = 5004;
/// A source to which the host has no route.
const UNROUTED: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

/// What is not `ok` of the streams, as `GROUP: LEVEL CHECK`.
fn wrong(findings: &[Value]) -> Vec<String> {
    let streams = findings.iter().filter(|finding| finding["about"] == "stream");
    let wrong = streams.filter(|finding| finding["level"] != "ok");
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    wrong
        .map(|f| format!("{}: {} {}", text(&f["group"]), text(&f["level"]), text(&f["check"])))
        .collect()
}

#[test]
fn doctor_follows_groups_from_the_join_to_the_socket() {
    let lab = Lab::new(3);
    let attachment = format!("parent=lan0,ip=10.99.0.11/24,deny={DENIED},max-groups=2");
    let container = lab.start_with("c", &[&attachment], &[]);
    let name = container.name.as_str();
    let stream = lab.stream(&container, GROUP, 200);
    let other = container.socket_on("mc0", PORT + 1);
    for (group, status) in [(ABSENT, "joined"), (LIMITED, "limited"), (DENIED, "denied")] {
        other.join(group);
        wait_status(&lab, &container, group, status);
    }
    lab.wait_forwarded(ABSENT);
    let (status, findings) = doctor(&lab, &[name]);
    let expected = [
        format!("{LIMITED}: failure allowed"),
        format!("{LIMITED}: unknown wire"),
        format!("{DENIED}: failure allowed"),
        format!("{DENIED}: unknown wire"),
        format!("{ABSENT}: failure wire"),
    ];
    assert_eq!((status, wrong(&findings)), (1, expected.to_vec()));
    let read: Vec<_> = findings.iter().filter(|f| f["check"] == "read").collect();
    assert_eq!(read.len(), 1, "one stream arrives: {findings:?}");
    assert_eq!(read[0]["group"], GROUP.to_string());
    assert_eq!(read[0]["text"], "a socket on port 5004 is read, and has lost nothing");
    stream.assert_whole();

    // A stream that is on the wire and was not asked for.
    flood_unasked(&lab);
    let _unasked = lab.send(UNASKED, SOURCES[0], 200);
    let (status, findings) = doctor(&lab, &[name, &UNASKED.to_string()]);
    assert_eq!((status, wrong(&findings)), (1, vec![format!("{UNASKED}: failure asked")]));
    assert!(text(&findings, "wire").contains("it arrives on lan0: "), "{findings:?}");
    // One that is joined on an interface that is not the LAN's.
    let inner = container.socket_on("lo", PORT);
    inner.join(ELSEWHERE);
    let (_, findings) = doctor(&lab, &[name, &ELSEWHERE.to_string()]);
    assert!(text(&findings, "asked").starts_with("joined on lo, which is not"), "{findings:?}");

    // A program that does not keep up: its buffer is the smallest.
    let slow = container.socket_on("mc0", PORT);
    SockRef::from(&slow.socket).set_recv_buffer_size(1).expect("a small buffer");
    other.leave(ABSENT);
    slow.join(GROUP);
    wait_status(&lab, &container, GROUP, "joined");
    let _stream = lab.send(GROUP, SOURCES[0], 500);
    let (status, findings) = doctor(&lab, &[name, &GROUP.to_string()]);
    assert_eq!((status, wrong(&findings)), (1, vec![format!("{GROUP}: failure socket-buffer")]));

    lab::kill(lab.proxy_pid(&container));
    let (status, findings) = doctor(&lab, &[name, &GROUP.to_string()]);
    assert_eq!(status, 1);
    assert!(wrong(&findings).contains(&format!("{GROUP}: failure proxy")), "{findings:?}");
    for (arguments, status, expected) in [
        (["doctor", name, "10.0.0.1"], 2, "expected a group of IPv4"),
        (["doctor", "nobody", "239.1.1.1"], 1, "no such container: nobody"),
    ] {
        let refused = lab::output(&mut lab.mcrun(arguments));
        let told = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(status), "{told}");
        assert!(told.lines().count() == 1 && told.contains(expected), "{told}");
    }
}

#[test]
fn what_rp_filter_of_the_host_keeps_from_a_relay_is_named() {
    let (lab, containers) = relayed_by_proxies(&["c"], "");
    let container = &containers[0];
    let socket = container.socket(PORT);
    socket.join(GROUP);
    lab.wait_joined(container, GROUP);
    lab.wait_forwarded(GROUP);
    lab.ip("src", &format!("addr add {UNROUTED}/24 dev lan0"));
    run(lab.enter("host", "sysctl").args(["-qw", "net.ipv4.conf.lan0.rp_filter=1"]));
    let _stream = lab.send(GROUP, UNROUTED, 200);
    let (status, findings) = doctor(&lab, &[&container.name, &GROUP.to_string()]);
    assert_eq!((status, wrong(&findings)), (1, vec![format!("{GROUP}: failure rp-filter")]));
}

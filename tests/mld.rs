//! MLD: what IGMP's blackout is about, for IPv6. One MLD host on the port, whatever the containers do.

use std::net::{Ipv6Addr, SocketAddrV6, UdpSocket};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mcrun::mld::wire::{Message, RecordType};
use mcrun::proxy::QuerierStatus;
use serde_json::Value;
use socket2::{Domain, Socket, Type};

use crate::lab::{
    Background, Container, Family as _, Lab, PARENT, PATIENCE, SWITCH, mld, run, wait_until,
};

pub const GROUP: Ipv6Addr = Ipv6Addr::new(0xff0e, 0, 0, 0, 0, 0, 1, 1);
pub const PORT: u16 = 5004;
/// Packets of the stream, one each millisecond.
const PACKETS: u32 = 8000;
/// A querier that asks every 2 s is missed after 10 s.
const LONG_PATIENCE: Duration = Duration::from_secs(60);
/// What is sent before the stream.
pub const MARKER: u32 = u32::MAX;

/// Whether the switch forwards the group to the container host.
fn is_forwarded(lab: &Lab) -> bool {
    lab.forwarded().contains(&GROUP.to_string())
}

/// What `mcrun groups` tells of the group.
pub fn membership(lab: &Lab, container: &Container) -> Option<serde_json::Value> {
    lab.groups(container).into_iter().find(|entry| entry["group"] == GROUP.to_string())
}

/// The MLD querier that its proxy hears.
pub fn mld_querier(lab: &Lab, container: &Container) -> Option<QuerierStatus> {
    let directory = lab.state_dir().join("containers").join(&container.id);
    let status = mcrun::proxy::query_all(&[&directory]).pop()?.ok()?;
    status.interfaces[0].mld.clone()?.querier
}

/// A socket of the container that has joined the group.
fn join(container: &Container) -> UdpSocket {
    join_group(container, GROUP, PORT)
}

/// A socket of the container on this port that has joined this group. A socket gets what arrives for
/// its port, of every group that anybody in the container has joined (IPV6_MULTICAST_ALL).
fn join_group(container: &Container, group: Ipv6Addr, port: u16) -> UdpSocket {
    let index = container.ip("link show mc0")[0]["ifindex"].as_u64().expect("an index") as u32;
    let open = || UdpSocket::bind(SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port, 0, 0)).unwrap();
    let socket = container.namespace().run(open).expect("the container runs");
    socket.join_multicast_v6(&group, index).expect("joined");
    socket.set_read_timeout(Some(PATIENCE)).expect("timeout");
    socket
}

/// Receives the stream to its end; the numbers that have arrived.
fn receive(socket: UdpSocket) -> JoinHandle<(UdpSocket, Vec<u32>)> {
    std::thread::spawn(move || {
        let mut numbers = Vec::new();
        let mut payload = [0; 4];
        while let Ok(4) = socket.recv(&mut payload) {
            if payload == MARKER.to_be_bytes() {
                continue;
            }
            numbers.push(u32::from_be_bytes(payload));
            if numbers.last() == Some(&(PACKETS - 1)) {
                break;
            }
        }
        (socket, numbers)
    })
}

/// A socket that sends to the group on the LAN.
pub fn sender(lab: &Lab) -> UdpSocket {
    sender_to(lab, GROUP, PORT)
}

/// A socket that sends to this port of the group on the LAN.
fn sender_to(lab: &Lab, group: Ipv6Addr, port: u16) -> UdpSocket {
    let net = lab.net("src");
    let socket = net.run(|| Socket::new(Domain::IPV6, Type::DGRAM, None).unwrap()).unwrap();
    let index = net.run(|| nix::net::if_::if_nametoindex(PARENT).unwrap()).unwrap();
    socket.set_multicast_if_v6(index).expect("interface");
    socket.connect(&SocketAddrV6::new(group, port, 0, 0).into()).expect("connected");
    socket.into()
}

/// Sends until the switch forwards to this socket. A bridge that has just begun to ask forwards only
/// when the answers to its first query may have come (`br_multicast_querier_exists`).
pub fn wait_forwarded(sender: &UdpSocket, receiver: &UdpSocket) {
    receiver.set_read_timeout(Some(Duration::from_millis(10))).expect("timeout");
    wait_until("a packet arrives", PATIENCE, || {
        sender.send(&MARKER.to_be_bytes()).expect("sent");
        receiver.recv(&mut [0; 4]).ok()
    });
    receiver.set_read_timeout(Some(PATIENCE)).expect("timeout");
}

/// Sends the stream.
fn stream(socket: UdpSocket) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let begin = Instant::now();
        for number in 0..PACKETS {
            let due = begin + Duration::from_millis(number.into());
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            socket.send(&number.to_be_bytes()).expect("sent");
        }
    })
}

fn is_leave(message: &Message) -> bool {
    match message {
        Message::LeaveV2 { group } => *group == GROUP,
        Message::ReportV3(records) => records.iter().any(|record| {
            record.group == GROUP && matches!(record.kind, RecordType::ToIn | RecordType::Block)
        }),
        _ => false,
    }
}

/// Container 2 receives; container 1 joins after it and leaves. Its leave changes nothing on the wire.
fn a_neighbour_leaves(mld_version: u8) {
    let lab = Ipv6Addr::lab(mld_version);
    let capture = lab.capture_also("ip6");
    let start =
        |name, address: &str| lab.start_with(name, &[&format!("parent=lan0,ip={address}/64")], &[]);
    let leaver = start("leaver", "fd00:99::11");
    let stayer = start("stayer", "fd00:99::12");
    // The version of the LAN is known from its querier.
    lab.query();
    for container in [&leaver, &stayer] {
        wait_until("a querier is heard", PATIENCE, || {
            let querier = mld_querier(&lab, container)?;
            (querier.version == mld_version).then_some(())
        });
    }

    let stays = join(&stayer);
    let joined = wait_until("it is joined", PATIENCE, || membership(&lab, &stayer));
    assert_eq!((&joined["status"], &joined["mode"]), (&"joined".into(), &"exclude".into()));
    wait_until("the switch forwards", PATIENCE, || is_forwarded(&lab).then_some(()));
    let sender = sender(&lab);
    wait_forwarded(&sender, &stays);
    let (stays, sender) = (receive(stays), stream(sender));
    let leaves = join(&leaver);
    wait_until("it is joined", PATIENCE, || membership(&lab, &leaver));
    let mut payload = [0; 4];
    for _ in 0..500 {
        leaves.recv(&mut payload).expect("the stream arrives");
    }
    drop(leaves);
    wait_until("it is left", PATIENCE, || membership(&lab, &leaver).is_none().then_some(()));
    sender.join().expect("sent");
    let (socket, numbers) = stays.join().expect("received");
    let lost: Vec<_> =
        (0..PACKETS).filter(|number| numbers.binary_search(number).is_err()).collect();
    let ends = (lost.first(), lost.last());
    assert_eq!(lost.len(), 0, "lost between {ends:?}, {} arrived", numbers.len());
    assert!(is_forwarded(&lab));
    capture.igmp();
    let before = mld(&capture.frames());
    assert_eq!(before.iter().find(|(.., message)| is_leave(message)), None);

    // The last one's leave is one that the switch sees.
    drop(socket);
    wait_until("the switch stops", PATIENCE, || (!is_forwarded(&lab)).then_some(()));
    capture.igmp();
    let seen = mld(&capture.frames());
    assert!(seen.iter().any(|(.., message)| is_leave(message)), "{seen:?}");
    for (mac, source, hop_limit, message) in &seen {
        assert_eq!(mac, lab.host_mac(), "one MLD host on the port: {message:?}");
        assert!(source.is_unicast_link_local() || source.is_unspecified(), "{source} {message:?}");
        assert_eq!(*hop_limit, 1);
        assert!(!matches!(message, Message::Query(_)), "{message:?}");
    }
}

#[test]
fn a_neighbours_leave_costs_no_packet_with_mld_v1() {
    a_neighbour_leaves(1);
}

#[test]
fn a_neighbours_leave_costs_no_packet_with_mld_v2() {
    a_neighbour_leaves(2);
}

/// The switch asks every 2 s, so that its silence is noticed soon.
#[test]
fn the_mld_querier_is_shown_beside_that_of_igmp_and_missed_where_a_group_needs_it() {
    const CODE: &str = "no-mld-querier";
    let lab = Ipv6Addr::lab(2);
    lab.ip("sw", "link set br0 type bridge mcast_igmp_version 3 mcast_query_interval 200");
    lab.ip("sw", "link set br0 type bridge mcast_query_response_interval 100");
    let container = lab.start_with("c", &["parent=lan0,ip=fd00:99::11/64"], &[]);
    let plain = lab.start("v4", "10.99.0.12");
    let events = lab.directory().join("events");
    let file = std::fs::File::create(&events).expect("a file");
    let mut follower = Background::start(lab.mcrun(["events", "--follow", "--json"]).stdout(file));
    let told = |event: &str| {
        let text = std::fs::read_to_string(&events).expect("the file");
        let all = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        all.filter(|told| told["event"] == event && told["container"] == container.id)
            .collect::<Vec<_>>()
    };
    lab.query();
    let querier = wait_until("a querier of MLD is shown", PATIENCE, || {
        let shown = lab.ps(&container)?["interfaces"][0].clone();
        (shown["mld_querier"]["interval_s"] == 2 && shown["querier"]["version"] == 3)
            .then(|| shown["mld_querier"].clone())
    });
    let address = querier["address"].as_str().expect("an address");
    assert_eq!(querier["version"], 2, "{querier}");
    assert!(address.starts_with("fe80::"), "{querier}");
    let shown = lab.ps(&plain).expect("it is there");
    assert!(shown["interfaces"][0]["mld_querier"].is_null(), "{shown}");
    let ps = run(&mut lab.mcrun(["ps"]));
    assert!(ps.contains(&format!("{SWITCH} v3, MLD {address} v2")), "{ps}");
    let groups = run(&mut lab.mcrun(["groups"]));
    let lines: Vec<_> = groups.lines().take(3).collect();
    assert!(lines[0].starts_with(&format!("lan0: querier {SWITCH} (IGMPv3), last")), "{groups}");
    assert!(lines[1].starts_with(&format!("lan0: querier {address} (MLDv2), last")), "{groups}");
    assert!(lines[2].starts_with("NAME"), "{groups}");
    let inspect = run(&mut lab.mcrun(["inspect", &container.name]));
    assert!(inspect.contains(&format!("querier   {address} MLDv2\n")), "{inspect}");
    let metrics = run(&mut lab.mcrun(["metrics"]));
    for line in [
        "mcrun_mld_querier_present{upstream=\"lan0\"} 1".to_owned(),
        format!("mcrun_mld_querier_info{{upstream=\"lan0\",address=\"{address}\"}} 1"),
        "mcrun_mld_querier_version{upstream=\"lan0\"} 2".to_owned(),
    ] {
        assert!(metrics.contains(&line), "{line}: {metrics}");
    }

    // Nobody has joined what a switch could cut off: it is gone, and no alarm.
    lab.ip("sw", "link set br0 type bridge mcast_querier 0");
    let alarms = || {
        let shown = lab.ps(&container)?;
        let notices = shown["notices"].as_array().cloned().unwrap_or_default();
        Some(notices.into_iter().map(|notice| notice["code"].clone()).collect::<Vec<_>>())
    };
    wait_until("both queriers are gone", LONG_PATIENCE, || {
        let shown = lab.ps(&container)?["interfaces"][0].clone();
        let is_gone = shown["mld_querier"].is_null() && shown["querier"].is_null();
        (is_gone && alarms()?.contains(&"no-querier".into())).then_some(())
    });
    assert!(!alarms().expect("it is there").contains(&CODE.into()));
    let metrics = run(&mut lab.mcrun(["metrics"]));
    assert!(metrics.contains("mcrun_mld_querier_present{upstream=\"lan0\"} 0"), "{metrics}");
    let socket = join(&container);
    wait_until("it is missed", PATIENCE, || alarms()?.contains(&CODE.into()).then_some(()));
    wait_until("that is told", PATIENCE, || {
        let alarms = told("alarm");
        let alarm = alarms.iter().find(|alarm| alarm["code"] == CODE)?;
        assert_eq!((&alarm["interface"], &alarm["upstream"]), (&"mc0".into(), &"lan0".into()));
        Some(())
    });
    lab.query();
    wait_until("its end is told", PATIENCE, || {
        told("alarm-cleared").iter().any(|alarm| alarm["code"] == CODE).then_some(())
    });
    assert!(!alarms().expect("it is there").contains(&CODE.into()));
    assert!(!told("mld-querier-gone").is_empty());
    let queriers = told("mld-querier");
    assert!(queriers.iter().all(|q| q["address"] == address && q["version"] == 2), "{queriers:?}");
    assert!(!queriers.is_empty());
    // The events of IGMP are those of before.
    assert!(told("querier").iter().all(|q| q["address"] == SWITCH.to_string()));
    drop(socket);
    follower.signal(libc::SIGTERM);
    assert!(follower.wait(PATIENCE).success());
}

/// The neighbour's memberships bring the data to the parent, which delivers it to both containers.
#[test]
fn a_denied_group_is_shown_as_denied_and_does_not_arrive_although_a_neighbour_has_it() {
    const DENIED: Ipv6Addr = Ipv6Addr::new(0xff0e, 0, 0, 0, 0, 0, 2, 1);
    const DENIED_PORT: u16 = PORT + 1;
    let lab = Ipv6Addr::lab(2);
    let spec = "parent=lan0,ip=fd00:99::11/64,allow=ff0e::1:1,allow=ros2";
    let restricted = lab.start_with("restricted", &[spec], &[]);
    let neighbour = lab.start_with("neighbour", &["parent=lan0,ip=fd00:99::12/64"], &[]);
    let capture = lab.capture_also("ip6");
    let shows = |container: &Container, group: Ipv6Addr, status: &str| {
        wait_until(&format!("{group} is {status}"), PATIENCE, || {
            let groups = lab.groups(container).into_iter();
            let mut of = groups.filter(|entry| entry["group"] == group.to_string());
            of.find(|entry| entry["status"] == status)
        })
    };
    let denied = join_group(&restricted, DENIED, DENIED_PORT);
    let shown = shows(&restricted, DENIED, "denied");
    assert_eq!(shown["reason"], "no allow rule names it", "{shown}");
    // What a profile names is allowed.
    let _ros2 = join_group(&restricted, "ff1e::ffff:efff:1".parse().unwrap(), PORT + 2);
    shows(&restricted, "ff1e::ffff:efff:1".parse().unwrap(), "joined");
    assert_eq!(shown["scope"], "global", "{shown}");
    let table = run(&mut lab.mcrun(["groups", &restricted.name]));
    let is_link = |line: &&str| line.contains(" ff02::1:ff00:11 ") && line.contains(" link ");
    assert!(table.contains(" SCOPE ") && table.lines().any(|line| is_link(&line)), "{table}");
    capture.igmp();
    let reported = mld(&capture.frames());
    let names = |message: &Message| match message {
        Message::ReportV3(records) => records.iter().any(|record| record.group == DENIED),
        _ => false,
    };
    assert_eq!(reported.iter().find(|(.., message)| names(message)), None);

    let allowed = join(&restricted);
    shows(&restricted, GROUP, "joined");
    let hears = join_group(&neighbour, DENIED, DENIED_PORT);
    shows(&neighbour, DENIED, "joined");
    // A switch that did not learn from the first report learns from the answer.
    lab.query();
    wait_forwarded(&sender_to(&lab, DENIED, DENIED_PORT), &hears);
    // Sent behind the denied packets: when this one has come, they have passed by.
    wait_forwarded(&sender(&lab), &allowed);
    denied.set_nonblocking(true).expect("set");
    let arrived = denied.recv(&mut [0; 4]).map_err(|error| error.kind());
    assert_eq!(arrived, Err(std::io::ErrorKind::WouldBlock));

    // The rules are shown as what the profile means.
    let inspected = run(&mut lab.mcrun(["inspect", &restricted.name]));
    for group in ["239.255.0.1", "ff02::ffff:efff:1", "ff1e::ffff:efff:1"] {
        assert!(inspected.contains(&format!("  allow     {group}\n")), "{group}: {inspected}");
    }
}

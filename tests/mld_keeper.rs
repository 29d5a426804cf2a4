//! MLD while the proxy of a container is replaced: by the keeper when it is killed, and by `mcrun reload`.
//! No packet is lost, and nothing of it is seen on the LAN.
//!
//! `KEEPER_KILLS` sets how often a proxy is replaced in each case.

use std::net::{Ipv6Addr, SocketAddrV6, UdpSocket};

use mcrun::mld::wire::{Message, RecordType};
use mcrun::sys::sockopt;
use socket2::{Domain, Socket, Type};

use crate::keeper::kills;
use crate::lab;
use crate::lab::{
    Background, Container, Family as _, Lab, PARENT, PATIENCE, kill, run, stream_while, wait_until,
};
use crate::mld;
use crate::mld::{GROUP, PORT};

/// A group that the container receives from two sources only.
const CHANNEL: Ipv6Addr = Ipv6Addr::new(0xff3e, 0, 0, 0, 0, 0, 0, 0x1234);
/// Address of the sender, the first source of the channel.
const SOURCE: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x99, 0, 0, 0, 0, 0, 3);
/// The second source of the channel, which sends nothing.
const SILENT: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x99, 0, 0, 0, 0, 0, 4);
/// An address of the sender from which the container does not receive the channel.
const OTHER: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x99, 0, 0, 0, 0, 0, 5);
/// The number that ends a stream.
const END: u32 = u32::MAX - 1;

/// What the host's kernel has joined of the channel.
fn upstream(lab: &Lab) -> Vec<Ipv6Addr> {
    let sources = lab.host_sources().remove(&CHANNEL).unwrap_or_default();
    assert!(sources.values().all(|(_, excluding)| *excluding == 0), "{sources:?}");
    sources.into_keys().collect()
}

/// A socket of the container, bound to the port, that has joined nothing.
fn bound(container: &Container, port: u16) -> (UdpSocket, u32) {
    let open = || {
        let socket = Socket::new(Domain::IPV6, Type::DGRAM, None).expect("socket");
        // Otherwise it hears what any other socket of the container has joined.
        let (level, option) = (libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_ALL);
        sockopt::set_int(&socket, level, option, 0).expect("own groups only");
        sockopt::grow_receive_buffer(&socket, 4 << 20).expect("a buffer");
        let address = SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port, 0, 0);
        socket.bind(&address.into()).expect("bound");
        let index = nix::net::if_::if_nametoindex("mc0").expect("an index");
        (UdpSocket::from(socket), index)
    };
    let (socket, index) = container.namespace().run(open).expect("the container runs");
    socket.set_read_timeout(Some(PATIENCE)).expect("timeout");
    (socket, index)
}

/// A socket of the LAN that sends from this address.
fn sends_from(lab: &Lab, source: Ipv6Addr, group: Ipv6Addr, port: u16) -> UdpSocket {
    let open = || {
        let socket = Socket::new(Domain::IPV6, Type::DGRAM, None).expect("socket");
        let index = nix::net::if_::if_nametoindex(PARENT).expect("an index");
        socket.set_multicast_if_v6(index).expect("interface");
        socket.bind(&SocketAddrV6::new(source, 0, 0, 0).into()).expect("bound");
        socket.connect(&SocketAddrV6::new(group, port, 0, 0).into()).expect("connected");
        socket.into()
    };
    lab.run_in("src", open)
}

/// The numbers that come up to the end of a stream.
fn receive(socket: &UdpSocket) -> Vec<u32> {
    let mut numbers = Vec::new();
    let mut payload = [0; 4];
    loop {
        // Where the end is lost, what came before it says more.
        let Ok(4) = socket.recv(&mut payload) else { return numbers };
        match u32::from_be_bytes(payload) {
            mld::MARKER => {}
            END => return numbers,
            number => numbers.push(number),
        }
    }
}

/// Sends a numbered packet each millisecond by each socket of `senders` and `beside` until `changes`
/// returns. Each of `whole` receives each number of its sender once, in order, and nothing else.
fn assert_whole_while(
    senders: &[UdpSocket],
    whole: &[&UdpSocket],
    beside: &[UdpSocket],
    changes: impl FnOnce(),
) {
    let send = |number: u32| {
        for socket in senders.iter().chain(beside) {
            socket.send(&number.to_be_bytes()).expect("sent");
        }
    };
    let end = || senders.iter().for_each(|s| _ = s.send(&END.to_be_bytes()).expect("sent"));
    let receivers = whole.iter().map(|socket| || receive(socket)).collect();
    let (sent, received) = stream_while(send, end, receivers, changes);
    for numbers in received {
        let wrong = numbers.iter().zip(0..).find(|(got, expected)| **got != *expected);
        assert_eq!((wrong, numbers.len()), (None, sent as usize), "each once and in order");
    }
}

/// Whether the message takes back, or widens, anything that the container has joined.
fn is_change(message: &Message) -> bool {
    let groups = [GROUP, CHANNEL];
    match message {
        Message::LeaveV2 { group } => groups.contains(group),
        Message::ReportV3(records) => records.iter().any(|record| {
            let narrower = matches!(record.kind, RecordType::ToIn | RecordType::Block);
            let wider = matches!(record.kind, RecordType::ToEx | RecordType::IsEx);
            groups.contains(&record.group) && narrower || record.group == CHANNEL && wider
        }),
        _ => false,
    }
}

/// Nothing of a stream is lost, and neither the switch nor the host's source list sees anything, while
/// `replace` replaces the proxy of the container `KEEPER_KILLS` times.
fn proxies_are_replaced(mld_version: u8, replace: impl Fn(&Lab, &Container, u32)) {
    let lab = Ipv6Addr::lab(mld_version);
    lab.ip("src", &format!("addr add {OTHER}/64 dev {PARENT} nodad"));
    // A proxy that waits for the kernel is not killed: another test may hold the kernel's locks.
    let options = ["keep", "--watchdog", "10s", "--stable-after", "50ms"];
    let _keeper = Background::start(&mut lab.mcrun(options));
    let container = lab.start_with("c", &["parent=lan0,ip=fd00:99::11/64"], &[]);
    lab.query();
    wait_until("a querier is heard", PATIENCE, || {
        (mld::mld_querier(&lab, &container)?.version == mld_version).then_some(())
    });
    let (any, index) = bound(&container, PORT);
    any.join_multicast_v6(&GROUP, index).expect("joined");
    let (channel, _) = bound(&container, PORT + 1);
    for source in [SOURCE, SILENT] {
        sockopt::join_source_group(&channel, index, CHANNEL, source).expect("joined");
    }
    for group in [GROUP, CHANNEL] {
        wait_until("it is joined", PATIENCE, || {
            let entries = lab.groups(&container);
            let entry = entries.iter().find(|entry| entry["group"] == group.to_string())?;
            (entry["status"] == "joined").then_some(())
        });
    }
    let _lists = lab.show_all_lists_of_ipv6();
    wait_until("the sources are joined", PATIENCE, || {
        (upstream(&lab) == [SOURCE, SILENT]).then_some(())
    });
    let to = |source, group, port| sends_from(&lab, source, group, port);
    let senders = [to(SOURCE, GROUP, PORT), to(SOURCE, CHANNEL, PORT + 1)];
    mld::wait_forwarded(&senders[0], &any);
    mld::wait_forwarded(&senders[1], &channel);
    let beside = [to(OTHER, CHANNEL, PORT + 1)];
    lab.wait_held(&container);
    let capture = lab.capture_also("ip6");
    assert_whole_while(&senders, &[&any, &channel], &beside, || {
        for number in 0..kills() {
            let proxy = lab.wait_held(&container);
            replace(&lab, &container, number);
            wait_until("a successor is held", PATIENCE, || {
                (lab.wait_held(&container) != proxy).then_some(())
            });
            assert_eq!(upstream(&lab), [SOURCE, SILENT]);
        }
    });
    // The successor answers for what it has taken over. A bridge that begins to ask forwards nothing at
    // first: not under the stream.
    lab.query();
    wait_until("the host answers", PATIENCE, || {
        let seen = lab::mld(&capture.frames());
        let reports = |group| {
            seen.iter().any(|(.., message)| match message {
                Message::ReportV2 { group: reported } => *reported == group,
                Message::ReportV3(records) => records.iter().any(|r| r.group == group),
                _ => false,
            })
        };
        (reports(GROUP) && reports(CHANNEL)).then_some(())
    });
    assert_eq!(upstream(&lab), [SOURCE, SILENT]);
    let own = container.ip("link show mc0")[0]["address"].as_str().expect("a MAC").to_owned();
    capture.igmp();
    for (mac, _, _, message) in lab::mld(&capture.frames()) {
        assert!(!is_change(&message), "{message:?}");
        assert_ne!(mac, own, "MLD of the container is on the wire: {message:?}");
        assert_eq!(mac, lab.host_mac(), "{message:?}");
    }
    // What has been taken over can be left.
    drop((any, channel));
    wait_until("all is left", PATIENCE, || {
        let entries = lab.groups(&container);
        let left = |group: Ipv6Addr| entries.iter().all(|e| e["group"] != group.to_string());
        (left(GROUP) && left(CHANNEL) && upstream(&lab).is_empty()).then_some(())
    });
}

fn is_killed(lab: &Lab, container: &Container, _: u32) {
    kill(lab.wait_held(container));
}

/// Changes the administrator's rules, for which another proxy takes over.
fn is_reloaded(lab: &Lab, container: &Container, number: u32) {
    lab.configure(&format!("[groups]\nmax-groups = {}\n", 20 + number));
    assert_eq!(run(&mut lab.mcrun(["reload"])).trim(), container.id);
}

#[test]
fn a_killed_proxy_costs_nothing_in_mld_v1() {
    proxies_are_replaced(1, is_killed);
}

#[test]
fn a_killed_proxy_costs_nothing_in_mld_v2() {
    proxies_are_replaced(2, is_killed);
}

#[test]
fn a_reload_costs_nothing_in_mld_v1() {
    proxies_are_replaced(1, is_reloaded);
}

#[test]
fn a_reload_costs_nothing_in_mld_v2() {
    proxies_are_replaced(2, is_reloaded);
}

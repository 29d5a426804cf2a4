//! Ports on the loopback interface.

use std::net::Ipv4Addr;

use super::*;

const HERE: Ipv4Addr = Ipv4Addr::LOCALHOST;
const INSIDE: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 2);

fn translation() -> PortTranslation<Ipv4Addr> {
    allowing(PortRanges::default())
}

fn allowing(ports: PortRanges) -> PortTranslation<Ipv4Addr> {
    let mut translation = PortTranslation::new(ports);
    translation.set_host(HostAddresses::of(Some(HERE)));
    translation
}

fn to(port: u16) -> Destination<Ipv4Addr> {
    Destination { group: Ipv4Addr::new(239, 1, 1, 1), port, is_far: false }
}

/// A port that is free, of a program that has just asked for any.
fn free_port() -> u16 {
    UdpSocket::bind((HERE, 0)).unwrap().local_addr().unwrap().port()
}

#[test]
fn a_container_does_not_choose_a_port_of_the_host() {
    let now = Instant::now();
    let port = free_port();
    let mut translation = translation();
    for destination in [1900, port] {
        let (_, other) = translation.outside(now, (INSIDE, port), to(destination), |_| ()).unwrap();
        assert_ne!(other, port);
        assert!(translation.mappings().all(|mapping| mapping.answered));
    }
    UdpSocket::bind((HERE, port)).unwrap();
}

#[test]
fn a_port_that_the_administrator_allows_is_kept_while_it_is_free() {
    let now = Instant::now();
    let port = free_port();
    let mut translation = allowing(PortRanges::from_iter([port..=port]));
    let taken = UdpSocket::bind((HERE, port)).unwrap();
    let (_, other) = translation.outside(now, (INSIDE, port), to(1900), |_| ()).unwrap();
    assert_ne!(other, port);
    drop(taken);
    translation.expire(now + IDLE);
    let (_, kept) = translation.outside(now, (INSIDE, port), to(1900), |_| ()).unwrap();
    assert_eq!(kept, port);
}

#[test]
fn mdns_keeps_its_port_and_leaves_it_to_the_host() {
    let now = Instant::now();
    let mut translation = translation();
    let opened = |_: &UdpSocket| panic!("no socket is opened");
    let outside = translation.outside(now, (INSIDE, MDNS_PORT), to(MDNS_PORT), opened);
    assert_eq!(outside, Some((HERE, MDNS_PORT)));
    let mapping = translation.mappings().next().unwrap();
    assert_eq!((mapping.outside.1, mapping.answered), (MDNS_PORT, false));
    // A search from the same port has its answers.
    let (_, other) = translation.outside(now, (INSIDE, MDNS_PORT), to(1900), |_| ()).unwrap();
    assert_ne!(other, MDNS_PORT);
    let again = translation.outside(now, (INSIDE, MDNS_PORT), to(MDNS_PORT), |_| ());
    assert_eq!(again, Some((HERE, MDNS_PORT)));
    assert_eq!(translation.mappings().count(), 2);
    translation.expire(now + IDLE);
    assert_eq!((translation.mappings().count(), translation.poll_timeout()), (0, None));
}

#[test]
fn an_answer_reaches_the_port_that_asked_and_does_not_keep_it() {
    let now = Instant::now();
    let mut translation = translation();
    let mut opened = 0;
    let (host, port) =
        translation.outside(now, (INSIDE, 40_000), to(1900), |_| opened += 1).unwrap();
    translation.outside(now, (INSIDE, 40_000), to(1900), |_| opened += 1).unwrap();
    assert_eq!(opened, 1);
    let device = UdpSocket::bind((HERE, 0)).unwrap();
    device.send_to(b"here", (host, port)).unwrap();
    let mut buffer = [0; 16];
    let answer = translation.receive(40_000, &mut buffer).unwrap();
    assert_eq!((answer.from.0, answer.to), (HERE, (INSIDE, 40_000)));
    assert!(!answer.reaches_far);
    assert_eq!(&buffer[..answer.length], b"here");
    let empty = translation.receive(40_000, &mut buffer).unwrap_err();
    assert_eq!(empty.kind(), io::ErrorKind::WouldBlock);
    assert_eq!(translation.poll_timeout(), Some(now + IDLE));
}

#[test]
fn a_successor_takes_over_the_ports_used_last() {
    let start = Instant::now();
    let mut old = translation();
    let ports = [40_001, 40_002, 40_003];
    let mut outside = Vec::new();
    for (n, port) in (0..).zip(ports) {
        let now = start + Duration::from_millis(n);
        outside.push(old.outside(now, (INSIDE, port), to(1900), |_| ()).unwrap());
    }
    let mut new = translation();
    for (port, socket) in old.latest(2) {
        new.take_over_port(start, port, socket.map(|socket| socket.try_clone().unwrap()));
    }
    drop(old);
    let mappings: Vec<_> =
        new.mappings().map(|mapping| (mapping.inside.1, mapping.outside)).collect();
    assert_eq!(mappings, [(ports[1], outside[1]), (ports[2], outside[2])]);
    assert_eq!(new.sockets().map(|(port, _)| port).collect::<Vec<_>>(), ports[1..]);
    // The host's address, looked at again, is no other.
    new.set_host(HostAddresses::of(Some(HERE)));
    assert_eq!(new.outside(start, (INSIDE, ports[2]), to(1900), |_| ()), Some(outside[2]));
}

#[test]
fn a_port_that_the_predecessor_had_taken_from_the_host_becomes_free() {
    let now = Instant::now();
    let port = |host_port| HandedOverPort {
        inside: (INSIDE.into(), 1900),
        host_port,
        answered: true,
        reaches_far: false,
    };
    let socket = || Some(UdpSocket::bind((HERE, 0)).unwrap());
    let mut new = translation();
    new.take_over_port(now, port(1900), socket());
    assert_eq!(new.mappings().count(), 0);
    new.take_over_port(now, port(40_000), socket());
    assert_eq!(new.mappings().count(), 1);
    let mut new = allowing(PortRanges::from_iter([1900..=1900]));
    new.take_over_port(now, port(1900), socket());
    assert_eq!(new.mappings().count(), 1);
}

#[test]
fn the_table_is_bounded() {
    let start = Instant::now();
    let mut translation = translation();
    for n in 0..MAX_MAPPINGS as u64 + 20 {
        let now = start + Duration::from_millis(n);
        translation.outside(now, (INSIDE, 50_000 + n as u16), to(1900), |_| ());
    }
    assert_eq!(translation.mappings().count(), MAX_MAPPINGS);
    assert!(translation.mappings().all(|mapping| mapping.inside.1 >= 50_020));
    translation.set_host(HostAddresses::of(None));
    assert_eq!(translation.outside(start, (INSIDE, 1), to(1), |_| ()), None);
}

//! A container with CAP_NET_RAW that makes IGMP by itself.

use std::fs;
use std::io;
use std::net::Ipv4Addr;

use crate::lab;
use crate::lab::frames::{IPV4, bypass_queueing, link_address, mac};
use crate::lab::{Igmp, Lab, PATIENCE, wait_until};
use socket2::{Domain, Protocol, Socket, Type};

/// A group that the neighbour of the rogue receives.
const WANTED: Ipv4Addr = Ipv4Addr::new(239, 3, 1, 1);
/// A group that nobody receives.
const FORGED: Ipv4Addr = Ipv4Addr::new(239, 66, 66, 66);
/// UDP packets that show that a way onto the wire is open.
const MARKER: Ipv4Addr = Ipv4Addr::new(239, 66, 66, 67);
const MARKER_PORT: u16 = 9;

/// Set in the container, where this same program is the rogue.
const ROGUE: &str = "MCRUN_TEST_ROGUE_SPOOFS";

#[test]
fn igmp_of_raw_and_packet_sockets_does_not_reach_the_wire() {
    if let Ok(spoofed) = std::env::var(ROGUE) {
        return rogue(&spoofed).expect("the rogue can send");
    }
    let lab = Lab::new(3);
    let this = std::env::current_exe().expect("own path");
    lab::install(&this, &lab.rootfs().join("bin/rogue"));
    let neighbour = lab.start("neighbour", "10.99.0.11");
    let container = lab.start("rogue", "10.99.0.12");
    let stream = lab.stream(&neighbour, WANTED, 500);

    let capture = lab.capture_also(&format!("igmp or udp port {MARKER_PORT}"));
    let variable = format!("{ROGUE}={}", lab.host_mac());
    let test = "rogue::igmp_of_raw_and_packet_sockets_does_not_reach_the_wire";
    let output = lab::output(
        &mut lab
            .exec_command(&container, &["env", &variable, "rogue", "--exact", test, "--nocapture"]),
    );
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    // The last thing the rogue sends is a marker: what it sent before has gone its way.
    let markers = wait_until("the markers arrive", PATIENCE, || {
        let frames = capture.frames();
        let markers = frames.iter().filter(|f| f.get(30..34) == Some(&MARKER.octets())).count();
        (markers >= WAYS).then_some(markers)
    });
    assert_eq!(markers, WAYS, "one marker by each way that is open");
    assert!(lab.forwarded().contains(&WANTED.to_string()), "{:?}", lab.forwarded());
    // Before the neighbour ends, whose own leave is none of the rogue's.
    let seen = capture.finish();
    stream.assert_whole();

    for frame in seen {
        // The host's kernel speaks version 3 here, and the rogue cannot make it leave.
        assert_eq!(frame.mac, lab.host_mac(), "{frame:?}");
        assert_eq!(frame.source, lab::HOST, "{frame:?}");
        let Igmp::ReportV3(records) = &frame.message else { panic!("{frame:?}") };
        for record in records {
            assert!(
                record.group != WANTED || record.kind != lab::RecordKind::ToInclude,
                "a forged leave: {frame:?}"
            );
        }
    }
}

/// Ways of [`rogue`] that an IP packet gets through: all but that of the host's MAC address and that
/// past the queueing discipline.
const WAYS: usize = 3;

/// Sends every kind of IGMP message by every kind of socket, and a marker by each.
fn rogue(spoofed: &str) -> io::Result<()> {
    let index = nix::net::if_::if_nametoindex("mc0")?;
    let own = mac(fs::read_to_string("/sys/class/net/mc0/address")?.trim());
    let messages: Vec<(Ipv4Addr, Vec<u8>)> = vec![
        (FORGED, message(0x12, FORGED, &[])),
        (FORGED, message(0x16, FORGED, &[])),
        (Ipv4Addr::new(224, 0, 0, 2), message(0x17, WANTED, &[])),
        // A version 3 report with one record, TO_IN of nothing: a leave.
        (Ipv4Addr::new(224, 0, 0, 22), report_v3_leave(WANTED)),
        // A version 3 general query.
        (Ipv4Addr::new(224, 0, 0, 1), message(0x11, Ipv4Addr::UNSPECIFIED, &[2, 20, 0, 0])),
        (Ipv4Addr::new(224, 0, 0, 1), message(0x7f, FORGED, &[])),
    ];

    // 1. The kernel writes the IP header, and takes IGMP for what it is.
    let igmp = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(libc::IPPROTO_IGMP)))?;
    for (destination, payload) in &messages {
        stopped(igmp.send_to(payload, &(std::net::SocketAddrV4::new(*destination, 0)).into()))?;
    }

    // 2. The IP header is ours.
    let header_included = |packet: &[u8], destination: Ipv4Addr| -> io::Result<()> {
        let raw = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))?;
        raw.send_to(packet, &std::net::SocketAddrV4::new(destination, 0).into())?;
        Ok(())
    };
    // 3 to 6. The Ethernet frame is ours: from our own address, from the host's, past the queueing
    // discipline, and as a datagram to which the kernel adds the link header.
    let frame = |packet: &[u8], source: [u8; 6], bypass: bool| -> io::Result<()> {
        let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
        if bypass {
            bypass_queueing(&socket)?;
        }
        let destination = [0x01, 0x00, 0x5e, packet[17] & 0x7f, packet[18], packet[19]];
        let frame = [&destination[..], &source, &[0x08, 0x00], packet].concat();
        socket.send_to(&frame, &link_address(index, destination, IPV4))?;
        Ok(())
    };
    let datagram = |packet: &[u8]| -> io::Result<()> {
        let socket = Socket::new(Domain::PACKET, Type::DGRAM, None)?;
        let destination = [0x01, 0x00, 0x5e, packet[17] & 0x7f, packet[18], packet[19]];
        socket.send_to(packet, &link_address(index, destination, IPV4))?;
        Ok(())
    };
    let by_every_way = |packet: &[u8], destination: Ipv4Addr| {
        [
            header_included(packet, destination),
            frame(packet, own, false),
            frame(packet, mac(spoofed), false),
            frame(packet, own, true),
            datagram(packet),
        ]
    };

    for (destination, payload) in &messages {
        for source in [Ipv4Addr::new(10, 99, 0, 12), lab::HOST] {
            for options in [&[][..], &ROUTER_ALERT] {
                let packet = packet(2, source, *destination, payload, options, 0);
                by_every_way(&packet, *destination).into_iter().try_for_each(stopped)?;
            }
        }
        // The first fragment of a longer message.
        let fragment = packet(2, lab::HOST, *destination, payload, &[], 0x2000);
        stopped(frame(&fragment, own, false))?;
        stopped(frame(&fragment, own, true))?;
    }
    let port = MARKER_PORT.to_be_bytes();
    let datagram = [port[0], port[1], port[0], port[1], 0, 8, 0, 0];
    let marker = packet(17, Ipv4Addr::new(10, 99, 0, 12), MARKER, &datagram, &[], 0);
    by_every_way(&marker, MARKER).into_iter().try_for_each(stopped)
}

/// RFC 2113.
const ROUTER_ALERT: [u8; 4] = [0x94, 0x04, 0, 0];

/// Some ways tell the sender that its packet was dropped.
fn stopped<T>(result: io::Result<T>) -> io::Result<()> {
    match result {
        Err(e) if !matches!(e.raw_os_error(), Some(libc::EPERM | libc::ENOBUFS)) => Err(e),
        _ => Ok(()),
    }
}

/// Type, code, checksum, group and what follows.
fn message(kind: u8, group: Ipv4Addr, rest: &[u8]) -> Vec<u8> {
    let mut bytes = [&[kind, 10, 0, 0][..], &group.octets(), rest].concat();
    let sum = checksum(&bytes);
    bytes[2..4].copy_from_slice(&sum.to_be_bytes());
    bytes
}

fn report_v3_leave(group: Ipv4Addr) -> Vec<u8> {
    let mut bytes = [&[0x22, 0, 0, 0, 0, 0, 0, 1][..], &[3, 0, 0, 0], &group.octets()].concat();
    let sum = checksum(&bytes);
    bytes[2..4].copy_from_slice(&sum.to_be_bytes());
    bytes
}

fn packet(
    protocol: u8,
    source: Ipv4Addr,
    destination: Ipv4Addr,
    payload: &[u8],
    options: &[u8],
    fragment: u16,
) -> Vec<u8> {
    let header = 20 + options.len();
    let length = u16::try_from(header + payload.len()).expect("small").to_be_bytes();
    let fragment = fragment.to_be_bytes();
    let mut bytes = vec![0x40 | (header / 4) as u8, 0xc0, length[0], length[1], 0, 0];
    bytes.extend([fragment[0], fragment[1], 1, protocol, 0, 0]);
    bytes.extend(source.octets());
    bytes.extend(destination.octets());
    bytes.extend(options);
    let sum = checksum(&bytes);
    bytes[10..12].copy_from_slice(&sum.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

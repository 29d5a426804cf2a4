//! A test stream through the switch: from another interface of the host on the same LAN.
//!
//! A switch sends no frame back out of the port that it came from, so the stream has to enter it by
//! another port. Half of the packets are of a group that is joined on the parent, the others of one
//! that nobody on this host has joined. The membership, and the addresses that the adapter lets
//! through, are those of sockets: they end with the process, however that ends. No packet leaves the
//! LAN (TTL 1).

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use rustix::rand::{GetRandomFlags, getrandom};
use socket2::{Domain, SockFilter, Socket, Type};

use crate::doctor::facts::{Fact, TestStream};
use crate::net::arp_announcement::link_address;
use crate::net::messages::Link;
use crate::net::nfnetlink::receive;
use crate::primitives::internet_checksum::Sum;
use crate::survey::HostLinks;
use crate::sys::sockopt;

/// Packets of each of the two groups.
pub(crate) const PACKETS: u32 = 25;
/// Between two packets: the whole stream takes half a second.
const PAUSE: Duration = Duration::from_millis(20);
/// For a report to reach the switch, and for the switch to act on it.
const SETTLING: Duration = Duration::from_millis(300);
/// For the last packets to arrive.
const TRANSIT: Duration = Duration::from_millis(200);
/// Other interfaces that are tried.
const MAX_OTHERS: usize = 16;
/// Local Experimental Ethertype 1 (IEEE 802, clause 9.2.4): no station acts on such a frame.
const EXPERIMENTAL: u16 = 0x88b5;
/// Port 9, discard.
const DISCARD: u16 = 9;
const TOKEN: usize = 8;
/// An Ethernet address.
type Mac = [u8; 6];
const ETHERNET: usize = 14;
/// The shortest frame without its checksum.
const SHORTEST: usize = 60;

/// Sends the test stream and counts what arrives on `parent`. `from` names the other interface; without
/// it, one is looked for. `Err`: why the stream proves nothing.
pub(crate) fn test_stream(
    parent: &str,
    from: Option<&str>,
    links: &HostLinks,
    joined: &Fact<BTreeSet<(u32, Ipv4Addr)>>,
) -> Fact<TestStream> {
    let to = links.link(parent).ok_or_else(|| format!("the host has no interface {parent}"))?;
    let usable = |link: &Link| link.up && link.carrier && !link.loopback && link.mac.is_some();
    if !usable(to) {
        return Err(format!("{parent} is down or has no Ethernet address"));
    }
    let others: Vec<&Link> = match from {
        Some(name) => {
            let link =
                links.link(name).ok_or_else(|| format!("the host has no interface {name}"))?;
            if !usable(link) || is_related(link, to) {
                return Err(format!(
                    "{name} is no other port beside {parent}: it is down, without an Ethernet address, \
                     or made of the same port"
                ));
            }
            vec![link]
        }
        None => {
            let others = links.links.iter().filter(|link| usable(link) && !is_related(link, to));
            others.filter(|link| link.port_of.is_none()).take(MAX_OTHERS).collect()
        }
    };
    let why = |error: io::Error| match error.kind() {
        io::ErrorKind::PermissionDenied => "run it as root".to_owned(),
        _ => error.to_string(),
    };
    let Some(from) = reaching(&others, to).map_err(why)? else {
        let other = from.map_or("no other interface of this host is".to_owned(), |name| {
            format!("a frame of {name} does not reach it, so {name} is not")
        });
        return Err(format!(
            "{other} on the LAN of {parent}, and a switch sends nothing back out of the port that it \
             came from; name one with --send-from, or run mcrun probe send on another machine of the \
             LAN and mcrun probe recv here"
        ));
    };
    let joined = joined.as_ref().map_err(Clone::clone)?;
    let groups = groups(joined).map_err(why)?;
    let address = links.networks_of(from.index).find_map(|network| match network.addr() {
        std::net::IpAddr::V4(address) => Some(address),
        std::net::IpAddr::V6(_) => None,
    });
    let arrived = stream(from, to, address, groups).map_err(why)?;
    let [group, other] = groups;
    Ok(TestStream { from: from.name.clone(), group, other, sent: PACKETS, arrived })
}

/// Whether two links are of the same port: one is made of the other, or is a port of it.
fn is_related(link: &Link, other: &Link) -> bool {
    let is_of = |a: &Link, b: &Link| {
        a.parent == Some(b.index) && a.parent_namespace.is_none()
            || a.port_of.as_ref().is_some_and(|(of, _)| *of == b.index)
    };
    let same_parent = link.parent.is_some()
        && link.parent == other.parent
        && link.parent_namespace.is_none()
        && other.parent_namespace.is_none();
    link.index == other.index || is_of(link, other) || is_of(other, link) || same_parent
}

/// The first of the interfaces from which a frame gets to the other one.
fn reaching<'l>(others: &[&'l Link], to: &Link) -> io::Result<Option<&'l Link>> {
    let Some(own) = to.mac else { return Ok(None) };
    let receiver = packet_socket(to.index, EXPERIMENTAL, None)?;
    let token = token()?;
    for (number, link) in others.iter().enumerate() {
        let Some(mac) = link.mac else { continue };
        let payload = [&token[..], &[number as u8]].concat();
        // What cannot be sent does not arrive.
        let _ = send(link.index, &frame(own.octets(), mac.octets(), EXPERIMENTAL, &payload));
    }
    let mut buffer = [0; 256];
    let mut nearest: Option<usize> = None;
    until(&receiver, Instant::now() + TRANSIT, &mut buffer, |frame| {
        let payload = frame.get(ETHERNET..).unwrap_or_default();
        if payload.starts_with(&token) {
            let number = usize::from(payload.get(TOKEN).copied().unwrap_or(u8::MAX));
            nearest = Some(nearest.map_or(number, |known| known.min(number)));
        }
    })?;
    Ok(nearest.and_then(|number| others.get(number).copied()))
}

/// Two groups of 239.255.0.0/16 of which the host has joined none, nor one of the same MAC address.
fn groups(joined: &BTreeSet<(u32, Ipv4Addr)>) -> io::Result<[Ipv4Addr; 2]> {
    /// Of the 23 bits of a group that its MAC address has (RFC 1112 §6.4).
    const IN_MAC: u32 = 0x007f_ffff;
    let taken: BTreeSet<u32> = joined.iter().map(|(_, group)| group.to_bits() & IN_MAC).collect();
    let mut found = Vec::new();
    // One try in 65536 meets a group that is joined.
    for _ in 0..1000 {
        let mut bytes = [0; 2];
        getrandom(&mut bytes, GetRandomFlags::empty())?;
        let group = Ipv4Addr::new(239, 255, bytes[0], bytes[1]);
        if !taken.contains(&(group.to_bits() & IN_MAC)) && !found.contains(&group) {
            found.push(group);
        }
        if let [one, other, ..] = found[..] {
            return Ok([one, other]);
        }
    }
    Err(io::Error::other("no group of 239.255.0.0/16 is free"))
}

/// Sends packets of both groups, of which the first is joined, and counts how many of each arrive.
fn stream(
    from: &Link,
    to: &Link,
    address: Option<Ipv4Addr>,
    groups: [Ipv4Addr; 2],
) -> io::Result<[u32; 2]> {
    let Some(mac) = from.mac else { return Ok([0; 2]) };
    let receiver = packet_socket(to.index, libc::ETH_P_IP as u16, Some(&of_groups(groups)))?;
    for group in groups {
        let_through(&receiver, to.index, multicast_mac(group))?;
    }
    let member = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    sockopt::join_group(&member, to.index, groups[0])?;
    thread::sleep(SETTLING);
    let token = token()?;
    let mut arrived = [0; 2];
    let mut buffer = [0; 2048];
    for number in 0..PACKETS {
        for group in groups {
            let payload = [&token[..], &number.to_be_bytes()].concat();
            let packet = datagram(address.unwrap_or(Ipv4Addr::UNSPECIFIED), group, &payload);
            send(
                from.index,
                &frame(multicast_mac(group), mac.octets(), libc::ETH_P_IP as u16, &packet),
            )?;
        }
        let pause = if number + 1 == PACKETS { TRANSIT } else { PAUSE };
        until(&receiver, Instant::now() + pause, &mut buffer, |frame| {
            let packet = frame.get(ETHERNET..).unwrap_or_default();
            let is_ours = packet.get(IP + UDP..).is_some_and(|rest| rest.starts_with(&token));
            let to = packet.get(16..20).and_then(|b| <[u8; 4]>::try_from(b).ok());
            let position = to.and_then(|to| groups.iter().position(|group| group.octets() == to));
            if let Some(count) = position.filter(|_| is_ours).and_then(|at| arrived.get_mut(at)) {
                *count = PACKETS.min(*count + 1);
            }
        })?;
    }
    Ok(arrived)
}

const IP: usize = 20;
const UDP: usize = 8;

/// A datagram of IPv4 and UDP without a UDP checksum (RFC 768), which does not leave the LAN.
fn datagram(from: Ipv4Addr, group: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let length = (IP + UDP + payload.len()) as u16;
    let mut packet = vec![0x45, 0];
    packet.extend(length.to_be_bytes());
    // Don't fragment; TTL 1; UDP; the checksum comes below.
    packet.extend([0, 0, 0x40, 0, 1, libc::IPPROTO_UDP as u8, 0, 0]);
    packet.extend(from.octets());
    packet.extend(group.octets());
    let checksum = Sum::of(&packet).checksum();
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet.extend(DISCARD.to_be_bytes());
    packet.extend(DISCARD.to_be_bytes());
    packet.extend((length - IP as u16).to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(payload);
    packet
}

fn frame(to: Mac, from: Mac, kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = [&to[..], &from[..], &kind.to_be_bytes(), payload].concat();
    frame.resize(frame.len().max(SHORTEST), 0);
    frame
}

/// RFC 1112 §6.4.
fn multicast_mac(group: Ipv4Addr) -> Mac {
    let [_, b, c, d] = group.octets();
    [0x01, 0x00, 0x5e, b & 0x7f, c, d]
}

fn token() -> io::Result<[u8; TOKEN]> {
    let mut token = [0; TOKEN];
    // So few bytes are never cut short (getrandom(2)).
    getrandom(&mut token, GetRandomFlags::empty())?;
    Ok(token)
}

/// A packet socket of one interface and one protocol that does not wait.
fn packet_socket(index: u32, protocol: u16, filter: Option<&[SockFilter]>) -> io::Result<Socket> {
    // Protocol 0: nothing is queued before the filter is there.
    let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
    if let Some(filter) = filter {
        socket.attach_filter(filter)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&link_address(index, protocol))?;
    Ok(socket)
}

fn send(index: u32, frame: &[u8]) -> io::Result<()> {
    let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
    socket.send_to(frame, &link_address(index, 0)).map(drop)
}

/// Lets packets to two groups through.
fn of_groups(groups: [Ipv4Addr; 2]) -> [SockFilter; 5] {
    let op = |code: u32, jt, jf, k| SockFilter::new(code as u16, jt, jf, k);
    let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    [
        op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, ETHERNET as u32 + 16),
        op(equal, 1, 0, groups[0].to_bits()),
        op(equal, 0, 1, groups[1].to_bits()),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, 2048),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
    ]
}

/// Makes the adapter take frames to this address, for as long as the socket is open. Nobody is told
/// of it: that is no membership of IGMP (`PACKET_MR_MULTICAST` in packet(7)).
fn let_through(socket: &Socket, index: u32, mac: Mac) -> io::Result<()> {
    let mut request = Vec::new();
    request.extend(index.to_ne_bytes());
    request.extend((libc::PACKET_MR_MULTICAST as u16).to_ne_bytes());
    request.extend(6u16.to_ne_bytes());
    request.extend(mac);
    request.extend([0, 0]);
    sockopt::set_bytes(socket, libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &request)
}

/// Reads frames until then.
fn until(
    socket: &Socket,
    end: Instant,
    buffer: &mut [u8],
    mut take: impl FnMut(&[u8]),
) -> io::Result<()> {
    loop {
        while let Some(frame) = receive(socket.as_fd(), buffer)? {
            take(frame);
            if Instant::now() >= end {
                return Ok(());
            }
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        let mut awaited = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
        let _ = ppoll(&mut awaited, Some(TimeSpec::from(left)), None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_has_a_whole_header_and_stays_on_the_lan() {
        let group = Ipv4Addr::new(239, 255, 200, 7);
        let packet = datagram(Ipv4Addr::new(10, 0, 0, 1), group, b"token");
        assert_eq!(packet.len(), IP + UDP + 5);
        assert!(Sum::of(&packet[..IP]).is_whole());
        assert_eq!((packet[8], packet[9]), (1, 17));
        assert_eq!(multicast_mac(group), [0x01, 0x00, 0x5e, 0x7f, 0xc8, 0x07]);
        let own = multicast_mac(group);
        assert_eq!(frame(own, own, EXPERIMENTAL, b"x").len(), SHORTEST);
    }

    #[test]
    fn groups_differ_from_each_other_and_from_what_is_joined() {
        // All but three, by another group of the same MAC address.
        let free = [0x1234u32, 0x2345, 0xffff];
        let others = (0..=0xffffu32).filter(|low| !free.contains(low));
        let joined = others.map(|low| (1, Ipv4Addr::from_bits(0xe07f_0000 | low))).collect();
        if let Ok([one, other]) = groups(&joined) {
            assert_ne!(one, other);
            assert!([one, other].iter().all(|group| free.contains(&(group.to_bits() & 0xffff))));
        }
        let [one, other] = groups(&BTreeSet::new()).unwrap();
        assert!(one != other && one.octets()[..2] == [239, 255]);
    }

    #[test]
    fn links_of_one_port_are_related() {
        let link = |index, parent| Link { index, parent, ..Link::default() };
        let (port, other) = (link(2, None), link(3, None));
        assert!(is_related(&port, &port) && is_related(&link(4, Some(2)), &port));
        assert!(is_related(&port, &link(4, Some(2))));
        assert!(is_related(&link(4, Some(2)), &link(5, Some(2))));
        assert!(!is_related(&port, &other) && !is_related(&link(4, Some(2)), &other));
        let bridged = Link { port_of: Some((2, "bridge".into())), ..link(6, None) };
        assert!(is_related(&bridged, &port));
    }
}

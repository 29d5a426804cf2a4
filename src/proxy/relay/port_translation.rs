//! Port translation: which host address and port a container's packet leaves with, and which port
//! of the container an answer belongs to.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use crate::proxy::relay::handover::HandedOverPort;
use crate::sys::sockopt;

/// Most mappings of one container. A new one replaces the mapping that was idle for longest.
const MAX_MAPPINGS: usize = 256;
/// How long a mapping lives after its last packet in either direction. An SSDP search is answered
/// within 5 s (UPnP Device Architecture 2.0 §1.3.2); no known multicast request takes minutes.
const IDLE: Duration = Duration::from_secs(120);

/// The ports that a container sends from, and the host ports that stand for them.
#[derive(Debug, Default)]
pub(super) struct PortTranslation {
    host: Option<Ipv4Addr>,
    ports: BTreeMap<u16, Mapping>,
}

#[derive(Debug)]
struct Mapping {
    /// The address that the container sends from.
    inside: Ipv4Addr,
    host_port: u16,
    /// Holds the host port and receives answers; `None` when another program has the port.
    socket: Option<UdpSocket>,
    used: Instant,
}

/// A unicast datagram from the LAN to a port of the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Answer {
    /// Who sent it.
    pub(super) from: (Ipv4Addr, u16),
    /// The container's address and port.
    pub(super) to: (Ipv4Addr, u16),
    /// Bytes of the buffer that were filled.
    pub(super) length: usize,
}

/// One mapping, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PortMapping {
    /// Address and port that the container sends from.
    pub(super) inside: (Ipv4Addr, u16),
    /// Address and port that the LAN sees.
    pub(super) outside: (Ipv4Addr, u16),
    /// Whether answers to that port reach the container.
    pub(super) answered: bool,
}

impl PortTranslation {
    /// The host's address.
    pub(super) fn host(&self) -> Option<Ipv4Addr> {
        self.host
    }

    /// Sets the host's address; a change removes all mappings.
    pub(super) fn set_host(&mut self, host: Option<Ipv4Addr>) {
        if self.host != host {
            self.host = host;
            self.ports.clear();
        }
    }

    /// The host address and port to send from for a port of the container; `None` when the host has
    /// no address. `opened` gets a new socket that receives answers.
    ///
    /// The port is kept when it is free on the host. A source port that equals the destination port
    /// is kept in any case: such protocols (mDNS, RFC 6762 §6; PTP) ignore packets from other
    /// ports.
    pub(super) fn outside(
        &mut self,
        now: Instant,
        inside: (Ipv4Addr, u16),
        destination_port: u16,
        opened: impl FnOnce(&UdpSocket),
    ) -> Option<(Ipv4Addr, u16)> {
        let host = self.host?;
        let (address, port) = inside;
        if let Some(mapping) = self.ports.get_mut(&port) {
            mapping.inside = address;
            mapping.used = now;
            return Some((host, mapping.host_port));
        }
        if self.ports.len() >= MAX_MAPPINGS {
            let oldest = self.ports.iter().min_by_key(|(_, mapping)| mapping.used);
            if let Some(&oldest) = oldest.map(|(port, _)| port) {
                self.ports.remove(&oldest);
            }
        }
        let must_keep = port == destination_port || port == 0;
        let socket = match bind(host, port) {
            Err(_) if !must_keep => bind(host, 0).ok(),
            result => result.ok(),
        };
        let bound = socket.as_ref().and_then(|socket| socket.local_addr().ok());
        let host_port = bound.map_or(port, |address| address.port());
        if let Some(socket) = &socket {
            opened(socket);
        }
        self.ports.insert(port, Mapping { inside: address, host_port, socket, used: now });
        Some((host, host_port))
    }

    /// Receives one answer for a port of the container.
    ///
    /// # Errors
    /// Those of recvfrom(2); `WouldBlock` when no answer is queued, or the port has no mapping.
    pub(super) fn receive(
        &mut self,
        now: Instant,
        port: u16,
        buffer: &mut [u8],
    ) -> io::Result<Answer> {
        let mapping = self.ports.get_mut(&port).ok_or(io::ErrorKind::WouldBlock)?;
        let socket = mapping.socket.as_ref().ok_or(io::ErrorKind::WouldBlock)?;
        let (length, from) = socket.recv_from(buffer)?;
        let SocketAddr::V4(from) = from else { return Err(io::ErrorKind::WouldBlock.into()) };
        mapping.used = now;
        Ok(Answer { from: (*from.ip(), from.port()), to: (mapping.inside, port), length })
    }

    /// When [`PortTranslation::expire`] is next to be called.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.ports.values().map(|mapping| mapping.used + IDLE).min()
    }

    /// Removes mappings that were idle for too long.
    pub(super) fn expire(&mut self, now: Instant) {
        self.ports.retain(|_, mapping| mapping.used + IDLE > now);
    }

    /// The mappings that were used last, at most `most`, and their sockets.
    pub(super) fn latest(
        &self,
        most: usize,
    ) -> impl Iterator<Item = (HandedOverPort, Option<&UdpSocket>)> {
        let mut ports: Vec<_> = self.ports.iter().collect();
        ports.sort_unstable_by_key(|(_, mapping)| std::cmp::Reverse(mapping.used));
        ports.into_iter().take(most).map(|(port, mapping)| {
            let port = HandedOverPort {
                inside: (mapping.inside, *port),
                host_port: mapping.host_port,
                answered: mapping.socket.is_some(),
            };
            (port, mapping.socket.as_ref())
        })
    }

    /// Adds a mapping of the predecessor.
    pub(super) fn take_over_port(
        &mut self,
        now: Instant,
        port: HandedOverPort,
        socket: Option<UdpSocket>,
    ) {
        let HandedOverPort { inside: (inside, number), host_port, .. } = port;
        if self.ports.len() < MAX_MAPPINGS {
            self.ports.insert(number, Mapping { inside, host_port, socket, used: now });
        }
    }

    /// The answer sockets, each with the container's port that it serves.
    pub(super) fn sockets(&self) -> impl Iterator<Item = (u16, BorrowedFd<'_>)> {
        let each = self.ports.iter();
        each.filter_map(|(port, mapping)| Some((*port, mapping.socket.as_ref()?.as_fd())))
    }

    /// All mappings, by the container's port.
    pub(super) fn mappings(&self) -> impl Iterator<Item = PortMapping> + '_ {
        let host = self.host.unwrap_or(Ipv4Addr::UNSPECIFIED);
        self.ports.iter().map(move |(port, mapping)| PortMapping {
            inside: (mapping.inside, *port),
            outside: (host, mapping.host_port),
            answered: mapping.socket.is_some(),
        })
    }
}

/// Binds a port that no other socket has. A later socket with SO_REUSEADDR may share it.
fn bind(host: Ipv4Addr, port: u16) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((host, port))?;
    socket.set_nonblocking(true)?;
    // A responder of the host that starts later, such as avahi-daemon, sets the option too.
    let _ = sockopt::set_int(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1);
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Ipv4Addr = Ipv4Addr::LOCALHOST;
    const INSIDE: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 2);

    fn translation() -> PortTranslation {
        let mut translation = PortTranslation::default();
        translation.set_host(Some(HERE));
        translation
    }

    #[test]
    fn a_free_port_is_kept_and_a_taken_one_is_not_unless_it_must() {
        let taken = UdpSocket::bind((HERE, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let now = Instant::now();
        let mut translation = translation();
        let (_, other) = translation.outside(now, (INSIDE, port), 1900, |_| ()).unwrap();
        assert_ne!(other, port);
        translation.expire(now + IDLE);
        let (_, same) = translation.outside(now, (INSIDE, port), port, |_| ()).unwrap();
        assert_eq!(same, port);
        assert!(!translation.mappings().next().unwrap().answered, "answers are the other's");
        drop(taken);
        translation.expire(now + IDLE);
        let (_, kept) = translation.outside(now, (INSIDE, port), 1900, |_| ()).unwrap();
        assert_eq!(kept, port);
    }

    #[test]
    fn an_answer_reaches_the_port_that_asked() {
        let now = Instant::now();
        let mut translation = translation();
        let mut opened = 0;
        let (host, port) =
            translation.outside(now, (INSIDE, 40_000), 1900, |_| opened += 1).unwrap();
        translation.outside(now, (INSIDE, 40_000), 1900, |_| opened += 1).unwrap();
        assert_eq!(opened, 1);
        let device = UdpSocket::bind((HERE, 0)).unwrap();
        device.send_to(b"here", (host, port)).unwrap();
        let mut buffer = [0; 16];
        let answer = translation.receive(now, 40_000, &mut buffer).unwrap();
        assert_eq!((answer.from.0, answer.to), (HERE, (INSIDE, 40_000)));
        assert_eq!(&buffer[..answer.length], b"here");
        let empty = translation.receive(now, 40_000, &mut buffer).unwrap_err();
        assert_eq!(empty.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_successor_takes_over_the_ports_used_last() {
        let start = Instant::now();
        let mut old = translation();
        let ports = [40_001, 40_002, 40_003];
        let mut outside = Vec::new();
        for (n, port) in (0..).zip(ports) {
            let now = start + Duration::from_millis(n);
            outside.push(old.outside(now, (INSIDE, port), 1900, |_| ()).unwrap());
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
        new.set_host(Some(HERE));
        assert_eq!(new.outside(start, (INSIDE, ports[2]), 1900, |_| ()), Some(outside[2]));
    }

    #[test]
    fn the_table_is_bounded() {
        let start = Instant::now();
        let mut translation = translation();
        for n in 0..MAX_MAPPINGS as u64 + 20 {
            let now = start + Duration::from_millis(n);
            // Ports below 1024 are in use by nobody or refused; both are well.
            translation.outside(now, (INSIDE, 50_000 + n as u16), 1900, |_| ());
        }
        assert_eq!(translation.mappings().count(), MAX_MAPPINGS);
        assert!(translation.mappings().all(|mapping| mapping.inside.1 >= 50_020));
        translation.set_host(None);
        assert_eq!(translation.outside(start, (INSIDE, 1), 1, |_| ()), None);
    }
}

//! From which address and port the host sends what a container sent, and how answers find back.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use crate::proxy::relay::inheritance::InheritedPort;
use crate::sys::sockopt;

/// Ports of one container at a time; beyond it the one that was silent for longest goes.
const MOST: usize = 256;
/// How long an answer is waited for after the last packet either way. A searcher of SSDP allows
/// 5 s (UPnP Device Architecture 2.0 §1.3.2), and nothing that is asked by multicast is known to take
/// minutes.
const IDLE: Duration = Duration::from_secs(120);

/// The ports of a container that sends, and those that the host sends from for them.
#[derive(Debug, Default)]
pub(super) struct Translation {
    host: Option<Ipv4Addr>,
    ports: BTreeMap<u16, Mapping>,
}

#[derive(Debug)]
struct Mapping {
    /// The address that the container sends from.
    inside: Ipv4Addr,
    host_port: u16,
    /// Holds the port, and takes what is sent to it; none where others have it already.
    socket: Option<UdpSocket>,
    used: Instant,
}

/// A datagram from the LAN to a port of the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Answer {
    /// Who sent it.
    pub(super) from: (Ipv4Addr, u16),
    /// Where the container waits for it.
    pub(super) to: (Ipv4Addr, u16),
    /// Bytes of the buffer that it fills.
    pub(super) length: usize,
}

/// One line of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Line {
    /// What the container sends from.
    pub(super) inside: (Ipv4Addr, u16),
    /// What the LAN sees.
    pub(super) outside: (Ipv4Addr, u16),
    /// Whether what is sent to that port comes to the container.
    pub(super) answered: bool,
}

impl Translation {
    /// The host's address.
    pub(super) fn host(&self) -> Option<Ipv4Addr> {
        self.host
    }

    /// Sets the host's address; another one ends all mappings.
    pub(super) fn set_host(&mut self, host: Option<Ipv4Addr>) {
        if self.host != host {
            self.host = host;
            self.ports.clear();
        }
    }

    /// The address and port to send from for a port of the container; none without an address of the
    /// host. `opened` is told of a new socket that takes answers.
    ///
    /// The port is kept where it is free. One that equals the destination's is kept in any case: such
    /// protocols (mDNS, RFC 6762 §6; PTP) take nothing from another port.
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
        if self.ports.len() >= MOST {
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

    /// Receives one answer to a port of the container.
    ///
    /// # Errors
    /// That of recvfrom(2); `WouldBlock` when there is none, or no such port.
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

    /// When [`Translation::expire`] has something to do.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.ports.values().map(|mapping| mapping.used + IDLE).min()
    }

    /// Gives up what was not used for long.
    pub(super) fn expire(&mut self, now: Instant) {
        self.ports.retain(|_, mapping| mapping.used + IDLE > now);
    }

    /// The ports that were used last, at most so many, and their sockets.
    pub(super) fn latest(
        &self,
        most: usize,
    ) -> impl Iterator<Item = (InheritedPort, Option<&UdpSocket>)> {
        let mut ports: Vec<_> = self.ports.iter().collect();
        ports.sort_unstable_by_key(|(_, mapping)| std::cmp::Reverse(mapping.used));
        ports.into_iter().take(most).map(|(port, mapping)| {
            let port = InheritedPort {
                inside: (mapping.inside, *port),
                host_port: mapping.host_port,
                answered: mapping.socket.is_some(),
            };
            (port, mapping.socket.as_ref())
        })
    }

    /// Adds a port that another table had.
    pub(super) fn inherit(&mut self, now: Instant, port: InheritedPort, socket: Option<UdpSocket>) {
        let InheritedPort { inside: (inside, number), host_port, .. } = port;
        if self.ports.len() < MOST {
            self.ports.insert(number, Mapping { inside, host_port, socket, used: now });
        }
    }

    /// The sockets that take answers, and the container's ports that they are for.
    pub(super) fn sockets(&self) -> impl Iterator<Item = (u16, BorrowedFd<'_>)> {
        let each = self.ports.iter();
        each.filter_map(|(port, mapping)| Some((*port, mapping.socket.as_ref()?.as_fd())))
    }

    /// The table, by the container's port.
    pub(super) fn lines(&self) -> impl Iterator<Item = Line> + '_ {
        let host = self.host.unwrap_or(Ipv4Addr::UNSPECIFIED);
        self.ports.iter().map(move |(port, mapping)| Line {
            inside: (mapping.inside, *port),
            outside: (host, mapping.host_port),
            answered: mapping.socket.is_some(),
        })
    }
}

/// Takes a port that nobody has. Whoever wants to share it later may.
fn bind(host: Ipv4Addr, port: u16) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((host, port))?;
    socket.set_nonblocking(true)?;
    // A responder of the host's own that starts later asks for the same in turn.
    let _ = sockopt::set_int(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1);
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Ipv4Addr = Ipv4Addr::LOCALHOST;
    const INSIDE: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 2);

    fn translation() -> Translation {
        let mut translation = Translation::default();
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
        assert!(!translation.lines().next().unwrap().answered, "answers are the other's");
        drop(taken);
        translation.expire(now + IDLE);
        let (_, kept) = translation.outside(now, (INSIDE, port), 1900, |_| ()).unwrap();
        assert_eq!(kept, port);
    }

    #[test]
    fn an_answer_finds_back() {
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
    fn another_table_carries_on_with_the_ports_used_last() {
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
            new.inherit(start, port, socket.map(|socket| socket.try_clone().unwrap()));
        }
        drop(old);
        let lines: Vec<_> = new.lines().map(|line| (line.inside.1, line.outside)).collect();
        assert_eq!(lines, [(ports[1], outside[1]), (ports[2], outside[2])]);
        assert_eq!(new.sockets().map(|(port, _)| port).collect::<Vec<_>>(), ports[1..]);
        // The host's address, looked at again, is no other.
        new.set_host(Some(HERE));
        assert_eq!(new.outside(start, (INSIDE, ports[2]), 1900, |_| ()), Some(outside[2]));
    }

    #[test]
    fn the_table_is_bounded() {
        let start = Instant::now();
        let mut translation = translation();
        for n in 0..MOST as u64 + 20 {
            let now = start + Duration::from_millis(n);
            // Ports below 1024 are in use by nobody or refused; both are well.
            translation.outside(now, (INSIDE, 50_000 + n as u16), 1900, |_| ());
        }
        assert_eq!(translation.lines().count(), MOST);
        assert!(translation.lines().all(|line| line.inside.1 >= 50_020));
        translation.set_host(None);
        assert_eq!(translation.outside(start, (INSIDE, 1), 1, |_| ()), None);
    }
}

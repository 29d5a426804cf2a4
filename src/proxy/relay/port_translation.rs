//! Port translation: which host address and port a container's packet leaves with, and which port
//! of the container an answer belongs to.
//!
//! A port of the host is taken only where the kernel gives one away, as to any program that asks
//! for any port (`net.ipv4.ip_local_port_range` without `ip_local_reserved_ports`), or where the
//! administrator says so. So a container cannot take a port that a program of the host will want.

use std::collections::BTreeMap;
use std::io;
use std::net::UdpSocket;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use crate::primitives::PortRanges;
use crate::proxy::relay::answers::Answer;
use crate::proxy::relay::family::{Arrival, HostAddresses, Relayed};
use crate::proxy::relay::handover::HandedOverPort;

/// Most mappings of one container. A new one replaces the mapping that was idle for longest.
const MAX_MAPPINGS: usize = 256;
/// How long a mapping lives after the container's last packet. An SSDP search is answered within
/// 5 s (UPnP Device Architecture 2.0 §1.3.2); no known multicast request takes minutes. Answers do
/// not prolong it (RFC 4787 §4.3): nobody on the LAN can keep it.
const IDLE: Duration = Duration::from_secs(120);
/// Ports of PTP's event and general messages (IEEE 1588 Annex C).
pub(super) const PTP_PORTS: [u16; 2] = [319, 320];
/// mDNS.
const MDNS_PORT: u16 = 5353;
/// First port that Linux gives to programs that ask for any. An earlier version of the proxy kept
/// the container's port where that was free on the host, below this one too.
const FIRST_EPHEMERAL: u16 = 32_768;

/// The ports that a container sends from, and the host ports that stand for them.
#[derive(Debug)]
pub(super) struct PortTranslation<A> {
    host: HostAddresses<A>,
    /// Ports of the host that the administrator lets containers take.
    allowed: PortRanges,
    ports: BTreeMap<u16, Mapping<A>>,
    /// Ports that packets leave with although the host has them.
    shared: BTreeMap<u16, SharedPort<A>>,
}

#[derive(Debug)]
struct Mapping<A> {
    /// The address that the container sends from.
    inside: A,
    host_port: u16,
    /// Holds the host port and receives answers.
    socket: UdpSocket,
    /// Whether a packet may have left the LAN: its group is not of link scope, and its time to live
    /// is more than 1.
    reaches_far: bool,
    sent_at: Instant,
}

#[derive(Debug)]
struct SharedPort<A> {
    inside: A,
    sent_at: Instant,
}

/// Where a packet of the container goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Destination<A> {
    pub(super) group: A,
    pub(super) port: u16,
    /// Whether routers may forward the packet.
    pub(super) is_far: bool,
}

/// One mapping, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PortMapping<A> {
    /// Address and port that the container sends from.
    pub(super) inside: (A, u16),
    /// Address and port that the LAN sees.
    pub(super) outside: (A, u16),
    /// Whether answers to that port reach the container.
    pub(super) answered: bool,
}

impl<A: Relayed> PortTranslation<A> {
    /// Without mappings. `allowed` are the ports that the administrator lets containers take.
    pub(super) fn new(allowed: PortRanges) -> Self {
        let (ports, shared) = (BTreeMap::new(), BTreeMap::new());
        PortTranslation { host: HostAddresses::of(None), allowed, ports, shared }
    }

    /// The host's addresses.
    pub(super) fn host(&self) -> HostAddresses<A> {
        self.host
    }

    /// Ports of the host that the administrator lets containers take.
    pub(super) fn allowed(&self) -> &PortRanges {
        &self.allowed
    }

    /// Sets the host's addresses; a change removes all mappings whose sockets are bound to one.
    pub(super) fn set_host(&mut self, host: HostAddresses<A>) {
        if self.host != host {
            self.host = host;
            if A::ANSWERS_AT_ADDRESS {
                self.ports.clear();
                self.shared.clear();
            }
        }
    }

    /// The host address and port to send from for a port of the container; `None` when the host has
    /// no address, or no port to give. `opened` gets a new socket that receives answers.
    ///
    /// A port that the administrator allows is kept when it is free on the host. mDNS (RFC 6762 §6)
    /// and PTP ignore packets from another port, so theirs is kept in any case: without a socket,
    /// the port and its answers stay the host's.
    pub(super) fn outside(
        &mut self,
        now: Instant,
        inside: (A, u16),
        to: Destination<A>,
        opened: impl FnOnce(&UdpSocket),
    ) -> Option<(A, u16)> {
        let host = self.host.towards(to.group)?;
        let (address, port) = inside;
        let must_keep = port == to.port && (port == MDNS_PORT || PTP_PORTS.contains(&port));
        if let Some(mapping) = self.ports.get_mut(&port)
            && (!must_keep || mapping.host_port == port)
        {
            mapping.inside = address;
            mapping.sent_at = now;
            mapping.reaches_far |= to.is_far;
            return Some((host, mapping.host_port));
        }
        if must_keep && let Some(shared) = self.shared.get_mut(&port) {
            (shared.inside, shared.sent_at) = (address, now);
            return Some((host, port));
        }
        // The mapping that is there already would lose its answers.
        let may_keep = self.allowed.contains(port) && !self.ports.contains_key(&port);
        let kept = may_keep.then(|| A::open_answers(host, port)).and_then(Result::ok);
        let socket = match kept {
            Some(socket) => socket,
            None if must_keep => {
                self.shared.insert(port, SharedPort { inside: address, sent_at: now });
                return Some((host, port));
            }
            None => A::open_answers(host, 0).ok()?,
        };
        let host_port = socket.local_addr().ok()?.port();
        opened(&socket);
        self.make_room();
        let reaches_far = to.is_far;
        let mapping = Mapping { inside: address, host_port, socket, reaches_far, sent_at: now };
        self.ports.insert(port, mapping);
        Some((host, host_port))
    }

    /// Receives one answer for a port of the container. It fits the buffer if that has 65507 bytes.
    ///
    /// # Errors
    /// Those of recvmsg(2); `WouldBlock` when no answer is queued, or the port has no mapping.
    pub(super) fn receive(&self, port: u16, buffer: &mut [u8]) -> io::Result<Answer<A>> {
        let mapping = self.ports.get(&port).ok_or(io::ErrorKind::WouldBlock)?;
        let Arrival { from, interface, length } = A::receive_answer(&mapping.socket, buffer)?;
        let to = (mapping.inside, port);
        Ok(Answer { from, interface, to, length, reaches_far: mapping.reaches_far })
    }

    /// When [`PortTranslation::expire`] is next to be called.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let shared = self.shared.values().map(|shared| shared.sent_at);
        self.ports.values().map(|mapping| mapping.sent_at).chain(shared).min().map(|at| at + IDLE)
    }

    /// Removes mappings that were idle for too long.
    pub(super) fn expire(&mut self, now: Instant) {
        self.ports.retain(|_, mapping| mapping.sent_at + IDLE > now);
        self.shared.retain(|_, shared| shared.sent_at + IDLE > now);
    }

    /// The mappings that were used last, at most `most`, and their sockets.
    pub(super) fn latest(
        &self,
        most: usize,
    ) -> impl Iterator<Item = (HandedOverPort, Option<&UdpSocket>)> {
        let mut ports: Vec<_> = self.ports.iter().collect();
        ports.sort_unstable_by_key(|(_, mapping)| std::cmp::Reverse(mapping.sent_at));
        let ports = ports.into_iter().take(most).map(|(port, mapping)| {
            let port = HandedOverPort {
                inside: (mapping.inside.into(), *port),
                host_port: mapping.host_port,
                answered: true,
                reaches_far: mapping.reaches_far,
            };
            (port, Some(&mapping.socket))
        });
        let shared = self.shared.iter().map(|(port, shared)| {
            let inside = (shared.inside.into(), *port);
            let (host_port, answered, reaches_far) = (*port, false, false);
            (HandedOverPort { inside, host_port, answered, reaches_far }, None)
        });
        ports.chain(shared)
    }

    /// Adds a mapping of the predecessor. A port that a container may not take any more becomes
    /// free.
    pub(super) fn take_over_port(
        &mut self,
        now: Instant,
        port: HandedOverPort,
        socket: Option<UdpSocket>,
    ) {
        let HandedOverPort { inside: (inside, number), host_port, reaches_far, .. } = port;
        let Some(inside) = A::from_ip(inside) else { return };
        let may_take =
            host_port != number || host_port >= FIRST_EPHEMERAL || self.allowed.contains(host_port);
        // A port without a socket becomes a shared one with its next packet.
        let Some(socket) = socket.filter(|_| may_take) else { return };
        // A socket of an earlier version does not tell yet where answers arrive.
        if A::tell_interface(socket.as_fd()).is_ok() && self.ports.len() < MAX_MAPPINGS {
            let mapping = Mapping { inside, host_port, socket, reaches_far, sent_at: now };
            self.ports.insert(number, mapping);
        }
    }

    /// The answer sockets, each with the container's port that it serves.
    pub(super) fn sockets(&self) -> impl Iterator<Item = (u16, BorrowedFd<'_>)> {
        self.ports.iter().map(|(port, mapping)| (*port, mapping.socket.as_fd()))
    }

    /// Whether nobody else sends from this address and port of the host.
    pub(super) fn is_own(&self, address: A, port: u16) -> bool {
        let mut mappings = self.ports.values();
        [self.host.of_link, self.host.wider].contains(&Some(address))
            && mappings.any(|mapping| mapping.host_port == port)
    }

    /// All mappings, by the container's port.
    pub(super) fn mappings(&self) -> impl Iterator<Item = PortMapping<A>> + '_ {
        let host = self.host.wider.unwrap_or(A::UNSPECIFIED);
        let ports = self.ports.iter().map(move |(port, mapping)| PortMapping {
            inside: (mapping.inside, *port),
            outside: (host, mapping.host_port),
            answered: true,
        });
        let shared = self.shared.iter().map(move |(port, shared)| PortMapping {
            inside: (shared.inside, *port),
            outside: (host, *port),
            answered: false,
        });
        ports.chain(shared)
    }

    /// Removes the mapping that was idle for longest, if there are as many as there may be.
    fn make_room(&mut self) {
        if self.ports.len() >= MAX_MAPPINGS {
            let oldest = self.ports.iter().min_by_key(|(_, mapping)| mapping.sent_at);
            if let Some(&oldest) = oldest.map(|(port, _)| port) {
                self.ports.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests;

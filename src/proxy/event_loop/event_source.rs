//! What an epoll event is about, and its 64-bit form: the data of the descriptor's epoll entry.

use crate::net::link_monitor::Family;

/// The kind is in the highest byte. The rest of the number depends on the kind.
const KIND_SHIFT: u32 = 56;
/// Within an event of a relay: the interface's position begins here, its socket is below.
const INTERFACE_SHIFT: u32 = 20;
/// Within the number of a relay's socket: an answer socket; its port is below.
const ANSWERS: u64 = 1 << 16;

/// The descriptor that is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EventSource {
    /// The watch for the end of the container.
    EndWatch,
    /// The socket of the intercepted IGMP.
    Nflog,
    /// Notifications of the container's kernel.
    LinkMonitor,
    /// The control socket.
    ControlListener,
    /// The query socket of the upstream at this position.
    QuerySocket(u32),
    /// The client of the control socket with this id.
    Client(u32),
    /// The link watch of the upstream at this position.
    UpstreamLink(u32),
    /// The query tap of the upstream at this position.
    QueryTap(u32),
    /// The MLD query socket of the upstream at this position.
    MldQuerySocket(u32),
    /// A socket of a relay.
    Relay {
        /// Position of the interface.
        interface: u32,
        /// What it relays.
        family: Family,
        socket: RelaySocket,
    },
}

/// Which socket of a relay is readable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RelaySocket {
    /// It has data from the LAN.
    Receiver,
    /// It has data that the container has sent.
    Capture,
    /// It has answers for this port of the container.
    Answers(u16),
}

impl EventSource {
    /// The data of an epoll entry.
    pub(super) fn to_data(self) -> u64 {
        let (kind, number) = match self {
            EventSource::EndWatch => (0, 0),
            EventSource::Nflog => (1, 0),
            EventSource::LinkMonitor => (2, 0),
            EventSource::ControlListener => (3, 0),
            EventSource::QuerySocket(position) => (4, position.into()),
            EventSource::Client(id) => (5, id.into()),
            EventSource::UpstreamLink(position) => (7, position.into()),
            EventSource::QueryTap(position) => (8, position.into()),
            EventSource::MldQuerySocket(position) => (9, position.into()),
            EventSource::Relay { interface, family, socket } => {
                let socket = match socket {
                    RelaySocket::Receiver => 0,
                    RelaySocket::Capture => 1,
                    RelaySocket::Answers(port) => ANSWERS | u64::from(port),
                };
                let kind = match family {
                    Family::Ipv4 => 6,
                    Family::Ipv6 => 10,
                };
                (kind, u64::from(interface) << INTERFACE_SHIFT | socket)
            }
        };
        kind << KIND_SHIFT | number
    }

    /// The source that has this data; `None` for a number that [`to_data`](Self::to_data) never
    /// returns.
    pub(super) fn from_data(data: u64) -> Option<Self> {
        let number = data & ((1 << KIND_SHIFT) - 1);
        Some(match data >> KIND_SHIFT {
            0 => EventSource::EndWatch,
            1 => EventSource::Nflog,
            2 => EventSource::LinkMonitor,
            3 => EventSource::ControlListener,
            4 => EventSource::QuerySocket(u32::try_from(number).ok()?),
            5 => EventSource::Client(u32::try_from(number).ok()?),
            kind @ (6 | 10) => EventSource::Relay {
                family: if kind == 6 { Family::Ipv4 } else { Family::Ipv6 },
                interface: u32::try_from(number >> INTERFACE_SHIFT).ok()?,
                socket: match number & ((1 << INTERFACE_SHIFT) - 1) {
                    0 => RelaySocket::Receiver,
                    1 => RelaySocket::Capture,
                    socket => RelaySocket::Answers(u16::try_from(socket ^ ANSWERS).ok()?),
                },
            },
            7 => EventSource::UpstreamLink(u32::try_from(number).ok()?),
            8 => EventSource::QueryTap(u32::try_from(number).ok()?),
            9 => EventSource::MldQuerySocket(u32::try_from(number).ok()?),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_source_is_read_back_from_its_data() {
        let of = |family, socket| EventSource::Relay { interface: 63, family, socket };
        let relay = |socket| of(Family::Ipv4, socket);
        for source in [
            EventSource::EndWatch,
            EventSource::Nflog,
            EventSource::LinkMonitor,
            EventSource::ControlListener,
            EventSource::QuerySocket(0),
            EventSource::QuerySocket(63),
            EventSource::UpstreamLink(3),
            EventSource::QueryTap(63),
            EventSource::MldQuerySocket(63),
            EventSource::Client(0),
            EventSource::Client(u32::MAX),
            relay(RelaySocket::Receiver),
            relay(RelaySocket::Capture),
            relay(RelaySocket::Answers(0)),
            relay(RelaySocket::Answers(1)),
            relay(RelaySocket::Answers(u16::MAX)),
            of(Family::Ipv6, RelaySocket::Capture),
            of(Family::Ipv6, RelaySocket::Answers(1)),
        ] {
            assert_eq!(EventSource::from_data(source.to_data()), Some(source));
        }
        for unknown in [11 << KIND_SHIFT, u64::MAX, 6 << KIND_SHIFT | 2, 5 << KIND_SHIFT | 1 << 32]
        {
            assert_eq!(EventSource::from_data(unknown), None, "{unknown:#x}");
        }
    }
}

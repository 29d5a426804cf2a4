//! rtnetlink notifications of one namespace: links that change, and multicast groups that its
//! kernel joins and leaves.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

use crate::net::nfnetlink::{AttributeIter, messages, receive};

/// Joins and leaves of IPv4 and of IPv6 groups (Linux 6.14).
const RTNLGRP_IPV4_MCADDR: u32 = 37;
const RTNLGRP_IPV6_MCADDR: u32 = 38;
const RTNLGRP_LINK: u32 = 1;
const RTM_NEWMULTICAST: u16 = 56;
const RTM_DELMULTICAST: u16 = 57;
const IFA_MULTICAST: u16 = 7;
const IFLA_IFNAME: u16 = 3;
/// Length of `struct ifinfomsg`, and of `struct ifaddrmsg`.
const IFINFOMSG: usize = 16;
const IFADDRMSG: usize = 8;

/// An address family whose joins and leaves are received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    Ipv4,
    Ipv6,
}

impl Family {
    fn notifications(self) -> u32 {
        match self {
            Family::Ipv4 => RTNLGRP_IPV4_MCADDR,
            Family::Ipv6 => RTNLGRP_IPV6_MCADDR,
        }
    }
}

/// A change of the interface of this index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LinkEvent {
    /// It is administratively up. Comes at other changes of the link too.
    Up(u32),
    /// It is administratively down.
    Down(u32),
    /// It was deleted, or moved to another namespace.
    Removed(u32),
    /// The kernel joined a group.
    Joined(u32, IpAddr),
    /// The kernel left a group.
    Left(u32, IpAddr),
}

impl LinkEvent {
    /// Index of the interface.
    pub(crate) fn index(self) -> u32 {
        match self {
            LinkEvent::Up(index)
            | LinkEvent::Down(index)
            | LinkEvent::Removed(index)
            | LinkEvent::Joined(index, _)
            | LinkEvent::Left(index, _) => index,
        }
    }
}

/// A netlink socket that receives the notifications of one namespace.
pub(crate) struct LinkMonitor {
    socket: Socket,
    /// Whose joins and leaves are received.
    families: &'static [Family],
    reports_memberships: bool,
}

impl LinkMonitor {
    /// Opens a socket in the caller's namespace that receives changes of links, and joins and leaves
    /// of these families, if there are any and the kernel has such notifications.
    ///
    /// # Errors
    /// Those of socket(2) and bind(2).
    pub(crate) fn open(families: &'static [Family]) -> io::Result<Self> {
        let mut monitor = Self::open_unsubscribed(families)?;
        monitor.socket.add_membership(RTNLGRP_LINK)?;
        monitor.reports_memberships =
            !families.is_empty() && monitor.subscribe_memberships().is_ok();
        Ok(monitor)
    }

    /// Opens a socket in the caller's namespace that receives no notifications yet. Those that
    /// [`subscribe_memberships`](Self::subscribe_memberships) asks for are of these families.
    ///
    /// # Errors
    /// Those of socket(2) and bind(2).
    pub(crate) fn open_unsubscribed(families: &'static [Family]) -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.set_non_blocking(true)?;
        Ok(LinkMonitor { socket, families, reports_memberships: false })
    }

    /// Whether it was opened to receive joins and leaves, and the kernel notifies of them.
    pub(crate) fn reports_memberships(&self) -> bool {
        self.reports_memberships
    }

    /// Receives joins and leaves from now on.
    ///
    /// # Errors
    /// `EINVAL` where the kernel does not notify of them.
    pub(crate) fn subscribe_memberships(&self) -> io::Result<()> {
        let mut groups = self.families.iter().map(|family| family.notifications());
        groups.try_for_each(|group| self.socket.add_membership(group))
    }

    /// Receives no more joins and leaves. Those that are queued stay queued.
    ///
    /// # Errors
    /// `EINVAL` where the kernel does not notify of them.
    pub(crate) fn unsubscribe_memberships(&self) -> io::Result<()> {
        let mut groups = self.families.iter().map(|family| family.notifications());
        groups.try_for_each(|group| self.socket.drop_membership(group))
    }

    /// Requests the state of a link; the answer comes as an event.
    ///
    /// # Errors
    /// Those of sendto(2).
    pub(crate) fn request_link_state(&self, index: u32) -> io::Result<()> {
        self.request(index, 0)
    }

    /// Requests the states of all links; the answers come as events.
    ///
    /// # Errors
    /// Those of sendto(2).
    pub(crate) fn request_all_link_states(&self) -> io::Result<()> {
        self.request(0, libc::NLM_F_DUMP as u16)
    }

    fn request(&self, index: u32, flags: u16) -> io::Result<()> {
        let mut request = [0u8; 16 + IFINFOMSG];
        let length = request.len() as u32;
        request[..4].copy_from_slice(&length.to_ne_bytes());
        request[4..6].copy_from_slice(&libc::RTM_GETLINK.to_ne_bytes());
        request[6..8].copy_from_slice(&(libc::NLM_F_REQUEST as u16 | flags).to_ne_bytes());
        request[20..24].copy_from_slice(&index.to_ne_bytes());
        self.socket.send_to(&request, &SocketAddr::new(0, 0), 0).map(drop)
    }

    /// Waits until there is something to receive; `false` when there is nothing at the time
    /// `until`.
    pub(crate) fn wait_until(&self, until: Instant) -> bool {
        let left = until.saturating_duration_since(Instant::now());
        let mut polled = [PollFd::new(self.as_fd(), PollFlags::POLLIN)];
        !left.is_zero()
            && matches!(ppoll(&mut polled, Some(TimeSpec::from_duration(left)), None), Ok(1))
    }

    /// Receives one datagram, and calls `each` with every event in it. `false` when none is
    /// waiting.
    ///
    /// # Errors
    /// `ENOBUFS` when notifications were lost because the receive buffer was full. Request the
    /// states again.
    pub(crate) fn receive(
        &self,
        buffer: &mut [u8],
        mut each: impl FnMut(LinkEvent),
    ) -> io::Result<bool> {
        self.receive_named(buffer, |event, _| each(event))
    }

    /// As [`LinkMonitor::receive`], with the interface's name for [`LinkEvent::Up`] and
    /// [`LinkEvent::Down`].
    ///
    /// # Errors
    /// As [`LinkMonitor::receive`].
    pub(crate) fn receive_named(
        &self,
        buffer: &mut [u8],
        mut each: impl FnMut(LinkEvent, Option<&[u8]>),
    ) -> io::Result<bool> {
        let Some(datagram) = receive(self.socket.as_fd(), buffer)? else { return Ok(false) };
        for message in messages(datagram) {
            if let Some(event) = event(message.kind, message.payload) {
                let name = matches!(event, LinkEvent::Up(_) | LinkEvent::Down(_))
                    .then(|| name(message.payload))
                    .flatten();
                each(event, name);
            }
        }
        Ok(true)
    }
}

impl AsFd for LinkMonitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The interface name in a message about a link, without the final zero.
fn name(payload: &[u8]) -> Option<&[u8]> {
    let (_, name) =
        AttributeIter::new(payload.get(IFINFOMSG..)?).find(|(kind, _)| *kind == IFLA_IFNAME)?;
    name.split(|byte| *byte == 0).next()
}

fn event(kind: u16, payload: &[u8]) -> Option<LinkEvent> {
    let u32_at = |at: usize| Some(u32::from_ne_bytes(payload.get(at..at + 4)?.try_into().ok()?));
    // struct ifinfomsg and struct ifaddrmsg both have the index there.
    let index = u32_at(4)?;
    match kind {
        libc::RTM_NEWLINK => {
            let up = u32_at(8)? & libc::IFF_UP.cast_unsigned() != 0;
            payload.get(..IFINFOMSG)?;
            Some(if up { LinkEvent::Up(index) } else { LinkEvent::Down(index) })
        }
        libc::RTM_DELLINK => Some(LinkEvent::Removed(index)),
        RTM_NEWMULTICAST | RTM_DELMULTICAST => {
            let (_, address) = AttributeIter::new(payload.get(IFADDRMSG..)?)
                .find(|(kind, _)| *kind == IFA_MULTICAST)?;
            let group = match address.len() {
                4 => Ipv4Addr::from(<[u8; 4]>::try_from(address).ok()?).into(),
                _ => Ipv6Addr::from(<[u8; 16]>::try_from(address).ok()?).into(),
            };
            Some(if kind == RTM_NEWMULTICAST {
                LinkEvent::Joined(index, group)
            } else {
                LinkEvent::Left(index, group)
            })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::net::netns::NetNs;
    use crate::sys::sockopt;

    const BOTH: &[Family] = &[Family::Ipv4, Family::Ipv6];

    #[test]
    fn joins_and_leaves_of_the_families_that_were_asked_for_come_as_events() {
        let groups: [IpAddr; 2] = ["239.1.1.1", "ff0e::1"].map(|text| text.parse().unwrap());
        for families in [BOTH, &[Family::Ipv4], &[Family::Ipv6], &[]] {
            let events = NetNs::create().unwrap().run(|| {
                let monitor = LinkMonitor::open(families).unwrap();
                for group in groups {
                    let socket = std::net::UdpSocket::bind(match group {
                        IpAddr::V4(_) => "0.0.0.0:0",
                        IpAddr::V6(_) => "[::]:0",
                    });
                    let socket = socket.unwrap();
                    sockopt::join_group(&socket, 1, group).unwrap();
                    sockopt::leave_group(&socket, 1, group).unwrap();
                }
                let mut events = Vec::new();
                while monitor.receive(&mut [0; 8192], |e| events.push(e)).unwrap() {}
                // Kernels before 6.14 do not notify of them.
                monitor.reports_memberships().then_some(events)
            });
            let asked = |group: &&IpAddr| {
                let family = if group.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 };
                families.contains(&family)
            };
            let expected: Vec<_> = groups
                .iter()
                .filter(asked)
                .flat_map(|group| [LinkEvent::Joined(1, *group), LinkEvent::Left(1, *group)])
                .collect();
            if let Some(events) = events.unwrap() {
                assert_eq!(events, expected, "{families:?}");
            }
        }
    }

    #[test]
    fn a_requested_link_state_comes_as_an_event() {
        let monitor = NetNs::create().unwrap().run(|| LinkMonitor::open(BOTH)).unwrap().unwrap();
        monitor.request_link_state(1).unwrap();
        let mut events = Vec::new();
        // The kernel answers before sendto returns.
        while monitor.receive(&mut [0; 8192], |e| events.push(e)).unwrap() {}
        assert_eq!(events, [LinkEvent::Down(1)]);
    }

    #[test]
    fn waiting_ends_with_a_message_or_at_the_given_time() {
        let monitor = NetNs::create().unwrap().run(|| LinkMonitor::open(BOTH)).unwrap().unwrap();
        let begin = Instant::now();
        let until = begin + Duration::from_millis(5);
        assert!(!monitor.wait_until(until));
        assert!(Instant::now() >= until);
        assert!(!monitor.wait_until(begin), "the time is in the past");
        monitor.request_link_state(1).unwrap();
        assert!(monitor.wait_until(Instant::now() + Duration::from_secs(10)));
    }

    #[test]
    fn short_messages_are_no_events() {
        for kind in [libc::RTM_NEWLINK, libc::RTM_DELLINK, RTM_NEWMULTICAST] {
            assert_eq!(event(kind, &[0; 3]), None);
        }
        assert_eq!(event(RTM_NEWMULTICAST, &[2, 32, 0, 0, 5, 0, 0, 0, 8, 0]), None);
    }
}

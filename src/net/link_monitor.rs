//! What happens to the container's interfaces: rtnetlink notifications.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

use crate::net::nfnetlink::{AttributeIter, messages, receive};

/// Joins and leaves of IPv4 groups (`RTNLGRP_IPV4_MCADDR`, Linux 6.14).
const RTNLGRP_IPV4_MCADDR: u32 = 37;
const RTNLGRP_LINK: u32 = 1;
const RTM_NEWMULTICAST: u16 = 56;
const RTM_DELMULTICAST: u16 = 57;
const IFA_MULTICAST: u16 = 7;
const IFLA_IFNAME: u16 = 3;
/// Length of `struct ifinfomsg`, and of `struct ifaddrmsg`.
const IFINFOMSG: usize = 16;
const IFADDRMSG: usize = 8;

/// A change of an interface, named by its index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LinkEvent {
    /// It is administratively up; told at other changes too.
    Up(u32),
    /// It is down.
    Down(u32),
    /// It is gone, or was moved to another namespace.
    Gone(u32),
    /// The kernel joined a group.
    Joined(u32, Ipv4Addr),
    /// The kernel left a group.
    Left(u32, Ipv4Addr),
}

impl LinkEvent {
    /// The interface.
    pub(crate) fn index(self) -> u32 {
        match self {
            LinkEvent::Up(index)
            | LinkEvent::Down(index)
            | LinkEvent::Gone(index)
            | LinkEvent::Joined(index, _)
            | LinkEvent::Left(index, _) => index,
        }
    }
}

/// Hears of changes in one namespace.
pub(crate) struct Links {
    socket: Socket,
    hears_joins: bool,
}

impl Links {
    /// Opens one in the caller's namespace, which also hears of joins and leaves if it is to.
    ///
    /// # Errors
    /// That of socket(2) or bind(2).
    pub(crate) fn open(joins: bool) -> io::Result<Self> {
        let mut links = Self::open_idle()?;
        links.socket.add_membership(RTNLGRP_LINK)?;
        // Where the kernel does not tell of joins, the container's reports do, later.
        links.hears_joins = joins && links.hear_joins(true).is_ok();
        Ok(links)
    }

    /// Opens one that hears of nothing yet.
    ///
    /// # Errors
    /// That of socket(2) or bind(2).
    pub(crate) fn open_idle() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.set_non_blocking(true)?;
        Ok(Links { socket, hears_joins: false })
    }

    /// Whether it was opened to hear of joins and leaves, and the kernel tells of them.
    pub(crate) fn hears_joins(&self) -> bool {
        self.hears_joins
    }

    /// Begins or ends to hear of joins and leaves.
    ///
    /// # Errors
    /// `EINVAL` where the kernel does not tell of them.
    pub(crate) fn hear_joins(&self, hear: bool) -> io::Result<()> {
        if hear {
            self.socket.add_membership(RTNLGRP_IPV4_MCADDR)
        } else {
            self.socket.drop_membership(RTNLGRP_IPV4_MCADDR)
        }
    }

    /// Asks how an interface is; the answer comes as an event.
    ///
    /// # Errors
    /// That of sendto(2).
    pub(crate) fn ask(&self, index: u32) -> io::Result<()> {
        self.request(index, 0)
    }

    /// Asks how all interfaces are; the answers come as events.
    ///
    /// # Errors
    /// That of sendto(2).
    pub(crate) fn ask_all(&self) -> io::Result<()> {
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

    /// Waits until there is something to receive; `false` when there is nothing by then.
    pub(crate) fn wait(&self, until: Instant) -> bool {
        let left = until.saturating_duration_since(Instant::now());
        let mut polled = [PollFd::new(self.as_fd(), PollFlags::POLLIN)];
        !left.is_zero()
            && matches!(ppoll(&mut polled, Some(TimeSpec::from_duration(left)), None), Ok(1))
    }

    /// Receives what there is now and hands over each event; `false` when nothing is left.
    ///
    /// # Errors
    /// `ENOBUFS` when notifications were lost: ask anew.
    pub(crate) fn receive(
        &self,
        buffer: &mut [u8],
        mut each: impl FnMut(LinkEvent),
    ) -> io::Result<bool> {
        self.receive_named(buffer, |event, _| each(event))
    }

    /// As [`Links::receive`], with the name of the interface where the kernel tells it: when one is
    /// [up](LinkEvent::Up) or [down](LinkEvent::Down).
    ///
    /// # Errors
    /// As [`Links::receive`].
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

impl AsFd for Links {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The name in a message about a link, without its final zero.
fn name(payload: &[u8]) -> Option<&[u8]> {
    let (_, name) =
        AttributeIter::new(payload.get(IFINFOMSG..)?).find(|(kind, _)| *kind == IFLA_IFNAME)?;
    name.split(|byte| *byte == 0).next()
}

fn event(kind: u16, payload: &[u8]) -> Option<LinkEvent> {
    let u32_at = |at: usize| Some(u32::from_ne_bytes(payload.get(at..at + 4)?.try_into().ok()?));
    // Both structures have the index there.
    let index = u32_at(4)?;
    match kind {
        libc::RTM_NEWLINK => {
            let up = u32_at(8)? & libc::IFF_UP.cast_unsigned() != 0;
            payload.get(..IFINFOMSG)?;
            Some(if up { LinkEvent::Up(index) } else { LinkEvent::Down(index) })
        }
        libc::RTM_DELLINK => Some(LinkEvent::Gone(index)),
        RTM_NEWMULTICAST | RTM_DELMULTICAST => {
            let (_, address) = AttributeIter::new(payload.get(IFADDRMSG..)?)
                .find(|(kind, _)| *kind == IFA_MULTICAST)?;
            let group = Ipv4Addr::from(<[u8; 4]>::try_from(address).ok()?);
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

    #[test]
    fn the_state_of_an_interface_is_told_when_asked_for() {
        let links = NetNs::create().unwrap().run(|| Links::open(true)).unwrap().unwrap();
        links.ask(1).unwrap();
        let mut events = Vec::new();
        // The kernel answers before sendto returns.
        while links.receive(&mut [0; 8192], |e| events.push(e)).unwrap() {}
        assert_eq!(events, [LinkEvent::Down(1)]);
    }

    #[test]
    fn it_waits_for_what_comes_and_no_longer_than_it_is_to() {
        let links = NetNs::create().unwrap().run(|| Links::open(true)).unwrap().unwrap();
        let begin = Instant::now();
        let until = begin + Duration::from_millis(5);
        assert!(!links.wait(until));
        assert!(Instant::now() >= until);
        assert!(!links.wait(begin), "that is over");
        links.ask(1).unwrap();
        assert!(links.wait(Instant::now() + Duration::from_secs(10)));
    }

    #[test]
    fn short_messages_are_no_events() {
        for kind in [libc::RTM_NEWLINK, libc::RTM_DELLINK, RTM_NEWMULTICAST] {
            assert_eq!(event(kind, &[0; 3]), None);
        }
        assert_eq!(event(RTM_NEWMULTICAST, &[2, 32, 0, 0, 5, 0, 0, 0, 8, 0]), None);
    }
}

//! Notices that a namespace has got a default route.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_ROUTE;
use socket2::{SockFilter, SockRef};

const RTNLGRP_IPV4_ROUTE: u32 = 7;
const RTNLGRP_IPV6_ROUTE: u32 = 11;
/// Offset of the message type in its header, of 16 bits.
const TYPE: u32 = 4;
/// Offset of `rtm_dst_len`, behind the header of 16 bytes and the family.
const DESTINATION_LENGTH: u32 = 17;
/// Offset of `rtm_table`.
const TABLE: u32 = 20;

/// A netlink socket that is readable when the table `main` has got a default route, or another one in
/// its place. The kernel drops all else, such as routes of other tables.
#[derive(Debug)]
pub(crate) struct RouteWatch(Socket);

impl RouteWatch {
    /// Watches the caller's namespace.
    ///
    /// # Errors
    /// Those of socket(2), bind(2) and setsockopt(2).
    pub(crate) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.set_non_blocking(true)?;
        SockRef::from(&socket).attach_filter(&default_routes())?;
        for group in [RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_ROUTE] {
            socket.add_membership(group)?;
        }
        Ok(RouteWatch(socket))
    }

    /// Takes what is queued. Lost notifications are no harm: the routes are to be looked up.
    pub(crate) fn drain(&self) {
        let mut buffer = [0; 64];
        loop {
            match self.0.recv(&mut &mut buffer[..], 0) {
                Err(error) if error.raw_os_error() != Some(libc::ENOBUFS) => return,
                _ => {}
            }
        }
    }
}

impl AsFd for RouteWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Lets messages pass that tell of a new default route of the table `main`.
fn default_routes() -> [SockFilter; 8] {
    let op = |code: u32, jt, jf, k| SockFilter::new(code as u16, jt, jf, k);
    let equal = |jf, k| op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, jf, k);
    let byte = |at| op(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, at);
    // A load takes the bytes in network order, and the kernel writes them in the machine's.
    let new_route = u32::from(u16::from_be_bytes(libc::RTM_NEWROUTE.to_ne_bytes()));
    [
        op(libc::BPF_LD | libc::BPF_H | libc::BPF_ABS, 0, 0, TYPE),
        equal(5, new_route),
        byte(DESTINATION_LENGTH),
        equal(3, 0),
        byte(TABLE),
        equal(1, u32::from(libc::RT_TABLE_MAIN)),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use nix::poll::{PollFd, PollFlags, poll};

    use super::*;
    use crate::net::netns::NetNs;

    #[test]
    fn default_routes_of_main_are_noticed_and_no_others() {
        let namespace = NetNs::create().unwrap();
        let watch = namespace.run(RouteWatch::open).unwrap().unwrap();
        let is_readable = || {
            let mut polled = [PollFd::new(watch.as_fd(), PollFlags::POLLIN)];
            let is_readable = poll(&mut polled, 0u8).unwrap() == 1;
            watch.drain();
            is_readable
        };
        for (words, notices) in [
            ("link add eth0 type veth peer name out", false),
            ("link set out up", false),
            ("link set eth0 up", false),
            ("addr add 172.30.0.10/24 dev eth0", false),
            ("addr add fd00:30::10/64 dev eth0 nodad", false),
            ("route add 10.0.0.0/8 via 172.30.0.1", false),
            ("route add default via 172.30.0.1 table 1000", false),
            ("route add default via 172.30.0.1", true),
            ("route replace default via 172.30.0.2", true),
            ("route del default", false),
            ("-6 route add default via fd00:30::1", true),
        ] {
            let mut command = Command::new("ip");
            command.args(words.split(' '));
            let status = namespace.run(|| command.status()).unwrap().unwrap();
            assert!(status.success(), "{words}");
            assert_eq!(is_readable(), notices, "{words}");
        }
    }
}

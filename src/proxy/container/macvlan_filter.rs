//! The frames of a group that a container has left.
//!
//! A macvlan interface makes its filter of the addresses that it has joined before it brings the parent's
//! list in step (`macvlan_set_mac_lists` in drivers/net/macvlan.c), and an address that was left is on the
//! list until then (`__hw_addr_sync` in net/core/dev_addr_lists.c). So the group that was left last goes on
//! to arrive, as long as anybody else on the parent gets it, and costs the container its processor time.
//! With the next change of the list that ends; where none comes, one is made here.

use std::io;
use std::os::fd::{BorrowedFd, RawFd};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::sys::sockopt;

/// Where the packet socket is kept: at a number that has no other use, so that the system call filter can
/// deny to send anything by it.
pub(crate) const DESCRIPTOR: RawFd = libc::STDIN_FILENO;

/// The Ethernet address of 224.0.0.1.
const ALL_SYSTEMS: [u8; 6] = [0x01, 0x00, 0x5e, 0, 0, 1];

/// Time for a join to come, or more leaves, which change the list by themselves. To change it takes the
/// kernel's lock of all links, and has the parent's hardware filter written anew.
const DELAY: Duration = Duration::from_millis(100);

/// Changes the lists of a container's interfaces, for which a packet socket needs no capability.
pub(crate) struct RxFilters(());

impl RxFilters {
    /// Opens the socket in the caller's namespace, in place of standard input. It receives nothing.
    ///
    /// # Errors
    /// `EPERM` without CAP_NET_RAW, `EAFNOSUPPORT` where the kernel has no packet sockets.
    pub(crate) fn open() -> io::Result<Self> {
        let socket = Socket::new(Domain::PACKET, Type::DGRAM, None)?;
        nix::unistd::dup2_stdin(&socket)?;
        Ok(RxFilters(()))
    }

    /// Adds 224.0.0.1, which every interface has joined, to the list once more, or takes that back: the
    /// list is seen through, and its addresses stay the same.
    fn renew(&self, index: u32, add: bool) -> io::Result<()> {
        let mut request = [0; size_of::<libc::packet_mreq>()];
        request[..4].copy_from_slice(&index.to_ne_bytes());
        request[4..6].copy_from_slice(&(libc::PACKET_MR_MULTICAST as u16).to_ne_bytes());
        request[6..8].copy_from_slice(&(ALL_SYSTEMS.len() as u16).to_ne_bytes());
        request[8..][..ALL_SYSTEMS.len()].copy_from_slice(&ALL_SYSTEMS);
        let option = if add { libc::PACKET_ADD_MEMBERSHIP } else { libc::PACKET_DROP_MEMBERSHIP };
        // SAFETY: nothing closes the descriptor for as long as the process runs.
        let socket = unsafe { BorrowedFd::borrow_raw(DESCRIPTOR) };
        sockopt::set_bytes(socket, libc::SOL_PACKET, option, &request)
    }
}

/// The filter of one interface, and whether it is behind.
#[derive(Debug, Default)]
pub(crate) struct RxFilter {
    due: Option<Instant>,
    added: bool,
}

impl RxFilter {
    /// A group was left.
    pub(crate) fn left(&mut self, now: Instant) {
        self.due.get_or_insert(now + DELAY);
    }

    /// A group was joined, which has changed the list.
    pub(crate) fn joined(&mut self) {
        self.due = None;
    }

    /// When [`RxFilter::handle_timeout`] is to be called.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.due
    }

    /// Has the filter of the interface of this index made anew, if that is due.
    pub(crate) fn handle_timeout(&mut self, now: Instant, filters: Option<&RxFilters>, index: u32) {
        if self.due.take_if(|at| *at <= now).is_none() {
            return;
        }
        if let Some(filters) = filters
            && filters.renew(index, !self.added).is_ok()
        {
            // One that failed was of an interface that is gone.
            self.added = !self.added;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_waits_for_what_may_come_of_itself() {
        let start = Instant::now();
        let mut filter = RxFilter::default();
        filter.left(start);
        filter.left(start + DELAY / 2);
        assert_eq!(filter.poll_timeout(), Some(start + DELAY), "however many follow");
        filter.joined();
        assert_eq!(filter.poll_timeout(), None, "the join has done it");
        filter.left(start);
        filter.handle_timeout(start, None, 1);
        assert_eq!(filter.poll_timeout(), Some(start + DELAY));
        filter.handle_timeout(start + DELAY, None, 1);
        assert_eq!(filter.poll_timeout(), None);
    }
}

//! The frames of a group that a container has left.
//!
//! A macvlan interface makes its filter of the addresses that it has joined before it brings the parent's
//! list in step (`macvlan_set_mac_lists` in drivers/net/macvlan.c), and an address that was left is on the
//! list until then (`__hw_addr_sync` in net/core/dev_addr_lists.c). So the group that was left last goes on
//! to arrive, as long as anybody else on the parent gets it, and costs the container its processor time.
//! With the next change of the list that ends; where none comes, one is made here.

use std::io;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

/// Where the packet socket is kept: at a number that has no other use, so that the system call filter can
/// deny to send anything by it.
pub(crate) const DESCRIPTOR: i32 = libc::STDIN_FILENO;

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
        const ALL_SYSTEMS: [u8; 8] = [0x01, 0x00, 0x5e, 0, 0, 1, 0, 0];
        let request = libc::packet_mreq {
            mr_ifindex: index.cast_signed(),
            mr_type: libc::PACKET_MR_MULTICAST as u16,
            mr_alen: 6,
            mr_address: ALL_SYSTEMS,
        };
        let option = if add { libc::PACKET_ADD_MEMBERSHIP } else { libc::PACKET_DROP_MEMBERSHIP };
        // SAFETY: the descriptor is open for as long as `self` is there, and the kernel reads as many
        // bytes as `request` has.
        let result = unsafe {
            libc::setsockopt(
                DESCRIPTOR.as_raw_fd(),
                libc::SOL_PACKET,
                option,
                (&raw const request).cast(),
                size_of_val(&request) as libc::socklen_t,
            )
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
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

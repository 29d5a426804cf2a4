//! The receive filter of a macvlan interface, which keeps a group that was left, of IPv4 or of IPv6,
//! until it is refreshed.
//!
//! A macvlan interface computes its filter from its list of multicast addresses, and only then
//! synchronises that list with the parent's (`macvlan_set_mac_lists` in drivers/net/macvlan.c). An
//! address that was left stays on the list until it is synchronised (`__hw_addr_sync` in
//! net/core/dev_addr_lists.c). So the group that was left last still arrives, as long as another
//! interface of the parent receives it, and costs the container processor time. The next change of
//! the list ends this. If no change follows, the proxy makes one.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use crate::net::arp_announcement::FrameSocket;
use crate::proxy::config::PACKET_SOCKET;
use crate::sys::sockopt;

/// The Ethernet address of 224.0.0.1.
const ALL_SYSTEMS: [u8; 6] = [0x01, 0x00, 0x5e, 0, 0, 1];

/// Time from a leave to the refresh. A join or another leave in that time refreshes the filter
/// anyway. A refresh takes the RTNL lock and rewrites the parent's hardware filter, so it is worth
/// to wait.
const DELAY: Duration = Duration::from_millis(100);

/// Changes the multicast address lists of a container's interfaces. It is a packet socket, which
/// needs no capability for that.
pub(crate) struct ReceiveFilterSocket(());

impl ReceiveFilterSocket {
    /// Makes descriptor [`PACKET_SOCKET`] a copy of this one, which may be closed then.
    ///
    /// # Errors
    /// Those of dup2(2).
    pub(crate) fn of(socket: &FrameSocket) -> io::Result<Self> {
        nix::unistd::dup2_stdin(socket)?;
        Ok(ReceiveFilterSocket(()))
    }

    /// Adds the address of 224.0.0.1, which every interface has joined, to the list once more, or
    /// removes it again. The kernel refreshes the filter, and the list has the same addresses as
    /// before.
    fn refresh(&self, index: u32, add: bool) -> io::Result<()> {
        let request = sockopt::packet_mreq(index, ALL_SYSTEMS);
        let option = if add { libc::PACKET_ADD_MEMBERSHIP } else { libc::PACKET_DROP_MEMBERSHIP };
        // SAFETY: nothing closes the descriptor for as long as the process runs.
        let socket = unsafe { BorrowedFd::borrow_raw(PACKET_SOCKET) };
        sockopt::set_bytes(socket, libc::SOL_PACKET, option, &request)
    }
}

/// The receive filter of one interface.
#[derive(Debug, Default)]
pub(crate) struct ReceiveFilter {
    /// When to refresh it; `None`: it is up to date.
    refresh_at: Option<Instant>,
    /// Whether 224.0.0.1 is on the list a second time.
    added: bool,
}

impl ReceiveFilter {
    /// The container has left a group.
    pub(crate) fn handle_leave(&mut self, now: Instant) {
        self.refresh_at.get_or_insert(now + DELAY);
    }

    /// The container has joined a group, which has refreshed the filter.
    pub(crate) fn handle_join(&mut self) {
        self.refresh_at = None;
    }

    /// When [`ReceiveFilter::handle_timeout`] is to be called.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.refresh_at
    }

    /// Refreshes the filter, if it is time to; `index` is the interface's. Without a socket the
    /// filter stays as it is.
    pub(crate) fn handle_timeout(
        &mut self,
        now: Instant,
        socket: Option<&ReceiveFilterSocket>,
        index: u32,
    ) {
        if self.refresh_at.take_if(|at| *at <= now).is_none() {
            return;
        }
        // It fails where the interface is gone.
        if let Some(socket) = socket
            && socket.refresh(index, !self.added).is_ok()
        {
            self.added = !self.added;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refresh_waits_for_a_join_that_makes_it_unnecessary() {
        let start = Instant::now();
        let mut filter = ReceiveFilter::default();
        filter.handle_leave(start);
        filter.handle_leave(start + DELAY / 2);
        assert_eq!(filter.poll_timeout(), Some(start + DELAY), "a second leave does not delay it");
        filter.handle_join();
        assert_eq!(filter.poll_timeout(), None, "the join has refreshed it");
        filter.handle_leave(start);
        filter.handle_timeout(start, None, 1);
        assert_eq!(filter.poll_timeout(), Some(start + DELAY));
        filter.handle_timeout(start + DELAY, None, 1);
        assert_eq!(filter.poll_timeout(), None);
    }
}

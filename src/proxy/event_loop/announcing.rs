//! The announcement of new addresses on the LAN.

use std::time::{Duration, Instant};

use crate::net::arp_announcement::Announcer;

/// How long the sockets stay open after the last announcement. The kernel takes some tens of
/// milliseconds to close them, and the first joins of a container come right after its start.
const CLOSE_DELAY: Duration = Duration::from_secs(2);

/// Holds the sockets that announce addresses. They can send any frame to the LAN, so they are
/// closed when all addresses are announced.
pub(super) enum AddressAnnouncer {
    /// Some address is not announced yet.
    Announcing(Announcer),
    /// All addresses are announced.
    Closing { _sockets: Announcer, at: Instant },
    /// The sockets are closed, or there was nothing to announce.
    Closed,
}

impl AddressAnnouncer {
    /// An announcer with these sockets; `None`: there is nothing to announce.
    pub(super) fn new(sockets: Option<Announcer>) -> Self {
        sockets.map_or(AddressAnnouncer::Closed, AddressAnnouncer::Announcing)
    }

    /// The sockets, while there are addresses to announce.
    pub(super) fn sockets(&self) -> Option<&Announcer> {
        match self {
            AddressAnnouncer::Announcing(sockets) => Some(sockets),
            AddressAnnouncer::Closing { .. } | AddressAnnouncer::Closed => None,
        }
    }

    /// All addresses are announced: closes the sockets after a delay.
    pub(super) fn close_later(&mut self, now: Instant) {
        if let AddressAnnouncer::Announcing(_) = self
            && let AddressAnnouncer::Announcing(sockets) =
                std::mem::replace(self, AddressAnnouncer::Closed)
        {
            *self = AddressAnnouncer::Closing { _sockets: sockets, at: now + CLOSE_DELAY };
        }
    }

    /// When to call [`AddressAnnouncer::handle_timeout`].
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        match self {
            AddressAnnouncer::Closing { at, .. } => Some(*at),
            AddressAnnouncer::Announcing(_) | AddressAnnouncer::Closed => None,
        }
    }

    /// Closes the sockets, if it is time to.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if self.poll_timeout().is_some_and(|at| at <= now) {
            *self = AddressAnnouncer::Closed;
        }
    }
}

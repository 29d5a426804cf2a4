//! Descriptors that are not watched for a while.
//!
//! A descriptor that stays readable wakes the event loop again and again. Where what is readable
//! cannot be read, or is more than the proxy is to read, the event loop stops watching it until a
//! set time.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::sys::epoll::Epoll;

use crate::proxy::event_loop::event_source::EventSource;
use crate::proxy::event_loop::watch;

/// The least time between two notices about one descriptor.
const NOTICE_SPACING: Duration = Duration::from_secs(60);
/// Time until a descriptor is added again that could not be added.
const RETRY: Duration = Duration::from_secs(1);

/// Whether a descriptor is watched.
#[derive(Debug, Default)]
pub(super) struct Pause {
    /// Not watched until then; `None`: watched.
    until: Option<Instant>,
    noticed: Option<Instant>,
}

impl Pause {
    /// Stops watching a descriptor for this time. Returns whether people are to be told: once a
    /// minute at most.
    pub(super) fn begin(
        &mut self,
        epoll: &Epoll,
        descriptor: impl AsFd,
        now: Instant,
        time: Duration,
    ) -> bool {
        if self.until.is_some() || epoll.delete(descriptor).is_err() {
            return false;
        }
        self.until = Some(now + time);
        let is_due = self.noticed.is_none_or(|at| now >= at + NOTICE_SPACING);
        if is_due {
            self.noticed = Some(now);
        }
        is_due
    }

    /// When to call [`end_if_due`](Self::end_if_due).
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.until
    }

    /// Watches the descriptor again, if it is time to, and returns whether it does so. If the kernel
    /// has no memory for that, it is tried again later.
    pub(super) fn end_if_due(
        &mut self,
        epoll: &Epoll,
        descriptor: impl AsFd,
        source: EventSource,
        now: Instant,
    ) -> bool {
        let is_due = self.until.take_if(|until| *until <= now).is_some();
        let is_watched = is_due && watch(epoll, descriptor, source).is_ok();
        if is_due && !is_watched {
            self.until = Some(now + RETRY);
        }
        is_watched
    }
}

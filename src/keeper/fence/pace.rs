//! When the host's memberships are looked at.
//!
//! A look takes the longer the more is joined: some 30 ms with 10 000 memberships. A glance tells
//! whether sockets were bound or closed since, and takes some 10 us always. Whoever starts to hear a
//! group binds a socket for it, with few exceptions.

use std::time::{Duration, Instant};

use crate::keeper::fence::groups::DOUBT;

/// Time between two glances.
pub(super) const INTERVAL: Duration = Duration::from_millis(400);
/// While sockets come and go, looks take up to this part of a core.
const BUSY_SHARE: u32 = 100;
/// While a group has more users than are known, looks take up to this part of a core.
const DOUBT_SHARE: u32 = 20;
/// While none come or go, looks take up to this part of a core.
const QUIET_SHARE: u32 = 2000;
/// The longest time without a look.
const LONGEST: Duration = Duration::from_secs(60);

/// The last look.
#[derive(Debug)]
pub(super) struct Pace {
    end: Instant,
    took: Duration,
    /// What the glance before it said; empty where a glance is not possible.
    sockets: Vec<u64>,
}

impl Pace {
    /// A look that has ended just now.
    pub(super) fn new(end: Instant, took: Duration, sockets: Vec<u64>) -> Self {
        Pace { end, took, sockets }
    }

    /// When to look again if a group has more users than are known.
    pub(super) fn next_if_doubtful(&self) -> Instant {
        self.end + DOUBT.max(self.took * DOUBT_SHARE).min(LONGEST)
    }

    /// When to look again if there is a reason.
    pub(super) fn next_if_changed(&self) -> Instant {
        self.end + (self.took * BUSY_SHARE).min(LONGEST)
    }

    /// Whether to look again now, given what a glance says.
    pub(super) fn is_due(&self, now: Instant, sockets: &[u64]) -> bool {
        let has_changed = sockets.is_empty() || sockets != self.sockets;
        let share = if has_changed { BUSY_SHARE } else { QUIET_SHARE };
        now >= self.end + (self.took * share).min(LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_take_a_small_part_of_a_core_however_much_is_joined() {
        let end = Instant::now();
        let is_due = |took: u64, millis: u64, sockets: u64| {
            let pace = Pace::new(end, Duration::from_micros(took), vec![5]);
            pace.is_due(end + Duration::from_millis(millis), &[sockets])
        };
        let glance = INTERVAL.as_millis() as u64;
        assert!(is_due(100, glance, 5), "on most hosts each glance becomes a look");
        assert!(!is_due(30_000, glance, 5));
        assert!(!is_due(30_000, 2999, 6));
        assert!(is_due(30_000, 3000, 6), "sockets have come or gone");
        assert!(!is_due(30_000, 3000, 5));
        assert!(!is_due(30_000, 59_999, 5));
        assert!(is_due(30_000, 60_000, 5));
        assert!(is_due(10_000_000, 60_000, 6), "whatever a look has taken");
    }

    #[test]
    fn without_glances_each_look_may_find_something() {
        let end = Instant::now();
        let pace = Pace::new(end, Duration::from_millis(1), Vec::new());
        assert!(pace.is_due(end + Duration::from_millis(100), &[]));
        assert!(!pace.is_due(end + Duration::from_millis(99), &[]));
    }
}

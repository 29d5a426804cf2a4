//! The timers of a router as one table.

use std::time::Instant;

/// What a timer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Timer {
    /// The next general query of our own (RFC 9776 §8.2, §8.6).
    GeneralQuery,
    /// The LAN's querier has been silent for too long (§8.5).
    OtherQuerierPresent,
    /// A general query that had to wait for the last one to be a second old.
    RelayGeneral,
    /// Specific queries that had to wait for a token.
    RelaySpecific,
    /// The first timer of any group: membership, source, retransmission.
    Groups,
    /// Changes that had to wait for a token.
    Changes,
    /// The container is asked for groups that have changed.
    Settling,
    /// The rest of a source list that fills a report has not come.
    OpenList,
}

impl Timer {
    pub(super) const ALL: [Timer; 8] = [
        Timer::GeneralQuery,
        Timer::OtherQuerierPresent,
        Timer::RelayGeneral,
        Timer::RelaySpecific,
        Timer::Groups,
        Timer::Changes,
        Timer::Settling,
        Timer::OpenList,
    ];
}

/// When each timer ends.
#[derive(Debug, Clone, Default)]
pub(super) struct TimerTable([Option<Instant>; Timer::ALL.len()]);

impl TimerTable {
    pub(super) fn set(&mut self, timer: Timer, at: Instant) {
        self.0[timer as usize] = Some(at);
    }

    pub(super) fn set_or_stop(&mut self, timer: Timer, at: Option<Instant>) {
        self.0[timer as usize] = at;
    }

    pub(super) fn stop(&mut self, timer: Timer) {
        self.0[timer as usize] = None;
    }

    /// Stops the timer if it has ended, and tells whether it had.
    pub(super) fn take_expired(&mut self, timer: Timer, now: Instant) -> bool {
        let slot = &mut self.0[timer as usize];
        slot.take_if(|at| *at <= now).is_some()
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.0.iter().flatten().min().copied()
    }
}

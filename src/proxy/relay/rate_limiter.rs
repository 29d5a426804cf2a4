//! `max-pps` and `max-byterate`: how much may pass.
//!
//! A limit is kept as the time at which it has been used up: each packet takes the time in which the
//! rate gives as much, and passes while that time is no more than a burst ahead (the generic cell rate
//! algorithm, ITU-T I.371 annex A). The program `bpf/relay.bpf.c` does the same with the same two times,
//! so that both together pass what the limit allows.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use nix::time::{ClockId, clock_gettime};

use crate::bpf::MappedNumbers;
use crate::multicast::RateLimits;

/// The burst is the rate divided by this: what the limit allows in a tenth of a second.
const BURST_PART: u64 = 10;
/// The smallest burst of bytes: one packet of any size.
const LEAST_BYTES: u64 = 65_535;
const SECOND: u64 = 1_000_000_000;

/// The limits of one direction of one attachment.
#[derive(Debug)]
pub(super) struct RateLimiter {
    /// Each in packets or bytes a second.
    packets: Option<Limit>,
    bytes: Option<Limit>,
    due: Due,
    /// The same moment on both clocks.
    start: (Instant, u64),
}

/// A limit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limit {
    /// A second.
    pub(super) rate: u64,
    /// Nanoseconds of the longest burst.
    pub(super) burst: u64,
}

/// CLOCK_MONOTONIC in nanoseconds at which the limits of packets and of bytes have been used up.
#[derive(Debug)]
enum Due {
    Own([AtomicU64; 2]),
    /// Those that a program uses too.
    Shared(MappedNumbers<2>),
}

impl Limit {
    fn new(rate: u64, least_burst: u64) -> Self {
        let rate = rate.max(1);
        Limit { rate, burst: time((rate / BURST_PART).max(least_burst), rate) }
    }

    /// Whether there is room for so much. What is more than a burst passes when nothing is used.
    fn has_room(self, due: u64, amount: u64, now: u64) -> bool {
        due.saturating_sub(now).saturating_add(time(amount, self.rate).min(self.burst))
            <= self.burst
    }
}

/// Nanoseconds in which a rate gives an amount.
fn time(amount: u64, rate: u64) -> u64 {
    u64::try_from(u128::from(amount) * u128::from(SECOND) / u128::from(rate)).unwrap_or(u64::MAX)
}

impl RateLimiter {
    /// A limiter of which nothing is used.
    pub(super) fn new(limits: RateLimits, now: Instant) -> Self {
        // The clock cannot fail (clock_gettime(2)).
        let clock = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |time| {
            time.tv_sec().cast_unsigned() * SECOND + time.tv_nsec().cast_unsigned()
        });
        RateLimiter {
            packets: limits.packets.map(|rate| Limit::new(rate.into(), 1)),
            bytes: limits.bytes.map(|rate| Limit::new(rate, LEAST_BYTES)),
            due: Due::Own(Default::default()),
            start: (now, clock),
        }
    }

    /// The limits of packets and of bytes.
    pub(super) fn limits(&self) -> (Option<Limit>, Option<Limit>) {
        (self.packets, self.bytes)
    }

    /// Uses the same times as a program from now on.
    pub(super) fn share(&mut self, due: MappedNumbers<2>) {
        self.due = Due::Shared(due);
    }

    /// Uses times of its own from now on.
    pub(super) fn unshare(&mut self) {
        let own = self.due.times().each_ref().map(|due| due.load(Ordering::Relaxed).into());
        self.due = Due::Own(own);
    }

    /// Whether a packet of `bytes` bytes may pass now. A refused packet uses nothing.
    pub(super) fn admit(&mut self, now: Instant, bytes: usize) -> bool {
        self.admit_fragments(now, 1, bytes)
    }

    /// Whether a packet may pass now that becomes so many fragments of `bytes` bytes in all. What
    /// is more than a burst passes when nothing is used, and what follows waits accordingly longer.
    pub(super) fn admit_fragments(&mut self, now: Instant, fragments: usize, bytes: usize) -> bool {
        let (start, clock) = self.start;
        let passed = now.saturating_duration_since(start).as_nanos();
        let now = clock.saturating_add(u64::try_from(passed).unwrap_or(u64::MAX));
        let limits = [(self.packets, fragments as u64), (self.bytes, bytes as u64)];
        let due = self.due.times();
        let uses = || {
            limits
                .iter()
                .zip(due)
                .filter_map(|((limit, amount), due)| Some(((*limit)?, *amount, due)))
        };
        let has_room = uses()
            .all(|(limit, amount, due)| limit.has_room(due.load(Ordering::Relaxed), amount, now));
        if has_room {
            for (limit, amount, due) in uses() {
                let next = |due: u64| Some(due.max(now).saturating_add(time(amount, limit.rate)));
                // The function always gives a value.
                let _ = due.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
            }
        }
        has_room
    }
}

impl Due {
    fn times(&self) -> &[AtomicU64; 2] {
        match self {
            Due::Own(own) => own,
            Due::Shared(shared) => shared,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn admitted(limits: RateLimits, size: usize, seconds: u32) -> u32 {
        let start = Instant::now();
        let mut limiter = RateLimiter::new(limits, start);
        let steps = (0..seconds * 1000).map(|ms| start + Duration::from_millis(ms.into()));
        // Ten packets in each millisecond.
        steps.map(|now| (0..10).filter(|_| limiter.admit(now, size)).count() as u32).sum()
    }

    #[test]
    fn what_passes_in_a_while_is_the_limit_and_a_burst() {
        let packets = RateLimits { packets: Some(500), bytes: None };
        assert!((500 * 4..=500 * 4 + 50).contains(&admitted(packets, 100, 4)));
        let bytes = RateLimits { packets: None, bytes: Some(1_000_000) };
        assert!((4000..=4100).contains(&admitted(bytes, 1000, 4)));
        let both = RateLimits { packets: Some(500), bytes: Some(100_000) };
        assert!((400..=500).contains(&admitted(both, 1000, 4)));
        assert_eq!(admitted(RateLimits::default(), 65_535, 2), 20_000);
    }

    #[test]
    fn a_packet_of_many_fragments_passes_and_is_paid_for() {
        let start = Instant::now();
        let limits = RateLimits { packets: Some(100), bytes: None };
        let mut limiter = RateLimiter::new(limits, start);
        assert!(limiter.admit_fragments(start, 45, 65_535));
        let after = |ms| start + Duration::from_millis(ms);
        assert!(!limiter.admit(after(350), 1), "35 of 45 fragments are still owed");
        assert!(limiter.admit(after(361), 1));
        assert!(!limiter.admit_fragments(after(361), 45, 65_535));
    }

    #[test]
    fn the_slowest_limits_pass_what_they_name() {
        let start = Instant::now();
        let one = RateLimits { packets: Some(1), bytes: Some(1) };
        let mut limiter = RateLimiter::new(one, start);
        assert!(limiter.admit(start, 1500));
        assert!(!limiter.admit(start, 1), "the second packet of a second");
        assert!(limiter.admit(start + Duration::from_secs(2), 1500));
    }
}

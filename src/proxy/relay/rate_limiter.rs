//! `max-pps` and `max-byterate`: token buckets for packets and bytes.

use std::time::Instant;

use crate::multicast::RateLimits;

/// The burst is the rate divided by this: what the limit allows in a tenth of a second.
const BURST_PART: u64 = 10;
/// The smallest burst of bytes: one packet of any size.
const LEAST_BYTES: u64 = 65_535;
const NANOS: i128 = 1_000_000_000;

/// The limits of one direction of one attachment.
#[derive(Debug)]
pub(super) struct RateLimiter {
    packets: Option<Bucket>,
    bytes: Option<Bucket>,
}

impl RateLimiter {
    /// A limiter with full buckets.
    pub(super) fn new(limits: RateLimits, now: Instant) -> Self {
        let packets = limits.packets.map(u64::from);
        RateLimiter {
            packets: packets.map(|rate| Bucket::new(rate, rate / BURST_PART, now)),
            bytes: limits
                .bytes
                .map(|rate| Bucket::new(rate, (rate / BURST_PART).max(LEAST_BYTES), now)),
        }
    }

    /// Whether a packet of `bytes` bytes may pass now. A refused packet takes no tokens.
    pub(super) fn admit(&mut self, now: Instant, bytes: usize) -> bool {
        self.admit_fragments(now, 1, bytes)
    }

    /// Whether a packet may pass now that becomes so many fragments of `bytes` bytes in all. What
    /// is more than a burst passes with a full bucket, and what follows waits accordingly longer.
    pub(super) fn admit_fragments(&mut self, now: Instant, fragments: usize, bytes: usize) -> bool {
        let (mut packets, mut volume) = (self.packets.as_mut(), self.bytes.as_mut());
        let (fragments, amount) = (fragments as u64, bytes as u64);
        let room = packets.as_mut().is_none_or(|bucket| bucket.has(now, fragments))
            && volume.as_mut().is_none_or(|bucket| bucket.has(now, amount));
        if room {
            packets.into_iter().for_each(|bucket| bucket.take(fragments));
            volume.into_iter().for_each(|bucket| bucket.take(amount));
        }
        room
    }
}

/// `rate` tokens a second, and at most `burst` at a time.
#[derive(Debug)]
struct Bucket {
    rate: u64,
    /// Tokens in the bucket, in billionths. Less than 0: so many are owed.
    credit: i128,
    most: i128,
    filled: Instant,
}

impl Bucket {
    fn new(rate: u64, burst: u64, now: Instant) -> Self {
        let most = i128::from(burst.max(1)) * NANOS;
        Bucket { rate, credit: most, most, filled: now }
    }

    fn has(&mut self, now: Instant, tokens: u64) -> bool {
        let passed = now.saturating_duration_since(self.filled).as_nanos();
        let passed = i128::try_from(passed).unwrap_or(i128::MAX);
        self.filled = self.filled.max(now);
        self.credit =
            self.credit.saturating_add(passed.saturating_mul(self.rate.into())).min(self.most);
        self.credit >= (i128::from(tokens) * NANOS).min(self.most)
    }

    fn take(&mut self, tokens: u64) {
        self.credit = self.credit.saturating_sub(i128::from(tokens) * NANOS);
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

//! A token bucket on a clock from outside.

use std::time::{Duration, Instant};

/// Holds at most `capacity` tokens, and gets one more each `interval`.
///
/// The bucket of `proxy::relay::rate_limiter` is another kind: it counts fractions of a token, since bytes
/// at some Gbit/s come faster than one a nanosecond, and a packet takes all its tokens or none.
#[derive(Debug, Clone)]
pub struct TokenBucket {
    capacity: u32,
    interval: Duration,
    /// When the bucket is full again. A time in the past: it is full.
    full_at: Instant,
}

impl TokenBucket {
    /// A full bucket. A capacity of 0 is taken as 1.
    pub fn new(capacity: u32, interval: Duration, now: Instant) -> Self {
        TokenBucket { capacity: capacity.max(1), interval, full_at: now }
    }

    /// Takes a token if there is one. Returns whether it took one.
    pub fn take(&mut self, now: Instant) -> bool {
        self.take_many(now, 1)
    }

    /// Whether there is a token.
    pub fn is_ready(&self, now: Instant) -> bool {
        self.ready_at().is_none_or(|at| at <= now)
    }

    /// Takes `n` tokens if there is at least one. Missing tokens are owed: the next token comes
    /// later by as many intervals. Returns whether it took them.
    pub fn take_many(&mut self, now: Instant, n: u32) -> bool {
        let ready = self.is_ready(now);
        if ready {
            self.full_at = self.full_at.max(now) + self.interval * n;
        }
        ready
    }

    /// When there is a token. `None`: there has been one since before the clock can say.
    pub fn ready_at(&self) -> Option<Instant> {
        self.full_at.checked_sub(self.interval * (self.capacity - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_followed_by_one_token_an_interval() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut bucket = TokenBucket::new(3, second, start);
        let taken = |bucket: &mut TokenBucket, now| (0..10).filter(|_| bucket.take(now)).count();
        assert_eq!(taken(&mut bucket, start), 3);
        assert_eq!(bucket.ready_at(), Some(start + second));
        assert_eq!(taken(&mut bucket, start + second / 2), 0);
        assert_eq!(taken(&mut bucket, start + second), 1);
        assert_eq!(taken(&mut bucket, start + second * 3), 2);
        assert_eq!(taken(&mut bucket, start + second * 100), 3);
    }

    #[test]
    fn tokens_owed_are_waited_for() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut bucket = TokenBucket::new(3, second, start);
        assert!(bucket.take_many(start, 5));
        assert_eq!(bucket.ready_at(), Some(start + second * 3));
        assert!(!bucket.take(start + second * 2));
        assert!(bucket.take(start + second * 3));
    }
}

//! The media delivery index (RFC 4445): how much a stream's rate wavers on its way.

use std::time::Duration;

/// Corners that are kept of each hull. Only a stream that speeds up or slows down from packet to
/// packet has as many.
const CORNERS: usize = 4096;

/// The delay factor of one interval (RFC 4445 §3.1): the greatest difference between what has arrived
/// and what a receiver would have played at the stream's mean rate, as a time.
///
/// The mean rate is known at the end of the interval only. Of all points of arrival only the corners
/// of their convex hull can be the extremes then, so that no other point is kept.
#[derive(Debug)]
pub(super) struct DelayFactor {
    start: Duration,
    bytes: u64,
    /// Seconds since the start and bytes behind each packet, of which some may be the highest.
    above: Vec<(f64, f64)>,
    /// The same before each packet, of which some may be the lowest.
    below: Vec<(f64, f64)>,
}

impl DelayFactor {
    /// An interval begins.
    pub(super) fn new(start: Duration) -> Self {
        DelayFactor { start, bytes: 0, above: vec![(0.0, 0.0)], below: vec![(0.0, 0.0)] }
    }

    /// A packet of so many bytes has arrived.
    pub(super) fn packet(&mut self, at: Duration, length: usize) {
        let last = self.above.last().map_or(0.0, |corner| corner.0);
        let time = at.saturating_sub(self.start).as_secs_f64().max(last);
        add(&mut self.below, (time, self.bytes as f64), f64::gt);
        self.bytes += length as u64;
        add(&mut self.above, (time, self.bytes as f64), f64::lt);
    }

    /// The delay factor of the interval that ends now; `None` where nothing has arrived. The next one
    /// begins.
    pub(super) fn take(&mut self, now: Duration) -> Option<Duration> {
        let ended = std::mem::replace(self, DelayFactor::new(now));
        let time = now.saturating_sub(ended.start).as_secs_f64();
        if ended.bytes == 0 || time == 0.0 {
            return None;
        }
        let rate = ended.bytes as f64 / time;
        let ahead = |corner: &(f64, f64)| corner.1 - rate * corner.0;
        let most = ended.above.iter().map(ahead).fold(0.0, f64::max);
        let least = ended.below.iter().map(ahead).fold(0.0, f64::min);
        Some(Duration::from_secs_f64((most - least) / rate))
    }
}

/// Adds a point behind all others to a hull, and removes the points that are no corners any more:
/// there the slope does not change as `is_inside` has it.
fn add(hull: &mut Vec<(f64, f64)>, point: (f64, f64), is_inside: fn(&f64, &f64) -> bool) {
    while let [.., a, b] = hull[..] {
        let turn = (b.0 - a.0) * (point.1 - a.1) - (b.1 - a.1) * (point.0 - a.0);
        if is_inside(&turn, &0.0) {
            break;
        }
        hull.pop();
    }
    if hull.len() == CORNERS {
        // What is lost is less than what one packet changes.
        let mut number = 0;
        hull.retain(|_| {
            number += 1;
            number % 2 == 1
        });
    }
    hull.push(point);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn factor(arrivals: impl IntoIterator<Item = (u64, usize)>) -> f64 {
        let mut factor = DelayFactor::new(ms(500));
        for (at, length) in arrivals {
            factor.packet(ms(500 + at), length);
        }
        factor.take(ms(1500)).unwrap().as_secs_f64() * 1000.0
    }

    #[test]
    fn an_even_stream_wavers_by_one_packet() {
        let found = factor((0..1000).map(|n| (n, 100)));
        assert!((found - 1.0).abs() < 0.01, "{found}");
    }

    #[test]
    fn what_comes_in_bursts_wavers_by_the_time_between_them() {
        // A hundred packets at once, each tenth of a second.
        let found = factor((0..1000).map(|n| (n / 100 * 100, 100)));
        assert!((found - 100.0).abs() < 0.01, "{found}");
    }

    #[test]
    fn a_gap_is_seen_and_the_hull_says_what_all_points_would() {
        let mut random = 1u64;
        let mut next = |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 33) % below
        };
        for _ in 0..50 {
            let mut times: Vec<u64> = (0..200).map(|_| next(1000)).collect();
            times.sort_unstable();
            let arrivals: Vec<_> = times.iter().map(|at| (*at, 50 + next(1000) as usize)).collect();
            let all: usize = arrivals.iter().map(|(_, length)| length).sum();
            let (mut bytes, mut most, mut least) = (0.0, 0.0f64, 0.0f64);
            for (at, length) in &arrivals {
                let played = *at as f64 / 1000.0 * all as f64;
                least = least.min(bytes - played);
                bytes += *length as f64;
                most = most.max(bytes - played);
            }
            let expected = (most - least) / all as f64 * 1000.0;
            let found = factor(arrivals);
            assert!((found - expected).abs() < 0.001, "{found}, not {expected}");
        }
    }

    #[test]
    fn an_interval_without_packets_has_none_and_each_begins_anew() {
        let mut factor = DelayFactor::new(ms(0));
        assert_eq!(factor.take(ms(1000)), None);
        factor.packet(ms(1000), 10);
        assert_eq!(factor.take(ms(2000)), Some(ms(1000)));
        assert_eq!(factor.take(ms(3000)), None);
        // More corners than are kept.
        let mut many = DelayFactor::new(ms(0));
        for n in 0..20_000u64 {
            many.packet(Duration::from_nanos(n * n), 1);
        }
        assert!(many.above.len() <= CORNERS && many.below.len() <= CORNERS);
        assert!(many.take(ms(1000)).is_some());
    }
}

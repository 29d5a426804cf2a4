//! Recognises the relay's own packets. The host's kernel loops sent multicast back to every socket
//! of the host that has joined the group: to the neighbours' relays, which want it, and to this
//! relay.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::time::{Duration, Instant};

use crate::proxy::relay::batch::BATCH;

/// With so many packets that have not come back, those that have come back are read before more are
/// sent.
const CROWDED: usize = 4096;
/// Most packets that are remembered: beside that number those of one batch, of which each may be
/// cut into as many segments as the kernel allows (`UDP_MAX_SEGMENTS` of linux/udp.h).
const MAX_REMEMBERED: usize = CROWDED + BATCH * 128;
/// The kernel loops a packet back while it sends it. A packet that has not come back after this
/// time was not looped back, or was lost.
const LIFETIME: Duration = Duration::from_secs(1);

/// Packets that were sent and have not come back, by the bytes that distinguish one datagram from others
/// ([`Packet::fingerprint`](crate::proxy::relay::packet::Packet::fingerprint)).
#[derive(Debug)]
pub(super) struct LoopedBack<F> {
    /// In the order in which they were sent. Packets mostly come back in this order, so those that
    /// have come back are removed at the front only.
    order: VecDeque<(Instant, F)>,
    counts: HashMap<F, Counts>,
    /// Packets that are still expected.
    expected: usize,
}

/// Packets of one fingerprint. Together they are its entries of the order.
#[derive(Debug, Default)]
struct Counts {
    expected: u32,
    come_back: u32,
}

impl<F> Default for LoopedBack<F> {
    fn default() -> Self {
        LoopedBack { order: VecDeque::new(), counts: HashMap::new(), expected: 0 }
    }
}

impl<F: Copy + Eq + Hash> LoopedBack<F> {
    /// Remembers a packet that is about to be sent.
    pub(super) fn remember(&mut self, now: Instant, print: F) {
        while self.order.len() >= MAX_REMEMBERED
            || self.order.front().is_some_and(|(sent, _)| *sent + LIFETIME <= now)
        {
            self.forget_first();
        }
        self.order.push_back((now, print));
        self.counts.entry(print).or_default().expected += 1;
        self.expected += 1;
    }

    /// Whether those that have come back are to be read before more are sent: too many have not
    /// been read, or the next call of [`Self::remember`] forgets some. A process that gets no
    /// processor for a second has not read what came back in time.
    pub(super) fn must_be_read(&self, now: Instant) -> bool {
        self.expected >= CROWDED
            || self.order.front().is_some_and(|(sent, _)| *sent + LIFETIME <= now)
    }

    /// Whether a received packet is a remembered one, which is then forgotten.
    pub(super) fn take(&mut self, print: impl FnOnce() -> Option<F>) -> bool {
        if self.expected == 0 {
            return false;
        }
        let Some(counts) = print().and_then(|print| self.counts.get_mut(&print)) else {
            return false;
        };
        if counts.expected == 0 {
            return false;
        }
        counts.expected -= 1;
        counts.come_back += 1;
        self.expected -= 1;
        while let Some((_, first)) = self.order.front()
            && self.counts.get(first).is_some_and(|counts| counts.come_back > 0)
        {
            self.forget_first();
        }
        true
    }

    /// Packets that have not come back, in no particular order.
    pub(super) fn outstanding(&self) -> Vec<F> {
        let each = self.counts.iter();
        each.flat_map(|(print, counts)| std::iter::repeat_n(*print, counts.expected as usize))
            .collect()
    }

    /// Forgets the first packet, whether it has come back or not.
    fn forget_first(&mut self) {
        let Some((_, print)) = self.order.pop_front() else { return };
        let Entry::Occupied(mut entry) = self.counts.entry(print) else { return };
        let counts = entry.get_mut();
        if counts.come_back > 0 {
            counts.come_back -= 1;
        } else {
            counts.expected -= 1;
            self.expected -= 1;
        }
        if counts.expected + counts.come_back == 0 {
            entry.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn print(n: u16) -> [u8; 18] {
        let mut print = [0; 18];
        print[..2].copy_from_slice(&n.to_be_bytes());
        print
    }

    #[test]
    fn a_sent_packet_is_recognised_once_and_for_a_limited_time() {
        let now = Instant::now();
        let mut packets = LoopedBack::default();
        let take = |packets: &mut LoopedBack<_>, n| packets.take(|| Some(print(n)));
        assert!(!take(&mut packets, 1));
        packets.remember(now, print(1));
        packets.remember(now, print(1));
        packets.remember(now, print(2));
        assert!(take(&mut packets, 2), "in another order");
        assert!(take(&mut packets, 1) && take(&mut packets, 1) && !take(&mut packets, 1));
        packets.remember(now, print(3));
        assert!(!packets.must_be_read(now) && packets.must_be_read(now + LIFETIME));
        packets.remember(now + LIFETIME, print(4));
        assert!(!take(&mut packets, 3), "too long ago");
        assert!(take(&mut packets, 4));
    }

    #[test]
    fn packets_that_never_come_back_are_bounded() {
        let now = Instant::now();
        let mut packets = LoopedBack::default();
        for n in 0..20_000 {
            packets.remember(now, print(n as u16));
        }
        assert!(packets.order.len() <= MAX_REMEMBERED && packets.counts.len() <= MAX_REMEMBERED);
        assert!(packets.take(|| Some(print(19_999))) && !packets.take(|| Some(print(0))));
    }

    #[test]
    fn packets_of_one_fingerprint_are_counted() {
        let now = Instant::now();
        let mut packets = LoopedBack::default();
        // It is lost, so that nothing behind it is removed from the order.
        packets.remember(now, print(0));
        for _ in 0..MAX_REMEMBERED * 2 {
            packets.remember(now, print(1));
            packets.remember(now, print(1));
            assert!(packets.take(|| Some(print(1))) && packets.take(|| Some(print(1))));
            assert!(!packets.take(|| Some(print(1))));
        }
        assert!(packets.order.len() <= MAX_REMEMBERED && packets.expected <= 1);
        assert!(!packets.must_be_read(now));
    }
}

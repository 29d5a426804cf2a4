//! Recognises the relay's own packets. The host's kernel loops sent multicast back to every socket
//! of the host that has joined the group: to the neighbours' relays, which want it, and to this
//! relay.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// The bytes that distinguish one datagram from others; see
/// [`crate::proxy::relay::packet::Packet::fingerprint`].
pub(super) type Fingerprint = [u8; 18];

/// Most packets that are remembered. The packets of one batch come back before the next is sent.
const MAX_REMEMBERED: usize = 4096;
/// The kernel loops a packet back while it sends it. A packet that has not come back after this
/// time was not looped back, or was lost.
const LIFETIME: Duration = Duration::from_secs(1);

/// Packets that were sent and have not come back.
#[derive(Debug, Default)]
pub(super) struct LoopedBack {
    order: VecDeque<(Instant, Fingerprint)>,
    /// How many packets of each fingerprint are expected.
    expected: HashMap<Fingerprint, u32>,
}

impl LoopedBack {
    /// Remembers a packet that is about to be sent.
    pub(super) fn remember(&mut self, now: Instant, print: Fingerprint) {
        while self.order.len() >= MAX_REMEMBERED
            || self.order.front().is_some_and(|(sent, _)| *sent + LIFETIME <= now)
        {
            if let Some((_, old)) = self.order.pop_front() {
                self.forget(&old);
            }
        }
        self.order.push_back((now, print));
        *self.expected.entry(print).or_insert(0) += 1;
    }

    /// Whether a received packet is a remembered one, which is then forgotten.
    pub(super) fn take(&mut self, print: impl FnOnce() -> Option<Fingerprint>) -> bool {
        if self.expected.is_empty() {
            return false;
        }
        let Some(print) = print() else { return false };
        let found = self.forget(&print);
        // Packets come back in the order in which they were sent.
        if found
            && let Some((_, first)) = self.order.front()
            && *first == print
        {
            self.order.pop_front();
        }
        found
    }

    /// Packets that have not come back, in no particular order.
    pub(super) fn outstanding(&self) -> Vec<Fingerprint> {
        let each = self.expected.iter();
        each.flat_map(|(print, count)| std::iter::repeat_n(*print, *count as usize)).collect()
    }

    fn forget(&mut self, print: &Fingerprint) -> bool {
        let Some(count) = self.expected.get_mut(print) else { return false };
        *count -= 1;
        if *count == 0 {
            self.expected.remove(print);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn print(n: u16) -> Fingerprint {
        let mut print = [0; 18];
        print[..2].copy_from_slice(&n.to_be_bytes());
        print
    }

    #[test]
    fn a_sent_packet_is_recognised_once_and_for_a_limited_time() {
        let now = Instant::now();
        let mut packets = LoopedBack::default();
        let take = |packets: &mut LoopedBack, n| packets.take(|| Some(print(n)));
        assert!(!take(&mut packets, 1));
        packets.remember(now, print(1));
        packets.remember(now, print(1));
        packets.remember(now, print(2));
        assert!(take(&mut packets, 2), "in another order");
        assert!(take(&mut packets, 1) && take(&mut packets, 1) && !take(&mut packets, 1));
        packets.remember(now, print(3));
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
        assert!(packets.order.len() <= MAX_REMEMBERED && packets.expected.len() <= MAX_REMEMBERED);
        assert!(packets.take(|| Some(print(19_999))) && !packets.take(|| Some(print(0))));
    }
}

//! What the relay sent itself, and gets back: the host's kernel loops its own multicast to whoever has
//! joined on the host, so that the neighbours' relays receive it, and this one too.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// What tells a datagram from others, see [`crate::proxy::relay::packet::Packet::fingerprint`].
pub(super) type Fingerprint = [u8; 18];

/// Packets remembered; what is sent in one batch comes back before the next.
const MOST: usize = 4096;
/// A packet is looped back while it is sent. What has not come by then was not looped, or lost.
const MEMORY: Duration = Duration::from_secs(1);

/// The packets that were sent and have not come back.
#[derive(Debug, Default)]
pub(super) struct Echoes {
    order: VecDeque<(Instant, Fingerprint)>,
    /// How many of each are expected.
    expected: HashMap<Fingerprint, u32>,
}

impl Echoes {
    /// Notes a packet that is about to be sent.
    pub(super) fn expect(&mut self, now: Instant, print: Fingerprint) {
        while self.order.len() >= MOST
            || self.order.front().is_some_and(|(sent, _)| *sent + MEMORY <= now)
        {
            if let Some((_, old)) = self.order.pop_front() {
                self.forget(&old);
            }
        }
        self.order.push_back((now, print));
        *self.expected.entry(print).or_insert(0) += 1;
    }

    /// Whether a packet is one of these; each is taken for one once.
    pub(super) fn is_one(&mut self, print: impl FnOnce() -> Option<Fingerprint>) -> bool {
        if self.expected.is_empty() {
            return false;
        }
        let Some(print) = print() else { return false };
        let found = self.forget(&print);
        // They come back in the order in which they were sent.
        if found
            && let Some((_, first)) = self.order.front()
            && *first == print
        {
            self.order.pop_front();
        }
        found
    }

    /// Those that have not come back, in no order.
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
    fn what_was_sent_is_known_once_and_not_for_ever() {
        let now = Instant::now();
        let mut echoes = Echoes::default();
        let is_one = |echoes: &mut Echoes, n| echoes.is_one(|| Some(print(n)));
        assert!(!is_one(&mut echoes, 1));
        echoes.expect(now, print(1));
        echoes.expect(now, print(1));
        echoes.expect(now, print(2));
        assert!(is_one(&mut echoes, 2), "in another order");
        assert!(is_one(&mut echoes, 1) && is_one(&mut echoes, 1) && !is_one(&mut echoes, 1));
        echoes.expect(now, print(3));
        echoes.expect(now + MEMORY, print(4));
        assert!(!is_one(&mut echoes, 3), "too long ago");
        assert!(is_one(&mut echoes, 4));
    }

    #[test]
    fn a_flood_that_does_not_come_back_is_bounded() {
        let now = Instant::now();
        let mut echoes = Echoes::default();
        for n in 0..20_000 {
            echoes.expect(now, print(n as u16));
        }
        assert!(echoes.order.len() <= MOST && echoes.expected.len() <= MOST);
        assert!(echoes.is_one(|| Some(print(19_999))) && !echoes.is_one(|| Some(print(0))));
    }
}

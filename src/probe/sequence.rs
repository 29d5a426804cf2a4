//! Loss, duplication and reordering from RTP sequence numbers (RFC 3550 §6.4.1 and A.1).

/// How far behind the highest number a packet is still told apart: late or a duplicate.
const WINDOW: u64 = 4096;
/// A jump this far from what the elapsed time explains is a restart, not loss
/// (`MAX_DROPOUT` of RFC 3550 A.1).
const MAX_DROPOUT: i64 = 3000;
/// A step forward this small is taken as it is, however much time passed: a sender that
/// paused goes on where it stopped.
const SMALL_STEP: i64 = 64;

/// Follows the sequence numbers of one source.
///
/// A 16-bit number is extended to the value nearest to what the time since the highest number
/// and the rate so far suggest. That is RFC 3550's rule while packets flow, and it still
/// counts right after a blackout that is longer than half a wrap.
#[derive(Debug)]
pub struct Sequence {
    /// First number of this epoch, extended.
    base: i64,
    /// Highest number of this epoch, extended.
    highest: i64,
    /// One bit for each of the last [`WINDOW`] numbers, at the number modulo its size.
    seen: Box<[u64; (WINDOW / 64) as usize]>,
    /// The number that would confirm a restart.
    restart_at: Option<u16>,
    /// Packets expected in the epochs before this one.
    expected_before: u64,
    /// Packets that arrived for the first time, all epochs.
    unique: u64,
    duplicated: u64,
    reordered: u64,
    restarts: u64,
}

impl Sequence {
    /// Starts with the first packet; `full` is its number in more than 16 bits where the
    /// sender tells it.
    pub fn new(number: u16, full: Option<u64>) -> Self {
        let first = full.map_or(i64::from(number), clamp);
        let mut sequence = Sequence {
            base: first,
            highest: first,
            seen: Box::new([0; (WINDOW / 64) as usize]),
            restart_at: None,
            expected_before: 0,
            unique: 1,
            duplicated: 0,
            reordered: 0,
            restarts: 0,
        };
        sequence.mark(first);
        sequence
    }

    /// Takes the next packet. `elapsed` is how many packets the time since the one with the
    /// highest number had room for; 0 when nothing is known. Returns whether this packet is
    /// now the highest.
    pub fn packet(&mut self, number: u16, full: Option<u64>, elapsed: u64) -> bool {
        let elapsed = clamp(elapsed);
        let step = match full {
            Some(full) => clamp(full).saturating_sub(self.highest),
            None => self.step_to(number, elapsed),
        };
        let strange = full.is_none()
            && (step < -(WINDOW as i64)
                || step.saturating_sub(elapsed) > MAX_DROPOUT.saturating_add(elapsed / 2));
        if strange {
            return self.implausible(number);
        }
        self.restart_at = None;
        if step > 0 {
            self.advance(step);
            return true;
        }
        if step <= -(WINDOW as i64) {
            // Too old to tell: never hide a loss.
            self.duplicated += 1;
            return false;
        }
        let number = self.highest + step;
        if self.is_marked(number) {
            self.duplicated += 1;
        } else {
            self.mark(number);
            self.unique += 1;
            self.reordered += 1;
            self.base = self.base.min(number);
        }
        false
    }

    /// Packets sent by the source from the first to the highest that arrived.
    pub fn expected(&self) -> u64 {
        self.expected_before + self.highest.abs_diff(self.base).saturating_add(1)
    }

    /// Numbers between the first and the highest from which nothing arrived.
    pub fn lost(&self) -> u64 {
        self.expected().saturating_sub(self.unique)
    }

    /// Packets whose number had arrived already, or was too old to tell.
    pub fn duplicated(&self) -> u64 {
        self.duplicated
    }

    /// Packets that arrived after one with a higher number.
    pub fn reordered(&self) -> u64 {
        self.reordered
    }

    /// Times the numbering began anew under the same SSRC.
    pub fn restarts(&self) -> u64 {
        self.restarts
    }

    /// Numbers from the first to the highest of this epoch, for the rate.
    pub fn span(&self) -> u64 {
        self.highest.abs_diff(self.base)
    }

    /// Signed distance from the highest number: of all that end in the same 16 bits the one
    /// nearest to `elapsed`.
    fn step_to(&self, number: u16, elapsed: i64) -> i64 {
        let forward = i64::from(number.wrapping_sub(self.highest as u16));
        if (1..=SMALL_STEP).contains(&forward) {
            return forward;
        }
        let wraps = (elapsed - forward + 0x8000).div_euclid(0x1_0000).max(-1);
        forward + wraps * 0x1_0000
    }

    /// A number that neither loss nor reordering explains: believed with the second in a row.
    fn implausible(&mut self, number: u16) -> bool {
        if self.restart_at != Some(number) {
            self.restart_at = Some(number.wrapping_add(1));
            self.duplicated += 1;
            return false;
        }
        self.expected_before = self.expected();
        self.restarts += 1;
        self.restart_at = None;
        // The one before, taken for a duplicate until now, was the first of the new epoch.
        self.duplicated -= 1;
        self.unique += 2;
        self.highest = i64::from(number);
        self.base = self.highest - 1;
        self.seen.fill(0);
        self.mark(self.base);
        self.mark(self.highest);
        true
    }

    fn advance(&mut self, step: i64) {
        if step >= WINDOW as i64 {
            self.seen.fill(0);
        } else {
            for skipped in 1..step {
                let (word, bit) = Self::place(self.highest + skipped);
                self.seen[word] &= !bit;
            }
        }
        self.highest = self.highest.saturating_add(step);
        self.mark(self.highest);
        self.unique += 1;
    }

    fn place(number: i64) -> (usize, u64) {
        let slot = number.rem_euclid(WINDOW as i64) as usize;
        (slot / 64, 1 << (slot % 64))
    }

    fn mark(&mut self, number: i64) {
        let (word, bit) = Self::place(number);
        self.seen[word] |= bit;
    }

    fn is_marked(&self, number: i64) -> bool {
        let (word, bit) = Self::place(number);
        self.seen[word] & bit != 0
    }
}

/// Numbers come from the network: arithmetic on them must not overflow.
fn clamp(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX).min(i64::MAX / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(numbers: impl IntoIterator<Item = u16>) -> Sequence {
        let mut numbers = numbers.into_iter();
        let mut sequence = Sequence::new(numbers.next().unwrap(), None);
        for number in numbers {
            sequence.packet(number, None, 1);
        }
        sequence
    }

    fn counts(s: &Sequence) -> (u64, u64, u64, u64) {
        (s.expected(), s.lost(), s.duplicated(), s.reordered())
    }

    #[test]
    fn packets_in_order_are_all_there() {
        assert_eq!(counts(&run(0..1000)), (1000, 0, 0, 0));
    }

    #[test]
    fn the_wrap_is_not_a_loss() {
        let wrapping = (0..200_000u32).map(|n| (n + 65_000) as u16);
        assert_eq!(counts(&run(wrapping)), (200_000, 0, 0, 0));
    }

    #[test]
    fn missing_numbers_are_lost() {
        assert_eq!(counts(&run((0..100).chain(110..200))), (200, 10, 0, 0));
    }

    #[test]
    fn loss_at_the_wrap_is_counted() {
        assert_eq!(counts(&run((65_530..=65_535).chain(5..10))), (16, 5, 0, 0));
    }

    #[test]
    fn a_late_packet_is_reordered_and_not_lost() {
        assert_eq!(counts(&run([1, 2, 4, 5, 3, 6])), (6, 0, 0, 1));
        assert_eq!(counts(&run([65_534, 0, 65_535, 1])), (4, 0, 0, 1));
    }

    #[test]
    fn a_packet_before_the_first_one_counts() {
        assert_eq!(counts(&run([10, 8, 11])), (4, 1, 0, 1));
    }

    #[test]
    fn the_same_number_twice_is_a_duplicate() {
        assert_eq!(counts(&run([1, 2, 2, 3, 1, 4])), (4, 0, 2, 0));
    }

    #[test]
    fn a_duplicate_far_behind_does_not_hide_a_loss() {
        let mut sequence = run((0..10_000).filter(|n| *n != 9_000));
        sequence.packet(5_000, Some(5_000), 1);
        assert_eq!(counts(&sequence), (10_000, 1, 1, 0));
    }

    #[test]
    fn a_blackout_is_counted_by_the_time_it_took() {
        for missing in [500u32, 40_000, 70_000, 200_000] {
            let mut sequence = run(0..10_000);
            let next = 10_000 + missing;
            // The rate is known to a tenth only.
            sequence.packet(next as u16, None, u64::from(missing) * 11 / 10);
            for n in 1..100 {
                sequence.packet((next + n) as u16, None, 1);
            }
            assert_eq!(sequence.lost(), u64::from(missing), "{missing} missing");
            assert_eq!(sequence.restarts(), 0);
        }
    }

    #[test]
    fn a_sender_that_pauses_has_lost_nothing() {
        let mut sequence = run(0..1000);
        sequence.packet(1000, None, 65_536);
        assert_eq!(counts(&sequence), (1001, 0, 0, 0));
    }

    #[test]
    fn a_restart_of_the_numbering_is_not_a_loss() {
        let sequence = run((0..1000).chain(30_000..31_000));
        assert_eq!(counts(&sequence), (2000, 0, 0, 0));
        assert_eq!(sequence.restarts(), 1);
        let backwards = run((30_000..31_000).chain(0..1000));
        assert_eq!(counts(&backwards), (2000, 0, 0, 0));
        assert_eq!(backwards.restarts(), 1);
    }

    #[test]
    fn one_strange_packet_changes_nothing() {
        let sequence = run((0..1000).chain([30_000]).chain(1000..2000));
        assert_eq!(counts(&sequence), (2000, 0, 1, 0));
        assert_eq!(sequence.restarts(), 0);
    }

    #[test]
    fn full_numbers_are_exact() {
        let mut sequence = Sequence::new(10, Some(10));
        sequence.packet(11, Some(11 + 65_536 * 3), 0);
        assert_eq!(sequence.lost(), 65_536 * 3);
    }

    #[test]
    fn no_number_overflows() {
        let mut sequence = Sequence::new(0, Some(0));
        for full in [u64::MAX, 0, u64::MAX - 1, u64::MAX / 2, 5] {
            sequence.packet(full as u16, Some(full), u64::MAX);
        }
        assert!(sequence.lost() > 0);
    }

    proptest::proptest! {
        #[test]
        fn every_packet_is_accounted_for(numbers in proptest::collection::vec(0u16.., 1..500),
                                         elapsed in 0u64..100_000) {
            let mut sequence = Sequence::new(numbers[0], None);
            for number in &numbers[1..] {
                sequence.packet(*number, None, elapsed);
            }
            proptest::prop_assert_eq!(sequence.unique + sequence.duplicated, numbers.len() as u64);
            proptest::prop_assert!(sequence.expected() >= sequence.unique);
        }
    }
}

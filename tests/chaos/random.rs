//! Random choices, and moments at which most commands still run.

use std::collections::{BTreeMap, VecDeque};

/// Xorshift64.
pub struct Random(pub u64);

impl Random {
    /// A number below this limit; 0 if the limit is.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit.max(1)
    }

    /// Whether something happens that happens once in so many times.
    pub fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// One of the entries, each as likely as its weight says.
    pub fn weighted<T: Copy>(&mut self, entries: &[(T, u64)]) -> Option<T> {
        let mut number = self.below(entries.iter().map(|(_, weight)| weight).sum());
        for (entry, weight) in entries {
            if number < *weight {
                return Some(*entry);
            }
            number -= weight;
        }
        None
    }
}

/// How long commands of each kind are, in stops or in microseconds, as far as they were seen.
#[derive(Default)]
pub struct Lengths(BTreeMap<String, VecDeque<u64>>);

/// Commands of a kind that are remembered.
const REMEMBERED: usize = 9;

impl Lengths {
    /// A moment between the start and the end of the longest of the last commands of this kind.
    /// `None`: the command is to run to its end, since the kind is not known, or for one in ten.
    pub fn moment(&self, kind: &str, random: &mut Random) -> Option<u64> {
        let longest = self.0.get(kind)?.iter().max()?;
        (!random.one_in(10)).then(|| random.below(*longest))
    }

    /// Remembers a command that ran to its end.
    pub fn learn(&mut self, kind: &str, length: u64) {
        let known = self.0.entry(kind.to_owned()).or_default();
        known.push_back(length);
        if known.len() > REMEMBERED {
            known.pop_front();
        }
    }
}

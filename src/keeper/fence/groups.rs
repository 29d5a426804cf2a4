//! Which groups are fenced.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::keeper::fence::board::Place;

/// How long a group has had more users than are known before it is fenced no more: a proxy tells
/// the keeper 20 ms after a join.
pub(super) const DOUBT: Duration = Duration::from_millis(150);

/// Which groups are fenced.
#[derive(Debug, Default)]
pub(super) struct Groups {
    pub(super) fenced: BTreeSet<Place>,
    /// Fenced groups that have more users than are known, and since when.
    doubtful: BTreeMap<Place, Instant>,
    /// How many more users a group has than are known.
    others: BTreeMap<Place, i64>,
}

impl Groups {
    /// The groups are fenced that have no `users` except the sockets of proxies. Returns those that
    /// a proxy may have left without saying so.
    pub(super) fn update(
        &mut self,
        now: Instant,
        users: &BTreeMap<Place, u64>,
        known: &BTreeMap<Place, u64>,
    ) -> BTreeSet<Place> {
        let before = std::mem::take(self);
        let mut disputed = BTreeSet::new();
        for (place, known) in known {
            let users = users.get(place).copied().unwrap_or(0);
            let others = users.cast_signed() - known.cast_signed();
            self.others.insert(*place, others);
            if others < before.others.get(place).copied().unwrap_or(0) {
                disputed.insert(*place);
            }
            if users == 0 {
                continue;
            }
            if others <= 0 {
                self.fenced.insert(*place);
            } else if before.fenced.contains(place) {
                let since = *before.doubtful.get(place).unwrap_or(&now);
                if now.duration_since(since) < DOUBT {
                    self.fenced.insert(*place);
                    self.doubtful.insert(*place, since);
                }
            }
        }
        disputed
    }

    /// Whether a group has more users than are known, and is fenced all the same.
    pub(super) fn is_doubtful(&self) -> bool {
        !self.doubtful.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const PLACE: Place = (3, Ipv4Addr::new(239, 1, 1, 1));

    #[test]
    fn a_group_is_fenced_while_it_has_no_other_users() {
        let mut groups = Groups::default();
        let start = Instant::now();
        let mut is_fenced = |millis: u64, users: Option<u64>, known: Option<u64>| {
            let map = |count: Option<u64>| count.map(|count| (PLACE, count)).into_iter().collect();
            groups.update(start + Duration::from_millis(millis), &map(users), &map(known));
            groups.fenced.contains(&PLACE)
        };
        assert!(!is_fenced(0, Some(2), Some(1)), "a program of the host has joined before");
        assert!(is_fenced(0, Some(1), Some(1)));
        assert!(is_fenced(10, Some(2), Some(1)), "another proxy may have joined");
        assert!(is_fenced(50, Some(2), Some(2)), "it has");
        assert!(is_fenced(300, Some(3), Some(2)));
        assert!(is_fenced(449, Some(3), Some(2)));
        assert!(!is_fenced(450, Some(3), Some(2)), "a program of the host has joined");
        assert!(!is_fenced(451, Some(3), Some(2)));
        assert!(is_fenced(500, Some(2), Some(2)));
        assert!(!is_fenced(501, Some(2), None), "relayed, or not known any more");
        assert!(!is_fenced(502, None, Some(1)), "nobody has joined");
    }

    #[test]
    fn fewer_users_than_before_or_than_known_are_disputed() {
        let mut groups = Groups::default();
        let mut is_disputed = |users: u64, known: u64| {
            let map = |count| BTreeMap::from([(PLACE, count)]);
            !groups.update(Instant::now(), &map(users), &map(known)).is_empty()
        };
        assert!(!is_disputed(2, 1));
        assert!(is_disputed(1, 1), "a program of the host has left, or the proxy has");
        assert!(!is_disputed(1, 1));
        assert!(!is_disputed(2, 2));
        assert!(is_disputed(1, 2), "the proxy has left, and has not said so yet");
        assert!(!is_disputed(1, 1));
        assert!(is_disputed(0, 1));
        assert!(!is_disputed(1, 1));
    }
}

//! A slow, obviously right model of the table, and random sequences against it.
//!
//! Time is whole seconds that pass one by one. Sets are computed as the RFC writes them.

use proptest::prelude::*;

use crate::igmp::group::tests::*;

/// Source timers in seconds; in EXCLUDE mode 0 is an excluded source. `group` is the group
/// timer, 0 in INCLUDE mode.
#[derive(Debug, Clone, Default)]
struct Model {
    sources: BTreeMap<char, u64>,
    group: u64,
}

type Set = BTreeSet<char>;

fn plus(a: &Set, b: &Set) -> Set {
    a.union(b).copied().collect()
}
fn minus(a: &Set, b: &Set) -> Set {
    a.difference(b).copied().collect()
}
fn times(a: &Set, b: &Set) -> Set {
    a.intersection(b).copied().collect()
}

impl Model {
    fn pass_a_second(&mut self) {
        let exclude = self.group > 0;
        self.sources = self
            .sources
            .iter()
            .map(|(s, t)| (*s, t.saturating_sub(1)))
            .filter(|(_, t)| exclude || *t > 0)
            .collect();
        self.group = self.group.saturating_sub(1);
        if exclude && self.group == 0 {
            self.sources.retain(|_, t| *t > 0);
        }
    }

    fn apply(&mut self, fast_leave: bool, kind: RecordType, r: &Set) {
        let gt = self.group;
        let old = self.sources.clone();
        let x: Set = old.iter().filter(|(_, t)| **t > 0).map(|(s, _)| *s).collect();
        let y: Set = old.iter().filter(|(_, t)| **t == 0).map(|(s, _)| *s).collect();
        // New X and Y, sources that are set to a timer, new group timer, sources and group
        // asked for. In INCLUDE mode X is A and Y is empty.
        let none = Set::new();
        let (new_x, new_y, set_to, new_gt, ask, ask_group) = if gt == 0 {
            match kind {
                IsIn | Allow => (plus(&x, r), none, (r.clone(), GMI), 0, Set::new(), false),
                IsEx => (times(&x, r), minus(r, &x), (none, 0), GMI, Set::new(), false),
                Block => (x.clone(), none.clone(), (none, 0), 0, times(&x, r), false),
                ToEx => (times(&x, r), minus(r, &x), (none, 0), GMI, times(&x, r), false),
                ToIn => (plus(&x, r), none, (r.clone(), GMI), 0, minus(&x, r), false),
                Unknown(_) => return,
            }
        } else {
            let new = minus(&minus(r, &x), &y);
            match kind {
                IsIn | Allow => (plus(&x, r), minus(&y, r), (r.clone(), GMI), gt, none, false),
                IsEx => (minus(r, &y), times(&y, r), (new, GMI), GMI, none, false),
                Block => (plus(&x, &minus(r, &y)), y.clone(), (new, gt), gt, minus(r, &y), false),
                ToEx => (minus(r, &y), times(&y, r), (new, gt), GMI, minus(r, &y), false),
                ToIn => (plus(&x, r), minus(&y, r), (r.clone(), GMI), gt, minus(&x, r), true),
                Unknown(_) => return,
            }
        };
        let wait = if fast_leave { 0 } else { LMQT };
        let timer = |s: &char| {
            let timer = if set_to.0.contains(s) { set_to.1 } else { old[s] };
            if ask.contains(s) { timer.min(wait) } else { timer }
        };
        self.sources = new_x.iter().map(|s| (*s, timer(s))).collect();
        self.sources.extend(new_y.iter().map(|s| (*s, 0)));
        self.group = if ask_group { new_gt.min(wait) } else { new_gt };
        if self.group == 0 {
            self.sources.retain(|_, t| *t > 0);
        }
    }

    fn state(&self, now: u64) -> State {
        (
            self.sources.iter().filter(|(_, t)| **t > 0).map(|(s, t)| (*s, now + t)).collect(),
            self.sources
                .iter()
                .filter(|(_, t)| **t == 0 && self.group > 0)
                .map(|(s, _)| *s)
                .collect(),
            (self.group > 0).then_some(now + self.group),
        )
    }
}

#[derive(Debug, Clone)]
enum Event {
    Pass(u64),
    Record(RecordType, Set),
}

fn event() -> impl Strategy<Value = Event> {
    let kind = prop::sample::select(vec![IsIn, IsEx, ToIn, ToEx, Allow, Block, Unknown(99)]);
    let sources = prop::collection::btree_set(prop::char::range('a', 'f'), 0..5);
    prop_oneof![
        3 => (kind, sources).prop_map(|(kind, sources)| Event::Record(kind, sources)),
        1 => prop_oneof![Just(1), Just(2), 3..=20u64, 200..300u64].prop_map(Event::Pass),
    ]
}

proptest! {
    #[test]
    fn any_sequence_gives_what_the_model_gives(
        fast_leave in any::<bool>(),
        events in prop::collection::vec(event(), 1..60),
    ) {
        let mut lab = Lab::new(&include(&[]), fast_leave);
        let mut model = Model::default();
        for event in &events {
            match event {
                Event::Pass(seconds) => {
                    let queries = lab.run_until(lab.now + seconds);
                    prop_assert!(!fast_leave || queries.is_empty());
                    (0..*seconds).for_each(|_| model.pass_a_second());
                }
                Event::Record(kind, sources) => {
                    let list: String = sources.iter().collect();
                    let queries = lab.apply(*kind, &list);
                    prop_assert!(queries.len() <= 3);
                    prop_assert!(!fast_leave || queries.is_empty());
                    model.apply(fast_leave, *kind, sources);
                }
            }
            prop_assert_eq!(lab.state(), model.state(lab.now));
            let ended = lab.group.poll_timeout().is_none();
            prop_assert_eq!(lab.group.is_empty(), ended, "a group has a timer while it lasts");
        }
    }

    /// Each source or group asked for is asked for LMQC times in all, unless it goes earlier.
    #[test]
    fn no_query_is_repeated_more_than_lmqc_times(
        events in prop::collection::vec(event(), 1..20),
    ) {
        let mut lab = Lab::new(&include(&[]), false);
        for event in &events {
            match event {
                Event::Pass(seconds) => _ = lab.run_until(lab.now + seconds),
                Event::Record(kind, sources) => {
                    _ = lab.apply(*kind, &sources.iter().collect::<String>());
                }
            }
        }
        let after = lab.now;
        let late = lab.run_until(after + 1000);
        prop_assert!(late.iter().all(|(at, _)| *at <= after + 1), "{late:?}");
        prop_assert!(lab.group.is_empty());
    }
}

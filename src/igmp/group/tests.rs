//! The table of RFC 9776 §6.4, cell by cell, and its timers, on a virtual clock. Sources are
//! letters. `line_3_M_*` are about that line of the conformance checklist.

use std::time::Duration;

use RecordType::*;

use crate::igmp::group::*;

mod model;

const GMI: u64 = 270;
const LMQT: u64 = 2;

/// A group and its clock, in seconds.
struct Lab {
    start: Instant,
    now: u64,
    config: GroupConfig,
    group: GroupState<char>,
}

/// Sources with the second at which their timer ends, excluded sources, and the end of the
/// group timer in EXCLUDE mode.
type State = (Vec<(char, u64)>, String, Option<u64>);

fn include(sources: &[(char, u64)]) -> State {
    (sources.into(), String::new(), None)
}

fn exclude(requested: &[(char, u64)], excluded: &str, expires: u64) -> State {
    (requested.into(), excluded.into(), Some(expires))
}

fn set(letters: &str) -> BTreeSet<char> {
    letters.chars().collect()
}

/// `a,b!` is a query for sources with S; the empty one is group-specific.
fn query(sources: &str, suppress: bool) -> SpecificQuery<char> {
    SpecificQuery { suppress, sources: sources.chars().collect() }
}

impl Lab {
    /// At second 0.
    fn new(state: &State, fast_leave: bool) -> Self {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let timers: BTreeMap<char, Instant> = state.0.iter().map(|(s, t)| (*s, at(*t))).collect();
        let mut group = GroupState::new();
        group.members = match state.2 {
            None => Members::Include { sources: timers },
            Some(t) => {
                Members::Exclude { requested: timers, excluded: set(&state.1), expires: at(t) }
            }
        };
        Lab { start, now: 0, config: GroupConfig { timing: Timing::default(), fast_leave }, group }
    }

    fn instant(&self) -> Instant {
        self.start + Duration::from_secs(self.now)
    }

    fn apply(&mut self, kind: RecordType, sources: &str) -> Vec<SpecificQuery<char>> {
        self.group.apply(self.instant(), &self.config, kind, &set(sources));
        self.queries()
    }

    /// Lets the clock run, stopping where the group asks for it; queries with their second.
    fn run_until(&mut self, second: u64) -> Vec<(u64, SpecificQuery<char>)> {
        let mut queries = Vec::new();
        let end = self.start + Duration::from_secs(second);
        while let Some(at) = self.group.poll_timeout()
            && at <= end
        {
            assert!(at > self.instant(), "a timer that is due was left running");
            self.now = at.duration_since(self.start).as_secs();
            self.group.handle_timeout(at, &self.config);
            queries.extend(self.queries().into_iter().map(|q| (self.now, q)));
        }
        self.now = second;
        queries
    }

    fn queries(&mut self) -> Vec<SpecificQuery<char>> {
        std::iter::from_fn(|| self.group.poll_query()).collect()
    }

    fn state(&self) -> State {
        let second = |at: &Instant| at.duration_since(self.start).as_secs();
        let timers = |map: &BTreeMap<char, Instant>| {
            map.iter().map(|(source, at)| (*source, second(at))).collect()
        };
        match &self.group.members {
            Members::Include { sources } => (timers(sources), String::new(), None),
            Members::Exclude { requested, excluded, expires } => {
                (timers(requested), excluded.iter().collect(), Some(second(expires)))
            }
        }
    }
}

/// One row: state, record, new state, queries.
fn row(before: &State, kinds: &[RecordType], list: &str, after: State, asked: &[&str]) {
    for kind in kinds {
        let mut lab = Lab::new(before, false);
        let queries = lab.apply(*kind, list);
        assert_eq!(lab.state(), after, "{before:?} {kind:?}({list})");
        let expected: Vec<_> = asked.iter().map(|sources| query(sources, false)).collect();
        assert_eq!(queries, expected, "{before:?} {kind:?}({list})");
    }
}

/// IN(A) with A = abc and a record B = bcd.
#[test]
fn table_rows_of_include() {
    let before = include(&[('a', 100), ('b', 100), ('c', 100)]);
    let rows = |kinds: &[_], after, asked: &[&str]| row(&before, kinds, "bcd", after, asked);
    rows(&[IsIn, Allow], include(&[('a', 100), ('b', GMI), ('c', GMI), ('d', GMI)]), &[]);
    rows(&[IsEx], exclude(&[('b', 100), ('c', 100)], "d", GMI), &[]);
    rows(&[Block], include(&[('a', 100), ('b', LMQT), ('c', LMQT)]), &["bc"]);
    rows(&[ToEx], exclude(&[('b', LMQT), ('c', LMQT)], "d", GMI), &["bc"]);
    rows(&[ToIn], include(&[('a', LMQT), ('b', GMI), ('c', GMI), ('d', GMI)]), &["a"]);
    rows(&[Unknown(7)], before.clone(), &[]);
}

/// EX(X, Y) with X = ab, Y = fg and a record A = bgz.
#[test]
fn table_rows_of_exclude() {
    let before = exclude(&[('a', 100), ('b', 100)], "fg", 200);
    let rows = |kinds: &[_], after, asked: &[&str]| row(&before, kinds, "bgz", after, asked);
    let added = [('a', 100), ('b', GMI), ('g', GMI), ('z', GMI)];
    rows(&[IsIn, Allow], exclude(&added, "f", 200), &[]);
    rows(&[IsEx], exclude(&[('b', 100), ('z', GMI)], "g", GMI), &[]);
    rows(&[Block], exclude(&[('a', 100), ('b', LMQT), ('z', LMQT)], "fg", 200), &["bz"]);
    rows(&[ToEx], exclude(&[('b', LMQT), ('z', LMQT)], "g", GMI), &["bz"]);
    let added = [('a', LMQT), ('b', GMI), ('g', GMI), ('z', GMI)];
    rows(&[ToIn], exclude(&added, "f", LMQT), &["a", ""]);
    rows(&[Unknown(0)], before.clone(), &[]);
}

/// Every row again with an empty record and with an empty state.
#[test]
fn table_rows_with_empty_sets() {
    let some = include(&[('a', 100)]);
    row(&some, &[IsIn, Allow, Block], "", some.clone(), &[]);
    row(&some, &[IsEx, ToEx], "", exclude(&[], "", GMI), &[]);
    row(&some, &[ToIn], "", include(&[('a', LMQT)]), &["a"]);
    let none = include(&[]);
    row(&none, &[IsIn, Allow, ToIn], "a", include(&[('a', GMI)]), &[]);
    row(&none, &[IsEx, ToEx], "a", exclude(&[], "a", GMI), &[]);
    row(&none, &[Block], "a", none.clone(), &[]);
    let all = exclude(&[], "", 200);
    row(&all, &[IsIn, Allow], "a", exclude(&[('a', GMI)], "", 200), &[]);
    row(&all, &[IsEx], "a", exclude(&[('a', GMI)], "", GMI), &[]);
    row(&all, &[Block], "a", exclude(&[('a', LMQT)], "", 200), &["a"]);
    row(&all, &[ToEx], "a", exclude(&[('a', LMQT)], "", GMI), &["a"]);
    row(&all, &[ToIn], "", exclude(&[], "", LMQT), &[""]);
    row(&all, &[ToIn], "a", exclude(&[('a', GMI)], "", LMQT), &[""]);
    row(&all, &[IsEx, ToEx], "", exclude(&[], "", GMI), &[]);
}

/// (A-X-Y) of BLOCK and TO_EX starts with the group timer, also when that is nearly over.
#[test]
fn table_new_sources_of_exclude_start_with_the_group_timer() {
    let before = exclude(&[], "", 1);
    row(&before, &[Block], "z", exclude(&[('z', 1)], "", 1), &[]);
    row(&before, &[ToEx], "z", exclude(&[('z', 1)], "", GMI), &[]);
}

#[test]
fn line_3_1_in_include_a_source_ends_with_its_timer_and_the_group_with_the_last() {
    let mut lab = Lab::new(&include(&[('a', 5), ('b', 9)]), false);
    lab.run_until(4);
    assert_eq!(lab.state(), include(&[('a', 5), ('b', 9)]));
    lab.run_until(5);
    assert_eq!(lab.state(), include(&[('b', 9)]));
    assert!(!lab.group.is_empty());
    lab.run_until(9);
    assert!(lab.group.is_empty());
    assert_eq!(lab.group.poll_timeout(), None);
}

#[test]
fn line_3_1_in_exclude_a_requested_source_becomes_an_excluded_one() {
    let mut lab = Lab::new(&exclude(&[('a', 5), ('b', 9)], "y", 100), false);
    assert_eq!(lab.group.filter(), SourceFilter::exclude(['y']));
    lab.run_until(5);
    assert_eq!(lab.state(), exclude(&[('b', 9)], "ay", 100));
    assert_eq!(lab.group.filter(), SourceFilter::exclude(['a', 'y']));
}

#[test]
fn line_3_1_the_end_of_the_group_timer_leaves_include_of_the_running_sources() {
    let mut lab = Lab::new(&exclude(&[('a', 5), ('b', 200)], "y", 100), false);
    lab.run_until(100);
    assert_eq!(lab.state(), include(&[('b', 200)]));
    let mut lab = Lab::new(&exclude(&[('a', 5)], "y", 100), false);
    lab.run_until(99);
    assert!(!lab.group.is_empty());
    lab.run_until(100);
    assert!(lab.group.is_empty());
}

#[test]
fn line_3_1_a_late_call_gives_what_calls_in_time_would_have() {
    let before = exclude(&[('a', 5), ('b', 200), ('c', 100)], "y", 100);
    let mut lab = Lab::new(&before, false);
    lab.now = 150;
    lab.group.handle_timeout(lab.instant(), &lab.config);
    assert_eq!(lab.state(), include(&[('b', 200)]));
}

#[test]
fn line_3_2_a_group_query_lowers_the_timer_and_is_sent_lmqc_times() {
    let mut lab = Lab::new(&exclude(&[], "", 200), false);
    assert_eq!(lab.apply(ToIn, ""), [query("", false)]);
    assert_eq!(lab.state(), exclude(&[], "", LMQT));
    assert_eq!(lab.run_until(100), [(1, query("", false))]);
    assert!(lab.group.is_empty());
}

#[test]
fn line_3_2_s_is_set_while_the_group_timer_is_above_lmqt() {
    let mut lab = Lab::new(&exclude(&[], "", 200), false);
    lab.apply(ToIn, "");
    // Another member answers before the retransmission.
    lab.apply(IsEx, "");
    assert_eq!(lab.run_until(100), [(1, query("", true))]);
    assert_eq!(lab.state(), exclude(&[], "", GMI));
}

#[test]
fn line_3_2_a_group_that_is_gone_is_not_asked_for_again() {
    let mut lab = Lab::new(&exclude(&[('a', 100)], "", 1), false);
    let (qi, qri, lmqi) = (Duration::from_secs(125), Duration::from_secs(10), 5);
    lab.config.timing = Timing::new(3, qi, qri, Duration::from_secs(lmqi)).unwrap();
    assert_eq!(lab.apply(ToIn, "a"), [query("", false)]);
    lab.run_until(1);
    assert_eq!(lab.state(), include(&[('a', 395)]));
    // Joined anew, before the retransmission would have been due.
    lab.apply(ToEx, "");
    assert_eq!(lab.run_until(100), []);
}

#[test]
fn line_3_2_a_timer_below_lmqt_is_not_raised() {
    let mut lab = Lab::new(&exclude(&[], "", 1), false);
    lab.apply(ToIn, "");
    assert_eq!(lab.state(), exclude(&[], "", 1));
}

#[test]
fn line_3_3_only_timers_above_lmqt_are_lowered_and_asked_for() {
    let mut lab = Lab::new(&include(&[('a', 1), ('b', 2), ('c', 3)]), false);
    assert_eq!(lab.apply(Block, "abc"), [query("c", false)]);
    assert_eq!(lab.state(), include(&[('a', 1), ('b', 2), ('c', 2)]));
    assert_eq!(lab.run_until(100), [(1, query("c", false))]);
}

#[test]
fn line_3_3_one_message_with_s_for_sources_wanted_again_and_one_for_the_rest() {
    let mut lab = Lab::new(&include(&[('a', 100), ('b', 100)]), false);
    assert_eq!(lab.apply(Block, "ab"), [query("ab", false)]);
    lab.apply(IsIn, "a");
    assert_eq!(lab.run_until(50), [(1, query("a", true)), (1, query("b", false))]);
    assert_eq!(lab.state(), include(&[('a', GMI)]));
}

#[test]
fn line_3_3_a_new_query_is_merged_with_retransmissions_pending() {
    let timing =
        Timing::new(3, Duration::from_secs(125), Duration::from_secs(10), Duration::from_secs(1))
            .unwrap();
    let mut lab = Lab::new(&include(&[('a', 100), ('b', 100)]), false);
    lab.config.timing = timing;
    assert_eq!(lab.apply(Block, "a"), [query("a", false)]);
    assert_eq!(lab.run_until(1), [(1, query("a", false))]);
    // The third one for a goes along with the first for b.
    assert_eq!(lab.apply(Block, "b"), [query("ab", false)]);
    assert_eq!(lab.run_until(50), [(2, query("b", false)), (3, query("b", false))]);
    assert!(lab.group.is_empty());
}

#[test]
fn line_3_3_only_state_changes_cause_queries() {
    for before in [include(&[('a', 100)]), exclude(&[('a', 100)], "y", 200)] {
        for kind in [IsIn, IsEx, Allow, Unknown(9)] {
            assert_eq!(Lab::new(&before, false).apply(kind, "b"), []);
        }
    }
}

#[test]
fn line_3_4_fast_leave_drops_at_once_what_would_be_asked_for() {
    let after = |before: &State, kind, list| {
        let mut lab = Lab::new(before, true);
        assert_eq!(lab.apply(kind, list), []);
        assert!(lab.group.group_queries.is_none() && lab.group.source_queries.is_empty());
        lab.state()
    };
    let including = include(&[('a', 100), ('b', 100), ('c', 100)]);
    assert_eq!(after(&including, Block, "bcd"), include(&[('a', 100)]));
    assert_eq!(after(&including, ToIn, "bcd"), include(&[('b', GMI), ('c', GMI), ('d', GMI)]));
    assert_eq!(after(&including, ToIn, ""), include(&[]));
    assert_eq!(after(&including, ToEx, "bcd"), exclude(&[], "bcd", GMI));
    let excluding = exclude(&[('a', 100), ('b', 100)], "fg", 200);
    assert_eq!(after(&excluding, Block, "bgz"), exclude(&[('a', 100)], "bfgz", 200));
    assert_eq!(after(&excluding, ToIn, "bg"), include(&[('b', GMI), ('g', GMI)]));
    assert_eq!(after(&excluding, ToEx, "bgz"), exclude(&[], "bgz", GMI));
    assert_eq!(after(&excluding, ToIn, ""), include(&[]));
}

/// Mistake: EX({x}) dropped, so that all other sources starve.
#[test]
fn line_5_exclude_of_one_source_wants_all_others() {
    let mut lab = Lab::new(&include(&[]), true);
    lab.apply(ToEx, "x");
    assert_eq!(lab.group.filter(), SourceFilter::exclude(['x']));
}

/// Mistake: any-source and source-specific members of one group upset each other.
#[test]
fn line_5_any_source_and_source_specific_members_share_a_group() {
    let mut lab = Lab::new(&include(&[]), false);
    lab.apply(Allow, "a");
    lab.apply(ToEx, "");
    assert_eq!(lab.group.filter(), SourceFilter::any());
    lab.apply(IsIn, "a");
    // The any-source member goes; the other one answers for a.
    lab.apply(ToIn, "");
    lab.apply(IsIn, "a");
    lab.run_until(10);
    assert_eq!(lab.group.filter(), SourceFilter::include(['a']));
}

#[test]
fn a_state_known_from_elsewhere_replaces_all() {
    let mut lab = Lab::new(&exclude(&[('a', 100)], "fg", 200), false);
    lab.apply(ToIn, "");
    lab.group.replace(lab.instant(), &lab.config, &SourceFilter::include(['q']));
    assert_eq!(lab.state(), include(&[('q', GMI)]));
    assert_eq!(lab.run_until(100), []);
    lab.group.replace(lab.instant(), &lab.config, &SourceFilter::exclude(['q']));
    assert_eq!(lab.state(), exclude(&[], "q", 100 + GMI));
    lab.group.replace(lab.instant(), &lab.config, &SourceFilter::none());
    assert!(lab.group.is_empty());
}

//! Joins and leaves, compatibility modes, source-specific multicast (sections 3, 4 and 5).

use crate::igmp::router::tests::lab::*;
use crate::igmp::router::{Status, counter};
use crate::igmp::wire::RecordType::*;
use crate::igmp::wire::{Message, Version};
use crate::multicast::{GroupPolicy, SourceFilter};
use crate::notice::Notice;

const GROUP: &str = "239.1.1.1";
const A: &str = "10.0.0.1";
const B: &str = "10.0.0.2";

fn v1(group: &str) -> Message {
    Message::ReportV1 { group: ip(group) }
}
fn v2(group: &str) -> Message {
    Message::ReportV2 { group: ip(group) }
}
fn leave_v2(group: &str) -> Message {
    Message::LeaveV2 { group: ip(group) }
}

#[test]
fn line_1_2_a_membership_ends_270_s_after_its_last_report() {
    let mut lab = Lab::new();
    lab.join(GROUP);
    lab.pass(seconds(200));
    lab.report(IsEx, GROUP, &[]);
    lab.pass(ms(269_999));
    assert_eq!(lab.joined(GROUP), SourceFilter::any());
    lab.pass(ms(1));
    assert_eq!(lab.joined(GROUP), SourceFilter::none());
    assert_eq!(lab.router.groups().count(), 0);
}

#[test]
fn what_the_kernel_has_joined_outlives_its_membership_interval() {
    let mut lab = Lab::new();
    lab.join(GROUP);
    lab.report(Allow, "239.1.1.2", &[A, B]);
    let group = ip("239.1.1.2");
    lab.pass(ms(269_999));
    assert_eq!(lab.router.expiring(lab.now), []);
    let due = lab.now + ms(1);
    let expiring = lab.router.expiring(due);
    assert_eq!(expiring, [(ip(GROUP), SourceFilter::any()), (group, include(&[A, B]))]);
    let since = lab.view("239.1.1.2").map(|view| view.since);
    // Of the other nothing is known any more; of this one a source has been left.
    lab.router.confirm(due, group, &include(&[B]));
    lab.pass(ms(1));
    assert_eq!(lab.joined(GROUP), SourceFilter::none());
    assert_eq!(lab.joined("239.1.1.2"), include(&[B]));
    assert_eq!(lab.view("239.1.1.2").map(|view| view.since), since);
    assert_eq!(lab.counter(counter::CONFIRMED), 1);
    lab.pass(ms(269_999));
    assert_eq!(lab.joined("239.1.1.2"), include(&[B]));
    lab.pass(ms(1));
    assert_eq!(lab.router.groups().count(), 0);
}

#[test]
fn line_3_1_sources_end_one_by_one() {
    let mut lab = Lab::slow_leave();
    lab.report(Allow, GROUP, &[A]);
    lab.pass(seconds(100));
    lab.report(Allow, GROUP, &[B]);
    lab.pass(seconds(170));
    assert_eq!(lab.joined(GROUP), include(&[B]));
    lab.pass(seconds(100));
    assert_eq!(lab.joined(GROUP), SourceFilter::none());
}

#[test]
fn line_3_2_without_fast_leave_the_group_is_asked_for_and_left_after_2_s() {
    let mut lab = Lab::slow_leave();
    lab.join(GROUP);
    lab.leave(GROUP);
    assert_eq!(lab.joined(GROUP), SourceFilter::any());
    lab.pass(ms(1999));
    assert_eq!(lab.joined(GROUP), SourceFilter::any());
    lab.pass(ms(1));
    assert_eq!(lab.joined(GROUP), SourceFilter::none());
    let queries = lab.take_queries();
    assert_eq!(queries.iter().map(|h| h.at).collect::<Vec<_>>(), [ms(0), seconds(1)]);
    for heard in queries {
        assert_eq!(heard.query.group, Some(ip(GROUP)));
        assert_eq!(heard.query.max_resp, seconds(1));
        assert!(!heard.query.suppress && heard.query.sources.is_empty());
    }
}

#[test]
fn line_3_2_an_answer_keeps_the_group() {
    let mut lab = Lab::slow_leave();
    lab.join(GROUP);
    lab.leave(GROUP);
    lab.pass(ms(500));
    lab.report(IsEx, GROUP, &[]);
    lab.pass(seconds(10));
    assert_eq!(lab.joined(GROUP), SourceFilter::any());
    let queries = lab.take_queries();
    assert_eq!(queries.iter().map(|h| h.query.suppress).collect::<Vec<_>>(), [false, true]);
    assert_eq!(lab.changes.len(), 1, "upstream saw nothing of it");
}

#[test]
fn line_3_3_without_fast_leave_blocked_sources_are_asked_for() {
    let mut lab = Lab::slow_leave();
    lab.report(Allow, GROUP, &[A, B]);
    lab.report(Block, GROUP, &[A]);
    let queries = lab.take_queries();
    assert_eq!(queries.len(), 1);
    assert_eq!(queries[0].query.sources, [ip(A)]);
    lab.pass(seconds(2));
    assert_eq!(lab.joined(GROUP), include(&[B]));
}

#[test]
fn line_3_4_fast_leave_acts_at_once_and_asks_nothing() {
    let mut lab = Lab::new();
    lab.join(GROUP);
    lab.leave(GROUP);
    assert_eq!(lab.joined(GROUP), SourceFilter::none());
    lab.send(v2(GROUP));
    lab.send(leave_v2(GROUP));
    assert_eq!(lab.joined(GROUP), SourceFilter::none());
    lab.report(Allow, GROUP, &[A, B]);
    lab.report(Block, GROUP, &[A]);
    assert_eq!(lab.joined(GROUP), include(&[B]));
    assert_eq!(lab.queries, []);
}

#[test]
fn line_3_5_v2_messages_join_and_leave() {
    let mut lab = Lab::new();
    lab.send(v2(GROUP));
    assert_eq!(lab.joined(GROUP), SourceFilter::any());
    assert_eq!(lab.view(GROUP).unwrap().version, Version::V2);
    lab.send(leave_v2(GROUP));
    assert_eq!(lab.joined(GROUP), SourceFilter::none());
}

#[test]
fn line_3_5_in_v2_mode_block_and_source_lists_of_to_ex_are_ignored() {
    let mut lab = Lab::new();
    lab.send(v2(GROUP));
    lab.report(Block, GROUP, &[A]);
    assert_eq!(lab.joined(GROUP), SourceFilter::any());
    assert_eq!(lab.counter(counter::COMPATIBILITY_MODE), 1);
    lab.report(ToEx, GROUP, &[A]);
    assert_eq!(lab.joined(GROUP), SourceFilter::any());
    // TO_IN is not ignored.
    lab.report(ToIn, GROUP, &[B]);
    assert_eq!(lab.joined(GROUP), include(&[B]));
}

#[test]
fn line_3_5_in_v1_mode_leaves_and_to_in_are_ignored_too() {
    let mut lab = Lab::new();
    lab.send(v1(GROUP));
    assert_eq!(lab.view(GROUP).unwrap().version, Version::V1);
    lab.send(leave_v2(GROUP));
    lab.report(ToIn, GROUP, &[]);
    lab.report(Block, GROUP, &[A]);
    lab.report(ToEx, GROUP, &[A]);
    assert_eq!(lab.joined(GROUP), SourceFilter::any());
    assert_eq!(lab.counter(counter::COMPATIBILITY_MODE), 3);
}

#[test]
fn line_3_5_the_oldest_version_rules_until_its_timer_ends() {
    let mut lab = Lab::new();
    lab.send(v1(GROUP));
    lab.pass(seconds(100));
    lab.send(v2(GROUP));
    assert_eq!(lab.view(GROUP).unwrap().version, Version::V1);
    lab.pass(seconds(159));
    lab.report(IsEx, GROUP, &[]);
    assert_eq!(lab.view(GROUP).unwrap().version, Version::V1);
    lab.pass(seconds(1));
    lab.report(IsEx, GROUP, &[]);
    assert_eq!(lab.view(GROUP).unwrap().version, Version::V2, "260 s after the v1 report");
    lab.pass(seconds(100));
    lab.report(Block, GROUP, &[A]);
    assert_eq!(lab.view(GROUP).unwrap().version, Version::V3, "260 s after the v2 report");
    assert_eq!(lab.joined(GROUP), exclude(&[A]));
}

#[test]
fn line_3_5_modes_are_each_groups_own() {
    let mut lab = Lab::new();
    lab.send(v1(GROUP));
    lab.join("239.2.2.2");
    lab.leave("239.2.2.2");
    assert_eq!(lab.joined("239.2.2.2"), SourceFilter::none());
    assert_eq!(lab.joined(GROUP), SourceFilter::any());
}

#[test]
fn line_3_6_in_the_ssm_range_a_join_from_any_source_is_joined_and_told() {
    let group = "232.1.1.1";
    let record = |kind| Message::ReportV3(vec![record(kind, group, &[])]);
    for join in [v1(group), v2(group), record(ToEx), record(IsEx)] {
        let mut lab = Lab::new();
        lab.send(join);
        assert_eq!(lab.joined(group), SourceFilter::any());
        let interface = String::new();
        let notice = Notice::AnySourceJoin { interface, group: ip(group).into() };
        assert_eq!(lab.notices, [notice]);
        assert_eq!(lab.counter(counter::SSM_ANY_SOURCE), 1);
    }
    let mut lab = Lab::new();
    lab.send(v2(group));
    lab.send(leave_v2(group));
    assert_eq!(lab.joined(group), SourceFilter::none());
    // A channel does not become wider than its join.
    lab.report(Allow, "232.1.1.2", &[A]);
    assert_eq!(lab.joined("232.1.1.2"), include(&[A]));
}

fn strict() -> Lab {
    Lab::with_policy(GroupPolicy { ssm_strict: true, ..GroupPolicy::default() })
}

#[test]
fn line_3_6_ssm_strict_denies_joins_from_any_source_and_keeps_channels() {
    let group = "232.1.1.1";
    let mut lab = strict();
    lab.report(ToEx, group, &[A]);
    lab.send(v2(group));
    assert_eq!(lab.changes, []);
    assert_eq!(lab.counter(counter::SSM_ANY_SOURCE), 2);
    let view = lab.router.groups().next().expect("the group is shown");
    assert_eq!(view.status, Status::Denied("ssm-strict=true".into()));
    let mut lab = strict();
    // Joins that name their sources are what the range is for.
    lab.report(Allow, group, &[A]);
    assert_eq!(lab.joined(group), include(&[A]));
    lab.report(ToEx, group, &[]);
    assert!(lab.notices.contains(&Notice::AnySourceJoinIgnored {
        interface: String::new(),
        group: ip(group).into(),
    }));
    lab.send(leave_v2(group));
    assert_eq!(lab.joined(group), include(&[A]));
    lab.report(Block, group, &[A]);
    assert_eq!(lab.joined(group), SourceFilter::none());
    lab.join("233.0.0.0");
    assert_eq!(lab.joined("233.0.0.0"), SourceFilter::any());
}

#[test]
fn line_3_6_the_log_is_rate_limited() {
    let mut lab = strict();
    lab.report(Allow, "232.1.1.1", &[A]);
    for _ in 0..10_000 {
        lab.join("232.1.1.1");
    }
    assert!(lab.notices.len() <= 16, "{} notices", lab.notices.len());
    assert!(!lab.notices.is_empty());
    assert_eq!(lab.counter(counter::SSM_ANY_SOURCE), 10_000);
}

#[test]
fn line_4_1_upstream_gets_y_of_exclude_and_a_of_include() {
    let mut lab = Lab::new();
    lab.report(ToEx, GROUP, &[A, B]);
    assert_eq!(lab.joined(GROUP), exclude(&[A, B]));
    lab.report(Allow, GROUP, &[A]);
    assert_eq!(lab.joined(GROUP), exclude(&[B]));
    lab.report(ToIn, GROUP, &[A]);
    assert_eq!(lab.joined(GROUP), include(&[A]));
}

/// From one filter to the next upstream sees neither a leave nor anything wider.
#[test]
fn line_4_2_and_4_3_a_filter_changes_in_one_step() {
    let mut lab = Lab::new();
    lab.report(Allow, GROUP, &[A]);
    // One report, as a kernel sends it when a socket swaps one source for another.
    lab.send(Message::ReportV3(vec![record(Block, GROUP, &[A]), record(Allow, GROUP, &[B])]));
    lab.report(ToEx, GROUP, &[A]);
    lab.report(ToIn, GROUP, &[B]);
    let group = ip(GROUP);
    let steps = [include(&[A]), include(&[B]), exclude(&[A]), include(&[B])];
    assert_eq!(lab.changes, steps.map(|filter| (group, filter)));
}

/// Mistake: one listener's leave cuts another listener of the same group.
#[test]
fn line_5_one_listener_of_several_in_the_container_leaves() {
    // Two sockets, one for each source: the kernel tells the difference only.
    let mut lab = Lab::new();
    lab.report(Allow, GROUP, &[A]);
    lab.report(Allow, GROUP, &[B]);
    lab.report(Block, GROUP, &[A]);
    assert_eq!(lab.joined(GROUP), include(&[B]));
    // One from any source and one for B: the kernel says what is left.
    lab.report(ToEx, GROUP, &[]);
    lab.report(ToIn, GROUP, &[B]);
    assert_eq!(lab.joined(GROUP), include(&[B]));
    // Without fast leave another host of the link answers, and keeps the group.
    let mut lab = Lab::slow_leave();
    lab.send(v2(GROUP));
    lab.send(leave_v2(GROUP));
    lab.pass(ms(700));
    lab.send(v2(GROUP));
    lab.pass(seconds(100));
    assert_eq!(lab.changes, [(ip(GROUP), SourceFilter::any())]);
}

#[test]
fn groups_show_what_was_joined_and_since_when() {
    let mut lab = Lab::new();
    lab.pass(seconds(5));
    lab.report(Allow, GROUP, &[A]);
    lab.pass(seconds(5));
    lab.report(IsIn, GROUP, &[A]);
    let view = lab.view(GROUP).unwrap();
    assert_eq!(view.since, lab.start + seconds(5));
    assert_eq!((view.wanted, view.upstream), (include(&[A]), include(&[A])));
    assert_eq!((view.version, view.status), (Version::V3, Status::Allowed));
}

#[test]
fn repeated_reports_change_nothing_upstream() {
    let mut lab = Lab::new();
    for _ in 0..5 {
        lab.join(GROUP);
        lab.report(IsEx, GROUP, &[]);
        lab.pass(seconds(60));
    }
    assert_eq!(lab.changes.len(), 1);
}

#[test]
fn a_membership_known_from_elsewhere_counts_like_a_report() {
    let mut lab = Lab::slow_leave();
    let learn = |lab: &mut Lab, group: &str, filter: SourceFilter| {
        lab.event(|router, now| router.handle_membership(now, ip(group), &filter));
    };
    learn(&mut lab, GROUP, exclude(&[A]));
    assert_eq!(lab.joined(GROUP), exclude(&[A]));
    learn(&mut lab, GROUP, include(&[B]));
    assert_eq!(lab.joined(GROUP), include(&[B]));
    learn(&mut lab, GROUP, SourceFilter::none());
    assert_eq!(lab.joined(GROUP), SourceFilter::none());
    assert_eq!(lab.queries, [], "the kernel's own word needs no question");
    for group in ["224.0.0.251", "10.0.0.1"] {
        learn(&mut lab, group, SourceFilter::any());
        assert_eq!(lab.joined(group), SourceFilter::none());
    }
    learn(&mut lab, GROUP, SourceFilter::any());
    lab.pass(seconds(270));
    assert_eq!(lab.joined(GROUP), SourceFilter::none(), "nothing confirmed it");
}

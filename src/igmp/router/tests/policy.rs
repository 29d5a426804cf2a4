//! Who may join what.

use crate::igmp::router::tests::lab::*;
use crate::igmp::router::{Status, counter};
use crate::igmp::wire::Message;
use crate::igmp::wire::RecordType::*;
use crate::multicast::GroupPolicy;
use crate::multicast::SourceFilter;
use crate::notice::Notice;

const GROUP: &str = "239.1.1.1";
const A: &str = "10.0.0.1";
const B: &str = "10.0.0.2";

fn set_policy(lab: &mut Lab, policy: GroupPolicy) {
    lab.event(|router, now| router.set_policy(now, policy));
}

fn denied(rule: &str) -> Option<Status> {
    Some(Status::Denied(rule.into()))
}

#[test]
fn line_4_5_a_denied_group_never_reaches_upstream_and_is_shown_with_its_rule() {
    let mut lab = Lab::with_policy(policy(&["239.1.0.0/16"], &[]));
    lab.join(GROUP);
    lab.report(Allow, "239.1.2.3", &[A]);
    lab.send(Message::ReportV2 { group: ip("239.1.9.9") });
    lab.join("239.2.2.2");
    assert_eq!(lab.upstream.keys().copied().collect::<Vec<_>>(), [ip("239.2.2.2")]);
    for group in [GROUP, "239.1.2.3", "239.1.9.9"] {
        assert_eq!(lab.status(group), denied("deny=239.1.0.0/16"));
    }
    let view = lab.view("239.1.2.3").unwrap();
    assert_eq!((view.wanted, view.upstream), (include(&[A]), SourceFilter::none()));
    assert_eq!(lab.counter(counter::DENIED), 3);
    assert!(lab.notices.contains(&Notice::JoinDenied {
        interface: String::new(),
        group: ip(GROUP).into(),
        rule: "deny=239.1.0.0/16".into(),
    }));
    lab.leave(GROUP);
    assert_eq!(lab.status(GROUP), None);
    assert_eq!(lab.changes.len(), 1);
}

#[test]
fn an_allow_denies_the_rest() {
    let mut lab = Lab::with_policy(policy(&[], &["239.1.0.0/16"]));
    lab.join(GROUP);
    lab.join("239.2.2.2");
    assert_eq!(lab.status(GROUP), Some(Status::Allowed));
    assert_eq!(lab.status("239.2.2.2"), denied("no allow rule names it"));
}

#[test]
fn ptp_is_denied_by_a_rule_only() {
    let mut lab = Lab::with_policy(policy(&[], &["239.1.0.0/16"]));
    lab.join("224.0.1.129");
    assert_eq!(lab.joined("224.0.1.129"), SourceFilter::any());
    set_policy(&mut lab, policy(&["224.0.1.129"], &[]));
    assert_eq!(lab.status("224.0.1.129"), denied("deny=224.0.1.129"));
}

#[test]
fn a_new_policy_gives_up_what_it_denies_and_joins_what_it_allows() {
    let mut lab = Lab::with_policy(policy(&["239.1.0.0/16"], &[]));
    lab.event(|router, now| router.handle_link_up(now));
    lab.pass(seconds(5));
    lab.take_queries();
    lab.join(GROUP);
    lab.join("239.2.2.2");
    set_policy(&mut lab, policy(&["239.2.0.0/16"], &[]));
    assert_eq!(lab.joined(GROUP), SourceFilter::any());
    assert_eq!(lab.joined("239.2.2.2"), SourceFilter::none());
    assert_eq!(lab.status("239.2.2.2"), denied("deny=239.2.0.0/16"));
    assert_eq!(lab.take_queries().len(), 1, "the container is asked for what was forgotten");
    lab.pass(seconds(269));
    assert_eq!(lab.joined(GROUP), SourceFilter::any());
    lab.pass(seconds(1));
    assert_eq!(lab.joined(GROUP), SourceFilter::none(), "timers go on as before");
}

#[test]
fn a_rule_with_a_source_turns_a_join_from_any_source_into_it() {
    let mut lab = Lab::with_policy(policy(&[], &["239.1.1.1@10.0.0.1", "239.1.1.1@10.0.0.2"]));
    lab.join(GROUP);
    assert_eq!(lab.joined(GROUP), include(&[A, B]));
    assert_eq!(lab.status(GROUP), Some(Status::Allowed));
    lab.report(ToEx, GROUP, &[A]);
    assert_eq!(lab.joined(GROUP), include(&[B]), "what the container excludes stays out");
    lab.report(ToIn, GROUP, &[A, "10.0.0.3"]);
    assert_eq!(lab.joined(GROUP), include(&[A]));
}

/// The join is as good as source-specific, so it is in order in the SSM range.
#[test]
fn line_3_6_a_rule_with_a_source_maps_joins_in_the_ssm_range() {
    let group = "232.1.1.1";
    let mut lab = Lab::with_policy(policy(&[], &["232.1.1.1@10.0.0.5"]));
    lab.send(Message::ReportV2 { group: ip(group) });
    assert_eq!(lab.joined(group), include(&["10.0.0.5"]));
    lab.send(Message::LeaveV2 { group: ip(group) });
    assert_eq!(lab.joined(group), SourceFilter::none());
    lab.join(group);
    // Without the rule, the join is what it was.
    set_policy(&mut lab, GroupPolicy::default());
    assert_eq!(lab.joined(group), SourceFilter::any());
    set_policy(&mut lab, GroupPolicy { ssm_strict: true, ..GroupPolicy::default() });
    assert_eq!(lab.joined(group), SourceFilter::none());
    assert_eq!(lab.status(group), denied("ssm-strict=true"));
}

#[test]
fn a_denied_source_is_taken_out() {
    let mut lab = Lab::with_policy(policy(&["239.0.0.0/8@10.0.0.1"], &[]));
    lab.report(Allow, GROUP, &[A, B]);
    assert_eq!(lab.joined(GROUP), include(&[B]));
    lab.report(Block, GROUP, &[B]);
    assert_eq!(lab.joined(GROUP), SourceFilter::none());
    assert_eq!(lab.status(GROUP), denied("deny=239.0.0.0/8@10.0.0.1"));
    lab.report(ToEx, GROUP, &[B]);
    assert_eq!(lab.joined(GROUP), exclude(&[A, B]));
}

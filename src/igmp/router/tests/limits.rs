//! `max-groups`, `max-sources`, the rate of changes, and what is remembered of the rest.

use crate::igmp::RouterConfig;
use crate::igmp::router::tests::lab::*;
use crate::igmp::router::{Status, counter};
use crate::igmp::wire::RecordType::*;
use crate::igmp::wire::{GroupRecord, Message};
use crate::multicast::GroupPolicy;
use crate::multicast::SourceFilter;
use crate::notice::Notice;

const GROUP: &str = "239.1.1.1";

fn limited(max_groups: u32, max_sources: u32) -> GroupPolicy {
    GroupPolicy { max_groups, max_sources, ..GroupPolicy::default() }
}

fn beyond(limit: &str) -> Option<Status> {
    Some(Status::Limited(limit.into()))
}

#[test]
fn a_group_beyond_the_limit_waits_for_room_the_oldest_first() {
    let mut lab = Lab::with_policy(limited(2, 64));
    for group in ["239.1.1.4", "239.1.1.3", "239.1.1.2", "239.1.1.1"] {
        lab.join(group);
        lab.pass(seconds(1));
    }
    assert_eq!(lab.upstream.len(), 2);
    assert_eq!(lab.status("239.1.1.2"), beyond("max-groups=2"));
    assert_eq!(lab.status("239.1.1.1"), beyond("max-groups=2"));
    lab.leave("239.1.1.4");
    assert_eq!(lab.status("239.1.1.2"), Some(Status::Allowed));
    assert_eq!(lab.joined("239.1.1.2"), SourceFilter::any());
    assert_eq!(lab.status("239.1.1.1"), beyond("max-groups=2"));
    assert_eq!(lab.counter(counter::GROUPS_LIMITED), 2);
    // A group that ends by its timer makes room too.
    lab.pass(seconds(200));
    lab.report(IsEx, "239.1.1.1", &[]);
    lab.pass(seconds(100));
    assert_eq!(lab.upstream.keys().copied().collect::<Vec<_>>(), [ip("239.1.1.1")]);
}

#[test]
fn a_waiting_group_is_joined_as_it_is_wanted_then() {
    let mut lab = Lab::with_policy(limited(1, 64));
    lab.join(GROUP);
    lab.report(Allow, "239.2.2.2", &["10.0.0.1"]);
    lab.report(Allow, "239.2.2.2", &["10.0.0.2"]);
    lab.leave(GROUP);
    assert_eq!(lab.joined("239.2.2.2"), include(&["10.0.0.1", "10.0.0.2"]));
}

#[test]
fn a_group_that_comes_to_be_denied_makes_room() {
    let denying = policy(&["239.0.0.0/8@10.0.0.1"], &[]);
    let mut lab = Lab::with_policy(GroupPolicy { max_groups: 1, ..denying });
    lab.report(Allow, GROUP, &["10.0.0.1", "10.0.0.2"]);
    lab.join("238.1.1.1");
    assert_eq!(lab.status("238.1.1.1"), beyond("max-groups=1"));
    lab.report(Block, GROUP, &["10.0.0.2"]);
    assert_eq!(lab.joined("238.1.1.1"), SourceFilter::any());
    // And comes back when it may, behind the one that has its room now.
    lab.report(Allow, GROUP, &["10.0.0.2"]);
    assert_eq!(lab.status(GROUP), beyond("max-groups=1"));
    lab.leave("238.1.1.1");
    assert_eq!(lab.joined(GROUP), include(&["10.0.0.2"]));
}

#[test]
fn neither_link_local_nor_denied_groups_take_room() {
    let mut lab = Lab::with_policy(GroupPolicy { max_groups: 1, ..policy(&["239.9.0.0/16"], &[]) });
    lab.join("224.0.0.251");
    lab.join("239.9.9.9");
    lab.join(GROUP);
    assert_eq!(lab.status(GROUP), Some(Status::Allowed));
}

#[test]
fn a_new_limit_keeps_the_oldest_groups() {
    let mut lab = Lab::with_policy(limited(256, 64));
    for group in ["239.1.1.3", "239.1.1.2", "239.1.1.1"] {
        lab.join(group);
        lab.pass(seconds(1));
    }
    lab.event(|router, now| router.set_policy(now, limited(1, 64)));
    assert_eq!(lab.upstream.keys().copied().collect::<Vec<_>>(), [ip("239.1.1.3")]);
    lab.event(|router, now| router.set_policy(now, limited(2, 64)));
    assert_eq!(lab.joined("239.1.1.2"), SourceFilter::any());
    lab.event(|router, now| router.set_policy(now, limited(0, 64)));
    assert_eq!(lab.upstream.len(), 0);
    assert_eq!(lab.router.groups().count(), 3);
}

#[test]
fn sources_beyond_the_limit_are_left_out_and_shown() {
    let mut lab = Lab::with_policy(limited(256, 2));
    lab.report(Allow, GROUP, &["10.0.0.3", "10.0.0.4"]);
    lab.report(Allow, GROUP, &["10.0.0.1"]);
    assert_eq!(lab.joined(GROUP), include(&["10.0.0.3", "10.0.0.4"]), "nobody is cut off");
    assert_eq!(lab.status(GROUP), beyond("max-sources=2"));
    // The whole list fits again.
    lab.report(Block, GROUP, &["10.0.0.3"]);
    lab.report(IsIn, GROUP, &["10.0.0.1", "10.0.0.4"]);
    assert_eq!(lab.joined(GROUP), include(&["10.0.0.1", "10.0.0.4"]));
    assert_eq!(lab.status(GROUP), Some(Status::Allowed));
    // A list that replaces the old one may be wholly new.
    lab.report(ToIn, GROUP, &["10.0.0.7", "10.0.0.8"]);
    assert_eq!(lab.joined(GROUP), include(&["10.0.0.7", "10.0.0.8"]));
    assert_eq!(lab.status(GROUP), Some(Status::Allowed));
}

/// Of an EXCLUDE list a part is left out: wider than asked for, but nobody starves.
#[test]
fn an_exclude_list_beyond_the_limit_is_cut() {
    let mut lab = Lab::with_policy(limited(256, 1));
    lab.report(ToEx, GROUP, &["10.0.0.1", "10.0.0.2"]);
    assert_eq!(lab.joined(GROUP), exclude(&["10.0.0.1"]));
    assert_eq!(lab.status(GROUP), beyond("max-sources=1"));
}

/// Else a container could fill the list, and so let in what is denied.
#[test]
fn denied_sources_stay_excluded_when_a_list_is_cut() {
    let denying = policy(&["239.0.0.0/8@10.9.9.9"], &[]);
    let mut lab = Lab::with_policy(GroupPolicy { max_sources: 1, ..denying });
    lab.report(ToEx, GROUP, &["10.0.0.1", "10.0.0.2"]);
    assert_eq!(lab.joined(GROUP), exclude(&["10.0.0.1", "10.9.9.9"]));
    let denying = policy(&["239.0.0.0/8@10.9.9.9"], &[]);
    let none = GroupPolicy { max_sources: 0, ..denying };
    lab.event(|router, now| router.set_policy(now, none));
    assert_eq!(lab.joined(GROUP), exclude(&["10.9.9.9"]));
}

#[test]
fn without_fast_leave_replaced_lists_do_not_pile_up() {
    let config = RouterConfig { fast_leave: false, ..RouterConfig::default() };
    let mut lab = Lab::with(config, limited(256, 10));
    for n in 0..100 {
        let list: Vec<_> = (0..10).map(|m| ip(&format!("10.0.{n}.{m}"))).collect();
        let record = GroupRecord { kind: ToIn, group: ip(GROUP), sources: list };
        lab.send(Message::ReportV3(vec![record]));
        assert!(lab.view(GROUP).unwrap().wanted.sources.len() <= 20);
        assert!(lab.joined(GROUP).sources.len() <= 10);
    }
}

#[test]
fn refused_groups_are_remembered_up_to_a_bound() {
    let config = RouterConfig { max_refused: 10, ..RouterConfig::default() };
    let mut lab = Lab::with(config, policy(&["239.0.0.0/8"], &[]));
    for n in 0..100 {
        lab.join(&format!("239.0.0.{n}"));
    }
    assert_eq!(lab.router.groups().count(), 10);
    assert_eq!(lab.counter(counter::DENIED), 100);
    assert_eq!(lab.counter(counter::REFUSED_FORGOTTEN), 90);
    // What is allowed still has its room.
    lab.join("238.1.1.1");
    assert_eq!(lab.joined("238.1.1.1"), SourceFilter::any());
}

#[test]
fn changes_beyond_the_rate_wait_and_only_the_newest_state_is_told() {
    let config = RouterConfig { change_burst: 3, change_interval: ms(100), ..Default::default() };
    let mut lab = Lab::with(config, GroupPolicy::default());
    for n in 1..=5 {
        lab.join(&format!("239.1.1.{n}"));
    }
    assert_eq!(lab.changes.len(), 3);
    assert!(lab.counter(counter::CHANGES_DELAYED) > 0);
    // One of those that wait changes its mind, forth and back: nothing to tell.
    lab.leave("239.1.1.4");
    for _ in 0..1000 {
        lab.leave("239.1.1.5");
        lab.join("239.1.1.5");
    }
    lab.pass(ms(100));
    assert_eq!(lab.joined("239.1.1.5"), SourceFilter::any());
    lab.pass(seconds(1));
    assert_eq!(lab.changes.len(), 4);
    assert_eq!(lab.joined("239.1.1.4"), SourceFilter::none());
}

/// A channel changed forth and back is never late; a group that flaps is, and says so once.
#[test]
fn a_group_that_flaps_has_a_pace_of_its_own_and_its_newest_state_counts() {
    let mut lab = Lab::new();
    for _ in 0..2000 {
        lab.join(GROUP);
        lab.pass(ms(5));
        lab.leave(GROUP);
        lab.pass(ms(5));
    }
    // In 20 seconds: 3 changes that are free, 256 at once, and 10 a second.
    let changes = lab.changes.len();
    assert!((400..=470).contains(&changes), "{changes} of 4000 changes");
    let notices: Vec<_> = lab.notices.iter().map(Notice::code).collect();
    assert_eq!(notices, ["changes-delayed"]);
    lab.join(GROUP);
    lab.join("239.1.1.2");
    lab.pass(ms(200));
    assert_eq!(lab.joined(GROUP), SourceFilter::any());
    assert_eq!(lab.joined("239.1.1.2"), SourceFilter::any());
    // After a while it is a group like any other.
    lab.pass(seconds(60));
    let before = lab.changes.len();
    for _ in 0..100 {
        lab.leave(GROUP);
        lab.join(GROUP);
    }
    assert_eq!(lab.changes.len() - before, 200);
}

#[test]
fn groups_that_wait_for_the_rate_take_turns() {
    let config = RouterConfig { change_burst: 1, change_interval: ms(100), ..Default::default() };
    let mut lab = Lab::with(config, GroupPolicy::default());
    lab.join("239.1.1.1");
    lab.join("239.1.1.9");
    // Whenever there is a token, the first group has changed again.
    lab.leave("239.1.1.1");
    lab.pass(ms(100));
    assert_eq!(lab.joined("239.1.1.9"), SourceFilter::any());
}

/// Joins that overtook leaves would make upstream hold ever more groups.
#[test]
fn upstream_has_no_more_groups_than_the_limit_while_changes_wait() {
    let config = RouterConfig { change_burst: 2, change_interval: ms(10), ..Default::default() };
    let mut lab = Lab::with(config, limited(3, 64));
    for n in 0..500 {
        let group = format!("239.1.{}.{}", n / 250, n % 250);
        lab.join(&group);
        lab.pass(ms(10));
        lab.leave(&group);
        assert!(lab.upstream.len() <= 3, "{} groups", lab.upstream.len());
    }
    lab.pass(seconds(10));
    assert_eq!(lab.upstream.len(), 0);
}

#[test]
fn a_storm_of_records_is_cut_and_what_was_missed_is_asked_for() {
    let mut lab = Lab::new();
    lab.event(|router, now| router.handle_link_up(now));
    lab.pass(seconds(5));
    lab.take_queries();
    let records: Vec<_> = (0..150).map(|n| record(ToEx, &format!("239.7.0.{n}"), &[])).collect();
    let storm = Message::ReportV3(records).emit_ipv4(CONTAINER, ip("224.0.0.22"), 1, 1500);
    for _ in 0..20_000 {
        lab.packet(&storm[0]);
        lab.pass(std::time::Duration::from_micros(50));
    }
    let taken = 20_000 - lab.counter(counter::RATE_LIMITED);
    assert!((200..=300).contains(&taken), "{taken} reports of 150 records in a second");
    // A join that was lost in it comes with the answer.
    lab.join(GROUP);
    assert_eq!(lab.joined(GROUP), SourceFilter::none());
    lab.pass(seconds(2));
    assert!((1..=3).contains(&lab.take_queries().len()));
    lab.report(IsEx, GROUP, &[]);
    assert_eq!(lab.joined(GROUP), SourceFilter::any());
}

#[test]
fn a_thousand_groups_are_joined_at_once_and_left_again() {
    let mut lab = Lab::with_policy(limited(1000, 64));
    let group = |n: usize| format!("239.1.{}.{}", n / 250, n % 250);
    for n in 0..1000 {
        lab.join(&group(n));
    }
    assert_eq!(lab.upstream.len(), 1000);
    for n in 0..1000 {
        lab.leave(&group(n));
    }
    assert_eq!(lab.upstream.len(), 0);
    assert_eq!(lab.router.poll_timeout(), None);
    // The program starts anew.
    for n in 0..1000 {
        lab.join(&group(n));
    }
    assert_eq!(lab.upstream.len(), 1000);
    assert_eq!(lab.counter(counter::CHANGES_DELAYED), 0);
}

#[test]
fn sixty_four_sources_in_one_group_are_joined_and_left() {
    let mut lab = Lab::new();
    let list: Vec<_> = (1..=64).map(|n| format!("10.0.0.{n}")).collect();
    let list: Vec<_> = list.iter().map(String::as_str).collect();
    lab.report(Allow, GROUP, &list);
    assert_eq!(lab.joined(GROUP), include(&list));
    assert_eq!(lab.status(GROUP), Some(Status::Allowed));
    lab.report(Block, GROUP, &list);
    assert_eq!(lab.joined(GROUP), SourceFilter::none());
}

#[test]
fn a_predicted_join_is_the_next_change_and_none_is_predicted_beyond_a_limit_or_a_rule() {
    let rules = policy(&["239.9.0.0/16", "239.0.0.0/8@10.0.0.9"], &[]);
    let mut lab = Lab::with_policy(GroupPolicy { max_groups: 2, max_sources: 2, ..rules });
    let predicted = |lab: &Lab, group, filter| lab.router.predict_join(lab.now, ip(group), &filter);
    let all_but_denied = exclude(&["10.0.0.9"]);
    assert_eq!(predicted(&lab, GROUP, SourceFilter::any()), Some(all_but_denied.clone()));
    assert_eq!(predicted(&lab, GROUP, include(&["10.0.0.1"])), Some(include(&["10.0.0.1"])));
    lab.join(GROUP);
    assert_eq!(lab.joined(GROUP), all_but_denied);
    let nothing = [
        (GROUP, include(&["10.0.0.1"]), "known already"),
        ("239.1.1.2", SourceFilter::none(), "no join"),
        ("239.1.1.2", include(&["10.0.0.9"]), "denied"),
        ("239.1.1.2", include(&["10.0.0.1", "10.0.0.2", "10.0.0.3"]), "to be cut"),
        ("239.1.1.2", include(&["10.0.0.1", "224.0.0.1"]), "not a source"),
        ("239.9.9.9", SourceFilter::any(), "denied"),
        ("224.0.0.251", SourceFilter::any(), "link-local"),
        ("10.0.0.1", SourceFilter::any(), "not multicast"),
    ];
    for (group, filter, why) in nothing {
        assert_eq!(predicted(&lab, group, filter), None, "{why}");
    }
    lab.join("238.1.1.1");
    assert_eq!(predicted(&lab, "238.1.1.2", SourceFilter::any()), None, "no room");
    // What is told next is then the leave of what is due.
    lab.leave(GROUP);
    assert_eq!(predicted(&lab, "238.1.1.2", SourceFilter::any()), Some(SourceFilter::any()));
    let due = lab.router.poll_timeout().unwrap();
    assert_eq!(lab.router.predict_join(due, ip("238.1.1.2"), &SourceFilter::any()), None);
}

#[test]
fn no_join_is_predicted_while_changes_wait() {
    let config =
        RouterConfig { change_burst: 1, change_interval: seconds(1), ..RouterConfig::default() };
    let mut lab = Lab::with(config, GroupPolicy::default());
    let predicted =
        |lab: &Lab| lab.router.predict_join(lab.now, ip("239.1.1.3"), &SourceFilter::any());
    lab.join(GROUP);
    assert_eq!(predicted(&lab), None, "the change is spent");
    lab.join("239.1.1.2");
    assert_eq!(predicted(&lab), None, "another goes first");
    lab.pass(seconds(1));
    assert_eq!(lab.joined("239.1.1.2"), SourceFilter::any());
    lab.pass(seconds(1));
    assert_eq!(predicted(&lab), Some(SourceFilter::any()));
}

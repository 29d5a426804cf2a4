//! Changes in quick succession, of which the kernel's records do not tell all.

use crate::igmp::message::RecordType::{Allow, Block, IsEx, ToEx};
use crate::igmp::router::tests::lab::*;
use crate::multicast::SourceFilter;

const GROUP: &str = "239.1.1.1";
const A: &str = "10.0.0.1";
const B: &str = "10.0.0.2";

/// Two sockets, one of EXCLUDE(A) and one of INCLUDE(B), leave at once: the kernel takes back what the
/// second one had, and says nothing of the first one.
#[test]
fn a_group_for_which_nobody_answers_is_left() {
    let mut lab = Lab::new();
    lab.report(ToEx, GROUP, &[A]);
    lab.pass(seconds(5));
    lab.report(Block, GROUP, &[B]);
    assert_ne!(lab.joined(GROUP), SourceFilter::none());
    lab.pass(ms(200));
    let queries = lab.take_queries();
    assert_eq!(queries.last().and_then(|q| q.query.group), Some(ip(GROUP)));
    lab.pass(ms(1000));
    assert_eq!(lab.joined(GROUP), SourceFilter::none());
}

#[test]
fn a_group_for_which_the_container_answers_stays_until_its_membership_interval_ends() {
    let mut lab = Lab::new();
    lab.report(ToEx, GROUP, &[A]);
    lab.pass(seconds(5));
    lab.report(Block, GROUP, &[B]);
    lab.pass(ms(200));
    lab.report(IsEx, GROUP, &[A, B]);
    lab.pass(ms(269_999));
    assert_eq!(lab.joined(GROUP), exclude(&[A, B]));
    lab.pass(ms(1));
    assert_eq!(lab.joined(GROUP), SourceFilter::none());
}

/// A firewall of the container may drop its answers. Its kernel's own list counts then, and it is not
/// asked for the same again and again.
#[test]
fn a_group_for_which_nobody_answers_stays_where_the_kernel_has_joined_it() {
    let mut lab = Lab::new();
    lab.report(ToEx, GROUP, &[A]);
    lab.pass(seconds(5));
    lab.report(Block, GROUP, &[B]);
    let changed = lab.now;
    let due = changed + ms(650);
    lab.pass(ms(649));
    let [(group, filter)] = &lab.router.expiring(due)[..] else { panic!("it is due") };
    lab.router.confirm(due, *group, filter);
    lab.take_queries();
    lab.pass(seconds(100));
    assert_eq!(lab.joined(GROUP), *filter);
    assert!(lab.take_queries().iter().all(|q| q.query.group.is_none()));
}

/// The proxy reads notifications before reports: a report that is older than the leave comes after it.
#[test]
fn a_report_from_before_a_leave_joins_for_a_moment_only() {
    let mut lab = Lab::new();
    lab.report(ToEx, GROUP, &[A]);
    let leave = |lab: &mut Lab| {
        lab.event(|router, now| router.handle_membership(now, ip(GROUP), &SourceFilter::none()));
    };
    leave(&mut lab);
    assert_eq!(lab.joined(GROUP), SourceFilter::none());
    lab.report(ToEx, GROUP, &[A]);
    lab.pass(seconds(1));
    assert_eq!(lab.joined(GROUP), SourceFilter::none());
    // The join may have been taken back before the proxy knew of it.
    leave(&mut lab);
    lab.report(ToEx, GROUP, &[A]);
    lab.pass(seconds(1));
    assert_eq!(lab.joined(GROUP), SourceFilter::none());
    // One that has been left for long is joined anew, which needs no question.
    lab.report(Allow, GROUP, &[A]);
    lab.take_queries();
    lab.pass(seconds(2));
    assert_eq!(lab.joined(GROUP), include(&[A]));
    assert_eq!(lab.take_queries(), []);
}

//! Haste: joins and leaves at once, many at once, and queriers that change. What the switch hears is
//! never wider than what was asked for, not for a moment, and whatever it has heard is taken back.

mod bursts;
mod queriers;

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::lab;
use crate::lab::{Change, Lab, PATIENCE, RecordKind, SOURCES, wait_until};

#[test]
fn channels_that_are_joined_with_a_group_from_any_source_stay_channels() {
    const ROUNDS: u8 = 20;
    const CHANNELS: u8 = 5;
    let lab = Lab::new(3);
    let capture = lab.capture();
    let container = lab.start("hasty", "10.99.0.11");
    let channels = |round| (1..=CHANNELS).map(move |n| Ipv4Addr::new(232, 50, round, n));
    let group = |round| Ipv4Addr::new(239, 50, round, 1);
    let members: Vec<_> = (0..ROUNDS).map(|_| container.member()).collect();
    for (round, member) in (0..).zip(&members) {
        for channel in channels(round) {
            member.change(channel, &Change::JoinSource(SOURCES[0]));
        }
        // The kernel shows source lists only while the newest group has one.
        member.change(group(round), &Change::Join);
    }
    let all = usize::from(ROUNDS) * (usize::from(CHANNELS) + 1);
    wait_until("all are joined", PATIENCE, || (lab.host_joins().len() == all).then_some(()));
    lab.wait_forwarded(group(ROUNDS - 1));
    let shown = lab.groups(&container);
    let wide = |seen: &lab::IgmpFrame| match &seen.message {
        lab::Igmp::ReportV3(records) => records
            .iter()
            .filter(|r| matches!(r.kind, RecordKind::ToExclude | RecordKind::IsExclude))
            .map(|r| r.group)
            .collect(),
        _ => Vec::new(),
    };
    let seen = capture.finish();
    let mut wide: Vec<Ipv4Addr> = seen.iter().flat_map(wide).collect();
    wide.sort_unstable();
    wide.dedup();
    let expected: Vec<Ipv4Addr> = (0..ROUNDS).map(group).collect();
    assert_eq!(wide, expected, "groups that were asked for from any source");
    for channel in (0..ROUNDS).flat_map(channels) {
        let entry = shown.iter().find(|entry| entry["group"] == channel.to_string());
        let entry = entry.unwrap_or_else(|| panic!("{channel} is not shown"));
        assert_eq!(entry["mode"], "include", "{entry}");
    }
}

/// A program joins groups for a moment each, and the switch forgets each of them, long before its
/// timer. Version 2: the host's kernel sends no leave of a group that it has not reported yet, and
/// the early report is not the kernel's.
#[test]
fn a_group_that_is_joined_for_a_moment_is_left_again() {
    const GROUPS: u8 = 20;
    /// Less than the kernel waits before its own report.
    const MOMENT: Duration = Duration::from_millis(3);
    let lab = Lab::new(2);
    let container = lab.start("hasty", "10.99.0.11");
    let member = container.member();
    let marker = Ipv4Addr::new(239, 51, 0, 1);
    for group in (1..=GROUPS).map(|n| Ipv4Addr::new(239, 51, 1, n)) {
        member.change(group, &Change::Join);
        std::thread::sleep(MOMENT);
        member.change(group, &Change::Leave);
    }
    // A container that ends with a group that it has just joined.
    let brief = lab.start("brief", "10.99.0.12");
    let in_brief = brief.member();
    in_brief.change(Ipv4Addr::new(239, 51, 2, 1), &Change::Join);
    lab.delete(&brief);
    member.change(marker, &Change::Join);
    lab.wait_forwarded(marker);
    // The control: nothing is left of a bare interface's joins, which nobody has reported.
    lab.bare("bare", "10.99.0.13");
    let forwarded = wait_forwarded_only(&lab, marker);
    assert_eq!(forwarded, [marker.to_string()], "still forwarded");
    // What others have joined meanwhile stays: a leave is sent of a host's last membership only.
    let (one, two) = (container.member(), container.member());
    let shared = Ipv4Addr::new(239, 51, 3, 1);
    one.change(shared, &Change::Join);
    two.change(shared, &Change::Join);
    lab.wait_forwarded(shared);
    let capture = lab.capture();
    one.change(shared, &Change::Leave);
    two.change(Ipv4Addr::new(239, 51, 3, 2), &Change::Join);
    lab.wait_forwarded("239.51.3.2");
    let seen = capture.finish();
    let leaves = seen.iter().filter(|f| f.is_leave()).count();
    assert_eq!(leaves, 0, "{seen:?}");
    assert!(lab.forwarded().contains(&shared.to_string()));
}

/// What the switch forwards when it forwards nothing else any more, or after some seconds.
fn wait_forwarded_only(lab: &Lab, group: Ipv4Addr) -> Vec<String> {
    let all = || lab.forwarded().into_iter().filter(|f| f.starts_with("239.51.")).collect();
    let until = std::time::Instant::now() + Duration::from_secs(3);
    loop {
        let forwarded: Vec<String> = all();
        if forwarded == [group.to_string()] || std::time::Instant::now() > until {
            return forwarded;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

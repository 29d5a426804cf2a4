//! Many joins at once: what the switch hears is never wider than what was asked for, not for a
//! moment.

use std::net::Ipv4Addr;

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

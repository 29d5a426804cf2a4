//! Source-specific joins: what the switch hears is what the containers have asked for, never more.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use crate::lab;
use crate::lab::{Lab, PATIENCE, Record, RecordKind, SOURCES, wait_until};

const GROUP: Ipv4Addr = Ipv4Addr::new(232, 1, 1, 1);

fn channel(source: Ipv4Addr) -> String {
    format!("{GROUP}@{source}")
}

/// The records about the group that the host has sent.
fn records(capture: &lab::Capture) -> Vec<Record> {
    let mut records = Vec::new();
    for frame in capture.igmp() {
        if let lab::Igmp::ReportV3(list) = frame.message {
            records.extend(list.into_iter().filter(|record| record.group == GROUP));
        }
    }
    records
}

#[test]
fn a_channel_is_joined_as_such_and_each_leave_takes_exactly_one_away() {
    let [s1, s2] = SOURCES;
    let lab = Lab::new(3);
    let capture = lab.capture();
    let one = lab.start("one", "10.99.0.11");
    let two = lab.start("two", "10.99.0.12");
    let _streams = [lab.send(GROUP, s1, 200), lab.send(GROUP, s2, 200)];
    let joined = |sources: &[Ipv4Addr]| {
        let wanted: BTreeSet<String> = sources.iter().map(|s| channel(*s)).collect();
        wait_until(&format!("the switch forwards {wanted:?} only"), PATIENCE, || {
            let forwarded = lab.forwarded();
            let channels: BTreeSet<String> =
                forwarded.into_iter().filter(|g| g.starts_with(&GROUP.to_string())).collect();
            // The group itself is listed beside its sources.
            let channels: BTreeSet<String> =
                channels.into_iter().filter(|g| g.contains('@')).collect();
            (channels == wanted).then_some(())
        });
        let included: BTreeMap<Ipv4Addr, (u32, u32)> =
            sources.iter().map(|source| (*source, (1, 0))).collect();
        assert_eq!(lab.host_filters().remove(&GROUP).unwrap_or_default(), included);
    };

    let first = lab.receive_count(&one, GROUP, Some(s1), 800);
    lab.wait_joined(&one, GROUP);
    joined(&[s1]);
    let second = lab.receive_count(&two, GROUP, Some(s2), 1600);
    lab.wait_joined(&two, GROUP);
    joined(&[s1, s2]);
    let entry = lab.groups(&two).remove(0);
    assert_eq!(entry["mode"], "include", "{entry}");
    assert_eq!(entry["sources"], serde_json::json!([s2]), "{entry}");
    assert_eq!(entry["version"], 3, "{entry}");

    first.assert_none_lost(800);
    lab.wait_left(&one, GROUP);
    joined(&[s2]);
    second.assert_none_lost(1600);
    lab.wait_left(&two, GROUP);
    joined(&[]);

    let records = records(&capture);
    for record in &records {
        assert!(
            !matches!(record.kind, RecordKind::ToExclude | RecordKind::IsExclude),
            "wider than asked for: {record:?}"
        );
        assert!(record.sources.iter().all(|source| SOURCES.contains(source)), "{record:?}");
    }
    // A report is repeated, and a repetition may be merged with the next change: what counts is
    // what the switch makes of them.
    let mut state = BTreeSet::new();
    let mut states = Vec::new();
    for record in &records {
        match record.kind {
            RecordKind::Allow => state.extend(record.sources.iter().copied()),
            RecordKind::Block => state.retain(|source| !record.sources.contains(source)),
            _ => state = record.sources.iter().copied().collect(),
        }
        states.push(state.clone());
    }
    states.dedup();
    let expected = [&[s1][..], &[s1, s2], &[s2], &[]];
    assert_eq!(states, expected.map(|list| list.iter().copied().collect()), "{records:#?}");
    lab.assert_one_igmp_host(&capture.finish());
}

/// Containers on a switch of this version of IGMP join from any source in 232/8, as IPTV players do:
/// the stream arrives as it does on a bare macvlan, and people see that the join names no source.
fn plays_from_any_source(igmp_version: u8) {
    const PACKETS: u32 = 500;
    let lab = Lab::new(igmp_version);
    let capture = lab.capture();
    let container = lab.start("one", "10.99.0.11");
    let receiver = lab.receive_count(&container, GROUP, None, PACKETS);
    lab.wait_joined(&container, GROUP);
    lab.wait_forwarded(GROUP);
    let entry = lab.groups(&container).remove(0);
    assert_eq!(entry["mode"], "exclude", "{entry}");
    assert_eq!(entry["reason"], "any source in 232.0.0.0/8", "{entry}");
    let seen = capture.finish();
    lab.assert_one_igmp_host(&seen);
    // The control: nobody but the host speaks IGMP so far, and the bare interface does.
    lab.bare("bare", "10.99.0.12");
    let bare = lab.receive_in_count("bare", GROUP, PACKETS);
    wait_until("the bare interface joins", PATIENCE, || {
        let igmp = lab::run(lab.enter("bare", "cat").arg("/proc/net/igmp"));
        igmp.contains("010101E8").then_some(())
    });
    let sent = lab.send_count(GROUP, SOURCES[0], 1000, PACKETS).finish(PATIENCE);
    assert!(sent.status.success(), "probe send: {sent:?}");
    bare.assert_each_once(PACKETS);
    receiver.assert_each_once(PACKETS);
    let log = lab.state_dir().join("containers").join(&container.id).join("proxy.log");
    let log = std::fs::read_to_string(log).expect("proxy.log");
    assert!(log.contains("232.1.1.1 is joined from any source"), "{log}");
}

#[test]
fn a_join_from_any_source_plays_as_on_bare_macvlan_with_igmp_v2() {
    plays_from_any_source(2);
}

#[test]
fn a_join_from_any_source_plays_as_on_bare_macvlan_with_igmp_v3() {
    plays_from_any_source(3);
}

#[test]
fn ssm_strict_denies_a_join_from_any_source_and_shows_it() {
    let lab = Lab::new(3);
    lab.configure("[groups]\nssm-strict = true\n");
    let capture = lab.capture();
    let container = lab.start("one", "10.99.0.11");
    let (any, marker) = (container.member(), container.member());
    any.change(GROUP, &lab::Change::Join);
    let entry = wait_until("the join is shown as denied", PATIENCE, || {
        lab.groups(&container).into_iter().find(|entry| entry["status"] == "denied")
    });
    assert_eq!(entry["reason"], "ssm-strict=true", "{entry}");
    // What comes after it on the wire shows that nothing of it went there.
    let other = Ipv4Addr::new(232, 1, 1, 2);
    marker.change(other, &lab::Change::JoinSource(SOURCES[0]));
    wait_until("the marker is reported", PATIENCE, || {
        let seen = capture.igmp_so_far();
        seen.iter().any(|frame| frame.message.groups().contains(&other)).then_some(())
    });
    assert_eq!(records(&capture), []);
}

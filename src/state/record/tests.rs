//! Records of this version and of earlier ones. The fixtures are what earlier versions wrote.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

use super::*;

const MACVLAN: &str = include_str!("../../../tests/fixtures/records/format-1-macvlan.json");
const RELAY: &str = include_str!("../../../tests/fixtures/records/format-1-relay.json");
const INCOMPLETE: &str = include_str!("../../../tests/fixtures/records/format-1-incomplete.json");
const EARLY: &str = include_str!("../../../tests/fixtures/records/format-1-early.json");

fn read(text: &str) -> AttachmentRecord {
    serde_json::from_str(text).unwrap()
}

fn attached(text: &str) -> Attached {
    read(text).into_attached().unwrap()
}

fn value(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn records_of_format_1_are_read() {
    let record = attached(MACVLAN);
    assert_eq!(record.container.id.as_str(), "cam1");
    let init = ProcessRef { pid: 10108, start: 478_429 };
    assert_eq!(record.container.lifetime, Lifetime::Process(init));
    assert_eq!(record.mark, Some(1_583_488_356));
    assert_eq!(record.proxy.map(|proxy| proxy.pid), Some(10126));
    let [mc0, blue] = &record.interfaces[..] else { panic!("{record:?}") };
    assert_eq!((mc0.name.as_str(), mc0.index, mc0.upstream_index), ("mc0", Some(2), 2));
    assert_eq!(mc0.limits.policy.allow.len(), 1);
    let address = mc0.attachment.ip.addresses()[0].addr();
    assert_eq!(address, Ipv4Addr::new(10, 99, 0, 11));
    assert!(blue.mac.is_some() && record.host_links.is_empty());

    let record = attached(RELAY);
    assert_eq!(record.interfaces[0].index, None);
    assert_eq!(record.interfaces[0].limits.rates.packets, Some(1000));
    assert!(!record.interfaces[0].is_made());

    let early = attached(EARLY);
    assert_eq!((early.mark, early.notifications), (None, true));
    assert_eq!(early.interfaces[0].attachment.network, None);
    assert!(early.interfaces[0].attachment.is_own("ip"), "all keys were written by who asked");
}

#[test]
fn an_incomplete_record_of_format_1_is_in_the_planned_stage() {
    let AttachmentRecord::Planned(planned) = read(INCOMPLETE) else { panic!("attached") };
    assert_eq!(planned.interfaces.len(), 2);
    assert_eq!(planned.container.id.as_str(), "cam1");
}

#[test]
fn what_is_written_keeps_every_field_of_format_1() {
    for text in [MACVLAN, RELAY, INCOMPLETE] {
        let (old, mut new) = (value(text), serde_json::to_value(read(text)).unwrap());
        let fields = new.as_object_mut().unwrap();
        assert_eq!(fields.remove("format"), Some(json!(2)));
        let complete = fields["complete"] == json!(true);
        let stage = if complete { "attached" } else { "planned" };
        assert_eq!(fields.remove("stage"), Some(json!(stage)));
        if complete {
            assert_eq!(new, old);
        } else {
            // When it was planned is not recorded any more.
            fields.insert("attached_at".into(), old["attached_at"].clone());
            assert_eq!(new, old);
        }
    }
}

#[test]
fn a_record_without_a_process_has_its_namespaces_path() {
    let mut record = attached(MACVLAN);
    record.container.lifetime = Lifetime::NamespacePath("/run/netns/blue".into());
    let record = AttachmentRecord::Attached(record);
    let json = serde_json::to_value(&record).unwrap();
    assert_eq!((&json["netns_path"], json.get("init")), (&json!("/run/netns/blue"), None));
    let back: AttachmentRecord = serde_json::from_value(json).unwrap();
    assert_eq!(back.container().lifetime, record.container().lifetime);
    assert_eq!(back.container().namespace_path(), record.container().namespace_path());
}

#[test]
fn shared_links_are_recorded_with_who_made_them() {
    let mut record = attached(MACVLAN);
    let kind = crate::attachment::HostLinkKind::Vlan { parent: "lan0".parse().unwrap(), id: 10 };
    let link = HostLink { name: "lan0.10".parse().unwrap(), kind };
    record.host_links = vec![HostLinkUse { link, made: true }];
    let record = AttachmentRecord::Attached(record);
    let json = serde_json::to_value(&record).unwrap();
    let expected = json!([
        {"name": "lan0.10", "kind": "vlan", "parent": "lan0", "id": 10, "made": true}
    ]);
    assert_eq!(json["host_links"], expected);
    assert_eq!(serde_json::from_value::<AttachmentRecord>(json).unwrap(), record);
}

#[test]
fn what_cannot_be_read_says_why() {
    let mut newer = value(MACVLAN);
    newer["format"] = json!(3);
    let mut nobody = value(MACVLAN);
    nobody.as_object_mut().unwrap().remove("init");
    let torn = &MACVLAN[..MACVLAN.len() / 2];
    for (text, expected) in [
        (newer.to_string(), "format 3 is unknown; this version of mcrun reads formats 1 to 2"),
        (nobody.to_string(), "it has neither init nor netns_path"),
        (torn.to_owned(), "EOF while parsing"),
    ] {
        let error = serde_json::from_str::<AttachmentRecord>(&text).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

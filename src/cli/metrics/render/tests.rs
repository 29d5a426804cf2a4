use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::cli::containers::{Container, Unreadable};
use crate::cli::metrics::samples::Kind;
use crate::cli::metrics::snapshot::Gathered;
use crate::cli::metrics::totals::Totals;
use crate::notice::Notice;
use crate::state::{AttachmentRecord, Store};

const MACVLAN: &str = include_str!("../../../../tests/fixtures/records/format-1-macvlan.json");
const RELAY: &str = include_str!("../../../../tests/fixtures/records/format-1-relay.json");

/// Set to write the table of docs/metrics.md instead of comparing it.
const REGENERATE: &str = "MCRUN_REGENERATE";

fn container(record: &str, id: &str, name: &str, status: Option<Value>) -> Container {
    let mut record: Value = serde_json::from_str(record).unwrap();
    record["container"] = json!(id);
    record["name"] = json!(name);
    let record: AttachmentRecord = serde_json::from_value(record).unwrap();
    Container {
        record: record.into_attached().unwrap(),
        status: status.map(|status| serde_json::from_value(status).unwrap()),
        advice: Vec::new(),
        slaac: BTreeMap::new(),
    }
}

/// A camera with a stream, another one by a relay, and one without a proxy that answers.
fn containers() -> Vec<Container> {
    let stream = |group: &str, source: &str, packets: u64, lost: u64| {
        json!({
            "group": group, "source": source, "packets": packets, "bytes": packets * 1328,
            "packet_rate": 1000, "byte_rate": 1_328_000, "last_packet_ms": 250,
            "rtp": {
                "ssrc": 7, "payload_type": 33, "lost": lost, "reordered": 2, "duplicated": 1,
                "ssrc_changes": 0, "restarts": 0
            }
        })
    };
    let membership = |group: &str, status: &str| {
        json!({
            "group": group, "mode": "exclude", "sources": [], "version": 3, "status": status, "age_s": 60
        })
    };
    let mut channel = membership("232.1.1.1", "joined");
    channel["mode"] = json!("include");
    channel["sources"] = json!(["192.0.2.9"]);
    let camera = json!({
        "container": "cam1", "pid": 10126, "state": "running", "held": true,
        "notices": [
            Notice::NoLandlock {},
            Notice::UpstreamWithoutAddress { upstream: "lan0".into() },
        ],
        "interfaces": [
            {
                "interface": "mc0", "parent": "lan0", "listening_s": 300,
                "querier": {
                    "address": "10.99.0.1", "version": 3, "interval_s": 20, "last_query_s": 12
                },
                "mld": {
                    "querier": {
                        "address": "fe80::1", "version": 2, "interval_s": 30, "last_query_s": 13
                    }
                },
                "groups": [
                    channel,
                    membership("239.1.1.1", "joined"),
                    membership("239.1.1.2", "denied"),
                ],
                "counters": {"reports_v3": 3, "lan_queries": 15}
            },
        ],
        "counts": [{
            "interface": "mc0",
            "streams": [
                stream("232.1.1.1", "192.0.2.8", 40, 40),
                stream("232.1.1.1", "192.0.2.9", 1000, 7),
            ]
        }]
    });
    let counts =
        |relayed: u64| json!({"relayed": relayed, "dropped": 1, "limited": 2, "denied": 3});
    let mut relayed = membership("239.1.1.1", "limited");
    relayed["relay"] = counts(9);
    let microphone = json!({
        "container": "mic1", "pid": 10133, "state": "running",
        "interfaces": [{
            "interface": "eth0", "parent": "lan0", "listening_s": 12, "groups": [relayed],
            "relay": {"inbound": counts(5), "outbound": counts(4), "overruns": 6}
        }]
    });
    vec![
        container(MACVLAN, "cam1", "camera", Some(camera)),
        container(RELAY, "mic1", "microphone", Some(microphone)),
        container(MACVLAN, "silent1", "silent", None),
    ]
}

fn gathered(containers: Vec<Container>) -> Gathered {
    // An id whose record is no record.
    let directory = tempfile::tempdir().unwrap();
    let store = Store::at(directory.path().join("state"));
    let id: crate::oci::ContainerId = "broken".to_owned().try_into().unwrap();
    let locked = store.lock_or_create(&id).unwrap();
    std::fs::write(locked.path().join("record.json"), "{").unwrap();
    let error = store.read(&id).unwrap_err();
    Gathered {
        containers,
        unreadable: vec![Unreadable { id, error }],
        keeper: true,
        now: Duration::from_millis(1_800_000_000_500),
        took: Duration::from_millis(3),
    }
}

fn text(containers: Vec<Container>, max_groups: usize) -> String {
    let gathered = gathered(containers);
    render(&Snapshot::new(&gathered, max_groups, &mut Totals::default())).unwrap()
}

/// The lines of values.
fn values(text: &str) -> Vec<&str> {
    text.lines().filter(|line| !line.starts_with('#')).collect()
}

#[test]
fn a_camera_a_microphone_and_a_silent_proxy() {
    let text = text(containers(), 10);
    insta::assert_snapshot!(text.replace(env!("CARGO_PKG_VERSION"), "VERSION"));
    let shown: Vec<_> =
        text.lines().filter_map(|l| l.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let all: Vec<_> = ALL.iter().map(|definition| definition.name).collect();
    assert_eq!(shown, all, "the example has a value of each metric");
}

#[test]
fn of_many_groups_the_first_have_series_and_the_number_of_the_others_is_told() {
    for (most, omitted) in [(0, 4), (1, 3), (3, 1), (4, 0), (100, 0)] {
        let text = text(containers(), most);
        let groups = text.lines().filter(|l| l.starts_with("mcrun_group_membership{")).count();
        assert_eq!(groups, 4 - omitted);
        let line = format!("mcrun_metrics_groups_omitted {omitted}");
        assert!(values(&text).contains(&line.as_str()), "{text}");
    }
    let text = text(containers(), 1);
    assert!(text.contains("group=\"232.1.1.1\"") && !text.contains("group=\"239."), "{text}");
    // What is told of a container counts all of them.
    assert!(text.contains("mcrun_memberships{container=\"camera\",status=\"joined\"} 2"), "{text}");
}

#[test]
fn names_of_strangers_are_quoted_and_unique() {
    let evil = "a\"} 1\nmcrun_evil{x=\"\\";
    let of = |id, name| container(MACVLAN, id, name, None);
    let twins =
        vec![of("1", evil), of("2", "twin"), of("3", "twin"), of("4", "twin@3"), of("5", "ü")];
    let text = text(twins, 10);
    let up: Vec<_> = text.lines().filter(|l| l.starts_with("mcrun_proxy_up{")).collect();
    let expected = [
        r#"mcrun_proxy_up{container="a\"} 1\nmcrun_evil{x=\"\\"} 0"#,
        r#"mcrun_proxy_up{container="twin@2"} 0"#,
        r#"mcrun_proxy_up{container="twin@3"} 0"#,
        r#"mcrun_proxy_up{container="twin@3@4"} 0"#,
        r#"mcrun_proxy_up{container="ü"} 0"#,
    ];
    assert_eq!(up, expected);
    assert!(!text.lines().any(|line| line.starts_with("mcrun_evil")));
}

#[test]
fn no_series_is_there_twice() {
    let text = text(containers(), 10);
    let mut seen = BTreeSet::new();
    for line in values(&text) {
        let (series, value) = line.rsplit_once(' ').unwrap();
        assert!(seen.insert(series), "{series}");
        assert!(value.parse::<f64>().unwrap().is_finite(), "{line}");
    }
}

#[test]
fn whether_there_is_a_querier_is_told_when_it_is_certain() {
    let present = |listening_s: Option<u64>, metric: &str| {
        let mut all = containers();
        all.truncate(1);
        let entry = &mut all[0].status.as_mut().unwrap().interfaces[0];
        (entry.querier, entry.listening_s) = (None, listening_s);
        entry.mld.as_mut().unwrap().querier = None;
        let text = text(all, 10);
        assert!(!text.contains("querier_version"), "{text}");
        text.lines().find(|l| l.starts_with(&format!("{metric}{{"))).map(str::to_owned)
    };
    for metric in ["mcrun_querier_present", "mcrun_mld_querier_present"] {
        assert_eq!(present(None, metric), None);
        assert_eq!(present(Some(254), metric), None);
        assert_eq!(present(Some(255), metric).unwrap(), format!("{metric}{{upstream=\"lan0\"}} 0"));
    }
}

#[test]
fn names_follow_the_conventions() {
    let mut names = BTreeSet::new();
    for definition in ALL {
        let name = definition.name;
        assert!(names.insert(name), "{name} is there twice");
        let is_plain = |text: &str| text.bytes().all(|b| b == b'_' || b.is_ascii_lowercase());
        assert!(name.starts_with("mcrun_") && is_plain(name), "{name}");
        assert_eq!(name.ends_with("_total"), definition.kind == Kind::Counter, "{name}");
        assert!(definition.labels.iter().all(|label| is_plain(label)), "{name}");
        assert!(definition.help.ends_with('.'), "{name}");
    }
}

/// Above and below this line stand other things; the table is between them.
const BEGIN: &str = "| metric | type | labels | meaning |\n|---|---|---|---|\n";

#[test]
fn the_page_lists_exactly_these_metrics() {
    let mut table = BEGIN.to_owned();
    for definition in ALL {
        let labels: Vec<_> = definition.labels.iter().map(|label| format!("`{label}`")).collect();
        let kind = match definition.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        let (name, labels, help) = (definition.name, labels.join(" "), definition.help);
        writeln!(table, "| `{name}` | {kind} | {labels} | {help} |").unwrap();
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(BEGIN).expect("the head of the table");
    let after = rest.split_inclusive('\n').skip_while(|line| line.starts_with("| "));
    let expected = before.to_owned() + &table + &after.collect::<String>();
    if std::env::var_os(REGENERATE).is_some() {
        std::fs::write(&path, expected).unwrap();
    } else {
        assert!(
            page == expected,
            "MCRUN_REGENERATE=1 cargo test --lib metrics writes docs/metrics.md"
        );
    }
}

use std::fmt::Write;
use std::path::Path;

use serde_json::json;

use super::*;

/// Set to write `docs/notices.md` instead of comparing it.
const REGENERATE: &str = "MCRUN_REGENERATE";

const GROUP: &str = "239.1.2.3";

/// One notice of each code, in the order of the enum.
fn examples() -> Vec<Notice> {
    let interface = || "mc0".to_owned();
    let upstream = || "eth1".to_owned();
    let group = || GROUP.parse().unwrap();
    let error = |code| std::io::Error::from_raw_os_error(code).to_string();
    vec![
        Notice::JoinDenied {
            interface: interface(),
            group: group(),
            rule: "deny=239.1.0.0/16".into(),
        },
        Notice::SendDenied {
            interface: "eth0".into(),
            group: group(),
            rule: "deny=239.1.0.0/16".into(),
        },
        Notice::JoinLimited {
            interface: interface(),
            group: group(),
            limit: "max-groups=256".into(),
        },
        Notice::SourcesLimited {
            interface: interface(),
            group: group(),
            limit: "max-sources=64".into(),
        },
        Notice::AnySourceJoin { interface: interface(), group: "232.1.1.1".parse().unwrap() },
        Notice::AnySourceJoinIgnored {
            interface: interface(),
            group: "232.1.1.1".parse().unwrap(),
        },
        Notice::ChangesDelayed { interface: interface() },
        Notice::QueriesIgnored { upstream: upstream() },
        Notice::DescriptorsShort { error: error(libc::EMFILE) },
        Notice::ControlGroupIncomplete {
            error: "the controllers memory and cpu are not in cgroup2".into(),
        },
        Notice::JoinFailed {
            interface: interface(),
            upstream: upstream(),
            group: group(),
            error: error(libc::ENOBUFS),
        },
        Notice::ReceptionFailed {
            interface: interface(),
            group: group(),
            error: error(libc::ENOMEM),
        },
        Notice::RelayFailed { interface: "eth0".into(), error: error(libc::ENODEV) },
        Notice::QueryFailed { interface: interface(), error: error(libc::EPERM) },
        Notice::NoQuerier { interface: interface(), upstream: upstream(), silent_s: 255 },
        Notice::NoMldQuerier { interface: interface(), upstream: upstream(), silent_s: 255 },
        Notice::QueriesFiltered { upstream: upstream(), querier: "192.0.2.1".parse().unwrap() },
        Notice::ArrivalsFiltered { upstream: upstream() },
        Notice::ReportsFiltered { upstream: upstream() },
        Notice::QuerierWithoutSourceLists {
            interface: interface(),
            upstream: upstream(),
            querier: "10.0.0.1".parse().unwrap(),
            querier_version: 2,
            groups: ["232.1.1.1", "232.1.1.2", "232.1.1.3"].map(|g| g.parse().unwrap()).into(),
        },
        Notice::UpstreamWithoutAddress { upstream: upstream() },
        Notice::UpstreamGone { upstream: upstream() },
        Notice::UpstreamDown { upstream: upstream() },
        Notice::UpstreamBridged { upstream: upstream(), bridge: "br0".into() },
        Notice::UpstreamNotFollowed { upstream: upstream(), error: error(libc::ENOBUFS) },
        Notice::UpstreamBack { upstream: upstream() },
        Notice::InterfaceAwaited { interface: "eth9".into() },
        Notice::InterfaceWaiting {
            interface: interface(),
            reason: "the host has no interface eth1.20".into(),
        },
        Notice::LeaseUnattended { interface: interface() },
        Notice::NoLease { interface: interface(), parent: upstream() },
        Notice::DuplicateAddress {
            interface: interface(),
            address: "2001:db8::5eff:fe10:7".parse().unwrap(),
            parent: upstream(),
            station: "02:00:5e:10:00:09".into(),
        },
        Notice::InterfaceRemade { interface: interface() },
        Notice::RelayOnOwnBridge { interface: "eth0".into(), upstream: "docker0".into() },
        Notice::MulticastRouteElsewhere { interface: "eth0".into() },
        Notice::IgmpNotIntercepted { error: error(libc::EOPNOTSUPP) },
        Notice::LinkNotGuarded { interface: interface() },
        Notice::FramesNotIntercepted { error: error(libc::EOPNOTSUPP) },
        Notice::InterfaceServed { interface: interface(), upstream: upstream() },
        Notice::InterfaceObserved { interface: interface(), upstream: upstream() },
        Notice::InterfaceGone { interface: interface() },
        Notice::NoLandlock {},
        Notice::NotCounted { error: error(libc::EPERM) },
        Notice::RelayWithoutIpv6 { interface: "eth0".into() },
        Notice::RelayNotInKernel {
            interface: interface(),
            reason: "it needs Linux 6.6 (Invalid argument (os error 22))".into(),
        },
        Notice::NotConfined {
            error: "cannot install the system call filter: out of memory".into(),
        },
        Notice::KeeperHolds {},
        Notice::KeeperGone {},
        Notice::LogLinesSuppressed { count: 80 },
        Notice::ContainerEnded {},
        Notice::EventLoopFailed { error: error(libc::EBADF) },
        Notice::StateNotRemoved { error: error(libc::EACCES) },
        Notice::AddressOutsideSubnet {
            interface: interface(),
            parent: upstream(),
            address: "10.1.0.11/24".into(),
            subnet: "10.0.0.0/24".into(),
        },
        Notice::ForeignSource { interface: interface(), address: Ipv4Addr::new(172, 17, 0, 2) },
        Notice::AnswersElsewhere {
            interface: interface(),
            address: Ipv4Addr::new(172, 17, 0, 2),
            network: "10.0.0.0/24".into(),
        },
        Notice::ParentWithoutLan { interface: interface(), parent: "docker0".into() },
        Notice::RuleForOneAddress {
            interface: interface(),
            rule: "allow=239.1.0.0".into(),
            range: "239.1.0.0/16".into(),
        },
        Notice::SharedMac {
            interface: interface(),
            parent: upstream(),
            group: "239.1.1.1".parse().unwrap(),
            mac: "01:00:5e:01:01:01".into(),
            others: vec!["239.129.1.1".parse().unwrap()],
            containers: vec!["camera2".into()],
        },
        Notice::StreamStopped { interface: interface(), group: group(), silent_s: 12 },
        Notice::LegDiffers {
            interface: "mc1".into(),
            other: interface(),
            group: group(),
            joined: true,
            silent_s: 12,
        },
        Notice::QueueLoss { interface: interface(), parent: upstream(), lost_per_s: 120 },
    ]
}

/// Every code that serde knows, out of its error for an unknown one.
fn known_codes() -> Vec<String> {
    let error = Notice::deserialize(&json!({ "code": "?" })).unwrap_err().to_string();
    error.split('`').skip(3).step_by(2).map(str::to_owned).collect()
}

fn page() -> String {
    let mut page = String::from(
        "# Notices\n\
         \n\
         What a proxy tells people is a notice: in its log, in `mcrun ps`, `groups` and `inspect`, and \
         to programs that\nsubscribe to its [control socket](control-protocol.md). With `--json` a \
         notice is an object:\n\
         \n\
         - `code` names the kind of notice. Codes do not change from version to version.\n\
         - `severity` is `error`, `warning` or `info`, with the meaning of syslog (RFC 5424 §6.2.1).\n\
         - `text` is the line for people. Texts may change.\n\
         - The fields of the code, as listed below. A later version may add fields, and codes.\n\
         \n\
         `warnings` in the same outputs is an array of the texts whose severity is `warning` or \
         `error`.\n\
         \n\
         | code | severity | fields | example of the text |\n\
         |---|---|---|---|\n",
    );
    for notice in examples() {
        let object = serde_json::to_value(&notice).unwrap();
        let fields: Vec<_> = object
            .as_object()
            .unwrap()
            .keys()
            .filter(|key| !["code", "severity", "text"].contains(&key.as_str()))
            .map(|key| format!("`{key}`"))
            .collect();
        let severity = object["severity"].as_str().unwrap();
        writeln!(page, "| `{}` | {severity} | {} | {notice} |", notice.code(), fields.join(" "))
            .unwrap();
    }
    page
}

#[test]
fn the_page_of_notices_is_in_step() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/notices.md");
    if std::env::var_os(REGENERATE).is_some() {
        std::fs::write(&path, page()).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap();
    assert!(
        committed == page(),
        "docs/notices.md is out of step; `{REGENERATE}=1 cargo test --lib notice` writes it"
    );
}

#[test]
fn each_code_has_an_example_and_is_what_json_shows() {
    let codes: Vec<String> = examples().iter().map(|notice| notice.code().to_owned()).collect();
    assert_eq!(codes, known_codes());
    for notice in examples() {
        let object = serde_json::to_value(&notice).unwrap();
        assert_eq!(object["code"], notice.code());
        assert_eq!(object["text"], notice.to_string());
        assert_eq!(serde_json::from_value::<Notice>(object).unwrap(), notice);
    }
}

#[test]
fn a_text_is_one_short_line() {
    for notice in examples() {
        let text = notice.to_string();
        assert!(text.len() < 250 && !text.contains('\n'), "{text}");
    }
}

#[test]
fn a_notice_of_another_version_is_shown_as_it_came() {
    let later = json!({
        "code": "clock-jumped", "severity": "error", "text": "the clock jumped", "seconds": 3,
    });
    let notice: Notice = serde_json::from_value(later.clone()).unwrap();
    assert_eq!((notice.code(), notice.severity()), ("clock-jumped", Severity::Error));
    assert_eq!(notice.to_string(), "the clock jumped");
    assert_eq!(serde_json::to_value(&notice).unwrap(), later);
    // A known code with other fields.
    let other = json!({ "code": "no-querier", "severity": "warning", "text": "t", "lan": "x" });
    let notice: Notice = serde_json::from_value(other.clone()).unwrap();
    assert_eq!(serde_json::to_value(&notice).unwrap(), other);
}

#[test]
fn what_is_no_notice_is_refused() {
    for value in [json!(null), json!([]), json!({}), json!({ "code": "x", "text": "t" })] {
        assert!(serde_json::from_value::<Notice>(value.clone()).is_err(), "{value}");
    }
}

#[test]
fn ipv6_groups_are_told_in_the_words_of_mld() {
    let notice = Notice::QuerierWithoutSourceLists {
        interface: "mc0".into(),
        upstream: "eth1".into(),
        querier: "fe80::1".parse().unwrap(),
        querier_version: 1,
        groups: vec!["ff3e::1".parse().unwrap()],
    };
    assert!(notice.to_string().contains("speaks MLDv1"), "{notice}");
    let notice =
        Notice::AnySourceJoinIgnored { interface: "mc0".into(), group: "ff3e::1".parse().unwrap() };
    assert!(notice.to_string().contains("ff3x::/32"), "{notice}");
}

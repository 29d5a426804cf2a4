use std::net::IpAddr;
use std::time::Duration;

use super::*;
use crate::doctor::facts::{Duplicate, Fact, Queriers};
use crate::doctor::finding::Level;
use crate::net::messages::Link;
use crate::proxy::QuerierStatus;

fn querier(version: u8) -> QuerierStatus {
    let address = [10, 0, 0, 1].into();
    QuerierStatus { address, version, interval_s: Some(125), last_query_s: 12 }
}

fn facts() -> ParentFacts {
    let mac = "02:00:00:00:00:01".parse().ok();
    let name = "eth1".to_owned();
    let link =
        Link { name: name.clone(), up: true, carrier: true, mtu: 1500, mac, ..Link::default() };
    ParentFacts {
        name,
        link: Some(link),
        port_of: None,
        limits: Vec::new(),
        members: Vec::new(),
        bond_mode: None,
        bridge: None,
        is_promiscuous: false,
        rp_filter: Some(0),
        route_to_querier: Some("eth1".into()),
        users: 1,
        relays: 0,
        queriers: Queriers {
            elected: Some(querier(3)),
            rival: None,
            listening_s: Some(300),
            timeout_s: Some(255),
        },
        mld: None,
        notices: Vec::new(),
        lets_in: Ok(true),
        lets_out: Ok(true),
        wire: Ok(Wire { time: Duration::from_secs(1), asked: 2, ..Wire::default() }),
    }
}

fn with_link(change: impl FnOnce(&mut Link)) -> ParentFacts {
    let mut facts = facts();
    if let Some(link) = &mut facts.link {
        change(link);
    }
    facts
}

fn with_wire(change: impl FnOnce(&mut Wire)) -> ParentFacts {
    let mut facts = facts();
    if let Ok(wire) = &mut facts.wire {
        change(wire);
    }
    facts
}

fn wrong(facts: &ParentFacts) -> Vec<String> {
    let findings = check(facts).into_iter().filter(|finding| finding.level != Level::Ok);
    findings.map(|finding| format!("{} {}", finding.level, finding.check)).collect()
}

#[test]
fn nothing_is_wrong_with_a_parent_that_works() {
    assert!(wrong(&facts()).is_empty(), "{:?}", check(&facts()));
    let text = &check(&facts())[0].text;
    assert_eq!(text, "up, carrier, MTU 1500; 1 container interface");
}

#[test]
fn a_link_that_does_not_work_is_the_cause_and_hides_what_follows_from_it() {
    assert_eq!(wrong(&ParentFacts { link: None, ..facts() }), ["failure exists"]);
    let silent = Queriers { listening_s: Some(300), timeout_s: Some(255), ..Queriers::default() };
    for link in [with_link(|link| link.up = false), with_link(|link| link.carrier = false)] {
        assert_eq!(wrong(&ParentFacts { queriers: silent.clone(), ..link }), ["failure link"]);
    }
    assert_eq!(wrong(&with_link(|link| link.loopback = true)), ["failure link"]);
    let unheard =
        ParentFacts { lets_in: Err("it is down".into()), ..with_link(|link| link.up = false) };
    assert_eq!(wrong(&unheard), ["failure link"]);
    assert_eq!(wrong(&ParentFacts { port_of: Some("br0".into()), ..facts() }), ["failure port"]);
    let limits = vec![Limit::NoAddress, Limit::WiFi, Limit::VirtualMachine, Limit::WithoutLan];
    assert_eq!(
        wrong(&ParentFacts { limits, ..facts() }),
        ["warning address", "warning wifi", "warning virtual-machine", "warning lan"]
    );
}

#[test]
fn bonds_and_bridges_are_looked_into() {
    let member = |name: &str, mtu, carrier| (name.to_owned(), mtu, carrier);
    let with = |members, mode: Option<&str>| ParentFacts {
        members,
        bond_mode: mode.map(str::to_owned),
        ..facts()
    };
    let both = vec![member("eth2", 1500, true), member("eth3", 1500, true)];
    assert!(wrong(&with(both.clone(), Some("active-backup"))).is_empty());
    assert_eq!(wrong(&with(both, Some("balance-rr"))), ["warning bond"]);
    let one = vec![member("eth2", 1500, true), member("eth3", 1400, false)];
    assert_eq!(wrong(&with(one, None)), ["warning members", "warning mtu"]);
    assert_eq!(wrong(&with(vec![member("eth2", 1500, false)], None)), ["failure members"]);
    assert_eq!(wrong(&with_link(|link| link.mtu = 1280)), ["warning mtu"]);
    assert!(wrong(&ParentFacts { bridge: Some((false, false)), ..facts() }).is_empty());
}

#[test]
fn a_firewall_is_named_by_proxies_and_by_the_probe() {
    let with = |lets_in: Fact<bool>, lets_out, notices| ParentFacts {
        lets_in,
        lets_out,
        notices,
        ..facts()
    };
    let upstream = || "eth1".to_owned();
    assert_eq!(wrong(&with(Ok(false), Ok(true), Vec::new())), ["warning firewall-in"]);
    assert_eq!(wrong(&with(Ok(true), Ok(false), Vec::new())), ["failure firewall-out"]);
    let out = Notice::ReportsFiltered { upstream: upstream() };
    assert_eq!(wrong(&with(Ok(true), Ok(true), vec![out])), ["failure firewall-out"]);
    let queries = Notice::QueriesFiltered { upstream: upstream(), querier: [10, 0, 0, 1].into() };
    assert_eq!(wrong(&with(Ok(true), Ok(true), vec![queries])), ["warning firewall-in"]);
    let why = || Err("run it as root".to_owned());
    assert_eq!(
        wrong(&with(why(), why(), Vec::new())),
        ["unknown firewall-in", "unknown firewall-out"]
    );
}

#[test]
fn rp_filter_is_a_failure_where_the_querier_is_elsewhere() {
    let with = |rp_filter, route: Option<&str>, relays| ParentFacts {
        rp_filter,
        route_to_querier: route.map(str::to_owned),
        relays,
        ..facts()
    };
    assert!(wrong(&with(Some(1), Some("eth1"), 0)).is_empty());
    assert!(wrong(&with(Some(2), None, 1)).is_empty());
    assert_eq!(wrong(&with(Some(1), Some("eth0"), 0)), ["failure rp-filter"]);
    assert_eq!(wrong(&with(Some(1), None, 0)), ["failure rp-filter"]);
    assert_eq!(wrong(&with(Some(1), Some("eth1"), 1)), ["warning rp-filter"]);
    assert_eq!(wrong(&with(None, Some("eth1"), 1)), ["unknown rp-filter"]);
}

#[test]
fn queriers_are_none_one_or_two_and_of_a_version() {
    let with = |queriers| ParentFacts { queriers, ..facts() };
    let none = |listening_s| Queriers { listening_s, timeout_s: Some(255), ..Queriers::default() };
    assert_eq!(wrong(&with(none(Some(255)))), ["failure querier"]);
    assert_eq!(wrong(&with(none(Some(254)))), ["unknown querier"]);
    assert_eq!(wrong(&with(none(None))), ["unknown querier"]);
    // doctor has heard one itself.
    let mut heard = with_wire(|wire| wire.queriers = vec![([10, 0, 0, 1].into(), 3)]);
    heard.queriers = none(Some(300));
    assert!(wrong(&heard).is_empty());
    let text = check(&facts()).into_iter().find(|f| f.check == "querier").map(|f| f.text);
    let expected = "querier 10.0.0.1 (IGMPv3), every 125 s, last query 12 s ago";
    assert_eq!(text.as_deref(), Some(expected));

    let rival = Some(QuerierStatus { address: [10, 0, 0, 9].into(), ..querier(2) });
    let two = with(Queriers { elected: Some(querier(3)), rival, ..Queriers::default() });
    assert_eq!(wrong(&two), ["warning two-queriers"]);
    let two = with_wire(|wire| {
        wire.queriers = vec![([10, 0, 0, 1].into(), 3), ([10, 0, 0, 9].into(), 3)];
    });
    assert_eq!(wrong(&two), ["warning two-queriers"]);
    // One without an address takes no part in the election.
    let proxy = with_wire(|wire| wire.queriers = vec![([0, 0, 0, 0].into(), 3)]);
    assert!(wrong(&proxy).is_empty());

    let notice = Notice::QuerierWithoutSourceLists {
        interface: "mc0".into(),
        upstream: "eth1".into(),
        querier: [10, 0, 0, 1].into(),
        querier_version: 2,
        groups: vec![[232, 1, 1, 1].into()],
    };
    assert_eq!(
        wrong(&ParentFacts { notices: vec![notice], ..facts() }),
        ["warning querier-version"]
    );
}

#[test]
fn mld_is_looked_at_where_it_is_spoken_or_heard() {
    let with = |queriers, is_wanted| {
        let mld = MldFacts { queriers, is_wanted, lets_in: Ok(true), lets_out: Ok(true) };
        ParentFacts { mld: Some(mld), ..facts() }
    };
    let none = |listening_s| Queriers { listening_s, timeout_s: Some(255), ..Queriers::default() };
    let has = |facts: &ParentFacts| check(facts).iter().any(|found| found.check == "mld-querier");
    assert!(!has(&facts()));
    assert_eq!(wrong(&with(none(Some(255)), true)), ["warning mld-querier"]);
    assert_eq!(wrong(&with(none(Some(254)), true)), ["unknown mld-querier"]);
    // Neighbour discovery alone needs none.
    let idle = with(none(Some(255)), false);
    assert!(wrong(&idle).is_empty() && has(&idle));

    let address: IpAddr = "fe80::1".parse().unwrap();
    let of_mld = QuerierStatus { address, ..querier(2) };
    let known = with(Queriers { elected: Some(of_mld), ..none(Some(300)) }, true);
    let text = check(&known).into_iter().find(|f| f.check == "mld-querier").map(|f| f.text);
    let expected = "querier fe80::1 (MLDv2), every 125 s, last query 12 s ago";
    assert_eq!(text.as_deref(), Some(expected));
    // Each protocol has an election of its own.
    let other = "fe80::2".parse().unwrap();
    let heard = |addresses: &[IpAddr]| {
        with_wire(|wire| wire.queriers.extend(addresses.iter().map(|address| (*address, 2))))
    };
    let one = heard(&[address]);
    assert!(wrong(&one).is_empty() && has(&one));
    assert_eq!(wrong(&heard(&[address, other])), ["warning two-mld-queriers"]);
}

#[test]
fn a_firewall_that_drops_mld_is_a_failure() {
    let with = |lets_in: Fact<bool>, lets_out| {
        let queriers = Queriers {
            elected: Some(QuerierStatus { address: "fe80::1".parse().unwrap(), ..querier(2) }),
            ..Queriers::default()
        };
        ParentFacts {
            mld: Some(MldFacts { queriers, is_wanted: true, lets_in, lets_out }),
            ..facts()
        }
    };
    assert!(wrong(&with(Ok(true), Ok(true))).is_empty());
    assert_eq!(wrong(&with(Ok(false), Ok(true))), ["failure mld-firewall-in"]);
    assert_eq!(wrong(&with(Ok(true), Ok(false))), ["failure mld-firewall-out"]);
    let why = || Err("it has no link-local address".to_owned());
    assert_eq!(wrong(&with(why(), why())), ["unknown mld-firewall-in", "unknown mld-firewall-out"]);
}

#[test]
fn duplicates_and_floods_are_told() {
    let duplicate = Duplicate {
        address: [10, 0, 0, 20].into(),
        owner: "cam".into(),
        mac: "02:00:00:00:00:09".parse().unwrap(),
    };
    let facts = with_wire(|wire| wire.duplicates.push(duplicate));
    assert_eq!(wrong(&facts), ["failure duplicate-address"]);
    let facts = with_wire(|wire| {
        wire.foreign = [([239, 9, 9, 9].into(), 70), ([239, 9, 9, 8].into(), 7)].into();
    });
    let finding = check(&facts).pop().unwrap();
    assert_eq!(
        finding.text,
        "2 streams arrive that nobody here has joined: 70 packets of 239.9.9.9 within 1.0 s; the \
         switch does not snoop, or floods to this port"
    );
    let facts = ParentFacts { wire: Err("run it as root".into()), ..self::facts() };
    assert_eq!(wrong(&facts), ["unknown wire"]);
}

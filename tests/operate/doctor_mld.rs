//! `mcrun doctor` looks at MLD, where a container speaks it.

use std::fs;
use std::net::{Ipv6Addr, SocketAddrV6, UdpSocket};

use serde_json::Value;

use super::doctor::{doctor, text};
use crate::lab::{Family as _, Lab, PATIENCE, run, wait_until};

const GROUP: Ipv6Addr = Ipv6Addr::new(0xff0e, 0, 0, 0, 0, 0, 5, 1);

/// The level of a check; none: it was not made.
fn level(findings: &[Value], check: &str) -> Option<String> {
    let found = findings.iter().find(|finding| finding["check"] == check)?;
    found["level"].as_str().map(str::to_owned)
}

#[test]
fn doctor_names_a_firewall_that_drops_mld_and_a_lan_without_an_mld_querier() {
    let lab = Ipv6Addr::lab(2);
    let plain = lab.start("plain", "10.99.0.12");
    // Where nobody speaks MLD, nothing is said of it, unless a query is heard.
    let (_, findings) = doctor(&lab, &[]);
    assert_eq!(level(&findings, "mld-firewall-in"), None, "{findings:?}");
    lab.delete(&plain);
    let container = lab.start_with("c", &["parent=lan0,ip=fd00:99::11/64"], &[]);
    lab.query();
    wait_until("the querier is known", PATIENCE, || {
        let shown = lab.ps(&container)?["interfaces"][0]["mld_querier"].clone();
        (shown["interval_s"] == 2).then_some(())
    });
    let before = lab.leftovers();
    let (_, findings) = doctor(&lab, &[]);
    assert_eq!(lab.leftovers(), before, "doctor changes nothing");
    let told = text(&findings, "mld-querier");
    assert!(told.starts_with("querier fe80::") && told.contains(" (MLDv2), every 2 s"), "{told}");
    for check in ["mld-querier", "mld-firewall-in", "mld-firewall-out"] {
        assert_eq!(level(&findings, check).as_deref(), Some("ok"), "{check}: {findings:?}");
    }

    let rules = lab.directory().join("rules.nft");
    for (hook, types, check) in [
        ("input", "130", "mld-firewall-in"),
        ("output", "{ 131, 132, 143 }", "mld-firewall-out"),
    ] {
        let drops = format!(
            "flush ruleset; table ip6 t {{ chain c {{ type filter hook {hook} priority 0;
            icmpv6 type {types} drop; }}; }}"
        );
        fs::write(&rules, drops).expect("rules");
        run(lab.enter("host", "nft").arg("-f").arg(&rules));
        let (status, findings) = doctor(&lab, &[]);
        assert_eq!(status, 1, "{findings:?}");
        let levels = ["mld-firewall-in", "mld-firewall-out"].map(|each| level(&findings, each));
        let expected = ["mld-firewall-in", "mld-firewall-out"]
            .map(|each| Some(if each == check { "failure" } else { "ok" }.to_owned()));
        assert_eq!(levels, expected, "{hook}: {findings:?}");
        assert!(text(&findings, check).contains("-> let MLD "), "{findings:?}");
    }
    run(lab.enter("host", "nft").args(["flush", "ruleset"]));

    // No switch needs a querier for what neighbour discovery joins.
    lab.ip("sw", "link set br0 type bridge mcast_querier 0");
    wait_until("it is missed", PATIENCE * 6, || {
        lab.ps(&container)?["interfaces"][0]["mld_querier"].is_null().then_some(())
    });
    let (_, findings) = doctor(&lab, &[]);
    assert_eq!(level(&findings, "mld-querier").as_deref(), Some("ok"), "{findings:?}");
    let told = text(&findings, "mld-querier");
    assert!(told.contains("no container has joined a group of IPv6 beyond link scope"), "{told}");
    let index = container.ip("link show mc0")[0]["ifindex"].as_u64().expect("an index") as u32;
    let open = || UdpSocket::bind(SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, 0, 0, 0)).unwrap();
    let socket = container.namespace().run(open).expect("the container runs");
    socket.join_multicast_v6(&GROUP, index).expect("joined");
    wait_until("it is told", PATIENCE, || {
        let (_, findings) = doctor(&lab, &[]);
        (level(&findings, "mld-querier")? == "warning").then_some(())
    });
    let (_, findings) = doctor(&lab, &[]);
    let told = text(&findings, "mld-querier");
    assert!(told.starts_with("no MLD querier for 10 s or longer"), "{told}");
    assert!(told.contains("or turn MLD snooping off"), "{told}");
}

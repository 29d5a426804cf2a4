use super::*;
use crate::doctor::facts::Fact;
use crate::doctor::finding::Level;
use crate::setup::SetupTarget;

fn facts() -> HostFacts {
    HostFacts {
        release: "6.12.9-amd64".into(),
        lacking: Vec::new(),
        is_root: true,
        features: vec![(Feature::Macvlan, Ok(true)), (Feature::JoinNotifications, Ok(true))],
        max_memberships: Some(20),
        max_sources: Some(10),
        engines: Vec::new(),
        keeper: Ok(true),
        state: Ok(StateFacts::default()),
        refusals: Ok(Vec::new()),
        refused_attachments: Ok(Vec::new()),
    }
}

/// What is not `ok`, as `LEVEL CHECK`.
fn wrong(facts: &HostFacts) -> Vec<String> {
    let findings = check(facts).into_iter().filter(|finding| finding.level != Level::Ok);
    findings.map(|finding| format!("{} {}", finding.level, finding.check)).collect()
}

#[test]
fn nothing_is_wrong_with_a_host_that_has_everything() {
    assert!(wrong(&facts()).is_empty(), "{:?}", check(&facts()));
}

#[test]
fn what_the_kernel_lacks_is_named_with_what_does_not_work() {
    let with = |feature, has: Fact<bool>| HostFacts { features: vec![(feature, has)], ..facts() };
    for (feature, level) in [
        (Feature::Macvlan, "failure kernel-macvlan"),
        (Feature::Tables, "failure kernel-nf-tables"),
        (Feature::Log, "failure kernel-nfnetlink-log"),
        (Feature::Ipvlan, "warning kernel-ipvlan"),
        (Feature::JoinNotifications, "warning kernel-join-notifications"),
        (Feature::Counting, "warning kernel-bpf"),
        (Feature::Relaying, "warning kernel-bpf-relay"),
    ] {
        assert_eq!(wrong(&with(feature, Ok(false))), [level]);
        let unknown = format!("unknown{}", level.trim_start_matches(char::is_alphabetic));
        assert_eq!(wrong(&with(feature, Err("run it as root".into()))), [unknown]);
    }
    let text = &check(&with(Feature::Tables, Ok(false)))[1].text;
    assert_eq!(
        text,
        "the kernel has no nf_tables with owned tables (Linux 5.12): containers speak IGMP \
         themselves, and relays do not start"
    );
    assert_eq!(
        wrong(&HostFacts { release: "5.10.0-30-amd64".into(), ..facts() }),
        ["warning kernel"]
    );
    assert!(wrong(&HostFacts { release: "odd".into(), ..facts() }).is_empty());
}

#[test]
fn settings_and_privileges_are_named() {
    assert_eq!(
        wrong(&HostFacts { max_memberships: Some(0), max_sources: Some(0), ..facts() }),
        ["failure igmp-max-memberships", "failure igmp-max-msf"]
    );
    assert_eq!(
        wrong(&HostFacts { max_memberships: Some(5), ..facts() }),
        ["warning igmp-max-memberships"]
    );
    let lacking = vec!["CAP_NET_ADMIN"];
    assert_eq!(wrong(&HostFacts { lacking: lacking.clone(), ..facts() }), ["failure privileges"]);
    assert_eq!(wrong(&HostFacts { lacking, is_root: false, ..facts() }), ["unknown privileges"]);
}

#[test]
fn engines_that_do_not_know_mcrun_are_named() {
    let engine = |needs_setup, is_set_up| EngineFacts {
        target: SetupTarget::Docker,
        name: "docker",
        is_set_up,
        needs_setup,
    };
    let with = |engine| HostFacts { engines: vec![engine], ..facts() };
    assert_eq!(wrong(&with(engine(true, Ok(false)))), ["warning engine"]);
    assert_eq!(wrong(&with(engine(true, Err("no".into())))), ["unknown engine"]);
    assert!(wrong(&with(engine(false, Ok(false)))).is_empty());
    let advice = check(&with(engine(true, Ok(false)))).pop().and_then(|_| {
        let all = check(&with(engine(true, Ok(false))));
        all.into_iter().find(|finding| finding.check == "engine")?.advice
    });
    assert_eq!(
        advice.as_deref(),
        Some("mcrun setup docker, if containers of docker are to be attached")
    );
}

#[test]
fn trouble_of_containers_is_named_and_many_are_counted() {
    let container =
        |proxy| ContainerFacts { name: "cam".into(), proxy, ..ContainerFacts::default() };
    let with = |containers| HostFacts {
        state: Ok(StateFacts { containers, ..StateFacts::default() }),
        ..facts()
    };
    assert!(wrong(&with(vec![container("running"), container("off")])).is_empty());
    for (proxy, level) in [
        ("dead", "failure proxy"),
        ("silent", "failure proxy"),
        ("degraded", "failure proxy"),
        ("waiting", "warning proxy"),
    ] {
        assert_eq!(wrong(&with(vec![container(proxy)])), [level]);
    }
    let worn = ContainerFacts {
        is_outdated: true,
        is_unfinished: true,
        deaths: 2,
        refused: vec![("mc0".into(), "239.1.1.1".into(), "denied (deny=239.1.1.1)".into())],
        ..container("running")
    };
    assert_eq!(
        wrong(&with(vec![worn])),
        ["warning unfinished", "warning outdated", "warning deaths", "warning groups"]
    );
    let many = check(&with(vec![container("dead"); 200]));
    let last = many.iter().rfind(|finding| finding.check == "proxy").map(|f| f.text.clone());
    assert_eq!(last.as_deref(), Some("190 containers more have trouble"));
    assert!(many.len() < 20);
    let state = StateFacts {
        stale: vec!["a".into(), "b".into()],
        unreadable: vec![("c".into(), "torn".into())],
        ..StateFacts::default()
    };
    let facts = HostFacts { state: Ok(state), keeper: Ok(false), ..facts() };
    assert_eq!(wrong(&facts), ["warning keeper", "failure record", "warning stale-state"]);
}

#[test]
fn refusals_are_counted_and_the_last_is_shown() {
    let refusals =
        vec!["t1 cam denied mc0 239.1.1.1".to_owned(), "t2 cam limited mc0 239.1.1.2".into()];
    let facts = HostFacts { refusals: Ok(refusals), ..facts() };
    let finding = check(&facts).pop().map(|finding| finding.text);
    let text = "2 refusals in the last hour; the last: t2 cam limited mc0 239.1.1.2";
    assert_eq!(finding.as_deref(), Some(text));
}

#[test]
fn the_last_refused_attachment_is_shown_with_its_reason() {
    let refused = |age_s, container: &str| crate::doctor::facts::RefusedAttachment {
        age_s,
        container: container.to_owned(),
        reason: "parent=eth7: there is no such interface".to_owned(),
    };
    let refused_attachments = Ok(vec![refused(2000, "old"), refused(200, "cam")]);
    let facts = HostFacts { refused_attachments, ..facts() };
    let text = "2 refused attachments in the last hour; the last, 3 min ago: container cam: \
                parent=eth7: there is no such interface";
    let findings = check(&facts);
    let found = findings.iter().find(|finding| finding.check == "refused-attachments");
    assert_eq!(found.map(|finding| finding.text.as_str()), Some(text));
}

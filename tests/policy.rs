//! Who may join what, and what of it arrives.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use crate::lab;
use crate::lab::{Change, Container, Lab, PATIENCE, SOURCES, run, wait_until};
use mcrun::multicast::SourceFilter;
use serde_json::Value;

const ALLOWED: Ipv4Addr = Ipv4Addr::new(239, 8, 1, 1);
const DENIED: Ipv4Addr = Ipv4Addr::new(239, 8, 2, 1);
/// Packets of a stream that must all arrive.
const PACKETS: u32 = 500;

fn entry(lab: &Lab, container: &Container, group: Ipv4Addr) -> Option<Value> {
    lab.groups(container).into_iter().find(|entry| entry["group"] == group.to_string())
}

/// Waits until `mcrun groups --json` gives the group this status; the whole entry.
fn wait_status(lab: &Lab, container: &Container, group: Ipv4Addr, status: &str) -> Value {
    wait_until(&format!("{group} is {status}"), PATIENCE, || {
        entry(lab, container, group).filter(|entry| entry["status"] == status)
    })
}

fn attached(lab: &Lab, name: &str, host: u8, rules: &str) -> Container {
    lab.start_with(name, &[&format!("parent=lan0,ip=10.99.0.{host}/24{rules}")], &[])
}

/// The table of `mcrun groups` as its lines, blanks made one.
fn table(lab: &Lab) -> Vec<String> {
    let text = run(&mut lab.mcrun(["groups"]));
    text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

#[test]
fn a_denied_group_is_shown_with_its_rule_and_does_not_arrive_although_a_neighbour_has_it() {
    let lab = Lab::new(3);
    let restricted = attached(&lab, "restricted", 11, ",deny=239.8.2.0/24");
    let neighbour = attached(&lab, "neighbour", 12, "");
    let capture = lab.capture();
    let denied = lab.receive_count(&restricted, DENIED, None, 1);
    let shown = wait_status(&lab, &restricted, DENIED, "denied");
    assert_eq!(shown["reason"], "deny=239.8.2.0/24", "{shown}");
    let line = format!("{} mc0@lan0 {DENIED} any v3 denied (deny=239.8.2.0/24)", restricted.name);
    assert!(table(&lab).iter().any(|shown| shown.starts_with(&line)), "{:?}", table(&lab));
    assert!(!lab.host_joins().contains(&DENIED));
    assert!(!capture.igmp().iter().any(|f| f.message.groups().contains(&DENIED)));

    lab.assert_stream_arrives(&neighbour, DENIED);
    // Sent behind the denied stream: when the allowed one has come, the denied one has passed by.
    lab.assert_stream_arrives(&restricted, ALLOWED);
    assert_eq!(denied.stop().packets, 0);
    lab.assert_one_igmp_host(&capture.finish());
}

#[test]
fn an_allow_with_a_source_joins_and_lets_in_that_source_only() {
    let [allowed, other] = SOURCES;
    let lab = Lab::new(3);
    let group = Ipv4Addr::new(239, 8, 3, 1);
    let container = attached(&lab, "c", 11, &format!(",allow={group}@{allowed}"));
    let neighbour = attached(&lab, "neighbour", 12, "");
    let _streams = [lab.send(group, allowed, 200), lab.send(group, other, 200)];
    let capture = lab.capture();
    let receiver = lab.receive(&container, group, None, Duration::from_secs(5));
    lab.wait_joined(&container, group);
    wait_until("the host joins the channel", PATIENCE, || {
        (lab.upstream(group) == Some(SourceFilter::include([allowed]))).then_some(())
    });
    for frame in capture.finish() {
        if let lab::Igmp::ReportV3(records) = frame.message {
            let wide = |r: &&lab::Record| {
                r.group == group
                    && matches!(r.kind, lab::RecordKind::IsExclude | lab::RecordKind::ToExclude)
            };
            assert_eq!(records.iter().find(wide), None);
        }
    }
    let all = lab.receive(&neighbour, group, None, Duration::from_secs(2)).finish();
    assert_eq!(all.sources, BTreeSet::from(SOURCES.map(Into::into)), "the neighbour has both");
    let reception = receiver.finish();
    // Not that nothing is lost: a Linux bridge drops a channel for some milliseconds when its port
    // goes over from sources to any, with a single host too.
    assert!(reception.packets > 0, "{reception:?}");
    assert_eq!(reception.sources, BTreeSet::from([allowed.into()]));
    // Anything but what the rule names is denied.
    let member = container.member();
    member.change(ALLOWED, &Change::Join);
    let shown = wait_status(&lab, &container, ALLOWED, "denied");
    assert_eq!(shown["reason"], "no allow rule names it", "{shown}");
}

#[test]
fn a_denied_source_is_left_out_and_does_not_arrive() {
    let [allowed, denied] = SOURCES;
    let lab = Lab::new(3);
    let container = attached(&lab, "c", 11, &format!(",deny={ALLOWED}@{denied}"));
    let neighbour = attached(&lab, "neighbour", 12, "");
    let receiver = lab.receive_count(&container, ALLOWED, None, PACKETS);
    lab.wait_joined(&container, ALLOWED);
    assert_eq!(lab.upstream(ALLOWED), Some(SourceFilter::exclude([denied])));
    let neighbours = neighbour.member();
    neighbours.change(ALLOWED, &Change::Join);
    lab.wait_joined(&neighbour, ALLOWED);
    let _denied = lab.send(ALLOWED, denied, 200);
    let heard = lab.receive_count(&neighbour, ALLOWED, None, 100).finish();
    assert_eq!(
        heard.sources,
        BTreeSet::from([denied.into()]),
        "the neighbour has the denied source"
    );
    let sender = lab.send_count(ALLOWED, allowed, 500, PACKETS);
    let reception = receiver.finish();
    let seen = (reception.packets, reception.lost, reception.duplicated);
    assert_eq!(seen, (PACKETS.into(), 0, 0), "{reception:?}");
    assert_eq!(reception.sources, BTreeSet::from([allowed.into()]));
    assert!(sender.finish(PATIENCE).status.success());
}

#[test]
fn the_administrators_file_is_in_force_for_new_containers_and_on_reload_for_running_ones() {
    let lab = Lab::new(3);
    let running = attached(&lab, "running", 11, "");
    let neighbour = attached(&lab, "neighbour", 12, "");
    let _denied = lab.send(DENIED, SOURCES[0], 200);
    let allowed = lab.stream(&running, ALLOWED, 1000);
    let member = running.member();
    member.change(DENIED, &Change::Join);
    lab.wait_joined(&running, DENIED);
    let neighbours = neighbour.member();
    neighbours.change(DENIED, &Change::Join);
    lab.wait_joined(&neighbour, DENIED);
    let received = |container| {
        lab.receive(container, DENIED, None, Duration::from_millis(500)).finish().packets
    };
    assert!(received(&running) > 0);

    lab.configure("[groups]\ndeny = [\"239.8.2.0/24\"]\nmax-groups = 10\n");
    let proxies = || [&running, &neighbour].map(|c| lab.proxy_pid(c));
    let before = proxies();
    let reloaded: BTreeSet<String> =
        run(&mut lab.mcrun(["reload"])).lines().map(str::to_owned).collect();
    assert_eq!(reloaded, BTreeSet::from([running.id.clone(), neighbour.id.clone()]));
    assert!(proxies().iter().all(|pid| !before.contains(pid)), "both have a new proxy");
    let shown = wait_status(&lab, &running, DENIED, "denied");
    assert_eq!(shown["reason"], "deny=239.8.2.0/24", "{shown}");
    wait_until("the host leaves", PATIENCE, || (!lab.host_joins().contains(&DENIED)).then_some(()));
    assert_eq!((received(&running), received(&neighbour)), (0, 0));
    assert_eq!(run(&mut lab.mcrun(["reload"])), "", "nothing has changed since");

    // A new container is bound by it too, and cannot ask for more.
    let new = attached(&lab, "new", 13, "");
    let third = new.member();
    third.change(DENIED, &Change::Join);
    wait_status(&lab, &new, DENIED, "denied");
    lab.configure("[attach]\nparents = [\"other0\"]\n[groups]\nallow = [\"239.8.1.0/24\"]\n");
    let refused = lab.try_start("refused", &["parent=lan0"], &[]);
    let errors = String::from_utf8_lossy(&refused.stderr);
    assert!(
        errors.contains("parent=lan0: the administrator allows other0 (mcrun.toml)"),
        "{errors}"
    );
    assert!(!refused.status.success());

    lab.configure("");
    run(&mut lab.mcrun(["reload"]));
    wait_status(&lab, &running, DENIED, "joined");
    wait_until("it arrives again", PATIENCE, || (received(&running) > 0).then_some(()));
    allowed.assert_whole();
}

#[test]
fn what_is_beyond_a_limit_is_shown_with_it_and_joined_when_there_is_room() {
    let lab = Lab::new(3);
    let container = attached(&lab, "c", 11, ",max-groups=2,max-sources=2");
    let groups = [1, 2, 3].map(|n| Ipv4Addr::new(239, 8, 4, n));
    let member = container.member();
    for group in &groups[..2] {
        member.change(*group, &Change::Join);
        lab.wait_joined(&container, *group);
    }
    member.change(groups[2], &Change::Join);
    let shown = wait_status(&lab, &container, groups[2], "limited");
    assert_eq!(shown["reason"], "max-groups=2", "{shown}");
    let line = format!("{} any v3 limited (max-groups=2)", groups[2]);
    assert!(table(&lab).iter().any(|shown| shown.contains(&line)), "{:?}", table(&lab));
    assert_eq!(lab.host_joins(), BTreeSet::from([groups[0], groups[1]]));
    member.change(groups[0], &Change::Leave);
    wait_status(&lab, &container, groups[2], "joined");
    assert_eq!(lab.host_joins(), BTreeSet::from([groups[1], groups[2]]));

    member.change(groups[1], &Change::Leave);
    lab.wait_left(&container, groups[1]);
    let channel = Ipv4Addr::new(232, 8, 4, 1);
    let sources = [1, 2, 3].map(|n| Ipv4Addr::new(10, 7, 0, n));
    for source in sources {
        member.change(channel, &Change::JoinSource(source));
    }
    let shown = wait_status(&lab, &container, channel, "limited");
    assert_eq!(shown["reason"], "max-sources=2", "{shown}");
    wait_until("two of them are joined", PATIENCE, || {
        lab.upstream(channel).filter(|f| f.sources.len() == 2)
    });
}

#[test]
fn a_limit_of_the_host_is_shown_and_what_was_refused_is_joined_when_it_is_raised() {
    let lab = Lab::new(3);
    let limit = |value: u32| {
        let script = format!("echo {value} >/proc/sys/net/ipv4/igmp_max_msf");
        run(lab.enter("host", "sh").args(["-c", &script]));
    };
    limit(3);
    let container = attached(&lab, "c", 11, "");
    let member = container.member();
    member.change(ALLOWED, &Change::Join);
    lab.wait_joined(&container, ALLOWED);
    let excluded = SourceFilter::exclude((1..=5).map(|n| Ipv4Addr::new(10, 7, 0, n)));
    member.change(ALLOWED, &Change::Set(excluded.clone()));
    let shown = wait_status(&lab, &container, ALLOWED, "failed");
    let reason = shown["reason"].as_str().expect("a reason");
    assert!(reason.contains("net.ipv4.igmp_max_msf"), "{reason}");
    assert!(table(&lab).iter().any(|line| line.contains(&format!("failed ({reason})"))));
    limit(10);
    wait_status(&lab, &container, ALLOWED, "joined");
    assert_eq!(lab.upstream(ALLOWED), Some(excluded));
}

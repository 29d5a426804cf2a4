//! What has happened, as it happens and afterwards.

use std::fs;
use std::fs::File;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use crate::lab::{Background, Lab, PATIENCE, SOURCES, SWITCH, kill, output, run, wait_until};

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 8, 10, 1);
const LATER: Ipv4Addr = Ipv4Addr::new(239, 8, 10, 2);
const DENIED: Ipv4Addr = Ipv4Addr::new(239, 8, 11, 1);
const CHANNEL: Ipv4Addr = Ipv4Addr::new(232, 8, 10, 1);
const PORT: u16 = 6000;

/// Events that depend on when the switch queries, and lines of the log.
const BESIDE: [&str; 5] = ["querier", "querier-gone", "alarm", "alarm-cleared", "notice"];

fn parse(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

/// As `joined 239.8.10.1`.
fn in_short(events: &[Value]) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let is_beside = |event: &&Value| BESIDE.contains(&text(&event["event"]).as_str());
    let events = events.iter().filter(|event| !is_beside(event));
    events
        .map(|e| format!("{} {}", text(&e["event"]), text(&e["group"])).trim().to_owned())
        .collect()
}

/// `mcrun events --follow --json`, and the file that it writes.
pub fn follow(lab: &Lab) -> (Background, PathBuf) {
    let path = lab.directory().join("events");
    let file = File::create(&path).expect("a file");
    let follower = Background::start(lab.mcrun(["events", "--follow", "--json"]).stdout(file));
    (follower, path)
}

/// What the follower has written, as soon as `is_there` says so.
pub fn followed(path: &PathBuf, what: &str, is_there: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    wait_until(what, PATIENCE, || {
        let text = fs::read_to_string(path).expect("the file");
        let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
        let events = parse(whole);
        is_there(&events).then_some(events)
    })
}

fn has(events: &[Value], event: &str) -> bool {
    events.iter().any(|e| e["event"] == event)
}

#[test]
fn what_happens_to_a_container_is_told_at_once_and_kept() {
    let lab = Lab::new(3);
    let keeper = || crate::keeper::keeper(&lab);
    let first_keeper = keeper();
    let (_follower, path) = follow(&lab);
    // One that was there before is no event.
    let rules = format!("parent=lan0,ip=10.99.0.11/24,deny={DENIED}");
    let container = lab.start_with("c", &[&rules], &[]);
    followed(&path, "it is attached", |events| has(events, "attached"));
    let socket = container.socket_on("mc0", PORT);
    socket.join(GROUP);
    followed(&path, "it has joined", |events| has(events, "joined"));
    socket.join(DENIED);
    followed(&path, "it is denied", |events| has(events, "denied"));
    let proxy = lab.wait_held(&container);
    kill(proxy);
    followed(&path, "the proxy is replaced", |events| has(events, "proxy-replaced"));
    assert_eq!(lab.ps(&container).expect("it is there")["proxy"]["deaths"], 1);
    lab.wait_held(&container);
    // The keeper's own death costs the events of meanwhile, and nothing that was kept.
    drop(first_keeper);
    let _second_keeper = keeper();
    lab.wait_held(&container);
    socket.join(LATER);
    let joined_later = |events: &[Value]| events.iter().any(|e| e["group"] == LATER.to_string());
    followed(&path, "it has joined another", joined_later);
    socket.leave(GROUP);
    followed(&path, "it has left", |events| has(events, "left"));
    let kept = || parse(&run(&mut lab.mcrun(["events", "--json"])));
    wait_until("its leave is kept", PATIENCE, || has(&kept(), "left").then_some(()));
    lab.delete(&container);
    let events = followed(&path, "it is detached", |events| has(events, "detached"));
    let expected = [
        "attached".to_owned(),
        format!("joined {GROUP}"),
        format!("denied {DENIED}"),
        "proxy-died".into(),
        "proxy-replaced".into(),
        format!("joined {LATER}"),
        format!("left {GROUP}"),
        format!("left {LATER}"),
        format!("left {DENIED}"),
        "detached".into(),
    ];
    assert_eq!(in_short(&events), expected);
    for event in &events {
        assert_eq!(
            (&event["container"], &event["name"]),
            (&container.id.clone().into(), &container.name.clone().into())
        );
    }
    let attached = &events[0];
    assert_eq!(attached["event"], "attached");
    assert_eq!(attached["parent"], "lan0");
    assert_eq!(attached["addresses"], serde_json::json!(["10.99.0.11/24"]));
    let denied = events.iter().find(|e| e["event"] == "denied").expect("a denied group");
    assert_eq!(denied["reason"], format!("deny={DENIED}"));
    let died = events.iter().find(|e| e["event"] == "proxy-died").expect("a death");
    assert_eq!(died["pid"], proxy);

    wait_until("its end is kept", PATIENCE, || has(&kept(), "detached").then_some(()));
    assert_eq!(in_short(&kept()), expected);
    // For people, and for one container alone.
    let lines = run(&mut lab.mcrun(["events", &container.name]));
    let joined = format!(" {} joined mc0 {GROUP}\n", container.name);
    assert!(lines.contains(&joined), "{lines}");
    assert_eq!(run(&mut lab.mcrun(["events", "nobody"])), "");
    // Times are of the host's clock.
    assert_eq!(run(&mut lab.mcrun(["events", "--until", "1h"])), "");
    assert_eq!(
        in_short(&parse(&run(&mut lab.mcrun(["events", "--json", "--since", "1h"])))),
        expected
    );
}

/// What a hook refuses is an event, whether a keeper runs or not.
#[test]
fn what_a_hook_refuses_is_told_as_it_happens_and_afterwards() {
    let lab = Lab::new(3);
    lab.configure("[attach]\nip = \"10.99.0.0/28\"\n");
    let refuse = |name| {
        let refused = lab.try_start(name, &["parent=lan0,ip=10.99.0.99/24"], &[]);
        assert!(!refused.status.success());
    };
    let reasons = |events: &[Value]| {
        let refused = events.iter().filter(|event| event["event"] == "refused");
        refused
            .map(|event| {
                let text = |field: &str| event[field].as_str().unwrap_or_default().to_owned();
                assert!(text("reason").contains("10.99.0.99"), "{event}");
                let id = text("container");
                id.rsplit('-').next().unwrap_or_default().to_owned()
            })
            .collect::<Vec<_>>()
    };
    let kept = || reasons(&parse(&run(&mut lab.mcrun(["events", "--json"]))));
    refuse("first");
    assert_eq!(kept(), ["first"]);
    // Without a keeper, and with one.
    let (follower, path) = follow(&lab);
    let lines = || fs::read_to_string(&path).expect("the file");
    wait_until("the follower follows", PATIENCE, || {
        refuse("second");
        lines().contains("second").then_some(())
    });
    drop(follower);
    let before = kept().len();
    let keeper = crate::keeper::keeper(&lab);
    wait_until("the keeper keeps", PATIENCE, || {
        refuse("third");
        let history = fs::read_to_string(lab.log_dir().join("events.jsonl")).unwrap_or_default();
        history.contains("\"refused\"").then_some(())
    });
    let all = kept();
    assert!(all.len() > before, "{all:?}");
    assert_eq!(all.iter().filter(|name| *name == "first").count(), 1, "{all:?}");
    drop(keeper);
    assert_eq!(kept(), all);
    let lines = run(&mut lab.mcrun(["events"]));
    assert!(lines.lines().next().is_some_and(|line| line.contains(" refused ")), "{lines}");
}

#[test]
fn a_querier_and_an_alarm_are_told_when_they_begin_and_when_they_end() {
    let lab = Lab::new(2);
    let container = lab.start("c", "10.99.0.11");
    lab.query();
    let version =
        || lab.ps(&container).expect("it is there")["interfaces"][0]["querier"]["version"].clone();
    wait_until("the querier is known", PATIENCE, || (version() == 2).then_some(()));
    // Without a keeper.
    let (mut follower, path) = follow(&lab);
    let (socket, other) = (container.socket_on("mc0", PORT), container.socket_on("mc0", PORT + 1));
    // The follower has begun as soon as it tells of a group that is joined anew. The kernel reports a
    // join some 10 ms later, and none that was undone by then.
    wait_until("the follower follows", PATIENCE, || {
        other.join(GROUP);
        std::thread::sleep(Duration::from_millis(50));
        other.leave(GROUP);
        (fs::metadata(&path).expect("the file").len() > 0).then_some(())
    });
    socket.join_source(CHANNEL, SOURCES[0]);
    let events = followed(&path, "there is an alarm", |events| has(events, "alarm"));
    let alarm = events.iter().find(|e| e["event"] == "alarm").expect("an alarm");
    assert_eq!(alarm["code"], "querier-without-source-lists", "{alarm}");
    lab.ip("sw", "link set br0 type bridge mcast_igmp_version 3");
    lab.query();
    let events = followed(&path, "the alarm is over", |events| has(events, "alarm-cleared"));
    let cleared = events.iter().find(|e| e["event"] == "alarm-cleared").expect("its end");
    assert_eq!(cleared["code"], "querier-without-source-lists", "{cleared}");
    assert!(cleared["time_ms"].as_u64() > alarm["time_ms"].as_u64());
    let querier = events.iter().find(|e| e["event"] == "querier").expect("a querier");
    assert_eq!((&querier["address"], &querier["version"]), (&SWITCH.to_string().into(), &3.into()));
    // What was there before is no event.
    assert!(!has(&events, "attached"), "{events:?}");
    follower.signal(libc::SIGTERM);
    assert!(follower.wait(PATIENCE).success());
}

#[test]
fn without_a_keeper_nothing_is_kept_and_people_are_told() {
    let lab = Lab::new(2);
    let shown = output(&mut lab.mcrun(["events"]));
    assert!(shown.status.success() && shown.stdout.is_empty(), "{shown:?}");
    let told = String::from_utf8_lossy(&shown.stderr).into_owned();
    assert_eq!(told, "mcrun: no keeper runs, so that no event is kept now: start mcrun keep\n");
    for (bad, expected) in [
        ("yesterday", "expected a time such as 2026-01-31T03:00:00Z, or a duration such as 10m"),
        ("2026-13-01T00:00:00Z", "expected a time"),
    ] {
        let refused = output(&mut lab.mcrun(["events", "--since", bad]));
        let told = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(2), "{told}");
        assert!(told.lines().count() == 1 && told.contains(expected), "{told}");
    }
    assert!(!lab.log_dir().exists(), "nothing is made");
    fs::write(lab.log_dir(), "a file").expect("written");
    let refused = output(&mut lab.mcrun(["events"]));
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(125), "{told}");
    let file = lab.log_dir().join("events.jsonl");
    assert!(told.contains(&format!("mcrun: cannot read {}", file.display())), "{told}");
}

#[test]
fn with_since_a_follower_shows_what_was_kept_and_goes_on_without_a_gap() {
    let lab = Lab::new(3);
    let _keeper = crate::keeper::keeper(&lab);
    let container = lab.start("c", "10.99.0.11");
    let socket = container.socket_on("mc0", PORT);
    socket.join(GROUP);
    lab.wait_joined(&container, GROUP);
    let kept = || parse(&run(&mut lab.mcrun(["events", "--json"])));
    wait_until("the join is kept", PATIENCE, || has(&kept(), "joined").then_some(()));
    let path = lab.directory().join("events");
    let file = File::create(&path).expect("a file");
    let arguments = ["events", "--follow", "--json", "--since", "1h"];
    let _follower = Background::start(lab.mcrun(arguments).stdout(file));
    // Some of these are kept before the follower reads, and some come after.
    let groups: Vec<_> = (1..=100).map(|last| Ipv4Addr::new(239, 8, 12, last)).collect();
    let others: Vec<_> = (0..10).map(|port| container.socket_on("mc0", PORT + port)).collect();
    for (socket, groups) in others.iter().zip(groups.chunks(10)) {
        groups.iter().for_each(|group| socket.join(*group));
    }
    let is_last = |e: &Value| e["group"] == groups[99].to_string();
    let events = followed(&path, "the last join is told", |events| events.iter().any(is_last));
    let expected = ["attached".to_owned(), format!("joined {GROUP}")].into_iter();
    let expected = expected.chain(groups.iter().map(|group| format!("joined {group}")));
    assert_eq!(in_short(&events), expected.collect::<Vec<_>>());
}

/// What a keeper was told and has not written yet is waited for.
#[test]
fn with_since_a_follower_waits_for_a_keeper_that_is_late() {
    let lab = Lab::new(3);
    let keeper = crate::keeper::keeper(&lab);
    let container = lab.start("c", "10.99.0.11");
    let socket = container.socket_on("mc0", PORT);
    socket.join(GROUP);
    let kept = || parse(&run(&mut lab.mcrun(["events", "--json"])));
    wait_until("the join is kept", PATIENCE, || has(&kept(), "joined").then_some(()));
    keeper.signal(libc::SIGSTOP);
    socket.join(LATER);
    lab.wait_joined(&container, LATER);
    let path = lab.directory().join("events");
    let file = File::create(&path).expect("a file");
    let arguments = ["events", "--follow", "--json", "--since", "1h"];
    let _follower = Background::start(lab.mcrun(arguments).stdout(file));
    // It has begun by then, and waits for the keeper no longer than 2 s.
    std::thread::sleep(Duration::from_millis(400));
    keeper.signal(libc::SIGCONT);
    wait_until("the second join is kept", PATIENCE, || {
        kept().iter().any(|e| e["group"] == LATER.to_string()).then_some(())
    });
    socket.leave(LATER);
    let events = followed(&path, "the leave is told", |events| has(events, "left"));
    let expected = [
        "attached".to_owned(),
        format!("joined {GROUP}"),
        format!("joined {LATER}"),
        format!("left {LATER}"),
    ];
    assert_eq!(in_short(&events), expected);
}

#[test]
fn a_follower_too_many_is_told_whom_it_cannot_follow() {
    let lab = Lab::new(2);
    let container = lab.start("c", "10.99.0.11");
    let directory = lab.state_dir().join("containers").join(&container.id);
    let subscriptions: Vec<_> =
        (0..4).map(|_| mcrun::proxy::subscribe(&directory).expect("subscribed")).collect();
    let (_follower, path) = follow(&lab);
    let events = followed(&path, "it is told", |events| has(events, "not-followed"));
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!(events[0]["name"], container.name);
    let error = events[0]["error"].as_str().expect("a reason");
    assert!(error.contains("4 clients have subscribed"), "{error}");
    // It follows as soon as it may.
    drop(subscriptions);
    let socket = container.socket_on("mc0", PORT);
    socket.join(GROUP);
    followed(&path, "the join is told", |events| has(events, "joined"));
}

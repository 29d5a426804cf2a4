//! Alarms that need all containers, or what arrives, to be known.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use socket2::SockRef;

use crate::lab::{Container, Lab, PATIENCE, SOURCES, kill, output, run, wait_until};
use crate::operate::events::{follow, followed};

const PORT: u16 = 6000;

/// What arrives is looked at every 5 s, and a stream has stopped after 10 s.
const LONG_PATIENCE: Duration = Duration::from_secs(60);

/// The notices of this code that stand at a container.
fn standing(lab: &Lab, container: &Container, code: &str) -> Vec<Value> {
    let entry = lab.ps(container).expect("it is shown");
    let notices = entry["notices"].as_array().cloned().unwrap_or_default();
    notices.into_iter().filter(|notice| notice["code"] == code).collect()
}

/// The events of this name and code, in their order.
fn told<'e>(events: &'e [Value], event: &str, code: &str) -> Vec<&'e Value> {
    events.iter().filter(|e| e["event"] == event && e["code"] == code).collect()
}

#[test]
fn groups_that_share_an_ethernet_address_are_told_of_while_both_are_joined() {
    const CODE: &str = "shared-mac";
    let (group, other) = (Ipv4Addr::new(239, 1, 1, 1), Ipv4Addr::new(239, 129, 1, 1));
    let lab = Lab::new(3);
    let one = lab.start("one", "10.99.0.11");
    let socket = one.socket_on("mc0", PORT);
    socket.join(group);
    let (_follower, path) = follow(&lab);
    let two = lab.start("two", "10.99.0.12");
    let its_socket = two.socket_on("mc0", PORT);
    // The same group is no other one, and this one has another address.
    its_socket.join(group);
    its_socket.join(Ipv4Addr::new(239, 129, 1, 2));
    lab.wait_forwarded(Ipv4Addr::new(239, 129, 1, 2));
    assert_eq!(standing(&lab, &one, CODE), Vec::<Value>::new());
    its_socket.leave(group);
    its_socket.join(other);
    let notices = wait_until("it is warned of", PATIENCE, || {
        Some(standing(&lab, &one, CODE)).filter(|notices| !notices.is_empty())
    });
    let (interface, parent, mac) = ("mc0", "lan0", "01:00:5e:01:01:01");
    let text = format!(
        "mc0: {group} has the Ethernet address of {other}, joined on lan0 by {}: each gets the \
         frames of both; choose groups that differ in the last 23 bits",
        two.name
    );
    let expected = json!({
        "code": CODE, "severity": "warning", "text": text, "interface": interface,
        "parent": parent, "group": group, "mac": mac, "others": [other],
        "containers": [two.name],
    });
    assert_eq!(notices, [expected]);
    assert_eq!(standing(&lab, &two, CODE)[0]["containers"], json!([one.name]));
    let shown = output(&mut lab.mcrun(["ps"]));
    let warnings = String::from_utf8_lossy(&shown.stderr).into_owned();
    assert!(warnings.contains(&format!("mcrun: {}: {text}", one.name)), "{warnings}");
    let events = followed(&path, "both are told", |events| told(events, "alarm", CODE).len() == 2);
    for container in [&one, &two] {
        let own = |alarm: &&Value| alarm["container"] == container.id.as_str();
        assert!(told(&events, "alarm", CODE).iter().any(own), "{events:?}");
    }

    its_socket.leave(other);
    let events = followed(&path, "its end is told", |e| told(e, "alarm-cleared", CODE).len() == 2);
    assert_eq!(told(&events, "alarm", CODE).len(), 2, "{events:?}");
    for container in [&one, &two] {
        assert_eq!(standing(&lab, container, CODE), Vec::<Value>::new());
    }
}

/// The same group on two LANs, as the legs of SMPTE ST 2022-7.
#[test]
fn a_leg_that_stops_is_told_of_and_then_a_stream_that_stops_on_both() {
    let group = Ipv4Addr::new(239, 22, 7, 1);
    let red_source = Ipv4Addr::new(10, 98, 0, 1);
    let lab = Lab::new(3);
    let peer = format!("link add lan1 type veth peer name red0 netns {}", lab.namespace("src"));
    lab.ip("host", &peer);
    lab.ip("host", "link set lan1 up");
    lab.ip("src", "link set red0 up");
    lab.ip("src", &format!("addr add {red_source}/24 dev red0"));
    let legs = ["parent=lan0,ip=10.99.0.11/24", "parent=lan1,ip=10.98.0.11/24"];
    let container = lab.start_with("c", &legs, &[]);
    let (_follower, path) = follow(&lab);
    let sockets = ["mc0", "mc1"].map(|interface| {
        let socket = container.socket_on(interface, PORT);
        socket.join(group);
        socket
    });
    lab.wait_forwarded(group);
    let age = || {
        let text = run(&mut lab.mcrun(["groups", &container.name, "--json"]));
        let rows: Value = serde_json::from_str(&text).expect("JSON");
        let ages = rows.as_array()?.iter().map(|row| row["age_s"].as_u64());
        ages.min().flatten().filter(|_| rows.as_array().is_some_and(|rows| rows.len() == 2))
    };
    let state = || {
        let of = |code| {
            let notices = standing(&lab, &container, code);
            let interface = |n: Value| n["interface"].as_str().unwrap_or_default().to_owned();
            notices.into_iter().map(interface).collect::<Vec<_>>()
        };
        (of("leg-differs"), of("stream-stopped"))
    };
    let wait = |what, differs: &[&str], stopped: &[&str]| {
        let expected: (Vec<String>, Vec<String>) = (
            differs.iter().map(ToString::to_string).collect(),
            stopped.iter().map(ToString::to_string).collect(),
        );
        wait_until(what, LONG_PATIENCE, || (state() == expected).then_some(()));
    };
    let sends = [SOURCES[0], red_source].map(|source| {
        let sender = lab.socket("src", source, 0);
        SockRef::from(&sender.socket).set_multicast_if_v4(&source).expect("its interface");
        (sender, AtomicBool::new(true))
    });
    let ends = AtomicBool::new(false);
    let end = End(&ends);
    thread::scope(|scope| {
        // What unwinds here ends the sender.
        let end = end;
        scope.spawn(|| {
            while !ends.load(Ordering::Relaxed) {
                for (socket, _) in sends.iter().filter(|(_, on)| on.load(Ordering::Relaxed)) {
                    socket.send(b"one leg", (group, PORT));
                }
                thread::sleep(Duration::from_millis(100));
            }
        });
        // Three looks have found that it arrives.
        wait_until("it has arrived steadily", LONG_PATIENCE, || age().filter(|age| *age >= 18));
        assert_eq!(state(), (vec![], vec![]));
        let [blue, red] = &sends;
        red.1.store(false, Ordering::Relaxed);
        wait("a leg differs", &["mc1"], &[]);
        let notice = &standing(&lab, &container, "leg-differs")[0];
        assert_eq!(
            (&notice["group"], &notice["other"], &notice["joined"]),
            (&json!(group), &json!("mc0"), &json!(true)),
            "{notice}"
        );
        blue.1.store(false, Ordering::Relaxed);
        wait("both have stopped", &[], &["mc0", "mc1"]);
        blue.1.store(true, Ordering::Relaxed);
        red.1.store(true, Ordering::Relaxed);
        wait("both arrive", &[], &[]);
        // One leg is left, as by a receiver that has begun anew with half of its configuration.
        sockets[1].leave(group);
        wait("a leg is left", &["mc1"], &[]);
        let notice = &standing(&lab, &container, "leg-differs")[0];
        assert_eq!(
            (&notice["group"], &notice["other"], &notice["joined"]),
            (&json!(group), &json!("mc0"), &json!(false)),
            "{notice}"
        );
        sockets[1].join(group);
        wait("it is joined again", &[], &[]);
        drop(end);
    });
    let events = followed(&path, "the ends are told", |events| {
        told(events, "alarm-cleared", "leg-differs").len() == 2
    });
    for (code, interfaces) in
        [("leg-differs", vec!["mc1", "mc1"]), ("stream-stopped", vec!["mc0", "mc1"])]
    {
        for event in ["alarm", "alarm-cleared"] {
            let told: Vec<_> = told(&events, event, code);
            let told: Vec<_> = told.iter().filter_map(|e| e["interface"].as_str()).collect();
            assert_eq!(told, interfaces, "{event} {code}: {events:?}");
        }
    }
    drop(sockets);
}

/// The querier of the LAN asks every 2 s, so that its silence is noticed soon.
#[test]
fn a_querier_that_falls_silent_is_told_of_until_it_asks_again() {
    const CODE: &str = "no-querier";
    let lab = Lab::new(2);
    lab.ip("sw", "link set br0 type bridge mcast_igmp_version 3 mcast_query_interval 200");
    lab.ip("sw", "link set br0 type bridge mcast_query_response_interval 100");
    let container = lab.start("c", "10.99.0.11");
    let (_follower, path) = follow(&lab);
    lab.query();
    wait_until("the querier is heard", PATIENCE, || {
        let querier = lab.ps(&container)?["interfaces"][0]["querier"].clone();
        (querier["interval_s"] == 2).then_some(())
    });
    assert_eq!(standing(&lab, &container, CODE), Vec::<Value>::new());
    lab.ip("sw", "link set br0 type bridge mcast_querier 0");
    let notice =
        wait_until("it is missed", LONG_PATIENCE, || standing(&lab, &container, CODE).pop());
    let (interface, upstream) = (&notice["interface"], &notice["upstream"]);
    assert_eq!((interface, upstream), (&json!("mc0"), &json!("lan0")), "{notice}");
    assert_eq!(notice["silent_s"], 10, "{notice}");
    let events = followed(&path, "it is told", |events| !told(events, "alarm", CODE).is_empty());
    assert_eq!(told(&events, "alarm-cleared", CODE).len(), 0, "{events:?}");
    lab.query();
    let is_cleared = |events: &[Value]| !told(events, "alarm-cleared", CODE).is_empty();
    let events = followed(&path, "its end is told", is_cleared);
    assert_eq!(standing(&lab, &container, CODE), Vec::<Value>::new());
    let time = |event: &str| told(&events, event, CODE)[0]["time_ms"].as_u64();
    assert_eq!(told(&events, "alarm", CODE).len(), 1, "{events:?}");
    assert!(time("alarm").is_some() && time("alarm") < time("alarm-cleared"), "{events:?}");
}

/// What a proxy knows of streams, the one that replaces it knows too: after a reload, and after a
/// death where a keeper runs.
#[test]
fn a_stream_that_has_stopped_stays_an_alarm_when_the_proxy_is_replaced() {
    const CODE: &str = "stream-stopped";
    let group = Ipv4Addr::new(239, 22, 9, 1);
    let lab = Lab::new(3);
    let _keeper = crate::keeper::keeper(&lab);
    let container = lab.start("c", "10.99.0.11");
    let (_follower, path) = follow(&lab);
    let socket = container.socket_on("mc0", PORT);
    socket.join(group);
    lab.wait_forwarded(group);
    let sender = lab.socket("src", SOURCES[0], 0);
    let begin = Instant::now();
    // Three looks find that it arrives.
    while begin.elapsed() < Duration::from_secs(18) {
        sender.send(b"a stream", (group, PORT));
        thread::sleep(Duration::from_millis(100));
    }
    let stopped = Instant::now();
    // Seconds of silence, and those that have passed: the same begin, whoever tells.
    let assert_since = |notice: &Value| {
        let (silent, passed) = (notice["silent_s"].as_u64(), stopped.elapsed().as_secs());
        let is_same = silent.is_some_and(|silent| silent + 7 >= passed && silent <= passed + 2);
        assert!(is_same, "{notice} after {passed} s");
    };
    let notice =
        wait_until("it has stopped", LONG_PATIENCE, || standing(&lab, &container, CODE).pop());
    assert_since(&notice);
    lab.wait_held(&container);
    lab.configure("[groups]\nmax-groups = 7\n");
    let reload = || assert_eq!(run(&mut lab.mcrun(["reload"])).trim(), container.id);
    let die = || kill(lab.proxy_pid(&container));
    for replace in [&reload as &dyn Fn(), &die] {
        let proxy = lab.proxy_pid(&container);
        replace();
        wait_until("another proxy serves", PATIENCE, || {
            let shown = lab.ps(&container)?["proxy"].clone();
            (shown["state"] == "running" && shown["pid"] != proxy).then_some(())
        });
        assert_since(&standing(&lab, &container, CODE).pop().expect("it stands"));
        lab.wait_held(&container);
    }
    let events = followed(&path, "it is told", |events| !told(events, "alarm", CODE).is_empty());
    assert_eq!(told(&events, "alarm-cleared", CODE).len(), 0, "{events:?}");
    wait_until("it arrives again", LONG_PATIENCE, || {
        sender.send(b"a stream", (group, PORT));
        standing(&lab, &container, CODE).is_empty().then_some(())
    });
    let is_cleared = |events: &[Value]| !told(events, "alarm-cleared", CODE).is_empty();
    let events = followed(&path, "its end is told", is_cleared);
    assert_eq!(told(&events, "alarm", CODE).len(), 1, "{events:?}");
    assert_eq!(told(&events, "alarm-cleared", CODE).len(), 1, "{events:?}");
    let streams = events.iter().filter(|e| e["group"] == json!(group));
    let streams = streams.filter(|e| e["event"].as_str().is_some_and(|e| e.starts_with("stream-")));
    let streams: Vec<_> = streams.map(|e| e["event"].as_str().unwrap_or_default()).collect();
    assert_eq!(streams, ["stream-started", "stream-stopped", "stream-started"], "{events:?}");
}

/// Two containers share macvlan's queue, which holds few frames, and bursts overflow it.
#[test]
fn a_queue_that_overflows_is_told_of_until_it_does_not() {
    const CODE: &str = "queue-loss";
    let group = Ipv4Addr::new(239, 22, 8, 1);
    let lab = Lab::new(3);
    lab.configure("[attach]\nip = [\"0.0.0.0/0\"]\nbclim = \"1\"\n");
    let start = |name, address| {
        let attachment = format!("parent=lan0,ip={address}/24,bclim=1,bcqueuelen=10");
        lab.start_with(name, &[&attachment], &[])
    };
    let (one, two) = (start("one", "10.99.0.11"), start("two", "10.99.0.12"));
    let (_follower, path) = follow(&lab);
    let sockets = [&one, &two].map(|container| {
        let socket = container.socket_on("mc0", PORT);
        socket.join(group);
        socket
    });
    lab.wait_forwarded(group);
    let ends = AtomicBool::new(false);
    let end = End(&ends);
    thread::scope(|scope| {
        // What unwinds here ends the sender.
        let end = end;
        let (sender, ends) = (lab.socket("src", SOURCES[0], 0), &ends);
        scope.spawn(move || {
            while !ends.load(Ordering::Relaxed) {
                for _ in 0..5000 {
                    sender.send(b"a burst", (group, PORT));
                }
                thread::sleep(Duration::from_millis(100));
            }
        });
        let notice =
            wait_until("a queue loses frames", LONG_PATIENCE, || standing(&lab, &one, CODE).pop());
        let (interface, parent) = (&notice["interface"], &notice["parent"]);
        assert_eq!((interface, parent), (&json!("mc0"), &json!("lan0")), "{notice}");
        assert!(notice["lost_per_s"].as_u64().is_some_and(|lost| lost > 0), "{notice}");
        drop(end);
    });
    wait_until("no queue loses frames", LONG_PATIENCE, || {
        [&one, &two].iter().all(|c| standing(&lab, c, CODE).is_empty()).then_some(())
    });
    let metrics = run(&mut lab.mcrun(["metrics"]));
    assert!(!metrics.contains(CODE), "{metrics}");
    let events = followed(&path, "its end is told", |events| {
        told(events, "alarm-cleared", CODE).iter().any(|e| e["container"] == one.id.as_str())
    });
    let own = |events: Vec<&Value>| {
        let own = events.iter().filter(|e| e["container"] == one.id.as_str());
        own.filter_map(|e| e["time_ms"].as_u64()).collect::<Vec<_>>()
    };
    let (begun, ended) =
        (own(told(&events, "alarm", CODE)), own(told(&events, "alarm-cleared", CODE)));
    assert_eq!((begun.len(), ended.len()), (1, 1), "{events:?}");
    assert!(begun[0] < ended[0], "{events:?}");
    drop(sockets);
}

/// Sets the mark when it is dropped.
struct End<'m>(&'m AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

//! What a container or a station of the LAN can make a proxy cost.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use mcrun::igmp::wire::{Message, Query};
use mcrun::proxy::{Event, subscribe};
use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};

use super::{attached, processor_time};
use crate::lab;
use crate::lab::{Change, Container, Lab, PATIENCE, wait_until};

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 7, 1, 1);
const LAST: Ipv4Addr = Ipv4Addr::new(239, 7, 1, 2);

/// Time over which processor time and packets are measured.
const WINDOW: Duration = Duration::from_secs(2);
/// The most of a processor that a proxy may use meanwhile.
const SHARE: f64 = 0.05;

/// Stops what a thread does when it is dropped.
struct Stop<'s>(&'s AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Calls `send` with 0, 1 and so on, 20 000 times a second, until it is stopped.
fn flood(stop: &AtomicBool, mut send: impl FnMut(u32)) {
    const A_MILLISECOND: u32 = 20;
    let begun = Instant::now();
    for n in (0u32..).take_while(|_| !stop.load(Ordering::Relaxed)) {
        if n.is_multiple_of(A_MILLISECOND) {
            let due = begun + Duration::from_millis((n / A_MILLISECOND).into());
            thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        send(n);
    }
}

/// A raw socket that sends IGMP, as a process of the container with CAP_NET_RAW has it.
fn raw_igmp(container: &Container) -> Socket {
    let raw = container.namespace().run(|| {
        let raw = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(2))).expect("raw");
        raw.set_multicast_ttl_v4(1).expect("ttl");
        raw
    });
    raw.expect("entered")
}

/// What a proxy costs when the container has used up what it may do at once: the share of a
/// processor, and the IGMP packets that reach the switch in a second.
fn cost_of(lab: &Lab, proxy: i32) -> (f64, f64) {
    let (begun, before) = (Instant::now(), processor_time(proxy));
    thread::sleep(Duration::from_secs(3));
    let first = (processor_time(proxy) - before).as_secs_f64() / begun.elapsed().as_secs_f64();
    let capture = lab.capture();
    let share = share_of_processor(proxy);
    let packets = capture.finish().len() as f64 / WINDOW.as_secs_f64();
    println!(
        "{:.1} % of a processor at first, then {:.1} % and {packets:.0} IGMP packets a second",
        first * 100.0,
        share * 100.0
    );
    (share, packets)
}

/// The share of a processor that a process uses over the window.
fn share_of_processor(pid: i32) -> f64 {
    let (begun, before) = (Instant::now(), processor_time(pid));
    thread::sleep(WINDOW);
    (processor_time(pid) - before).as_secs_f64() / begun.elapsed().as_secs_f64()
}

fn counters(lab: &Lab, container: &Container) -> Value {
    let shown = lab::json(&mut lab.mcrun(["inspect", "--json", &container.name]));
    shown["status"]["interfaces"][0]["counters"].clone()
}

#[test]
fn a_container_that_flaps_costs_its_host_and_the_lan_little_and_its_last_state_counts() {
    let lab = Lab::new(3);
    let container = attached(&lab, "c", 11);
    let proxy = lab.proxy_pid(&container);
    let (member, other) = (container.member(), container.member());
    let stop = AtomicBool::new(false);
    let directory = lab.state_dir().join("containers").join(&container.id);
    let (_, mut events) = subscribe(&directory).expect("subscribed");
    events.set_timeout(Some(WINDOW)).expect("a timeout");
    thread::scope(|scope| {
        let told = scope.spawn(|| {
            let mut notices = std::iter::from_fn(|| events.next_event().ok().flatten());
            notices.any(|timed| match timed.event {
                Event::Notice(notice) => notice.code() == "changes-delayed",
                _ => false,
            })
        });
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                member.change(GROUP, &Change::Join);
                member.change(GROUP, &Change::Leave);
            }
        });
        let stopping = Stop(&stop);
        let (share, packets) = cost_of(&lab, proxy);
        assert!(share < SHARE, "{share}");
        assert!(packets < 60.0, "{packets}");
        // Without notifications the reports are followed, which the container's kernel delays itself.
        assert!(!lab::notifications() || told.join().expect("read"), "nobody is told");
        drop(stopping);
    });
    // The newest state of every group is carried out.
    other.change(LAST, &Change::Join);
    wait_until("the last join is carried out", PATIENCE, || {
        (lab.host_joins() == [LAST].into()).then_some(())
    });
    member.change(GROUP, &Change::Join);
    wait_until("the group is joined", PATIENCE, || {
        (lab.host_joins() == [GROUP, LAST].into()).then_some(())
    });
}

/// With CAP_NET_RAW, past its own kernel's pace.
#[test]
fn a_container_that_floods_reports_costs_little_and_what_it_has_joined_stays() {
    let lab = Lab::new(3);
    let container = attached(&lab, "c", 11);
    let proxy = lab.proxy_pid(&container);
    let member = container.member();
    member.change(GROUP, &Change::Join);
    lab.wait_joined(&container, GROUP);
    let raw = raw_igmp(&container);
    let send = |message: Message| {
        let to = SocketAddrV4::new(message.destination(), 0);
        for payload in message.emit(1500) {
            // The rules drop it, and say so.
            let _ = raw.send_to(&payload, &to.into());
        }
    };
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            flood(&stop, |n| {
                let group = Ipv4Addr::new(239, 9, 1, (n / 2) as u8);
                send(match n % 2 {
                    0 => Message::ReportV2 { group },
                    _ => Message::LeaveV2 { group },
                });
            });
        });
        let stopping = Stop(&stop);
        let (share, packets) = cost_of(&lab, proxy);
        assert!(share < 2.0 * SHARE, "{share}");
        assert!(packets < 100.0, "{packets}");
        drop(stopping);
    });
    // A claim whose leave was not read counts until another leave comes, or until the group
    // membership interval ends. What comes after the flood is read.
    let only = |wanted: BTreeSet<Ipv4Addr>| {
        let joins = lab.host_joins();
        assert!(joins.contains(&GROUP), "what it has joined stays");
        joins.difference(&wanted).for_each(|group| send(Message::LeaveV2 { group: *group }));
        (joins == wanted).then_some(())
    };
    wait_until("only what it has joined is left", PATIENCE, || only([GROUP].into()));
    member.change(LAST, &Change::Join);
    wait_until("the last join is carried out", PATIENCE, || only([GROUP, LAST].into()));
}

#[test]
fn a_storm_of_queries_from_the_lan_costs_little_and_joins_go_on() {
    let lab = Lab::new(3);
    // So that the switch lets the station's queries through.
    lab.flood();
    let container = attached(&lab, "c", 11);
    let proxy = lab.proxy_pid(&container);
    let station = lab.net("src").run(|| {
        let raw = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(2))).expect("raw");
        raw.set_multicast_ttl_v4(1).expect("ttl");
        raw.set_multicast_if_v4(&lab::SOURCES[0]).expect("interface");
        raw
    });
    let station = station.expect("entered");
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            flood(&stop, |n| {
                let [_, _, high, low] = n.to_be_bytes();
                let group = Ipv4Addr::new(239, 9, high, low);
                let query = Query { group: Some(group), ..Query::general(Duration::from_secs(1)) };
                let message = Message::Query(query);
                let to = SocketAddrV4::new(Ipv4Addr::new(224, 0, 0, 1), 0);
                for payload in message.emit(1500) {
                    station.send_to(&payload, &to.into()).expect("sent");
                }
            });
        });
        let stopping = Stop(&stop);
        wait_until("the storm arrives", PATIENCE, || {
            counters(&lab, &container)["lan_queries"].as_u64().filter(|n| *n > 100)
        });
        thread::sleep(Duration::from_millis(200));
        let before = counters(&lab, &container)["lan_queries"].as_u64().expect("counted");
        let share = share_of_processor(proxy);
        let read = counters(&lab, &container)["lan_queries"].as_u64().expect("counted") - before;
        println!("{:.1} % of a processor, {read} queries were read", share * 100.0);
        assert!(share < SHARE, "{share}");
        assert!(read < 1000, "{read}");
        let member = container.member();
        member.change(GROUP, &Change::Join);
        wait_until("the host joins", PATIENCE, || lab.host_joins().contains(&GROUP).then_some(()));
        drop(stopping);
    });
    let before = counters(&lab, &container)["lan_queries"].as_u64();
    wait_until("queries are read again", PATIENCE, || {
        lab.query();
        (counters(&lab, &container)["lan_queries"].as_u64() > before).then_some(())
    });
}

#[test]
fn a_client_waits_without_cost_while_the_proxy_has_no_descriptor_for_it() {
    let lab = Lab::new(3);
    // With the limit below, the sockets that count would not have their numbers.
    lab.configure("[count]\nenabled = false\n");
    let descriptors = |pid: i32| fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs").count();
    let first = attached(&lab, "c1", 11);
    let limit = descriptors(lab.proxy_pid(&first)) + 2;
    // The second proxy inherits a limit that a few clients use up.
    let name = lab.name("c2");
    let mut command = lab.enter("host", "sh");
    let script = format!("ulimit -n {limit}; exec \"$@\"");
    command.args(["-c", &script, "sh"]).arg(lab.program("mcrun"));
    command.args(["run", "-d", "--name", &name, "--mcast", "parent=lan0,ip=10.99.0.12/24"]);
    command.arg("--rootfs").arg(lab.rootfs()).args(["sleep", "1000"]);
    let second = lab.started("c2", &lab::output(&mut command));
    let proxy = lab.proxy_pid(&second);
    let directory = lab.state_dir().join("containers").join(&second.id);
    let directory = fs::File::open(directory).expect("directory");
    let connect = || {
        let path = format!("/proc/self/fd/{}/control.sock", directory.as_raw_fd());
        UnixStream::connect(path).expect("connected")
    };
    // The proxy closes clients that say nothing after some seconds.
    let _idle: Vec<_> = (0..8).map(|_| connect()).collect();
    let mut client = connect();
    client.write_all(b"status\n").expect("request");
    let share = share_of_processor(proxy);
    println!("{:.1} % of a processor, {} descriptors", share * 100.0, descriptors(proxy));
    // Two sockets of its start may have been closed meanwhile.
    assert!(descriptors(proxy) >= limit - 2);
    assert!(share < 0.02, "{share}");
    let mut answer = String::new();
    client.set_read_timeout(Some(PATIENCE)).expect("timeout");
    client.read_to_string(&mut answer).expect("answer");
    assert!(answer.contains(&second.id), "{answer}");
}

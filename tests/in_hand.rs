//! A relay is killed with packets in hand: received, and not sent yet, or sent just now. Its
//! successor sends each of them that it has not sent, once.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::keeper::keeper;
use crate::lab::tracer::{Place, Tracer};
use crate::lab::{
    Background, Container, HOST, Lab, PATIENCE, SOURCES, Udp, assert_whole, numbered, payloads,
    wait_until,
};
use crate::relay::relayed_by_proxies;

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 8, 3, 1);
const DENIED: Ipv4Addr = Ipv4Addr::new(239, 8, 3, 2);
const PORT: u16 = 6000;
const END: &str = "end";
/// Packets that wait in a socket while a proxy is stopped.
const WAITING: u32 = 12;

/// Where a proxy is killed, in turns: behind the receipt, while packets are prepared, behind the
/// sending.
const PLACES: [Place; 9] = [
    Place { call: libc::SYS_recvmmsg, count: 1, steps: 0 },
    Place { call: libc::SYS_recvmmsg, count: 1, steps: 60 },
    Place { call: libc::SYS_recvmmsg, count: 1, steps: 700 },
    Place { call: libc::SYS_recvmmsg, count: 1, steps: 5000 },
    Place { call: libc::SYS_recvmmsg, count: 3, steps: 0 },
    Place { call: libc::SYS_sendmmsg, count: 1, steps: 0 },
    Place { call: libc::SYS_sendmmsg, count: 1, steps: 15 },
    Place { call: libc::SYS_sendmmsg, count: 1, steps: 150 },
    Place { call: libc::SYS_sendmmsg, count: 3, steps: 0 },
];

/// A container with a relay, and the keeper that holds for its proxy.
fn kept(more: &str) -> (Lab, Container, Background) {
    let (lab, mut containers) = relayed_by_proxies(&["c"], more);
    let keeper = keeper(&lab);
    let container = containers.remove(0);
    lab.wait_held(&container);
    (lab, container, keeper)
}

/// Kills the proxy at a place, and waits until its successor is held. `stopped` is called while the
/// proxy does nothing, before it runs to the place, and `then` when it is there.
fn kill_at(
    lab: &Lab,
    container: &Container,
    place: Place,
    stopped: impl FnOnce(),
    then: impl FnOnce(i32),
) {
    let proxy = lab.wait_held(container);
    let tracer = Tracer::seize(proxy);
    stopped();
    tracer.run_to(place);
    then(proxy);
    tracer.kill();
    wait_until("a successor is held", PATIENCE, || {
        (lab.wait_held(container) != proxy).then_some(())
    });
}

/// Sends a numbered packet each millisecond while the proxy is killed at each place. Returns how
/// many.
fn stream_while_killed(lab: &Lab, container: &Container, sender: &Udp) -> u32 {
    let (stop, sent) = (AtomicBool::new(false), AtomicU32::new(0));
    std::thread::scope(|scope| {
        let sending = scope.spawn(|| {
            let start = Instant::now();
            while !stop.load(Ordering::Relaxed) {
                let number = sent.load(Ordering::Relaxed);
                sender.send(&numbered("p", number), (GROUP, PORT));
                sent.store(number + 1, Ordering::Relaxed);
                let next = start + Duration::from_millis((number + 1).into());
                std::thread::sleep(next.saturating_duration_since(Instant::now()));
            }
        });
        let kills = catch_unwind(AssertUnwindSafe(|| {
            for place in PLACES {
                let wait = || {
                    let enough = sent.load(Ordering::Relaxed) + WAITING;
                    wait_until("packets wait", PATIENCE, || {
                        (sent.load(Ordering::Relaxed) >= enough).then_some(())
                    });
                };
                kill_at(lab, container, place, wait, |_| ());
            }
        }));
        stop.store(true, Ordering::Relaxed);
        sending.join().expect("it has sent");
        kills.unwrap_or_else(|panic| resume_unwind(panic));
    });
    sender.send(END.as_bytes(), (GROUP, PORT));
    sent.into_inner()
}

#[test]
fn a_relay_that_is_killed_with_packets_in_hand_injects_each_once() {
    let (lab, container, _keeper) = kept("");
    let inside = container.socket(PORT);
    inside.join(GROUP);
    lab.wait_joined(&container, GROUP);
    lab.wait_forwarded(GROUP);
    let sender = lab.socket("src", SOURCES[0], 0);
    let count = stream_while_killed(&lab, &container, &sender);
    assert_whole(&inside.receive_until(END), "p", count, SOURCES[0]);
}

#[test]
fn a_relay_that_is_killed_with_packets_in_hand_sends_each_once() {
    let (lab, container, keeper) = kept("");
    let lan = lab.socket("src", Ipv4Addr::UNSPECIFIED, PORT);
    lan.join(GROUP);
    lab.wait_forwarded_to_source(GROUP);
    // It receives from its own kernel, and the relay hears it too.
    let own = container.socket(PORT);
    own.join(GROUP);
    lab.wait_joined(&container, GROUP);
    let sender = container.socket(0);
    sender.set_ttl(4);
    let held = || std::fs::read_dir(format!("/proc/{}/fd", keeper.pid())).expect("it runs").count();
    let before = held();
    sender.send(b"first", (GROUP, PORT));
    for ear in [&lan, &own] {
        assert_eq!(ear.receive(PATIENCE).expect("the first").0, b"first");
    }
    wait_until("the keeper holds the port", PATIENCE, || (held() > before).then_some(()));
    let count = stream_while_killed(&lab, &container, &sender);
    assert_whole(&lan.receive_until(END), "p", count, HOST);
    assert_whole(&own.receive_until(END), "p", count, Ipv4Addr::new(172, 30, 0, 10));
}

#[test]
fn segments_and_fragments_of_a_killed_relay_arrive_once() {
    const SEGMENT: usize = 400;
    const SEGMENTS: u8 = 9;
    let (lab, container, _keeper) = kept("");
    let lan = lab.socket("src", Ipv4Addr::UNSPECIFIED, PORT);
    lan.join(GROUP);
    lab.wait_forwarded_to_source(GROUP);
    let sender = container.socket(0);
    let segments: Vec<u8> = (0..SEGMENTS).flat_map(|n| [n; SEGMENT]).collect();
    let sent = |count| Place { call: libc::SYS_sendmmsg, count, steps: 0 };
    for count in [1, 4, SEGMENTS.into()] {
        let send = || send_segments(&sender, &segments, SEGMENT);
        kill_at(&lab, &container, sent(count), send, |_| ());
        sender.send(END.as_bytes(), (GROUP, PORT));
        let got = lan.receive_until(END);
        let beginnings: Vec<u8> = got.iter().map(|(bytes, _)| bytes[0]).collect();
        assert_eq!(beginnings, Vec::from_iter(0..SEGMENTS), "killed at segment {count}");
        assert!(got.into_iter().flat_map(|(bytes, _)| bytes).eq(segments.iter().copied()));
    }

    let inside = container.socket(PORT);
    inside.join(DENIED);
    lab.wait_joined(&container, DENIED);
    lab.wait_forwarded(DENIED);
    let sender = lab.socket("src", SOURCES[0], 0);
    let datagram: Vec<u8> = (0..20_000u32).map(|n| n as u8).collect();
    // Fourteen fragments.
    for count in [1, 7, 14] {
        let send = || sender.send(&datagram, (DENIED, PORT));
        kill_at(&lab, &container, sent(count), send, |_| ());
        sender.send(END.as_bytes(), (DENIED, PORT));
        let got: Vec<_> = inside.receive_until(END).into_iter().map(|(bytes, _)| bytes).collect();
        assert!(got == [datagram.clone()], "{} datagrams, killed at fragment {count}", got.len());
    }
}

/// Sends one datagram that the kernel cuts (UDP_SEGMENT, udp(7)).
fn send_segments(sender: &Udp, bytes: &[u8], size: usize) {
    let set = |size: libc::c_int| {
        // SAFETY: the descriptor is open, and the value is a live integer.
        let result = unsafe {
            libc::setsockopt(
                sender.socket.as_raw_fd(),
                libc::SOL_UDP,
                libc::UDP_SEGMENT,
                (&raw const size).cast(),
                size_of_val(&size) as libc::socklen_t,
            )
        };
        assert_eq!(result, 0, "UDP_SEGMENT: {}", std::io::Error::last_os_error());
    };
    set(size as libc::c_int);
    sender.send(bytes, (GROUP, PORT));
    set(0);
}

/// Overwrites `change` in the IPv4 header in front of a payload in the memory of a stopped proxy.
fn forge(proxy: i32, payload: &[u8], offset: usize, change: Ipv4Addr) {
    const HEADERS: usize = 28;
    let files = std::fs::read_dir(format!("/proc/{proxy}/fd")).expect("its descriptors");
    let is_memory = |path: &std::path::PathBuf| {
        std::fs::read_link(path).is_ok_and(|to| to.to_string_lossy().contains("memfd:relay"))
    };
    let path = files.map(|file| file.expect("a descriptor").path()).find(is_memory);
    let path = path.expect("packets are in a file");
    let file = File::options().read(true).write(true).open(path).expect("the file");
    let mut bytes = vec![0; file.metadata().expect("a size").len() as usize];
    file.read_exact_at(&mut bytes, 0).expect("read");
    let at = bytes.windows(payload.len()).position(|window| window == payload);
    let at = at.unwrap_or_else(|| panic!("{payload:?} is not in hand"));
    file.write_all_at(&change.octets(), (at - HEADERS + offset) as u64).expect("written");
}

#[test]
fn a_relay_that_an_attacker_has_taken_over_leaves_nothing_that_is_not_checked() {
    const SOURCE: usize = 12;
    const DESTINATION: usize = 16;
    let (lab, container, _keeper) = kept(&format!(",deny={DENIED}"));
    let lan = lab.socket("src", Ipv4Addr::UNSPECIFIED, PORT);
    for group in [GROUP, DENIED] {
        lan.join(group);
        lab.wait_forwarded_to_source(group);
    }
    let sender = container.socket(0);
    let received = Place { call: libc::SYS_recvmmsg, count: 1, steps: 0 };
    let send = || {
        for payload in ["own", "foreign source", "denied group", "last"] {
            sender.send(payload.as_bytes(), (GROUP, PORT));
        }
    };
    kill_at(&lab, &container, received, send, |proxy| {
        forge(proxy, b"foreign source", SOURCE, SOURCES[1]);
        forge(proxy, b"denied group", DESTINATION, DENIED);
    });
    sender.send(END.as_bytes(), (GROUP, PORT));
    assert_eq!(payloads(&lan.receive_until(END)), ["own", "last"]);

    let inside = container.socket(PORT);
    inside.join(GROUP);
    lab.wait_joined(&container, GROUP);
    lab.wait_forwarded(GROUP);
    let sender = lab.socket("src", SOURCES[0], 0);
    let send = || {
        for payload in ["for it", "for another", "last"] {
            sender.send(payload.as_bytes(), (GROUP, PORT));
        }
    };
    let other = container.socket(PORT);
    other.join(DENIED);
    kill_at(&lab, &container, received, send, |proxy| {
        forge(proxy, b"for another", DESTINATION, DENIED);
    });
    sender.send(END.as_bytes(), (GROUP, PORT));
    assert_eq!(payloads(&inside.receive_until(END)), ["for it", "last"]);
    assert_eq!(other.receive(Duration::from_millis(1)), None);
}

//! The kernel relays: programs pass packets of the LAN on to a container on a bridge, whether its proxy
//! runs or not.

use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::keeper::keeper;
use crate::lab::frames::{FrameSender, IPV4, Ipv4, Way, checksum, ethernet, multicast_mac};
use crate::lab::{
    Container, Lab, PARENT, PATIENCE, SOURCES, Udp, assert_whole, json, numbered, payloads, run,
    stream, wait_until,
};
use crate::relay::{relayed, relayed_by_proxies};
use crate::relay_parent::{plug_in, unplug, wait_state};

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 9, 1, 1);
const CHANNEL: Ipv4Addr = Ipv4Addr::new(232, 9, 1, 1);
const PORT: u16 = 6200;
const END: &str = "end";

/// What `mcrun inspect` says of the container's relay.
pub fn relay_of(lab: &Lab, container: &Container) -> Value {
    let inspected = json(&mut lab.mcrun(["inspect", "--json", &container.name]));
    inspected["status"]["interfaces"][0]["relay"].clone()
}

pub fn wait_in_kernel(lab: &Lab, container: &Container) {
    wait_until("the kernel relays", PATIENCE, || {
        (relay_of(lab, container)["in_kernel"] == true).then_some(())
    });
}

/// Why the kernel does not relay, as people are told.
fn why_not(lab: &Lab, container: &Container) -> Option<String> {
    let entry = lab.ps(container).expect("the container");
    let notices = entry["notices"].as_array().expect("notices");
    let told = notices.iter().find(|notice| notice["code"] == "relay-not-in-kernel")?;
    Some(told["reason"].as_str().expect("a reason").to_owned())
}

/// Programs at the ingress of the lab's LAN interface.
fn programs(lab: &Lab) -> u32 {
    /// `query` of `union bpf_attr`, for `BPF_PROG_QUERY`.
    #[repr(C)]
    #[derive(Default)]
    struct Query {
        interface: u32,
        attach_type: u32,
        query_flags: u32,
        attach_flags: u32,
        ids: u64,
        count: u32,
        unused: [u32; 9],
    }
    const BPF_PROG_QUERY: libc::c_long = 16;
    const BPF_TCX_INGRESS: u32 = 46;
    lab.run_in("host", || {
        let interface = nix::net::if_::if_nametoindex(PARENT).expect("the interface");
        let mut query = Query { interface, attach_type: BPF_TCX_INGRESS, ..Query::default() };
        // SAFETY: the structure is a beginning of bpf_attr; without room for ids only they are counted.
        let result = unsafe {
            libc::syscall(libc::SYS_bpf, BPF_PROG_QUERY, &raw mut query, size_of::<Query>())
        };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
        query.count
    })
}

/// The next datagram, with the TTL of its packet.
pub fn receive_with_ttl(socket: &Udp) -> (Vec<u8>, u8) {
    let (fd, on) = (socket.socket.as_raw_fd(), 1i32);
    socket.socket.set_read_timeout(Some(PATIENCE)).expect("timeout");
    // SAFETY: the option is a number.
    let set = unsafe {
        let size = size_of::<i32>() as u32;
        libc::setsockopt(fd, libc::IPPROTO_IP, libc::IP_RECVTTL, (&raw const on).cast(), size)
    };
    assert_eq!(set, 0);
    let (mut bytes, mut control) = ([0u8; 2048], [0u64; 8]);
    let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: an all-zero msghdr is valid; the buffers outlive the call.
    let (length, ttl) = unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        (message.msg_iov, message.msg_iovlen) = (&raw mut part, 1);
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control);
        let length = libc::recvmsg(fd, &raw mut message, 0);
        assert!(length >= 0, "{}", std::io::Error::last_os_error());
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        assert!(!header.is_null() && (*header).cmsg_type == libc::IP_TTL);
        (length as usize, libc::CMSG_DATA(header).cast::<i32>().read_unaligned())
    };
    (bytes[..length].to_vec(), ttl as u8)
}

/// A stopped process, which runs on when this is dropped.
struct Stopped(Pid);

impl Stopped {
    fn new(pid: i32) -> Stopped {
        kill(Pid::from_raw(pid), Signal::SIGSTOP).expect("stopped");
        Stopped(Pid::from_raw(pid))
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = kill(self.0, Signal::SIGCONT);
    }
}

#[test]
fn packets_arrive_as_they_were_sent_while_the_proxies_stand_still() {
    assert_relayed_by_the_kernel();
}

/// Streams arrive whole, with their TTL, at two containers whose proxies are stopped, and are counted.
pub fn assert_relayed_by_the_kernel() {
    let (lab, containers) = relayed(&["one", "two"], "");
    let [s1, s2] = SOURCES;
    let ears: Vec<[Udp; 2]> = containers
        .iter()
        .map(|container| {
            let (any, ssm) = (container.socket(PORT), container.socket(PORT + 1));
            any.join(GROUP);
            ssm.join_source(CHANNEL, s1);
            lab.wait_joined(container, GROUP);
            lab.wait_joined(container, CHANNEL);
            wait_in_kernel(&lab, container);
            [any, ssm]
        })
        .collect();
    lab.wait_forwarded(GROUP);
    lab.wait_forwarded(CHANNEL);
    let stopped: Vec<Stopped> =
        containers.iter().map(|container| Stopped::new(lab.proxy_pid(container))).collect();
    let (sender, other) = (lab.socket("src", s1, 0), lab.socket("src", s2, 0));
    stream(&sender, "kernel", 2000, (GROUP, PORT));
    other.send(b"from another source", (CHANNEL, PORT + 1));
    for to in [(GROUP, PORT), (CHANNEL, PORT + 1)] {
        sender.send(END.as_bytes(), to);
    }
    for [any, ssm] in &ears {
        assert_whole(&any.receive_until(END), "kernel", 2000, s1);
        assert_eq!(payloads(&ssm.receive_until(END)), [""; 0], "the source that was asked for");
    }
    sender.set_ttl(7);
    sender.send(b"far", (GROUP, PORT));
    for [any, _] in &ears {
        assert_eq!(receive_with_ttl(any), (b"far".to_vec(), 7));
    }
    drop(stopped);
    for container in &containers {
        let count = || {
            let groups = lab.groups(container);
            let relayed = groups.iter().find(|group| group["group"] == GROUP.to_string());
            relayed.and_then(|group| group["relayed"].as_u64())
        };
        // The stream, its end, and the last one.
        wait_until("it is counted", PATIENCE, || (count() == Some(2002)).then_some(()));
        assert_eq!(relay_of(&lab, container)["inbound"]["relayed"], 2003);
        let groups = lab.groups(container);
        let group = groups.iter().find(|group| group["group"] == GROUP.to_string()).expect("it");
        assert_eq!(group["packets"], 2002, "what arrives is counted for each source");
        assert_eq!(group["streams"][0]["source"], s1.to_string());
    }
}

#[test]
fn a_program_ends_with_its_proxy_and_is_handed_to_the_next_one() {
    let (lab, containers) = relayed(&["one"], "");
    let container = &containers[0];
    wait_in_kernel(&lab, container);
    assert_eq!(programs(&lab), 1);
    lab.configure("[groups]\nmax-groups = 99\n");
    run(&mut lab.mcrun(["reload"]));
    wait_in_kernel(&lab, container);
    wait_until("one is left", PATIENCE, || (programs(&lab) == 1).then_some(()));
    lab.configure("[relay]\nbpf = false\n");
    run(&mut lab.mcrun(["reload"]));
    wait_until("none is left", PATIENCE, || (programs(&lab) == 0).then_some(()));
    assert_eq!(relay_of(&lab, container)["in_kernel"], false);
    assert_eq!(why_not(&lab, container), None, "nobody has asked for it");
    lab.configure("");
    run(&mut lab.mcrun(["reload"]));
    wait_in_kernel(&lab, container);
    let proxy = Pid::from_raw(lab.proxy_pid(container));
    kill(proxy, Signal::SIGKILL).expect("killed");
    wait_until("a dead proxy leaves none", PATIENCE, || (programs(&lab) == 0).then_some(()));
}

#[test]
fn a_killed_proxy_with_a_keeper_costs_no_packet() {
    let (lab, containers) = relayed(&["one"], "");
    let container = &containers[0];
    let _keeper = keeper(&lab);
    let ear = container.socket(PORT);
    ear.join(GROUP);
    lab.wait_joined(container, GROUP);
    lab.wait_forwarded(GROUP);
    wait_in_kernel(&lab, container);
    let sender = lab.socket("src", SOURCES[0], 0);
    for round in 0..5 {
        let proxy = lab.wait_held(container);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..20 {
                    stream(&sender, "kept", 50, (GROUP, PORT));
                    std::thread::sleep(Duration::from_millis(20));
                }
            });
            std::thread::sleep(Duration::from_millis(100));
            kill(Pid::from_raw(proxy), Signal::SIGKILL).expect("killed");
        });
        wait_until("it is replaced", PATIENCE, || {
            (lab.wait_held(container) != proxy).then_some(())
        });
        sender.send(END.as_bytes(), (GROUP, PORT));
        let received = payloads(&ear.receive_until(END));
        let one: Vec<String> = (0..50).map(|number| format!("kept {number}")).collect();
        let sent: Vec<String> = std::iter::repeat_n(one, 20).flatten().collect();
        assert_eq!(received, sent, "round {round}");
        wait_in_kernel(&lab, container);
        assert_eq!(programs(&lab), 1);
    }
}

#[test]
fn a_container_that_would_drop_the_kernels_packets_gets_the_proxys() {
    let (lab, containers) = relayed(&["one"], "");
    let container = &containers[0];
    wait_in_kernel(&lab, container);
    run(container.enter("ip").args(["route", "del", "default"]));
    run(container.enter("sysctl").args(["-qw", "net.ipv4.conf.eth0.rp_filter=1"]));
    lab.configure("[groups]\nmax-groups = 98\n");
    // A proxy that takes over relays as the one before it. One that begins looks at the routes.
    kill(Pid::from_raw(lab.proxy_pid(container)), Signal::SIGKILL).expect("killed");
    run(&mut lab.mcrun(["reload"]));
    wait_until("people are told", PATIENCE, || {
        why_not(&lab, container).filter(|reason| reason.contains("rp_filter=1"))
    });
    let ear = container.socket(PORT);
    ear.join(GROUP);
    lab.wait_joined(container, GROUP);
    lab.wait_forwarded(GROUP);
    let sender = lab.socket("src", SOURCES[0], 0);
    sender.send(b"by the proxy", (GROUP, PORT));
    assert_eq!(ear.receive(PATIENCE).expect("a packet").0, b"by the proxy");
    let gateway = crate::lab::BRIDGE_ADDRESS.to_string();
    run(container.enter("ip").args(["route", "add", "default", "via", &gateway]));
    wait_until("the kernel relays as soon as there is a route", PATIENCE, || {
        sender.send(b"more", (GROUP, PORT));
        (relay_of(&lab, container)["in_kernel"] == true).then_some(())
    });
    assert_eq!(why_not(&lab, container), None);
}

/// As netavark does for a network without a way out.
#[test]
fn a_setting_that_an_engine_makes_after_the_interface_is_seen_with_the_next_join() {
    let (lab, containers) = relayed(&["one"], "");
    let container = &containers[0];
    wait_in_kernel(&lab, container);
    run(container.enter("ip").args(["route", "del", "default"]));
    run(container.enter("sysctl").args(["-qw", "net.ipv4.conf.eth0.rp_filter=2"]));
    let ear = container.socket(PORT);
    ear.join(GROUP);
    lab.wait_forwarded(GROUP);
    // Nobody has asked the proxy for anything, and the join was handled.
    std::thread::sleep(Duration::from_millis(200));
    let sender = lab.socket("src", SOURCES[0], 0);
    sender.send(b"by the proxy", (GROUP, PORT));
    assert_eq!(ear.receive(PATIENCE).expect("a packet").0, b"by the proxy");
    assert!(why_not(&lab, container).expect("a reason").contains("rp_filter=2"));
}

#[test]
fn the_administrator_can_have_the_proxies_relay() {
    let (lab, containers) = relayed_by_proxies(&["one"], "");
    let container = &containers[0];
    let ear = container.socket(PORT);
    ear.join(GROUP);
    lab.wait_joined(container, GROUP);
    lab.wait_forwarded(GROUP);
    let sender = lab.socket("src", SOURCES[0], 0);
    sender.set_ttl(7);
    sender.send(b"by the proxy", (GROUP, PORT));
    assert_eq!(receive_with_ttl(&ear), (b"by the proxy".to_vec(), 0));
    assert_eq!(programs(&lab), 0);
}

#[test]
fn the_kernel_relays_on_when_the_containers_link_changes() {
    let (lab, containers) = relayed(&["one"], "");
    let container = &containers[0];
    wait_in_kernel(&lab, container);
    let ear = container.socket(PORT);
    ear.join(GROUP);
    lab.wait_joined(container, GROUP);
    lab.wait_forwarded(GROUP);
    let sender = lab.socket("src", SOURCES[0], 0);
    for (number, change) in
        ["address 02:00:00:00:77:01", "mtu 600", "mtu 1500", "down", "name eth1", "up"]
            .into_iter()
            .enumerate()
    {
        let name = if change == "up" { "eth1" } else { "eth0" };
        run(container.enter("ip").args(["link", "set", name]).args(change.split(' ')));
        if ["down", "name eth1"].contains(&change) {
            continue;
        }
        let payload = [number as u8; 1000];
        wait_until(change, PATIENCE, || {
            sender.send(&payload, (GROUP, PORT));
            let (received, _) = ear.receive(Duration::from_millis(100))?;
            (received == payload).then_some(())
        });
        assert_eq!(why_not(&lab, container), None, "{change}");
        wait_in_kernel(&lab, container);
    }
}

/// The Ethernet frame of a fragment of a datagram.
fn fragment(identification: u16, fragment: u16, payload: &[u8]) -> Vec<u8> {
    // The kernel puts datagrams of one sender together while few others of it come between
    // (`net.ipv4.ipfrag_max_dist`).
    let from = Ipv4Addr::new(10, 99, 0, 100 + (identification % 10) as u8);
    let mut packet =
        Ipv4 { protocol: 17, from, to: GROUP, options: &[], fragment, payload }.bytes();
    packet[4..6].copy_from_slice(&identification.to_be_bytes());
    packet[10..12].copy_from_slice(&[0, 0]);
    let sum = checksum(&packet[..20]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    ethernet(multicast_mac(GROUP), [2, 0, 0, 0, 0x77, 2], IPV4, &packet)
}

#[test]
fn datagrams_whose_fragments_come_in_any_order_arrive_once() {
    const DATAGRAMS: u16 = 600;
    let (lab, containers) = relayed(&["one"], "");
    let container = &containers[0];
    wait_in_kernel(&lab, container);
    let ear = container.socket(PORT);
    ear.join(GROUP);
    lab.wait_joined(container, GROUP);
    lab.wait_forwarded(GROUP);
    let wire = FrameSender::open(&lab.net("src"), PARENT);
    let datagram = |number: u16| {
        let mut bytes = [number.to_be_bytes()[0], number.to_be_bytes()[1]].repeat(900);
        bytes =
            [[23, 0x70].as_slice(), &PORT.to_be_bytes(), &1808u16.to_be_bytes(), &[0, 0], &bytes]
                .concat();
        bytes
    };
    let first = |n: u16| wire.send(&fragment(n, 0x2000, &datagram(n)[..1200]), Way::Ordinary);
    let last = |n: u16| wire.send(&fragment(n, 1200 / 8, &datagram(n)[1200..]), Way::Ordinary);
    // Many datagrams at once, as of many senders; and the last fragment first.
    for start in (0..DATAGRAMS / 2).step_by(100) {
        (start..start + 100).for_each(first);
        (start..start + 100).for_each(last);
        std::thread::sleep(Duration::from_millis(50));
    }
    for n in DATAGRAMS / 2..DATAGRAMS {
        last(n);
        first(n);
    }
    lab.socket("src", SOURCES[1], 0).send(END.as_bytes(), (GROUP, PORT));
    let received = ear.receive_until(END);
    let mut numbers: Vec<u16> =
        received.iter().map(|(bytes, _)| u16::from_be_bytes([bytes[0], bytes[1]])).collect();
    let all = numbers.len();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(
        (all, numbers.len()),
        (DATAGRAMS.into(), DATAGRAMS.into()),
        "arrived, without doubles"
    );
}

#[test]
fn a_default_route_that_goes_leaves_the_stream_to_the_proxy() {
    let (lab, containers) = relayed(&["one"], "");
    let container = &containers[0];
    run(container.enter("sysctl").args(["-qw", "net.ipv4.conf.eth0.rp_filter=1"]));
    kill(Pid::from_raw(lab.proxy_pid(container)), Signal::SIGKILL).expect("killed");
    run(&mut lab.mcrun(["reload"]));
    wait_in_kernel(&lab, container);
    let ear = container.socket(PORT);
    ear.join(GROUP);
    lab.wait_joined(container, GROUP);
    lab.wait_forwarded(GROUP);
    let sender = lab.socket("src", SOURCES[0], 0);
    run(container.enter("ip").args(["route", "del", "default"]));
    // The proxy looks at the routes with each query, and when it is asked.
    let told = why_not(&lab, container).expect("a reason");
    assert!(told.contains("rp_filter=1"), "{told}");
    sender.send(b"by the proxy", (GROUP, PORT));
    assert_eq!(ear.receive(PATIENCE).expect("a packet").0, b"by the proxy");
}

#[test]
fn people_are_told_that_a_proxy_relays_where_the_parent_has_come_again() {
    let (lab, containers) = relayed(&["one"], "");
    let container = &containers[0];
    wait_in_kernel(&lab, container);
    unplug(&lab);
    wait_state(&lab, container, "waiting");
    plug_in(&lab);
    wait_state(&lab, container, "running");
    assert_eq!(relay_of(&lab, container)["in_kernel"], false);
    let told = why_not(&lab, container).expect("a reason");
    assert_eq!(told, "the parent has gone and come again since the container was started");
    lab.configure("[groups]\nmax-groups = 97\n");
    run(&mut lab.mcrun(["reload"]));
    assert_eq!(why_not(&lab, container), Some(told), "the receiver stays what it is");
}

/// Two sources send to a channel until `changes` returns. All of the first one's arrives, nothing else.
fn assert_wanted_only(lab: &Lab, ear: &Udp, channel: Ipv4Addr, changes: impl FnOnce()) {
    let [s1, s2] = SOURCES;
    let (wanted, unwanted) = (lab.socket("src", s1, 0), lab.socket("src", s2, 0));
    let is_done = AtomicBool::new(false);
    let sent = std::thread::scope(|scope| {
        let sending = scope.spawn(|| {
            let mut sent = 0;
            while !is_done.load(Ordering::Relaxed) {
                wanted.send(&numbered("wanted", sent), (channel, PORT));
                unwanted.send(b"unwanted", (channel, PORT));
                std::thread::sleep(Duration::from_micros(500));
                sent += 1;
            }
            wanted.send(END.as_bytes(), (channel, PORT));
            sent
        });
        changes();
        is_done.store(true, Ordering::Relaxed);
        sending.join().expect("sent")
    });
    assert_whole(&ear.receive_until(END), "wanted", sent, s1);
}

/// Has the container's kernel let a socket join more sources of a group.
fn allow_sources(container: &Container, count: u32) {
    run(container.enter("sysctl").args(["-qw", &format!("net.ipv4.igmp_max_msf={count}")]));
}

#[test]
fn nothing_is_lost_while_sources_are_added_and_proxies_are_replaced() {
    let (lab, containers) = relayed(&["one"], "");
    let container = &containers[0];
    wait_in_kernel(&lab, container);
    allow_sources(container, 100);
    let ear = container.socket(PORT);
    ear.join_source(CHANNEL, SOURCES[0]);
    lab.wait_joined(container, CHANNEL);
    lab.wait_forwarded(CHANNEL);
    assert_wanted_only(&lab, &ear, CHANNEL, || {
        let other = container.socket(PORT + 1);
        for number in 0..60 {
            other.join_source(CHANNEL, Ipv4Addr::new(10, 99, 3, number));
        }
        for number in 0..10 {
            lab.configure(&format!("[groups]\nmax-groups = {}\n", 90 + number));
            run(&mut lab.mcrun(["reload"]));
        }
    });
    wait_in_kernel(&lab, container);
}

#[test]
fn groups_without_room_are_left_to_the_proxy() {
    let (lab, containers) = relayed(&["one"], "");
    let container = &containers[0];
    wait_in_kernel(&lab, container);
    allow_sources(container, 100);
    let ear = container.socket(PORT);
    let last = Ipv4Addr::new(232, 9, 3, 1);
    let mut others = Vec::new();
    // The table has room for 4096.
    for group in 0..70u8 {
        if group % 10 == 0 {
            others.push(container.socket(PORT + 1));
        }
        let other = others.last().expect("one");
        for source in 0..64 {
            other.join_source(Ipv4Addr::new(232, 9, 2, group), Ipv4Addr::new(10, 99, 3, source));
        }
    }
    wait_until("all sources are known", PATIENCE, || {
        let groups = lab.groups(container);
        let sources = groups.iter().filter_map(|group| group["sources"].as_array());
        (sources.map(Vec::len).sum::<usize>() == 70 * 64).then_some(())
    });
    ear.join_source(last, SOURCES[0]);
    lab.wait_joined(container, last);
    lab.wait_forwarded(last);
    assert_wanted_only(&lab, &ear, last, || {
        for number in 0..64 {
            others[0].join_source(last, Ipv4Addr::new(10, 99, 3, number));
        }
        for number in 0..5 {
            lab.configure(&format!("[groups]\nmax-groups = {}\n", 90 + number));
            run(&mut lab.mcrun(["reload"]));
        }
    });
    wait_in_kernel(&lab, container);
    lab.socket("src", SOURCES[0], 0).send(b"by the proxy", (last, PORT));
    assert_eq!(receive_with_ttl(&ear), (b"by the proxy".to_vec(), 0));
}

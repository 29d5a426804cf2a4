//! ipvlan with a real runc: two containers that share their parent's MAC address.
//!
//! Not every kernel has ipvlan, so these tests run in a virtual machine with one that does; it does
//! not tell of joins either, which newer ones do.

use crate::vm;
use std::collections::BTreeSet;
use std::fs;
use std::fs::File;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::process::Stdio;
use std::time::Duration;

use crate::lab;
use crate::lab::frames::{FrameSender, IPV4, Ipv4, WAYS, Way, ethernet, mac, multicast_mac, udp};
use crate::lab::{
    Bundle, Container, Family as _, Lab, PATIENCE, Reception, SOURCES, run, wait_until,
};
use crate::relay_ipv6::{hear, send_until_heard};

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 9, 1, 1);
const CHANNEL: Ipv4Addr = Ipv4Addr::new(232, 9, 1, 1);
/// What containers send to.
const SENT: Ipv4Addr = Ipv4Addr::new(239, 9, 2, 1);
/// What one of two containers may not have.
const DENIED: Ipv4Addr = Ipv4Addr::new(239, 9, 3, 1);
/// Packets of a stream that must all arrive, and how many are sent in a second. The machine is
/// emulated: its one processor sends, forwards and receives several streams at once, and a machine
/// that is busy with other tests leaves it little.
const ALL: u32 = 2_000;
const RATE: u32 = 400;

/// `driver=ipvlan` with what else is asked for, and an address.
fn spec(host: u8, rest: &str) -> String {
    format!("parent=lan0,driver=ipvlan,ip=10.99.0.{host}/24,{rest}")
}

fn start(lab: &Lab, name: &str, host: u8, rest: &str) -> Container {
    lab.start_with(name, &[&spec(host, rest)], &[])
}

/// Why a container with this attachment is not started.
fn refusal(lab: &Lab, name: &str, attachment: &str) -> String {
    let output = lab.try_start(name, &[attachment], &[]);
    assert!(!output.status.success(), "{attachment} is accepted");
    String::from_utf8(output.stderr).expect("text")
}

/// Asserts that so many packets came, each once.
fn assert_each_once(what: &str, reception: &Reception, packets: u32) {
    assert_eq!(
        (reception.packets, reception.lost, reception.duplicated),
        (u64::from(packets), 0, 0),
        "{what}: {reception:?}"
    );
}

/// Asserts that all frames come from the container host's own MAC address, and all IGMP from its
/// own IP address.
fn assert_one_host(lab: &Lab, capture: lab::Capture) {
    let igmp = capture.igmp();
    for frame in capture.frames() {
        let mac: Vec<_> = frame[6..12].iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(mac.join(":"), lab.host_mac(), "{frame:02x?}");
    }
    lab.assert_one_igmp_host(&igmp);
    capture.finish();
}

/// What two containers in this mode receive and send, and what the LAN sees of them.
fn two_containers(mode: &str) {
    let lab = Lab::new(3);
    let capture = lab.capture_also("ip or arp");
    let one = start(&lab, "one", 11, mode);
    let two = start(&lab, "two", 12, &format!("{mode},deny={DENIED}"));
    both_receive(&lab, [&one, &two]);
    one_sends(&lab, &one, &two);
    one_is_denied(&lab, &one, &two);
    for container in [&one, &two] {
        lab.delete(container);
    }
    assert_one_host(&lab, capture);
    lab.assert_clean(PATIENCE);
}

/// A stream from any source and a channel, which another source sends to as well.
fn both_receive(lab: &Lab, containers: [&Container; 2]) {
    let [wanted, other] = SOURCES;
    let streams = [(GROUP, None), (CHANNEL, Some(wanted))];
    let receive = |c| streams.map(|(group, source)| lab.receive_count(c, group, source, ALL));
    let receivers = containers.map(receive);
    for container in containers {
        lab.wait_joined(container, GROUP);
        lab.wait_joined(container, CHANNEL);
    }
    lab.wait_forwarded(GROUP);
    lab.wait_forwarded(format!("{CHANNEL}@{wanted}"));
    for sender in [
        lab.send_count(GROUP, wanted, RATE, ALL),
        lab.send_count(CHANNEL, wanted, RATE, ALL),
        lab.send_count(CHANNEL, other, RATE / 4, ALL / 4),
    ] {
        assert!(sender.finish(Duration::from_secs(60)).status.success());
    }
    for (receivers, container) in receivers.into_iter().zip(containers) {
        for (receiver, (group, _)) in receivers.into_iter().zip(streams) {
            let reception = receiver.finish();
            assert_each_once(&format!("{group} in {}", container.name), &reception, ALL);
            assert_eq!(reception.sources, BTreeSet::from([wanted.into()]));
        }
    }
}

/// What a container sends is on the LAN and in the other container; its own sockets do not have it,
/// since they did not ask for that (IP_MULTICAST_LOOP).
fn one_sends(lab: &Lab, sender: &Container, sibling: &Container) {
    const PACKETS: u32 = 1000;
    let own = lab.receive_count(sender, SENT, None, PACKETS);
    let theirs = lab.receive_count(sibling, SENT, None, PACKETS);
    let lan = lab.receive_count_on_lan(SENT, PACKETS);
    lab.wait_joined(sender, SENT);
    lab.wait_joined(sibling, SENT);
    lab.wait_forwarded(SENT);
    wait_until("the LAN's receiver has joined", PATIENCE, || {
        let joined = run(lab.enter("src", "cat").arg("/proc/net/igmp"));
        joined.contains(&format!("{:08X}", u32::from_ne_bytes(SENT.octets()))).then_some(())
    });
    lab.send_from(sender, SENT, 1000, PACKETS);
    let address = BTreeSet::from([Ipv4Addr::new(10, 99, 0, 11).into()]);
    for (place, reception) in [("on the LAN", lan.finish()), ("in the other", theirs.finish())] {
        assert_each_once(place, &reception, PACKETS);
        assert_eq!(reception.sources, address, "{place}");
    }
    let own = own.stop();
    assert_eq!(own.packets, 0, "the sender hears itself: {own:?}");
}

/// What a container may not have does not arrive when its sibling has it.
fn one_is_denied(lab: &Lab, sibling: &Container, restricted: &Container) {
    const PACKETS: u32 = 1000;
    let refused = lab.receive_count(restricted, DENIED, None, PACKETS);
    wait_until("the group is denied", PATIENCE, || {
        let groups = lab.groups(restricted);
        let entry = groups.iter().find(|entry| entry["group"] == DENIED.to_string())?;
        (entry["status"] == "denied").then_some(())
    });
    let had = lab.receive_count(sibling, DENIED, None, PACKETS);
    lab.wait_joined(sibling, DENIED);
    lab.wait_forwarded(DENIED);
    let sent = lab.send_count(DENIED, SOURCES[0], 1000, PACKETS);
    assert!(sent.finish(Duration::from_secs(60)).status.success());
    assert_each_once("in the other", &had.finish(), PACKETS);
    assert_eq!(refused.stop().packets, 0);
}

#[test]
fn two_containers_in_l2() {
    vm::run(|| two_containers("mode=l2"));
}

#[test]
fn two_containers_in_l3() {
    vm::run(|| two_containers("mode=l3"));
}

#[test]
fn two_containers_in_l3s() {
    vm::run(|| two_containers("mode=l3s"));
}

/// With IGMPv2 and immediate leave at the switch port, the last reporter leaves.
fn one_leaves(mode: &str) {
    let lab = Lab::new(2);
    let stays = start(&lab, "stays", 11, mode);
    let leaves = start(&lab, "leaves", 12, mode);
    let had = lab.receive_count(&stays, GROUP, None, 2000);
    lab.wait_joined(&stays, GROUP);
    let gone = lab.receive_count(&leaves, GROUP, None, 500);
    lab.wait_joined(&leaves, GROUP);
    lab.wait_forwarded(GROUP);
    let stream = lab.send_count(GROUP, SOURCES[0], 500, 2000);
    // It reads in batches.
    let gone = gone.finish();
    assert!(gone.packets >= 500 && gone.lost == 0 && gone.duplicated == 0, "{gone:?}");
    assert!(stream.finish(Duration::from_secs(60)).status.success());
    assert_each_once("who stays", &had.finish(), 2000);
    lab.wait_left(&leaves, GROUP);
}

#[test]
fn a_leave_takes_nothing_from_the_sibling_in_l2() {
    vm::run(|| one_leaves("mode=l2"));
}

#[test]
fn a_leave_takes_nothing_from_the_sibling_in_l3() {
    vm::run(|| one_leaves("mode=l3"));
}

/// All MLD on the port comes from the host's own address, although the containers have its MAC address too;
/// and the last reporter leaves.
#[test]
fn two_containers_in_l2_are_one_host_of_mld() {
    const GROUP: Ipv6Addr = Ipv6Addr::new(0xff0e, 0, 0, 0, 0, 0, 9, 1);
    const PORT: u16 = 6700;
    const PACKETS: u32 = 400;
    const END: &str = "end";
    vm::run(|| {
        let lab = Ipv6Addr::lab(2);
        let capture = Ipv6Addr::capture(&lab);
        let containers = [("one", 11), ("two", 12)].map(|(name, number)| {
            let address = Ipv6Addr::station(number);
            let spec = format!("parent=lan0,driver=ipvlan,mode=l2,ip={address}/64");
            lab.start_with(name, &[&spec], &[])
        });
        let ears = containers.each_ref().map(|container| {
            let ear: lab::Udp<Ipv6Addr> = container.socket_of("mc0", PORT);
            ear.join(GROUP);
            lab.wait_joined(container, GROUP);
            ear
        });
        lab.wait_forwarded(GROUP);
        let source = Ipv6Addr::station(3);
        let sender = lab.socket("src", source, 0);
        for ear in &ears {
            send_until_heard(&sender, ear, (GROUP, PORT));
        }
        let whole = |name: &str, ears: &[&lab::Udp<Ipv6Addr>]| {
            lab::stream(&sender, name, PACKETS, (GROUP, PORT));
            sender.send(END.as_bytes(), (GROUP, PORT));
            for ear in ears {
                lab::assert_whole(&hear(ear, END), name, PACKETS, source);
            }
        };
        let [first, second] = ears;
        whole("both", &[&first, &second]);
        drop(second);
        lab.wait_left(&containers[1], GROUP);
        whole("first", &[&first]);
        Ipv6Addr::assert_one_host(&lab, &capture);
        let own = lab.link_local("host", lab::PARENT).expect("an address");
        let strange: Vec<_> = lab::mld(&capture.frames())
            .into_iter()
            .filter(|(_, source, ..)| !source.is_unspecified() && *source != own)
            .filter(|(mac, ..)| *mac == lab.host_mac())
            .collect();
        assert!(strange.is_empty(), "{own}: {strange:?}");
        containers.iter().for_each(|container| lab.delete(container));
        lab.assert_clean(PATIENCE);
    });
}

/// What a process in a container with packet sockets sends, and the LAN sees of it.
fn one_forges(mode: &str) {
    let lab = Lab::new(3);
    let capture = lab.capture_also("greater 1");
    let container = start(&lab, "forges", 11, mode);
    let own = mac(lab.host_mac());
    let frames = FrameSender::open(&container.namespace(), "mc0");
    let data = |from, to| {
        let datagram = udp(9, 9, b"data");
        let packet = Ipv4 { protocol: 17, from, to, options: &[], fragment: 0, payload: &datagram };
        ethernet(multicast_mac(to), own, IPV4, &packet.bytes())
    };
    let address = Ipv4Addr::new(10, 99, 0, 11);
    let pim = Ipv4 {
        protocol: 103,
        from: address,
        to: Ipv4Addr::new(224, 0, 0, 13),
        options: &[],
        fragment: 0,
        payload: &[0x20, 0, 0xde, 0x94, 0, 1, 0, 2, 0, 105],
    };
    let mut foreign = data(address, SENT);
    foreign[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
    let forged = [
        foreign,
        data(lab::HOST, SENT),
        ethernet(multicast_mac(pim.to), own, IPV4, &pim.bytes()),
        [&data(address, SENT)[..12], &[0x81, 0, 0, 5], &data(address, SENT)[12..]].concat(),
        ethernet([1, 0x80, 0xc2, 0, 0, 0x0e], own, 0x88cc, &[0; 46]),
    ];
    let marker = data(address, GROUP);
    for way in WAYS {
        forged.iter().for_each(|frame| frames.send(frame, way));
    }
    frames.send(&marker, Way::Ordinary);
    let marker = move |frame: &[u8]| {
        // In the modes of layer 3 the proxy relays it, from the host's MAC address.
        frame.get(26..34) == Some(&marker[26..34]) && frame.get(34..46) == Some(&marker[34..46])
    };
    let arrived = wait_until("the marker is on the wire", PATIENCE, || {
        let frames = capture.frames();
        frames.iter().any(|frame| marker(frame)).then_some(frames)
    });
    let leaked: Vec<_> = arrived.iter().filter(|frame| forged.contains(frame)).collect();
    assert!(leaked.is_empty(), "{mode}: {leaked:02x?}");
    let relayed = arrived.iter().filter(|frame| frame.get(30..34) == Some(&SENT.octets())).count();
    assert_eq!(relayed, 0, "{mode}: of forged data");
    capture.finish();
    lab.delete(&container);
}

#[test]
fn forged_frames_do_not_leave() {
    vm::run(|| ["mode=l2", "mode=l3"].into_iter().for_each(one_forges));
}

#[test]
fn streams_arrive_with_every_flag() {
    vm::run(|| {
        let lab = Lab::new(3);
        for (mode, flag) in [("l2", "private"), ("l3", "vepa"), ("l3s", "bridge")] {
            let container = start(&lab, mode, 11, &format!("mode={mode},flag={flag}"));
            let link = container.ip("-d link show mc0");
            let info = &link[0]["linkinfo"];
            assert_eq!(info["info_kind"], "ipvlan", "{link}");
            assert_eq!(info["info_data"]["mode"], mode, "{link}");
            for name in ["private", "vepa"] {
                let flags = info["info_data"].to_string();
                assert_eq!(flags.contains(name), flag == name, "{link}");
            }
            assert_eq!(link[0]["address"], lab.host_mac(), "{link}");
            let shown = &lab.ps(&container).expect("shown")["interfaces"][0];
            assert_eq!((&shown["driver"], &shown["mode"]), (&"ipvlan".into(), &mode.into()));
            let receiver = lab.receive_count(&container, GROUP, None, 500);
            lab.wait_joined(&container, GROUP);
            lab.wait_forwarded(GROUP);
            let stream = lab.send_count(GROUP, SOURCES[0], 1000, 500);
            assert!(stream.finish(Duration::from_secs(60)).status.success());
            assert_each_once(flag, &receiver.finish(), 500);
            lab.delete(&container);
            lab.assert_clean(PATIENCE);
        }
    });
}

#[test]
fn one_parent_has_one_mode_and_one_flag() {
    vm::run(|| {
        let lab = Lab::new(3);
        let first = start(&lab, "first", 11, "mode=l2");
        let error = refusal(&lab, "second", &spec(12, "mode=l3"));
        assert!(
            error.contains(&format!(
                "mode=l3: lan0 has ipvlan children of mode l2, such as mc0 of container {}",
                first.name
            )),
            "{error}"
        );
        let error = refusal(&lab, "third", &spec(13, "mode=l2,flag=private"));
        assert!(
            error.contains(&format!(
                "flag=private: lan0 has ipvlan children of flag bridge, such as mc0 of container {}",
                first.name
            )),
            "{error}"
        );
        // Nothing has changed for who was there.
        let link = first.ip("-d link show mc0");
        assert_eq!(link[0]["linkinfo"]["info_data"]["mode"], "l2", "{link}");
        let same = start(&lab, "same", 14, "mode=l2");
        for container in [&first, &same] {
            lab.delete(container);
        }
        // The parent is free again.
        start(&lab, "other", 15, "mode=l3");
    });
}

#[test]
fn of_hooks_that_run_at_once_those_with_one_mode_succeed() {
    vm::run(|| {
        let lab = Lab::new(3);
        let bundle = Bundle::new(&lab, "bundle");
        bundle.write();
        // Without a lock between them every third round or so goes wrong.
        for round in 0..5 {
            race(&lab, &bundle, round);
        }
    });
}

/// Four hooks at once, two for each mode.
fn race(lab: &Lab, bundle: &Bundle, round: u32) {
    let modes = ["l2", "l3", "l2", "l3"];
    let holders = modes.map(|_| lab.namespace_holder());
    let mut commands = Vec::new();
    for (position, (mode, holder)) in modes.iter().zip(&holders).enumerate() {
        let wish = format!("parent=lan0,driver=ipvlan,mode={mode}");
        let id = lab.name(&format!("{mode}-{round}-{position}"));
        let file = lab.directory().join(&id);
        fs::write(&file, lab.state(&id, holder.pid(), &bundle.path, Some(&wish))).expect("state");
        let mut command = lab.enter("host", env!("CARGO_BIN_EXE_mcrun-hook"));
        command.arg("createRuntime").stdout(Stdio::null()).stderr(Stdio::piped());
        command.stdin(File::open(file).expect("state"));
        commands.push(command);
    }
    let hooks: Vec<_> = commands.iter_mut().map(|c| c.spawn().expect("spawned")).collect();
    let outputs = hooks.into_iter().map(|hook| hook.wait_with_output().expect("ended"));
    let outcomes: Vec<_> = modes
        .into_iter()
        .zip(outputs)
        .map(|(mode, o)| {
            (mode, o.status.success(), String::from_utf8_lossy(&o.stderr).into_owned())
        })
        .collect();
    let (won, lost): (Vec<_>, Vec<_>) = outcomes.iter().partition(|(_, won, _)| *won);
    assert_eq!((won.len(), lost.len()), (2, 2), "{outcomes:?}");
    let (mode, other) = (won[0].0, lost[0].0);
    assert!(mode != other && won[1].0 == mode, "{outcomes:?}");
    let expected = format!(
        "mode={other}: lan0 has ipvlan children of mode {mode}, such as mc0 of container {}",
        lab.name("")
    );
    assert!(lost.iter().all(|(.., error)| error.contains(&expected)), "{outcomes:?}");
}

#[test]
fn children_that_others_have_made_are_found_in_every_namespace() {
    vm::run(|| {
        let lab = Lab::new(3);
        let expected = "mode=l2: lan0 has ipvlan children of mode l3, such as by-hand";
        lab.bare("bare", "10.99.0.30");
        lab.ip("bare", "link del bare");
        let namespace = lab.namespace("bare");
        lab.ip("host", "link add link lan0 name by-hand type ipvlan mode l3");
        let error = refusal(&lab, "a", &spec(11, "mode=l2"));
        assert!(error.contains(&format!("{expected} of the host")), "{error}");
        // In a namespace that has a name only, and in one that has a process only.
        lab.ip("host", &format!("link set by-hand netns {namespace}"));
        let error = refusal(&lab, "b", &spec(11, "mode=l2"));
        assert!(error.contains(&format!("{expected} in /run/netns/{namespace}")), "{error}");
        let holder = lab.namespace_holder();
        lab.ip("bare", &format!("link set by-hand netns {}", holder.pid()));
        let error = refusal(&lab, "c", &spec(11, "mode=l2"));
        let process = format!("{expected} of process {} (sleep)", holder.pid());
        assert!(error.contains(&process), "{error}");
        start(&lab, "d", 11, "mode=l3");
    });
}

#[test]
fn a_parent_of_macvlan_is_no_parent_of_ipvlan() {
    vm::run(|| {
        let lab = Lab::new(3);
        let macvlan = lab.start("macvlan", "10.99.0.11");
        let error = refusal(&lab, "ipvlan", &spec(12, "mode=l2"));
        let expected = "parent=lan0: it cannot have ipvlan children, since it has macvlan children, such as mc0 of container";
        assert!(error.contains(&format!("{expected} {}", macvlan.name)), "{error}");
        lab.delete(&macvlan);
        let ipvlan = start(&lab, "ipvlan-first", 12, "mode=l2");
        let error = refusal(&lab, "macvlan-second", "parent=lan0,ip=10.99.0.13/24");
        let expected = "parent=lan0: it cannot have macvlan children, since it has ipvlan children, such as mc0 of container";
        assert!(error.contains(&format!("{expected} {}", ipvlan.name)), "{error}");
        lab.delete(&ipvlan);
        lab.ip("host", "link add link lan0 name by-hand type macvlan");
        let error = refusal(&lab, "ipvlan-third", &spec(12, "mode=l2"));
        assert!(error.contains("such as by-hand of the host"), "{error}");
    });
}

#[test]
fn macvlan_on_a_kernel_that_does_not_tell_of_joins() {
    vm::run(|| {
        let lab = Lab::new(3);
        let capture = lab.capture();
        let container = lab.start("c", "10.99.0.11");
        let receiver = lab.receive_count(&container, GROUP, None, ALL);
        lab.wait_joined(&container, GROUP);
        lab.wait_forwarded(GROUP);
        let stream = lab.send_count(GROUP, SOURCES[0], 2500, ALL);
        assert!(stream.finish(Duration::from_secs(60)).status.success());
        assert_each_once("the container", &receiver.finish(), ALL);
        lab.wait_left(&container, GROUP);
        lab.assert_one_igmp_host(&capture.finish());
    });
}

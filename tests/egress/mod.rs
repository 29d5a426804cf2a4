//! What leaves a container: its processes have CAP_NET_RAW and send whatever frames they like.

mod attacks;
mod legitimate;
mod xdp;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::lab::frames::{
    FrameSender, IPV4, Ipv4, Mac, WAYS, Way, ethernet, mac, multicast_mac, udp,
};
use crate::lab::{Capture, Container, HOST, Lab, PARENT, PATIENCE, SOURCES, Udp, run, wait_until};
use socket2::{Domain, Protocol, Socket, Type};

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 7, 1, 1);
const OWN: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 11);
const OWN_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x11);
/// The switch, which stands for the gateway.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
/// Sent behind each frame: when a marker has arrived, what was sent before has gone its way.
const MARKER: Ipv4Addr = Ipv4Addr::new(239, 66, 66, 67);

/// A frame, and what it is.
type Named = (&'static str, Vec<u8>);

/// The sender: a container, and what it may call its own.
struct Station {
    frames: FrameSender,
    mac: Mac,
    gateway: Mac,
}

impl Station {
    fn of(lab: &Lab, container: &Container) -> Station {
        let link = container.ip("link show mc0")[0].clone();
        let shown = run(lab.enter("sw", "ip").args(["-j", "link", "show", "br0"]));
        let shown: serde_json::Value = serde_json::from_str(&shown).expect("JSON");
        let gateway = shown[0]["address"].as_str().expect("a MAC address");
        Station {
            frames: FrameSender::open(&container.namespace(), "mc0"),
            mac: mac(link["address"].as_str().expect("a MAC address")),
            gateway: mac(gateway),
        }
    }

    /// An IPv4 packet from the container's own addresses.
    fn ipv4(&self, packet: Ipv4<'_>) -> Vec<u8> {
        let to = if packet.to.is_multicast() { multicast_mac(packet.to) } else { self.gateway };
        ethernet(to, self.mac, IPV4, &packet.bytes())
    }

    fn marker(&self, number: u32) -> Vec<u8> {
        let datagram = udp(9, 9, &number.to_be_bytes());
        self.ipv4(Ipv4 { payload: &datagram, ..packet(17, MARKER) })
    }

    /// Sends each frame in each way, with a marker behind it. Returns for each name the ways in
    /// which the frame has come to the switch, and how often.
    fn send(&self, capture: &Capture, frames: &[Named]) -> BTreeMap<&'static str, Vec<Way>> {
        let mut seen: BTreeMap<&'static str, Vec<Way>> = BTreeMap::new();
        for way in WAYS {
            let before = capture.frames().len();
            let mut markers = Vec::new();
            for (number, (_, frame)) in frames.iter().enumerate() {
                self.frames.send(frame, way);
                markers.push(self.marker(number as u32));
                self.frames.send(&markers[number], Way::Ordinary);
            }
            let last = markers.last().expect("a frame");
            let arrived = wait_until("the last marker is on the wire", PATIENCE, || {
                let frames = capture.frames().split_off(before);
                frames.contains(last).then_some(frames)
            });
            for marker in &markers {
                assert_eq!(arrived.iter().filter(|frame| *frame == marker).count(), 1);
            }
            for (name, frame) in frames {
                let times = arrived.iter().filter(|arrived| *arrived == frame).count();
                seen.entry(name).or_default().extend(std::iter::repeat_n(way, times));
            }
        }
        seen
    }

    fn assert_none_leaves(&self, capture: &Capture, frames: &[Named]) {
        let mut seen = self.send(capture, frames);
        seen.retain(|_, ways| !ways.is_empty());
        assert!(seen.is_empty(), "{} of {} on the wire: {seen:#?}", seen.len(), frames.len());
    }

    fn assert_all_leave(&self, capture: &Capture, frames: &[Named]) {
        let mut seen = self.send(capture, frames);
        // The rules cannot read a frame that goes past the queueing discipline while its socket
        // names the protocol.
        let open = WAYS.into_iter().filter(|way| *way != Way::Bypass);
        let open: Vec<_> = open.collect();
        seen.retain(|_, ways| *ways != open);
        assert!(seen.is_empty(), "not once on the wire in each way: {seen:#?}");
    }
}

/// An empty IPv4 packet from the container's own address.
fn packet(protocol: u8, to: Ipv4Addr) -> Ipv4<'static> {
    Ipv4 { protocol, from: OWN, to, options: &[], fragment: 0, payload: &[] }
}

/// Everything that comes in at the switch port.
fn capture(lab: &Lab) -> Capture {
    lab.capture_also("greater 1")
}

#[test]
fn what_a_container_may_not_say_does_not_leave_it() {
    let lab = Lab::new(3);
    let container = lab.start("c", "10.99.0.11");
    let station = Station::of(&lab, &container);
    let capture = capture(&lab);
    station.assert_none_leaves(&capture, &attacks::frames(&lab, &station));
    station.assert_none_leaves(&capture, &attacks::igmp(&station));
    station.assert_none_leaves(&capture, &attacks::ipv6(&station));
    station.assert_none_leaves(&capture, &attacks::foreign_addresses(&lab, &station));
    capture.finish();
}

#[test]
fn what_a_container_may_say_leaves_it() {
    let lab = Lab::new(3);
    let container = lab.start("c", "10.99.0.11");
    let station = Station::of(&lab, &container);
    let capture = capture(&lab);
    station.assert_all_leave(&capture, &legitimate::frames(&station));
    capture.finish();
}

#[test]
fn a_container_without_an_address_may_have_one_of_its_own_choice() {
    let lab = Lab::new(3);
    let container = lab.start_with("c", &["parent=lan0"], &[]);
    let station = Station::of(&lab, &container);
    let capture = capture(&lab);
    station.assert_all_leave(&capture, &legitimate::frames(&station));
    station.assert_none_leaves(&capture, &attacks::frames(&lab, &station));
    station.assert_none_leaves(&capture, &attacks::igmp(&station));
    station.assert_none_leaves(&capture, &attacks::ipv6(&station));
    capture.finish();
    // As an application does that has CAP_NET_ADMIN.
    run(container.enter("ip").args(["addr", "add", "10.99.0.77/24", "dev", "mc0"]));
    assert_answers(&container, "10.99.0.1");
}

#[test]
fn with_an_ipv6_address_a_container_speaks_ipv6_but_nothing_of_a_router() {
    let lab = Lab::new(3);
    lab.ip("sw", "addr add 2001:db8::1/64 dev br0 nodad");
    let spec = "parent=lan0,ip=10.99.0.11/24,ip=2001:db8::11/64";
    let capture = capture(&lab);
    let container = lab.start_with("c", &[spec], &[]);
    let station = Station::of(&lab, &container);
    // A report of the group that neighbours ask in: a switch must hear it, of the host.
    wait_until("the host's MLD report is on the wire", PATIENCE, || {
        let frames = capture.frames();
        let report = |f: &Vec<u8>| f.get(12..14) == Some(&[0x86, 0xdd]) && f.get(62) == Some(&143);
        let host = mac(lab.host_mac());
        assert!(!frames.iter().any(|f| f[6..12] == station.mac && report(f)), "of the container");
        frames.iter().any(|f| f[6..12] == host && report(f)).then_some(())
    });
    wait_until("the address is usable", PATIENCE, || {
        let shown = container.ip("-6 addr show mc0 tentative");
        shown
            .as_array()
            .is_none_or(|list| list.iter().all(|l| l["addr_info"].is_null()))
            .then_some(())
    });
    assert_answers(&container, "2001:db8::1");
    station.assert_all_leave(&capture, &legitimate::frames(&station));
    station.assert_all_leave(&capture, &legitimate::ipv6(&station));
    station.assert_none_leaves(&capture, &attacks::frames(&lab, &station));
    station.assert_none_leaves(&capture, &attacks::ipv6_of_routers(&station));
    capture.finish();
}

#[test]
fn without_interception_the_kernel_speaks_igmp_and_a_process_cannot() {
    for mode in ["native", "off"] {
        let lab = Lab::new(3);
        let spec = format!("parent=lan0,ip=10.99.0.11/24,igmp={mode}");
        let container = lab.start_with("c", &[&spec], &[]);
        let station = Station::of(&lab, &container);
        let capture = capture(&lab);
        let socket = container.socket_on("mc0", 5000);
        socket.join(GROUP);
        wait_until("the kernel's report is on the wire", PATIENCE, || {
            let reports = capture.igmp_so_far();
            reports.iter().any(|r| mac(&r.mac) == station.mac).then_some(())
        });
        station.assert_none_leaves(&capture, &attacks::frames(&lab, &station));
        station.assert_none_leaves(&capture, &attacks::igmp(&station));
        station.assert_none_leaves(&capture, &attacks::foreign_addresses(&lab, &station));
        station.assert_all_leave(&capture, &legitimate::frames(&station));
        // A leave by the kernel's own hand, so to speak: a raw socket.
        let before = capture.igmp().len();
        let leave = [0x17, 0, 0xf6, 0xf6, 239, 7, 1, 1];
        let send = || {
            let raw = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(2))).expect("raw");
            let to = std::net::SocketAddrV4::new(Ipv4Addr::new(224, 0, 0, 2), 0);
            let _ = raw.send_to(&leave, &to.into());
        };
        container.namespace().run(send).expect("entered");
        let seen = capture.finish().split_off(before);
        assert!(seen.iter().all(|f| !matches!(f.message, crate::lab::Igmp::Leave { .. })));
        drop(socket);
    }
}

#[test]
fn with_l2_open_everything_leaves_but_igmp() {
    let lab = Lab::new(3);
    let open = "parent=lan0,ip=10.99.0.11/24,l2=open";
    let refused = lab.try_start("refused", &[open], &[]);
    let reason = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(reason.contains("l2=open: the administrator allows closed"), "{reason}");
    lab.configure("[attach]\nl2 = [\"closed\", \"open\"]\nip = [\"0.0.0.0/0\", \"::/0\"]\n");
    let container = lab.start_with("c", &[open], &[]);
    let station = Station::of(&lab, &container);
    let capture = capture(&lab);
    station.assert_all_leave(&capture, &attacks::frames(&lab, &station));
    station.assert_all_leave(&capture, &attacks::foreign_addresses(&lab, &station));
    station.assert_none_leaves(&capture, &attacks::igmp(&station));
    capture.finish();
}

/// A bridge takes the port that a PIM hello comes in at for a router's, and forwards every group
/// to it.
#[test]
fn a_pim_hello_does_not_get_the_groups_that_nobody_has_joined() {
    const PACKETS: u32 = 2000;
    const UNJOINED: Ipv4Addr = Ipv4Addr::new(239, 7, 9, 9);
    let lab = Lab::new(3);
    let container = lab.start("c", "10.99.0.11");
    let station = Station::of(&lab, &container);
    let heard = capture(&lab);
    let hellos = attacks::pim(&station);
    let arrived = station.send(&heard, &hellos);
    heard.finish();

    // What the port lets out, seen on the host.
    let host = lab.net("host");
    let seen = host
        .run(|| {
            let socket = Socket::new(Domain::PACKET, Type::DGRAM, None).expect("packet socket");
            mcrun::sys::sockopt::grow_receive_buffer(&socket, 16 << 20).expect("buffer");
            let protocol = libc::ETH_P_ALL as u16;
            let index = nix::net::if_::if_nametoindex(PARENT).expect("the parent");
            socket.bind(&crate::lab::frames::link_address(index, [0; 6], protocol)).expect("bound");
            socket
        })
        .expect("entered");
    let joined = Udp::open(&host, Ipv4Addr::UNSPECIFIED, 5000, PARENT);
    joined.join(GROUP);
    lab.wait_forwarded(GROUP);
    let sender = lab.socket("src", SOURCES[0], 0);
    for number in 0..PACKETS {
        sender.send(&number.to_be_bytes(), (UNJOINED, 5000));
    }
    sender.send(b"end", (GROUP, 5000));
    assert_eq!(joined.receive_until("end"), []);
    let mut unjoined = 0;
    let mut buffer = [0u8; 64];
    loop {
        // SAFETY: the buffer is live and has the stated length.
        let length = unsafe {
            libc::recv(seen.as_raw_fd(), buffer.as_mut_ptr().cast(), 64, libc::MSG_DONTWAIT)
        };
        if length < 0 {
            break;
        }
        unjoined += u32::from(buffer[16..20] == UNJOINED.octets());
    }
    assert_eq!(unjoined, 0, "of {PACKETS} packets that nobody wants");
    assert!(arrived.values().all(Vec::is_empty), "{arrived:?}");
}

#[test]
fn while_a_proxy_takes_over_nothing_leaves_that_may_not() {
    let lab = Lab::new(3);
    let container = lab.start("c", "10.99.0.11");
    let station = Station::of(&lab, &container);
    let capture = capture(&lab);
    let hellos = attacks::pim(&station);
    let stop = AtomicBool::new(false);
    let sent = std::thread::scope(|scope| {
        let rogue = scope.spawn(|| {
            let mut sent = 0;
            while !stop.load(Ordering::Relaxed) {
                hellos.iter().for_each(|(_, hello)| station.frames.send(hello, Way::Ordinary));
                sent += hellos.len();
            }
            sent
        });
        for limit in [7, 8, 9] {
            let before = lab.proxy_pid(&container);
            lab.configure(&format!("[groups]\nmax-groups = {limit}\n"));
            assert_eq!(run(&mut lab.mcrun(["reload"])).trim(), container.id);
            assert_ne!(lab.proxy_pid(&container), before);
        }
        stop.store(true, Ordering::Relaxed);
        rogue.join().expect("it has sent")
    });
    station.assert_none_leaves(&capture, &hellos);
    let leaked = capture.frames().iter().filter(|f| hellos.iter().any(|(_, h)| h == *f)).count();
    assert_eq!(leaked, 0, "of {sent} frames");
    capture.finish();
}

/// A socket of AF_XDP sends past all hooks of the kernel.
#[test]
fn an_af_xdp_socket_does_not_get_the_link() {
    let lab = Lab::new(3);
    let open = "[attach]\nl2 = [\"closed\", \"open\"]\nip = [\"0.0.0.0/0\", \"::/0\"]\n";
    lab.configure(open);
    for (name, rest) in [("closed", ""), ("native", ",igmp=native"), ("open", ",l2=open")] {
        let container =
            lab.start_with(name, &[&format!("parent=lan0,ip=10.99.0.11/24{rest}")], &[]);
        let station = Station::of(&lab, &container);
        let capture = capture(&lab);
        let index = container.ip("link show mc0")[0]["ifindex"].as_u64().expect("index") as u32;
        let (_, leave) = attacks::igmp(&station).remove(3);
        let send = |frame: &[u8]| {
            let result = container.namespace().run(|| xdp::send(index, frame)).expect("entered");
            result.map_err(|error| error.raw_os_error())
        };
        let result = send(&leave);
        station.frames.send(&station.marker(0), Way::Ordinary);
        wait_until("the marker is on the wire", PATIENCE, || {
            capture.frames().contains(&station.marker(0)).then_some(())
        });
        assert!(!capture.frames().contains(&leave), "{name}: a leave is on the wire");
        assert_eq!(result, Err(Some(libc::EBUSY)), "{name}");
        capture.finish();
        if name == "closed" {
            lab.configure(&format!("{open}[groups]\nmax-sources = 7\n"));
            assert_eq!(run(&mut lab.mcrun(["reload"])).trim(), container.id);
            wait_until("the next proxy occupies the link", PATIENCE, || {
                (send(&station.marker(1)) == Err(Some(libc::EBUSY))).then_some(())
            });
            lab.configure(open);
        }
        lab.delete(&container);
    }
}

/// Asserts that a station answers the container's echo requests, large ones in fragments too.
fn assert_answers(container: &Container, address: &str) {
    for size in ["56", "8000"] {
        let words = ["ping", "-c", "1", "-W", "10", "-s", size, address];
        let done = crate::lab::output(container.enter("busybox").args(words));
        assert!(done.status.success(), "{address} with {size}: {done:?}");
    }
}

/// Frames that are longer than usual, both ways of the kernel and of a packet socket.
#[test]
fn jumbo_frames_leave() {
    const LONG: usize = 8000;
    let lab = Lab::new(3);
    for (node, link) in [("sw", "p-host"), ("sw", "p-src"), ("src", PARENT), ("host", PARENT)] {
        lab.ip(node, &format!("link set {link} mtu 9000"));
    }
    lab.ip("sw", "link set br0 mtu 9000");
    let container = lab.start("c", "10.99.0.11");
    let receiver = lab.socket("src", SOURCES[0], 5000);
    let sender = container.socket_on("mc0", 0);
    for (length, to) in [(LONG, SOURCES[0]), (30_000, SOURCES[0])] {
        let payload = vec![b'x'; length];
        sender.send(&payload, (to, 5000));
        let (received, from) = receiver.receive(PATIENCE).expect("it arrives");
        assert!(received == payload && *from.ip() == OWN, "{length} from {from}");
    }
    let _ = HOST;
}

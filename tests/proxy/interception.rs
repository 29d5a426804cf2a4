//! IGMP that the container sends, by its kernel and by raw sockets.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use mcrun::proxy::{MembershipStatus, ProxyState, ProxyStatus, requery};
use mcrun::sys::sockopt;
use seccompiler::{
    SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::fake_container::{CHILD, FakeContainer, GROUP, Proxy};
use crate::lab::{Lab, PARENT, PATIENCE, run, wait_until};

#[test]
fn raw_and_packet_senders_get_no_igmp_onto_the_wire() {
    let lab = Lab::new(3);
    let container = FakeContainer::new(&lab, "c1", 11);
    let proxy = container.serve(&container.config());
    assert_eq!(proxy.status().warnings(), Vec::<String>::new());
    // What a container says of its own groups is its own affair: the leave is for another's.
    let neighbour = FakeContainer::new(&lab, "c2", 12);
    let _other = neighbour.serve(&neighbour.config());
    let _socket = neighbour.join(GROUP);
    wait_until("the switch forwards", PATIENCE, || {
        lab.forwarded().contains(&GROUP.to_string()).then_some(())
    });
    let capture = lab.capture_also("udp port 9 or igmp or (vlan and igmp)");
    let leave = [0x17, 0, 0xf8, 0xf8, 239, 5, 1, 1];
    let mut ip = vec![0x46, 0xc0, 0, 32, 0, 0, 0x40, 0, 1, 2, 0, 0, 10, 99, 0, 11, 224, 0, 0, 2];
    ip.extend([0x94, 4, 0, 0]);
    ip.extend(leave);
    let destination = [0x01, 0x00, 0x5e, 0, 0, 2];
    let index = container.index;
    container
        .ns
        .run(|| {
            let raw = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(2))).expect("raw");
            // The kernel tells the sender of a dropped packet.
            let to = SocketAddrV4::new(Ipv4Addr::new(224, 0, 0, 2), 0);
            let refused = raw.send_to(&leave, &to.into()).expect_err("dropped");
            assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
            let packet = Socket::new(Domain::PACKET, Type::RAW, None).expect("packet");
            let link = |protocol: u16| link_address(index, destination, protocol);
            let header = |tags: &[u8]| [&destination[..], &[2, 0, 0, 0, 0, 9], tags].concat();
            // As it is; with a protocol that lies; behind a tag.
            for (tags, protocol) in [
                (&[8, 0][..], 0x0800),
                (&[8, 0], 0x0806),
                (&[0x81, 0, 0, 5, 8, 0], 0x8100),
                (&[0x88, 0xa8, 0, 5, 8, 0], 0x88a8),
            ] {
                let frame = [header(tags), ip.clone()].concat();
                let refused = packet.send_to(&frame, &link(protocol)).expect_err("dropped");
                assert_eq!(refused.raw_os_error(), Some(libc::ENOBUFS));
            }
            // The way is open for what is not IGMP.
            let udp = Socket::new(Domain::IPV4, Type::DGRAM, None).expect("udp");
            udp.send_to(b"x", &SocketAddrV4::new(Ipv4Addr::new(239, 5, 9, 9), 9).into())
                .expect("udp send");
        })
        .expect("entered");
    let frames = wait_until("the marker is on the wire", PATIENCE, || {
        let frames = capture.frames();
        frames.iter().any(|f| f.get(23) == Some(&17)).then_some(frames)
    });
    let host: Vec<u8> =
        lab.host_mac().split(':').map(|b| u8::from_str_radix(b, 16).expect("hex")).collect();
    for frame in frames.iter().filter(|f| f.get(23) != Some(&17)) {
        assert_eq!(frame[6..12], host[..], "{frame:02x?}");
    }
    assert!(lab.forwarded().contains(&GROUP.to_string()), "the leave was heard by nobody");
}

/// A process with CAP_NET_RAW reads the mark of an injected query, and sets it on its own packets.
#[test]
fn a_process_that_has_read_the_mark_gets_no_igmp_past_the_rules() {
    let lab = Lab::new(3);
    let container = FakeContainer::new(&lab, "c1", 11);
    let config = container.config();
    let proxy = container.serve(&config);
    let _socket = container.join(GROUP);
    proxy.wait_group(GROUP, MembershipStatus::Joined);
    let capture = lab.capture_also("igmp or udp port 9");
    let leave = [0x17, 0, 0xf8, 0xf8, 239, 5, 1, 1];
    container
        .ns
        .run(|| {
            let raw = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(2))).expect("raw");
            let queries = std::net::UdpSocket::from(raw.try_clone().expect("another"));
            queries.set_read_timeout(Some(Duration::from_millis(500))).expect("a limit");
            receive_marks(&raw).expect("SO_RCVMARK");
            // A query that is asked for while another is being answered is not sent.
            let mark = wait_until("a query with its mark", PATIENCE, || {
                requery(&proxy.directory).expect("asked for a query");
                received_mark(&raw)
            });
            assert_eq!(mark, config.mark);

            raw.set_mark(mark).expect("SO_MARK");
            let to = SocketAddrV4::new(Ipv4Addr::new(224, 0, 0, 2), 0).into();
            let refused = raw.send_to(&leave, &to).expect_err("dropped");
            assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
            // With TTL 0 it comes back, and does not leave; to a group of nobody neither.
            raw.set_header_included_v4(true).expect("IP_HDRINCL");
            for group in [Ipv4Addr::new(224, 0, 0, 1), Ipv4Addr::new(239, 5, 7, 7)] {
                let mut ip = vec![0x45, 0xc0, 0, 28, 0, 0, 0, 0, 0, 2, 0, 0, 10, 99, 0, 11];
                ip.extend([group.octets(), [0x17, 0, 0xf8, 0xf8], [239, 5, 1, 1]].concat());
                let _ = raw.send_to(&ip, &SocketAddrV4::new(group, 0).into());
            }
            let udp = Socket::new(Domain::IPV4, Type::DGRAM, None).expect("udp");
            udp.send_to(b"x", &SocketAddrV4::new(Ipv4Addr::new(239, 5, 9, 9), 9).into())
                .expect("udp send");
        })
        .expect("entered");
    wait_until("the marker is on the wire", PATIENCE, || {
        capture.frames().iter().any(|f| f.get(23) == Some(&17)).then_some(())
    });
    for frame in capture.finish() {
        assert_eq!(frame.mac, lab.host_mac(), "{frame:?}");
    }
}

/// SO_RCVMARK (Linux 5.19).
fn receive_marks(socket: &Socket) -> std::io::Result<()> {
    const SO_RCVMARK: libc::c_int = 75;
    sockopt::set_int(socket, libc::SOL_SOCKET, SO_RCVMARK, 1)
}

/// The mark of the next packet; `None` when none comes in time.
fn received_mark(socket: &Socket) -> Option<u32> {
    use std::os::fd::AsRawFd;
    let mut bytes = [0u8; 256];
    let mut control = [0u64; 16];
    let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: an all-zero msghdr is valid.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    // SAFETY: the buffers are live and have the stated lengths.
    if unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, 0) } < 0 {
        return None;
    }
    // SAFETY: the kernel has filled the message in.
    let first = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    // SAFETY: it is null or points into the live control buffer, which is aligned.
    let header = unsafe { first.as_ref() }?;
    let is_mark = header.cmsg_level == libc::SOL_SOCKET && header.cmsg_type == libc::SO_MARK;
    // SAFETY: a control message of this kind holds a number of four bytes.
    is_mark.then(|| unsafe { libc::CMSG_DATA(first).cast::<u32>().read_unaligned() })
}

#[test]
fn without_nf_tables_the_container_speaks_for_itself_and_that_is_said() {
    let lab = Lab::new(3);
    let container = FakeContainer::new(&lab, "c1", 11);
    // A kernel without netfilter's netlink, as far as the proxy can tell.
    let condition = |argument, value: i32| {
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value as u64)
            .expect("condition")
    };
    let netfilter = SeccompRule::new(vec![
        condition(0, libc::AF_NETLINK),
        condition(2, libc::NETLINK_NETFILTER),
    ]);
    let filter = SeccompFilter::new(
        [(libc::SYS_socket, vec![netfilter.expect("rule")])].into(),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EPROTONOSUPPORT as u32),
        std::env::consts::ARCH.try_into().expect("architecture"),
    );
    let proxy =
        container.start_filtered(&container.config(), filter.expect("rules")).expect("ready");
    container.up();
    let status = proxy.status();
    assert_eq!(status.state, ProxyState::Degraded);
    assert!(status.warnings().iter().any(|w| w.contains("nf_tables")), "{:?}", status.warnings());
    let capture = lab.capture();
    let _socket = container.join(GROUP);
    proxy.wait_group(GROUP, MembershipStatus::Joined);
    assert!(!lab.host_joins().contains(&GROUP));
    wait_until("the container reports by itself", PATIENCE, || {
        capture.igmp().iter().any(|f| f.mac != lab.host_mac()).then_some(())
    });
}

#[test]
fn reports_as_long_as_a_jumbo_frame_are_heard() {
    let lab = Lab::new(3);
    lab.ip("host", &format!("link set {PARENT} mtu 9000"));
    let container = FakeContainer::new(&lab, "c1", 11);
    container.ip(&format!("link set {CHILD} mtu 9000"));
    run(container.command("sh").args(["-c", "echo 9999 >/proc/sys/net/ipv4/igmp_max_memberships"]));
    let mut config = container.config();
    config.interfaces[0].policy.max_groups = 1000;
    let proxy = container.serve(&config);
    let socket = container.socket();
    for n in 0..1000u16 {
        let [high, low] = n.to_be_bytes();
        let group = Ipv4Addr::new(239, 5, 8 + high, low);
        sockopt::join_group(&socket, container.index, group).expect("join");
    }
    wait_until("all are joined", PATIENCE, || (lab.host_joins().len() == 1000).then_some(()));
    let reports = |proxy: &Proxy| proxy.status().interfaces[0].counters["reports_v3"];
    let before = reports(&proxy);
    requery(&container.directory()).expect("answered");
    wait_until("the container has answered", PATIENCE, || (reports(&proxy) > before).then_some(()));
    let interface = &proxy.status().interfaces[0];
    assert_eq!(interface.groups.len(), 1000);
    let counters = &interface.counters;
    assert!(!counters.keys().any(|name| name.contains("length")), "{counters:?}");
}

#[test]
fn a_flood_of_reports_is_bounded_and_starves_nobody() {
    const FLOOD: u32 = 30_000;
    let lab = Lab::new(3);
    let container = FakeContainer::new(&lab, "c1", 11);
    let mut config = container.config();
    config.interfaces[0].policy.max_groups = 8;
    let proxy = container.serve(&config);
    let open = || Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(2))).expect("raw");
    let raw = container.ns.run(open).expect("entered");
    std::thread::scope(|scope| {
        let flood = scope.spawn(|| {
            for n in 0..FLOOD {
                // A v2 report of a group of its own each.
                let [_, b, c, d] = n.to_be_bytes();
                let mut report = [0x16, 0, 0, 0, 239, b, c, d];
                let sum: u32 =
                    report.chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(w[1])).sum();
                let checksum = !((sum & 0xffff) + (sum >> 16)) as u16;
                report[2..4].copy_from_slice(&checksum.to_be_bytes());
                let to = SocketAddrV4::new(Ipv4Addr::new(239, b, c, d), 0);
                assert!(raw.send_to(&report, &to.into()).is_err(), "dropped, and the sender told");
            }
        });
        while !flood.is_finished() {
            assert!(lab.host_joins().len() <= 8);
            assert!(proxy.status().interfaces[0].groups.len() <= 2048);
        }
    });
    let limited = |status: ProxyStatus| {
        let groups = &status.interfaces[0].groups;
        let count = |s| groups.iter().filter(|g| g.status == s).count();
        (count(MembershipStatus::Joined), count(MembershipStatus::Limited) > 0)
    };
    assert_eq!(limited(proxy.status()), (8, true));
}

/// A packet socket's address of a destination on an interface.
fn link_address(index: u32, destination: [u8; 6], protocol: u16) -> SockAddr {
    let mut storage = socket2::SockAddrStorage::zeroed();
    // SAFETY: sockaddr_ll is a valid view of a storage that is larger and zero.
    let link = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    link.sll_family = libc::AF_PACKET as u16;
    link.sll_protocol = protocol.to_be();
    link.sll_ifindex = index as i32;
    link.sll_halen = 6;
    link.sll_addr[..6].copy_from_slice(&destination);
    // SAFETY: a whole sockaddr_ll has been written.
    unsafe { SockAddr::new(storage, size_of::<libc::sockaddr_ll>() as u32) }
}

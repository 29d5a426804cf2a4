//! What a proxy that was taken over can do with the descriptors that it has.
//!
//! The tests take the descriptors themselves (pidfd_getfd(2)), and use them with all privileges.
//! What holds against that does not depend on the system call filter.

use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::sys::socket::{getsockopt, sockopt as options};
use socket2::{Domain, SockFilter, Socket, Type};

use super::attached;
use crate::lab;
use crate::lab::Lab;

/// Descriptors of sockets of a process.
fn sockets(pid: i32) -> Vec<Socket> {
    // SAFETY: the call returns a new descriptor.
    let process = unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, pid, 0);
        assert!(fd >= 0, "{}", io::Error::last_os_error());
        OwnedFd::from_raw_fd(fd as i32)
    };
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).expect("descriptors");
    let names = entries.map(|entry| entry.expect("an entry").path());
    let is_socket = |path: &std::path::PathBuf| {
        fs::read_link(path).is_ok_and(|target| target.to_string_lossy().starts_with("socket:"))
    };
    let take = |path: std::path::PathBuf| {
        let number: i32 = path.file_name()?.to_str()?.parse().ok()?;
        // SAFETY: the call returns a new descriptor, or an error where it was closed meanwhile.
        unsafe {
            let fd = libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0);
            (fd >= 0).then(|| Socket::from_raw_fd(fd as i32))
        }
    };
    names.filter(is_socket).filter_map(take).collect()
}

fn domain(socket: &Socket) -> i32 {
    let mut value: MaybeUninit<i32> = MaybeUninit::uninit();
    let mut length = size_of::<i32>() as libc::socklen_t;
    // SAFETY: the kernel writes an int.
    unsafe {
        let result = libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_DOMAIN,
            value.as_mut_ptr().cast(),
            &raw mut length,
        );
        assert_eq!(result, 0);
        value.assume_init()
    }
}

#[test]
fn sockets_that_only_send_can_never_receive_and_the_filters_of_others_stay() {
    let lab = Lab::new(3);
    let container = attached(&lab, "c", 11);
    let sockets = sockets(lab.proxy_pid(&container));
    let accept_all = || SockFilter::new((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, u32::MAX);
    let kind = |socket: &Socket| getsockopt(socket, options::SockType).expect("a type") as i32;
    let is_packet = |socket: &&Socket| domain(socket) == libc::AF_PACKET;
    let is_raw =
        |socket: &&Socket| domain(socket) == libc::AF_INET && kind(socket) == libc::SOCK_RAW;
    let (packet, raw): (Vec<_>, Vec<_>) =
        sockets.iter().filter(|s| is_packet(s) || is_raw(s)).partition(is_packet);
    assert!(packet.len() >= 2 && raw.len() >= 2, "{} and {}", packet.len(), raw.len());
    for socket in packet.into_iter().chain(raw) {
        let changed = socket.attach_filter(&[accept_all()]);
        let errno = changed.err().and_then(|error| error.raw_os_error());
        assert_eq!(errno, Some(libc::EPERM), "domain {}", domain(socket));
    }
}

/// A whole IPv4 packet from an address of loopback.
fn attack(to: SocketAddrV4) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 127, 0, 0, 9];
    packet.extend(to.ip().octets());
    // UDP without a checksum.
    for number in [9, to.port(), 8 + 6, 0] {
        packet.extend(number.to_be_bytes());
    }
    packet.extend(b"attack");
    packet
}

#[test]
fn nothing_of_a_proxy_reaches_loopback_or_the_hosts_own_address() {
    let lab = Lab::new(3);
    lab.add_bridge();
    let relay = lab.start_with("r", &["parent=lan0,driver=relay"], &[]);
    lab.plug(&relay, 10);
    let macvlan = attached(&lab, "c", 11);
    let member = macvlan.member();
    let group = Ipv4Addr::new(239, 7, 2, 1);
    member.change(group, &lab::Change::Join);
    lab.wait_joined(&macvlan, group);
    let listener = lab.socket("host", Ipv4Addr::UNSPECIFIED, 0);
    let port = listener.socket.local_addr().expect("an address").port();
    for container in [&relay, &macvlan] {
        let all = sockets(lab.proxy_pid(container));
        let inet: Vec<_> = all.iter().filter(|s| domain(s) == libc::AF_INET).collect();
        assert!(inet.len() >= 4, "{}", inet.len());
        for socket in inet {
            for address in [Ipv4Addr::LOCALHOST, lab::HOST] {
                let to = SocketAddrV4::new(address, port);
                // Sockets of the container's namespace may send to what is there.
                let _ = socket.send_to(b"attack", &to.into());
                let _ = socket.send_to(&attack(to), &to.into());
                // By the route to a group that the host has joined, which loops a copy back. The
                // kernel shows that copy to no filter of the sender, so the raw socket with which a
                // relay sends can do this: see SECURITY.md.
                if container.id != relay.id {
                    let _ = socket.send_to(&attack(to), &SocketAddrV4::new(group, port).into());
                }
            }
        }
    }
    let marker = lab.net("host").run(|| Socket::new(Domain::IPV4, Type::DGRAM, None));
    let marker = marker.expect("entered").expect("a socket");
    marker.send_to(b"end", &SocketAddrV4::new(lab::HOST, port).into()).expect("sent");
    let received = listener.receive_until("end");
    let attacks: Vec<_> =
        received.iter().filter(|(payload, _)| payload.ends_with(b"attack")).collect();
    assert!(attacks.is_empty(), "{attacks:?}");
}

//! A LAN for tests: a namespace with a veth pair, whose end `lan-a` is the host's and whose end `lan-b` is
//! the rest of the LAN.

use std::os::fd::AsRawFd;
use std::process::Command;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use crate::net::netns::NetNs;

pub(super) struct Veth(NetNs);

impl Veth {
    pub(super) fn new() -> Self {
        let veth = Veth(NetNs::create().unwrap());
        veth.run(|| {
            for command in [
                "link add lan-a type veth peer name lan-b",
                "link set lo up",
                "link set lan-a up",
                "link set lan-b up",
            ] {
                let status = Command::new("ip").args(command.split(' ')).status().unwrap();
                assert!(status.success(), "ip {command}");
            }
            // Until then reports come from `::`.
            let deadline = Instant::now() + Duration::from_secs(10);
            let is_ready = || {
                let text = std::fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap();
                ["lan-a", "lan-b"].iter().all(|name| {
                    let own = |line: &&str| line.ends_with(&format!(" {name}"));
                    text.lines()
                        .filter(own)
                        .any(|line| line.split_whitespace().nth(4) == Some("80"))
                })
            };
            while !is_ready() {
                assert!(Instant::now() < deadline, "duplicate address detection has not ended");
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        veth
    }

    /// Runs `f` in the namespace.
    pub(super) fn run<T>(&self, f: impl FnOnce() -> T) -> T {
        self.0.run(f).unwrap()
    }

    /// Sends a whole IPv6 packet from the other end, to all.
    pub(super) fn send_from_b(&self, packet: &[u8]) {
        let send = || {
            let socket = frame_socket();
            let index = nix::net::if_::if_nametoindex("lan-b").unwrap();
            let mut address = link_address(index);
            address.sll_halen = 6;
            address.sll_addr = [0x33, 0x33, 0, 0, 0, 1, 0, 0];
            // SAFETY: the address is a whole `sockaddr_ll`, and the packet is borrowed for the call.
            let sent = unsafe {
                libc::sendto(
                    socket.as_raw_fd(),
                    packet.as_ptr().cast(),
                    packet.len(),
                    0,
                    (&raw const address).cast(),
                    size_of_val(&address) as libc::socklen_t,
                )
            };
            assert_eq!(sent, packet.len() as isize, "{}", std::io::Error::last_os_error());
        };
        self.run(send);
    }

    /// A socket that receives what arrives at the other end. Call it in the namespace.
    pub(super) fn capture_on_b() -> Socket {
        let socket = frame_socket();
        let address = link_address(nix::net::if_::if_nametoindex("lan-b").unwrap());
        // SAFETY: the address is a whole `sockaddr_ll`.
        let bound = unsafe {
            libc::bind(
                socket.as_raw_fd(),
                (&raw const address).cast(),
                size_of_val(&address) as libc::socklen_t,
            )
        };
        assert_eq!(bound, 0, "{}", std::io::Error::last_os_error());
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        socket
    }

    /// The next packet that arrives there.
    pub(super) fn receive(capture: &Socket) -> Vec<u8> {
        Self::receive_with(capture, 0).expect("a packet within ten seconds")
    }

    /// The next packet that has arrived there; `None`: none has.
    pub(super) fn waiting(capture: &Socket) -> Option<Vec<u8>> {
        Self::receive_with(capture, libc::MSG_DONTWAIT)
    }

    fn receive_with(capture: &Socket, flags: libc::c_int) -> Option<Vec<u8>> {
        loop {
            let mut buffer = [0u8; 2048];
            // SAFETY: an all-zero address is a value of its type.
            let mut from: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
            let mut length = size_of_val(&from) as libc::socklen_t;
            // SAFETY: the kernel writes at most as many bytes as both buffers have.
            let got = unsafe {
                libc::recvfrom(
                    capture.as_raw_fd(),
                    buffer.as_mut_ptr().cast(),
                    buffer.len(),
                    flags,
                    (&raw mut from).cast(),
                    &raw mut length,
                )
            };
            if got < 0 {
                return None;
            }
            if from.sll_pkttype != libc::PACKET_OUTGOING {
                return Some(buffer[..got.cast_unsigned()].to_vec());
            }
        }
    }
}

fn frame_socket() -> Socket {
    let protocol = Protocol::from(i32::from((libc::ETH_P_IPV6 as u16).to_be()));
    Socket::new(Domain::PACKET, Type::DGRAM, Some(protocol)).unwrap()
}

fn link_address(index: u32) -> libc::sockaddr_ll {
    // SAFETY: an all-zero address is a value of its type.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (libc::ETH_P_IPV6 as u16).to_be();
    address.sll_ifindex = index.cast_signed();
    address
}

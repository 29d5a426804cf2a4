//! Ethernet frames made by hand, and packet sockets that send them.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;

use mcrun::net::netns::NetNs;
use socket2::{Domain, SockAddr, Socket, Type};

pub type Mac = [u8; 6];

pub const IPV4: u16 = 0x0800;
pub const ARP: u16 = 0x0806;
pub const IPV6: u16 = 0x86dd;

/// A frame; the kernel adds nothing to it.
pub fn ethernet(to: Mac, from: Mac, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&to[..], &from, &ethertype.to_be_bytes(), payload].concat()
}

/// An IPv4 packet.
#[derive(Clone, Copy)]
pub struct Ipv4<'p> {
    pub protocol: u8,
    pub from: Ipv4Addr,
    pub to: Ipv4Addr,
    /// A multiple of four bytes.
    pub options: &'p [u8],
    /// Flags and fragment offset.
    pub fragment: u16,
    pub payload: &'p [u8],
}

impl Ipv4<'_> {
    pub fn bytes(&self) -> Vec<u8> {
        let header = 20 + self.options.len();
        let length = u16::try_from(header + self.payload.len()).expect("short").to_be_bytes();
        let [flags, offset] = self.fragment.to_be_bytes();
        let mut bytes = vec![0x40 | (header / 4) as u8, 0xc0, length[0], length[1], 0, 7];
        bytes.extend([flags, offset, 1, self.protocol, 0, 0]);
        bytes.extend(self.from.octets());
        bytes.extend(self.to.octets());
        bytes.extend(self.options);
        let sum = checksum(&bytes);
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        bytes.extend(self.payload);
        bytes
    }
}

/// An IPv6 packet with hop limit 255.
pub fn ipv6(next_header: u8, from: Ipv6Addr, to: Ipv6Addr, payload: &[u8]) -> Vec<u8> {
    let [high, low] = u16::try_from(payload.len()).expect("short").to_be_bytes();
    let mut bytes = vec![0x60, 0, 0, 0, high, low, next_header, 255];
    bytes.extend(from.octets());
    bytes.extend(to.octets());
    bytes.extend(payload);
    bytes
}

/// An ICMPv6 message with its checksum.
pub fn icmpv6(kind: u8, from: Ipv6Addr, to: Ipv6Addr, body: &[u8]) -> Vec<u8> {
    let mut message = [&[kind, 0, 0, 0], body].concat();
    let length = (message.len() as u32).to_be_bytes();
    let pseudo = [&from.octets()[..], &to.octets(), &length, &[0, 0, 0, 58], &message].concat();
    let sum = checksum(&pseudo);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

/// A UDP datagram without a checksum.
pub fn udp(from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).expect("short");
    [&from.to_be_bytes()[..], &to.to_be_bytes(), &length.to_be_bytes(), &[0, 0], payload].concat()
}

/// An ARP packet for Ethernet and IPv4.
pub fn arp(operation: u8, sender: (Mac, Ipv4Addr), target: Ipv4Addr) -> Vec<u8> {
    let (mac, address) = sender;
    let format = [0, 1, 8, 0, 6, 4, 0, operation];
    [&format[..], &mac, &address.octets(), &[0; 6], &target.octets()].concat()
}

/// Where multicast to a group is sent (RFC 1112 §6.4).
pub fn multicast_mac(group: Ipv4Addr) -> Mac {
    let [_, b, c, d] = group.octets();
    [0x01, 0x00, 0x5e, b & 0x7f, c, d]
}

/// The Internet checksum (RFC 1071).
pub fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// The text of a MAC address in bytes.
pub fn mac(text: &str) -> Mac {
    let bytes: Vec<u8> =
        text.split(':').map(|byte| u8::from_str_radix(byte, 16).expect("hexadecimal")).collect();
    bytes.try_into().expect("six bytes")
}

/// Frames of a packet socket go past the queueing discipline (PACKET_QDISC_BYPASS).
///
/// # Errors
/// Those of setsockopt(2).
pub fn bypass_queueing(socket: &Socket) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the value is a live int of the stated size.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_QDISC_BYPASS,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// How a frame is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Ordinary,
    /// The socket says that the frame is of another protocol than it is.
    Lying,
    /// Past the queueing discipline (PACKET_QDISC_BYPASS).
    Bypass,
    /// The same, and the socket leaves it to the kernel to find out the protocol.
    BypassUnnamed,
}

pub const WAYS: [Way; 4] = [Way::Ordinary, Way::Lying, Way::Bypass, Way::BypassUnnamed];

/// Packet sockets in a namespace, as a process with CAP_NET_RAW has them.
pub struct FrameSender {
    index: u32,
    ordinary: Socket,
    bypass: Socket,
}

impl FrameSender {
    pub fn open(net: &NetNs, interface: &str) -> FrameSender {
        let open = || -> io::Result<FrameSender> {
            let bypass = Socket::new(Domain::PACKET, Type::RAW, None)?;
            bypass_queueing(&bypass)?;
            Ok(FrameSender {
                index: nix::net::if_::if_nametoindex(interface)?,
                ordinary: Socket::new(Domain::PACKET, Type::RAW, None)?,
                bypass,
            })
        };
        net.run(open).expect("entered").expect("packet sockets")
    }

    /// Sends a frame. That it was dropped on its way out is no error here.
    pub fn send(&self, frame: &[u8], way: Way) {
        let ethertype = u16::from_be_bytes([frame[12], frame[13]]);
        let (socket, protocol) = match way {
            Way::Ordinary => (&self.ordinary, ethertype),
            Way::Lying => (&self.ordinary, if ethertype == ARP { IPV4 } else { ARP }),
            Way::Bypass => (&self.bypass, ethertype),
            Way::BypassUnnamed => (&self.bypass, 0),
        };
        let to = link_address(self.index, frame[..6].try_into().expect("six bytes"), protocol);
        match socket.send_to(frame, &to) {
            Err(e) if e.raw_os_error() != Some(libc::ENOBUFS) => {
                panic!("{way:?}: {e}: {frame:02x?}")
            }
            _ => {}
        }
    }
}

pub fn link_address(index: u32, to: Mac, protocol: u16) -> SockAddr {
    // SAFETY: a zeroed sockaddr_ll is valid; it is smaller than the storage it is written to, and
    // the length set is its own.
    let result = unsafe {
        SockAddr::try_init(|storage, length| {
            let link = &mut *storage.cast::<libc::sockaddr_ll>();
            link.sll_family = libc::AF_PACKET as u16;
            link.sll_protocol = protocol.to_be();
            link.sll_ifindex = index as i32;
            link.sll_halen = 6;
            link.sll_addr[..6].copy_from_slice(&to);
            *length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            Ok(())
        })
    };
    result.expect("an address").1
}

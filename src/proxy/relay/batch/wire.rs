//! What differs between IPv4 and IPv6 in the arguments of recvmmsg(2) and sendmmsg(2).
//!
//! A raw socket of IPv4 gives whole packets. One of IPv6 gives what is behind the headers, and the
//! addresses and the hop limit beside it (RFC 3542 §6). So a slot has room in front of the datagram,
//! where the header is written that the kernel has left out.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::ptr;

use crate::multicast::Address;
use crate::proxy::container::injection::GROUP_OPTION;
use crate::proxy::relay::packet::Shape;

/// How packets of one address family are received and sent.
pub(crate) trait Wire: Address {
    /// Value of [`Shared::layout`](super::memory::Shared), which changes with the meaning of the memory.
    const LAYOUT: u32;
    /// Bytes in front of what a socket of the host receives.
    const LEAD: usize;
    /// Where the packet begins that is made of it.
    const START: usize;

    /// The address that a packet is sent to.
    type SocketAddress: Copy;
    /// What a socket of the host tells of a packet, beside its bytes.
    type Arrival: Copy;

    /// The address to send to. `scope` is the index of the interface, for an address that needs one.
    fn socket_address(self, scope: u32) -> Self::SocketAddress;

    /// Has a header receive what is told beside the bytes.
    ///
    /// # Safety
    /// `arrival` is memory of the caller's that outlives the use of the header.
    unsafe fn expect(header: &mut libc::msghdr, arrival: *mut Self::Arrival);

    /// Writes what the kernel has left out in front of a datagram of this length. `slot` has the
    /// [`LEAD`](Self::LEAD) bytes, `arrival` those of an [`Arrival`](Self::Arrival), whatever they are.
    fn complete(arrival: &[u8], datagram: usize, slot: &mut [u8]);
}

impl Wire for Ipv4Addr {
    const LAYOUT: u32 = 1;
    const LEAD: usize = 0;
    const START: usize = 0;

    type SocketAddress = libc::sockaddr_in;
    type Arrival = [u8; 0];

    fn socket_address(self, _: u32) -> libc::sockaddr_in {
        libc::sockaddr_in {
            sin_family: libc::AF_INET as libc::sa_family_t,
            sin_port: 0,
            sin_addr: libc::in_addr { s_addr: u32::from(self).to_be() },
            sin_zero: [0; 8],
        }
    }

    unsafe fn expect(_: &mut libc::msghdr, _: *mut Self::Arrival) {}

    fn complete(_: &[u8], _: usize, _: &mut [u8]) {}
}

/// Where the packet came from, and room for its control messages: destination and hop limit take 40
/// and 24 bytes.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Arrival6 {
    source: libc::sockaddr_in6,
    unused: u32,
    control: [u64; CONTROL],
}

const CONTROL: usize = 8;
/// Offsets within [`Arrival6`].
const SOURCE: usize = 8;
const FIRST_CONTROL: usize = std::mem::offset_of!(Arrival6, control);
/// `struct cmsghdr`: length, level and type.
const CONTROL_HEADER: usize = size_of::<libc::cmsghdr>();

impl Wire for Ipv6Addr {
    const LAYOUT: u32 = 2;
    const LEAD: usize = GROUP_OPTION + Self::HEADER;
    const START: usize = GROUP_OPTION;

    type SocketAddress = libc::sockaddr_in6;
    type Arrival = Arrival6;

    fn socket_address(self, scope: u32) -> libc::sockaddr_in6 {
        libc::sockaddr_in6 {
            sin6_family: libc::AF_INET6 as libc::sa_family_t,
            sin6_port: 0,
            sin6_flowinfo: 0,
            sin6_addr: libc::in6_addr { s6_addr: self.octets() },
            sin6_scope_id: scope,
        }
    }

    unsafe fn expect(header: &mut libc::msghdr, arrival: *mut Self::Arrival) {
        // SAFETY: the caller says so.
        let (source, control) =
            unsafe { (&raw mut (*arrival).source, &raw mut (*arrival).control) };
        // Nothing of the packet before this one is taken for a control message.
        // SAFETY: as above.
        unsafe { control.write([0; CONTROL]) };
        header.msg_name = source.cast();
        header.msg_namelen = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
        header.msg_control = control.cast();
        header.msg_controllen = size_of::<[u64; CONTROL]>() as _;
        header.msg_flags = 0;
    }

    fn complete(arrival: &[u8], datagram: usize, slot: &mut [u8]) {
        let Some(header) = slot.get_mut(Self::START..Self::LEAD) else { return };
        header.fill(0);
        let source = arrival.get(SOURCE..SOURCE + Self::ADDRESS);
        let control = arrival.get(FIRST_CONTROL..).unwrap_or_default();
        let destination = control_message(control, libc::IPV6_PKTINFO);
        let destination = destination.and_then(|info| info.get(..Self::ADDRESS));
        let hop_limit = control_message(control, libc::IPV6_HOPLIMIT);
        let hop_limit = hop_limit.and_then(|limit| limit.first_chunk::<4>());
        // Without one of them the header stays empty, and what has such a header is no packet.
        let (Some(source), Some(destination), Some(hop_limit)) = (source, destination, hop_limit)
        else {
            return;
        };
        Self::begin(header, Self::HEADER + datagram, i32::from_ne_bytes(*hop_limit) as u8);
        let (from, to) = (<Self as Shape>::SOURCE, <Self as Shape>::SOURCE + Self::ADDRESS);
        header[from..to].copy_from_slice(source);
        header[to..].copy_from_slice(destination);
    }
}

/// The data of the control message of this type of IPv6's.
fn control_message(mut control: &[u8], kind: libc::c_int) -> Option<&[u8]> {
    loop {
        let length = usize::from_ne_bytes(*control.first_chunk()?);
        let number = |at: usize| {
            let bytes = control.get(at..at + 4)?.first_chunk()?;
            Some(i32::from_ne_bytes(*bytes))
        };
        let level = number(size_of::<usize>())?;
        let own = number(size_of::<usize>() + 4)?;
        let data = control.get(CONTROL_HEADER..length)?;
        if (level, own) == (libc::IPPROTO_IPV6, kind) {
            return Some(data);
        }
        control = control.get(length.next_multiple_of(size_of::<usize>())..)?;
    }
}

/// The pointers of a header that is not told where a packet came from.
pub(super) fn expect_nothing(header: &mut libc::msghdr) {
    header.msg_name = ptr::null_mut();
    header.msg_namelen = 0;
    header.msg_control = ptr::null_mut();
    header.msg_controllen = 0;
}

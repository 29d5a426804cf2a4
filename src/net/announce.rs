//! Telling neighbours of a new IPv6 address.
//!
//! For IPv4 the kernel does it itself when the link comes up (`arp_notify`). For an address
//! without duplicate detection it sends no unsolicited neighbour advertisement
//! (`addrconf_dad_begin` in net/ipv6/addrconf.c), so this does (RFC 4861 §7.2.6).

use std::io;
use std::net::{Ipv6Addr, SocketAddrV6};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::attach::MacAddr;

/// The advertisement: type 136, the override flag, the address, and the target link-layer
/// address option. The kernel fills in the checksum of an ICMPv6 raw socket (RFC 3542 §3.1).
fn advertisement(address: Ipv6Addr, mac: MacAddr) -> [u8; 32] {
    const OVERRIDE: u8 = 0x20;
    const TARGET_LINK_LAYER_ADDRESS: u8 = 2;
    let mut message = [0; 32];
    message[0] = 136;
    message[4] = OVERRIDE;
    message[8..24].copy_from_slice(&address.octets());
    message[24] = TARGET_LINK_LAYER_ADDRESS;
    message[25] = 1;
    message[26..32].copy_from_slice(&mac.octets());
    message
}

/// Sends one unsolicited neighbour advertisement to all nodes, in the calling thread's namespace.
///
/// # Errors
/// Those of socket(2) and sendto(2).
pub fn neighbour_advertisement(index: u32, address: Ipv6Addr, mac: MacAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
    socket.set_multicast_if_v6(index)?;
    socket.set_multicast_hops_v6(255)?;
    socket.set_multicast_loop_v6(false)?;
    socket.bind(&SockAddr::from(SocketAddrV6::new(address, 0, 0, 0)))?;
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let target = SockAddr::from(SocketAddrV6::new(all_nodes, 0, 0, index));
    socket.send_to(&advertisement(address, mac), &target).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn etherparse_reads_the_advertisement() {
        let address = "2001:db8::5".parse().unwrap();
        let bytes = advertisement(address, "02:00:00:00:00:07".parse().unwrap());
        let packet = etherparse::Icmpv6Slice::from_slice(&bytes).unwrap();
        assert_eq!((packet.type_u8(), packet.code_u8()), (136, 0));
        assert_eq!(&bytes[8..24], &address.octets());
        assert_eq!(&bytes[24..], [2, 1, 2, 0, 0, 0, 0, 7]);
    }
}

//! Ethernet frames that carry DHCPv6: made and read by hand, as the process that speaks to servers has
//! no other socket than one of packets.

use std::net::Ipv6Addr;

use crate::primitives::MacAddr;
use crate::primitives::internet_checksum::Sum;

/// Ports of the client and the server (RFC 8415 §7.2).
pub const CLIENT_PORT: u16 = 546;
const SERVER_PORT: u16 = 547;
/// All servers and relays of the link (RFC 8415 §7.1), and its MAC address.
const SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
const SERVERS_MAC: [u8; 6] = [0x33, 0x33, 0, 1, 0, 2];
const ETHERNET: usize = 14;
const HEADERS: usize = ETHERNET + 40;
const UDP: usize = 8;
const UDP_PROTOCOL: u8 = 17;

/// The frame of a client's message to all servers, from the link-local address of the MAC address.
pub fn client_frame(mac: MacAddr, payload: &[u8]) -> Vec<u8> {
    let own = mac.link_local_address();
    // A message is shorter than 1280 bytes.
    let length = (UDP + payload.len()) as u16;
    let mut udp = Vec::with_capacity(usize::from(length));
    udp.extend(CLIENT_PORT.to_be_bytes());
    udp.extend(SERVER_PORT.to_be_bytes());
    udp.extend(length.to_be_bytes());
    udp.extend([0, 0]);
    udp.extend(payload);
    let pseudo = [
        &own.octets()[..],
        &SERVERS.octets(),
        &u32::from(length).to_be_bytes(),
        &[0, 0, 0, UDP_PROTOCOL],
        &udp,
    ]
    .concat();
    let sum = Sum::of(&pseudo).checksum();
    udp[6..8].copy_from_slice(&sum.to_be_bytes());
    let mut frame = Vec::with_capacity(HEADERS + udp.len());
    frame.extend(SERVERS_MAC);
    frame.extend(mac.octets());
    frame.extend((libc::ETH_P_IPV6 as u16).to_be_bytes());
    frame.extend([0x60, 0, 0, 0]);
    frame.extend(length.to_be_bytes());
    frame.extend([UDP_PROTOCOL, 64]);
    frame.extend(own.octets());
    frame.extend(SERVERS.octets());
    frame.extend(udp);
    frame
}

/// The payload of a frame to a client's port; `None`: it is something else. A server may answer from
/// any port. The checksum is not checked: one that is left to the hardware is not there yet inside a
/// host.
pub fn server_payload(frame: &[u8]) -> Option<&[u8]> {
    let (headers, rest) = frame.split_at_checked(HEADERS)?;
    let ip = &headers[ETHERNET..];
    if headers[12..ETHERNET] != (libc::ETH_P_IPV6 as u16).to_be_bytes()
        || ip[0] >> 4 != 6
        || ip[6] != UDP_PROTOCOL
    {
        return None;
    }
    let udp = rest.get(..usize::from(u16::from_be_bytes([ip[4], ip[5]])))?;
    let (header, payload) = udp.split_at_checked(UDP)?;
    let length = usize::from(u16::from_be_bytes([header[4], header[5]])).checked_sub(UDP)?;
    let payload = payload.get(..length)?;
    (header[2..4] == CLIENT_PORT.to_be_bytes()).then_some(payload)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn etherparse_reads_the_frame() {
        let mac: MacAddr = "02:00:00:00:00:07".parse().unwrap();
        let payload = [7; 101];
        let frame = client_frame(mac, &payload);
        let parsed = etherparse::PacketHeaders::from_ethernet_slice(&frame).unwrap();
        let Some(etherparse::NetHeaders::Ipv6(ip, _)) = parsed.net else { panic!() };
        let Some(etherparse::TransportHeader::Udp(udp)) = parsed.transport else { panic!() };
        assert_eq!(Ipv6Addr::from(ip.source), mac.link_local_address());
        assert_eq!(udp.checksum, udp.calc_checksum_ipv6(&ip, &payload).unwrap());
        assert_eq!((udp.source_port, udp.destination_port), (546, 547));
        assert_eq!(parsed.payload.slice(), payload);
    }

    fn answer(port: u16) -> Vec<u8> {
        let builder = etherparse::PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv6([0xfe; 16], [0xfd; 16], 64)
            .udp(547, port);
        let mut frame = Vec::new();
        builder.write(&mut frame, b"answer").unwrap();
        frame
    }

    #[test]
    fn an_answer_is_found_behind_padding_and_nothing_else_is() {
        let mut frame = answer(546);
        frame.extend([0; 20]);
        assert_eq!(server_payload(&frame), Some(&b"answer"[..]));
        assert_eq!(server_payload(&answer(547)), None);
    }

    proptest! {
        #[test]
        fn no_frame_is_a_surprise(
            noise in proptest::collection::vec(any::<u8>(), 0..100),
            at in 0usize..68,
            byte in any::<u8>(),
            length in 0usize..80,
        ) {
            let _ = server_payload(&noise);
            let mut frame = answer(546);
            frame[at] = byte;
            let _ = server_payload(&frame[..length.min(frame.len())]);
        }
    }
}

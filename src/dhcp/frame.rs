//! Ethernet frames that carry DHCP: made and read by hand, since an interface without an address has
//! no UDP socket that sends.

use std::net::Ipv4Addr;

use crate::primitives::MacAddr;
use crate::primitives::internet_checksum::Sum;

/// Ports of the client and the server (RFC 2131 §4.1).
pub const CLIENT_PORT: u16 = 68;
const SERVER_PORT: u16 = 67;
const ETHERNET: usize = 14;
const IPV4: usize = 20;
const UDP: usize = 8;
const UDP_PROTOCOL: u8 = 17;

/// Where a client's message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Destination {
    /// The station.
    pub mac: [u8; 6],
    /// The address.
    pub address: Ipv4Addr,
}

impl Destination {
    /// Everybody.
    pub const BROADCAST: Destination = Destination { mac: [0xff; 6], address: Ipv4Addr::BROADCAST };
}

/// The frame of a client's message.
pub fn client_frame(
    mac: MacAddr,
    address: Ipv4Addr,
    destination: Destination,
    payload: &[u8],
) -> Vec<u8> {
    let mut frame = Vec::with_capacity(ETHERNET + IPV4 + UDP + payload.len());
    frame.extend(destination.mac);
    frame.extend(mac.octets());
    frame.extend((libc::ETH_P_IP as u16).to_be_bytes());
    // A message is shorter than 1500 bytes.
    let udp_length = (UDP + payload.len()) as u16;
    frame.extend([0x45, 0]);
    frame.extend((IPV4 as u16 + udp_length).to_be_bytes());
    frame.extend([0, 0, 0, 0, 64, UDP_PROTOCOL, 0, 0]);
    frame.extend(address.octets());
    frame.extend(destination.address.octets());
    let sum = !Sum::of(&frame[ETHERNET..]).folded();
    frame[ETHERNET + 10..ETHERNET + 12].copy_from_slice(&sum.to_be_bytes());
    let mut udp = Vec::with_capacity(UDP + payload.len());
    udp.extend(CLIENT_PORT.to_be_bytes());
    udp.extend(SERVER_PORT.to_be_bytes());
    udp.extend(udp_length.to_be_bytes());
    udp.extend([0, 0]);
    udp.extend(payload);
    let pseudo = [
        &address.octets()[..],
        &destination.address.octets(),
        &[0, UDP_PROTOCOL],
        &udp_length.to_be_bytes(),
        &udp,
    ]
    .concat();
    let sum = Sum::of(&pseudo).checksum();
    udp[6..8].copy_from_slice(&sum.to_be_bytes());
    frame.extend(udp);
    frame
}

/// The sender's MAC address and the payload of a frame from a server's to a client's port; `None`: it
/// is something else, or a fragment, or from a group, to which no renewal can go. The checksum of UDP is
/// not checked: one that is left to the hardware is not there yet inside a host.
pub fn server_payload(frame: &[u8]) -> Option<(MacAddr, &[u8])> {
    let (header, packet) = frame.split_at_checked(ETHERNET)?;
    let sender = MacAddr::from_slice(&header[6..12])?;
    let is_from_group = header[6] & 1 != 0;
    if is_from_group || header[12..] != (libc::ETH_P_IP as u16).to_be_bytes() {
        return None;
    }
    let length = usize::from(packet.first()? & 0x0f) * 4;
    if packet[0] >> 4 != 4 || length < IPV4 {
        return None;
    }
    let (ip, udp) = packet.split_at_checked(length)?;
    let total = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
    if ip[9] != UDP_PROTOCOL || ip[6] & 0x3f != 0 || ip[7] != 0 || total > packet.len() {
        return None;
    }
    let udp = udp.get(..total.checked_sub(length)?)?;
    let (ports, payload) = udp.split_at_checked(UDP)?;
    let is_answer =
        ports[..2] == SERVER_PORT.to_be_bytes() && ports[2..4] == CLIENT_PORT.to_be_bytes();
    let payload =
        payload.get(..usize::from(u16::from_be_bytes([ports[4], ports[5]])).checked_sub(UDP)?)?;
    is_answer.then_some((sender, payload))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_comes_from_a_group_is_no_answer() {
        let builder = |from: u8| {
            let builder = etherparse::PacketBuilder::ethernet2([from; 6], [0xff; 6]);
            let mut frame = Vec::new();
            let builder = builder.ipv4([192, 0, 2, 1], [255; 4], 64).udp(67, 68);
            builder.write(&mut frame, b"answer").unwrap();
            frame
        };
        assert_eq!(server_payload(&builder(2)), Some(([2; 6].into(), &b"answer"[..])));
        assert_eq!(server_payload(&builder(3)), None);
    }

    #[test]
    fn etherparse_reads_the_frame() {
        let mac: MacAddr = "02:00:00:00:00:07".parse().unwrap();
        let payload = [7; 300];
        for destination in [
            Destination::BROADCAST,
            Destination { mac: mac.octets(), address: [192, 0, 2, 1].into() },
        ] {
            let frame = client_frame(mac, [192, 0, 2, 9].into(), destination, &payload);
            let parsed = etherparse::PacketHeaders::from_ethernet_slice(&frame).unwrap();
            let Some(etherparse::NetHeaders::Ipv4(ip, _)) = parsed.net else { panic!() };
            let Some(etherparse::TransportHeader::Udp(udp)) = parsed.transport else { panic!() };
            assert_eq!(ip.header_checksum, ip.calc_header_checksum());
            assert_eq!(udp.checksum, udp.calc_checksum_ipv4(&ip, &payload).unwrap());
            assert_eq!((udp.source_port, udp.destination_port), (68, 67));
            assert_eq!(parsed.payload.slice(), payload);
        }
    }

    fn answer(from: u16, payload: &[u8]) -> Vec<u8> {
        let builder = etherparse::PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4([192, 0, 2, 1], [255; 4], 64)
            .udp(from, 68);
        let mut frame = Vec::new();
        builder.write(&mut frame, payload).unwrap();
        frame
    }

    #[test]
    fn an_answer_is_found_behind_padding_and_nothing_else_is() {
        let mut frame = answer(67, b"answer");
        frame.extend([0; 20]);
        assert_eq!(server_payload(&frame).unwrap().1, b"answer");
        assert_eq!(server_payload(&answer(53, b"answer")), None);
        frame[20] = 0x20;
        assert_eq!(server_payload(&frame), None, "a fragment");
    }

    proptest! {
        #[test]
        fn no_frame_is_a_surprise(
            noise in proptest::collection::vec(any::<u8>(), 0..100),
            at in 0usize..48,
            byte in any::<u8>(),
            length in 0usize..60,
        ) {
            let _ = server_payload(&noise);
            let mut frame = answer(67, b"answer");
            frame[at] = byte;
            let _ = server_payload(&frame[..length.min(frame.len())]);
        }
    }
}

//! What must hold for a packet of any bytes. Compiled for tests and for fuzzing alone.

use std::net::Ipv6Addr;

use crate::proxy::relay::family::Relayed;
use crate::proxy::relay::packet::*;

/// The port that the container's packets come from on the LAN, in these checks.
const OUTSIDE_PORT: u16 = 4321;

/// Does all that the relay does to a packet, on copies of these bytes, and cuts it at `size`.
///
/// # Panics
/// When something does not hold.
pub fn check_relayed_packet(bytes: &[u8], size: usize) {
    check::<Ipv4Addr>(bytes, size);
    check::<Ipv6Addr>(bytes, size);
}

fn check<A: Relayed>(bytes: &[u8], size: usize) {
    let mut original = bytes.to_vec();
    let Some(original) = Packet::<A>::parse(&mut original) else { return };
    assert!(original.len() <= bytes.len() && original.len() >= A::HEADER);
    assert_eq!(original.is_first(), original.ports().is_some());
    inbound(&original);
    outbound(&original);
    fragments(&original, size);
    segments(&original, size);
}

/// Runs `change` on a copy.
fn on_copy<A: Relayed, R>(original: &Packet<'_, A>, change: impl FnOnce(Packet<'_, A>) -> R) -> R {
    let mut bytes = original.bytes().to_vec();
    change(Packet::of(&mut bytes, original.udp))
}

/// Behind the UDP header; all of a later fragment.
fn data<'a, A: Relayed>(packet: &'a Packet<'_, A>) -> &'a [u8] {
    &packet.bytes()[packet.data_offset().unwrap_or(packet.udp)..]
}

fn is_whole<A: Relayed>(packet: &Packet<'_, A>) -> bool {
    packet.is_first() && !packet.has_more()
}

fn inbound<A: Relayed>(original: &Packet<'_, A>) {
    on_copy(original, |mut packet| {
        let integrity = packet.check();
        assert_eq!(integrity == Integrity::Unknown, !is_whole(original));
        // Source, destination, ports and payload are the sender's.
        assert_eq!(packet.source(), original.source());
        assert_eq!(packet.destination(), original.destination());
        assert_eq!(packet.ports(), original.ports());
        assert_eq!(data(&packet), data(original));
        // What is injected would pass for right once more.
        let again = match integrity {
            Integrity::Completed => Integrity::Intact,
            integrity => integrity,
        };
        assert_eq!(packet.check(), again);
        injected(&packet);
    });
}

/// What is injected has the group and the data of the packet.
fn injected<A: Relayed>(packet: &Packet<'_, A>) {
    let mut slot = vec![0; A::START];
    slot.extend_from_slice(packet.bytes());
    let length = A::make_injectable(&mut slot, packet.len());
    assert_eq!(length, slot.len());
    if packet.udp == A::HEADER {
        assert_eq!(A::injected_group(&slot), Some(packet.destination()));
        assert!(slot.ends_with(packet.payload()));
    }
}

fn outbound<A: Relayed>(original: &Packet<'_, A>) {
    on_copy(original, |mut packet| {
        let integrity = packet.check();
        packet.set_source(A::DOCUMENTATION, OUTSIDE_PORT);
        packet.identify(7);
        assert_eq!(packet.source(), A::DOCUMENTATION);
        assert_eq!(packet.destination(), original.destination());
        let to = |ports: (u16, u16)| (OUTSIDE_PORT, ports.1);
        assert_eq!(packet.ports(), original.ports().map(to));
        assert_eq!(data(&packet), data(original));
        let has_one = A::identification(packet.bytes()) != 0;
        assert_eq!(has_one, A::MAY_LACK_CHECKSUM, "of IPv4 alone");
        assert_eq!(packet.fingerprint().is_some(), packet.is_first());
        if matches!(integrity, Integrity::Intact | Integrity::Completed) {
            assert_eq!(packet.check(), Integrity::Intact);
        }
        packet.complete();
        assert_eq!(data(&packet), data(original));
        if is_whole(original) {
            assert_eq!(packet.check(), Integrity::Intact);
        }
    });
}

fn fragments<A: Relayed>(original: &Packet<'_, A>, mtu: usize) {
    let first = usize::from(original.fragment_field() & OFFSET) * 8;
    let mut whole = Vec::new();
    let mut count = 0;
    original.fragment(mtu, 99, |bytes| {
        count += 1;
        assert!(bytes.len() <= mtu);
        let part = Packet::<A>::parse(bytes).expect("a fragment is a packet");
        assert_eq!(usize::from(part.fragment_field() & OFFSET) * 8, first + whole.len());
        assert_eq!(part.source(), original.source());
        assert_eq!(part.destination(), original.destination());
        whole.extend_from_slice(part.payload());
    });
    // What would end behind the longest datagram is cut off.
    assert!(original.payload().starts_with(&whole));
    let fits = first + original.payload().len() <= usize::from(u16::MAX);
    assert!(!fits || mtu < A::FRAGMENT_HEADER + 8 || whole.len() == original.payload().len());
    // What is not too long is sent as it is.
    let is_cut = original.len() > mtu;
    assert!(!is_cut || count <= original.fragments(mtu));
    assert!(!is_cut || !fits || whole.is_empty() || count == original.fragments(mtu));
}

fn segments<A: Relayed>(original: &Packet<'_, A>, size: usize) {
    let mut whole = Vec::new();
    let mut lengths = original.segment_lengths(size);
    original.segment(size, |mut segment| {
        assert_eq!(lengths.next(), Some(segment.len()));
        assert_eq!(segment.ports(), original.ports());
        assert_eq!(segment.source(), original.source());
        let chunk = data(&segment).to_vec();
        assert!(chunk.len() <= size);
        if is_whole(original) {
            assert_eq!(segment.check(), Integrity::Intact);
        }
        whole.extend_from_slice(&chunk);
    });
    assert!(whole.is_empty() || whole == data(original));
    assert_eq!(lengths.next(), None);
}

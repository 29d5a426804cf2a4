//! What must hold for a packet of any bytes. Compiled for tests and for fuzzing alone.

use crate::proxy::relay::packet::*;

/// Who the container's packets come from on the LAN, in these checks.
const OUTSIDE: (Ipv4Addr, u16) = (Ipv4Addr::new(192, 0, 2, 1), 4321);

/// Does all that the relay does to a packet, on copies of these bytes, and cuts it at `size`.
///
/// # Panics
/// When something does not hold.
pub fn check_relayed_packet(bytes: &[u8], size: usize) {
    let mut original = bytes.to_vec();
    let Some(original) = Packet::parse(&mut original) else { return };
    assert!(original.len() <= bytes.len() && original.len() >= HEADER);
    assert_eq!(original.is_first(), original.ports().is_some());
    inbound(&original);
    outbound(&original);
    fragments(&original, size);
    segments(&original, size);
}

/// Runs `change` on a copy.
fn on_copy<R>(original: &Packet<'_>, change: impl FnOnce(Packet<'_>) -> R) -> R {
    let mut bytes = original.bytes().to_vec();
    let header = original.header;
    change(Packet { bytes: &mut bytes, header })
}

/// Behind the UDP header; all of a later fragment.
fn data<'a>(packet: &'a Packet<'_>) -> &'a [u8] {
    &packet.bytes()[packet.data_offset().unwrap_or(packet.header)..]
}

fn is_whole(packet: &Packet<'_>) -> bool {
    packet.is_first() && !packet.has_more()
}

fn inbound(original: &Packet<'_>) {
    on_copy(original, |mut packet| {
        let integrity = packet.check();
        assert_eq!(integrity == Integrity::Unknown, !is_whole(original));
        packet.set_ttl(0);
        assert_eq!(packet.bytes()[TTL], 0);
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
    });
}

fn outbound(original: &Packet<'_>) {
    on_copy(original, |mut packet| {
        let integrity = packet.check();
        packet.set_source(OUTSIDE.0, OUTSIDE.1);
        packet.identify(7);
        assert_eq!(packet.source(), OUTSIDE.0);
        assert_eq!(packet.destination(), original.destination());
        let to = |ports: (u16, u16)| (OUTSIDE.1, ports.1);
        assert_eq!(packet.ports(), original.ports().map(to));
        assert_eq!(data(&packet), data(original));
        assert_ne!(packet.field(IDENTIFICATION), 0);
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

fn fragments(original: &Packet<'_>, mtu: usize) {
    let first = usize::from(original.field(FRAGMENT) & OFFSET) * 8;
    let mut whole = Vec::new();
    let mut count = 0;
    original.fragment(mtu, |bytes| {
        count += 1;
        assert!(bytes.len() <= mtu);
        let part = Packet::parse(bytes).expect("a fragment is a packet");
        assert_eq!(usize::from(part.field(FRAGMENT) & OFFSET) * 8, first + whole.len());
        assert_eq!(part.source(), original.source());
        assert_eq!(part.destination(), original.destination());
        whole.extend_from_slice(part.payload());
    });
    // What would end behind the longest datagram is cut off.
    assert!(original.payload().starts_with(&whole));
    let fits = first + original.payload().len() <= usize::from(u16::MAX);
    assert!(!fits || mtu < HEADER + 8 || whole.len() == original.payload().len());
    assert!(count <= original.fragments(mtu));
    assert!(!fits || whole.is_empty() || count == original.fragments(mtu));
}

fn segments(original: &Packet<'_>, size: usize) {
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

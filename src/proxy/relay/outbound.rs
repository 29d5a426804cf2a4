//! From the container to the LAN.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use crate::proxy::control::status::RelayCounts;
use crate::proxy::relay::batch::{BATCH, Batch};
use crate::proxy::relay::packet::Packet;
use crate::proxy::relay::sockets::{send_fragments, socket_address};
use crate::proxy::relay::{BATCHES_PER_TURN, MAX_SENT_GROUPS, Relay, Watch};
use crate::sys::ifreq;

/// `struct virtio_net_hdr` of linux/virtio_net.h: flags, type, header length, segment size,
/// checksum start and offset, in the machine's byte order.
const VNET_HEADER: usize = 10;
const VNET_NEEDS_CHECKSUM: u8 = 1;
const VNET_SEGMENT_NONE: u8 = 0;
const VNET_SEGMENT_UDP: u8 = 5;
/// Length of an Ethernet header: two addresses and the type.
const ETHERNET_HEADER: usize = 14;
const PACKET: usize = VNET_HEADER + ETHERNET_HEADER;

/// How long the host's address is taken from memory before it is read again: the address may change
/// while a container runs.
const ADDRESS_LIFETIME: Duration = Duration::from_secs(1);

/// Work that the kernel left to the network card, as `virtio_net_hdr` says.
#[derive(Clone, Copy)]
struct Offload {
    checksum: bool,
    /// UDP payload bytes of each segment; 0 for a packet that is not segmented.
    segment: usize,
}

impl Offload {
    /// `None` for another kind of segmentation than UDP's.
    fn parse(frame: &[u8]) -> Option<Self> {
        let header: &[u8; VNET_HEADER] = frame.first_chunk()?;
        let size = usize::from(u16::from_ne_bytes([header[4], header[5]]));
        let segment = match header[1] {
            VNET_SEGMENT_NONE => 0,
            VNET_SEGMENT_UDP => size,
            _ => return None,
        };
        Some(Offload { checksum: header[0] & VNET_NEEDS_CHECKSUM != 0, segment })
    }
}

impl Relay {
    /// Sends the captured packets to the LAN. `watch` gets each new socket that receives answers.
    pub(crate) fn send(&mut self, now: Instant, batch: &mut Batch, watch: Watch<'_>) {
        self.refresh_host_address(now);
        for _ in 0..BATCHES_PER_TURN {
            let Ok(count) = batch.receive(&self.container.capture) else { return };
            for position in 0..count {
                let frame = batch.slot(position);
                let Some(offload) = Offload::parse(frame) else {
                    self.outbound.total.dropped += 1;
                    continue;
                };
                let Some(packet) = frame.get_mut(PACKET..).and_then(Packet::parse) else {
                    self.outbound.total.dropped += 1;
                    continue;
                };
                if let Some((length, group)) = self.prepare(now, packet, offload, watch) {
                    batch.queue(position, PACKET, length, group);
                }
            }
            let Relay { host, upstream, outbound, sent, .. } = self;
            batch.send(&host.sender, |bytes, error| {
                let Some(packet) = Packet::parse(bytes) else { return };
                let group = packet.destination();
                if !send_fragments(&host.sender, upstream, &packet, group, &error) {
                    outbound.total.relayed_is_dropped();
                    if let Some(counts) = sent.get_mut(&group) {
                        counts.relayed_is_dropped();
                    }
                }
            });
            if count < BATCH {
                return;
            }
        }
    }

    /// Prepares a packet for the LAN and returns its length and group; `None` when it is not sent,
    /// or was sent here as segments.
    fn prepare(
        &mut self,
        now: Instant,
        mut packet: Packet<'_>,
        offload: Offload,
        watch: Watch<'_>,
    ) -> Option<(usize, Ipv4Addr)> {
        let group = packet.destination();
        if !self.is_relayed(group) {
            return None;
        }
        if !self.outbound.rate.admit(now, packet.len()) {
            self.count_sent(group, |counts| &mut counts.limited);
            return None;
        }
        if !self.translate(now, &mut packet, watch) {
            self.count_sent(group, |counts| &mut counts.dropped);
            return None;
        }
        if offload.segment > 0 {
            packet.segment(offload.segment, |segment| self.send_segment(now, segment));
            return None;
        }
        if offload.checksum {
            packet.complete();
        }
        self.identify(now, &mut packet);
        self.count_sent(group, |counts| &mut counts.relayed);
        Some((packet.len(), group))
    }

    /// Sets the source address and port that the LAN sees; `false` when the host has no address.
    fn translate(&mut self, now: Instant, packet: &mut Packet<'_>, watch: Watch<'_>) -> bool {
        let Some(translation) = &mut self.translation else { return true };
        let inside = packet.source();
        let Some((port, destination)) = packet.ports() else {
            // Not the first fragment: only the first has the ports.
            let Some(host) = translation.host() else { return false };
            packet.set_source(host, 0);
            return true;
        };
        let opened = |socket: &UdpSocket| watch(socket, port);
        match translation.outside(now, (inside, port), destination, opened) {
            Some((host, port)) => {
                packet.set_source(host, port);
                true
            }
            None => false,
        }
    }

    fn send_segment(&mut self, now: Instant, mut segment: Packet<'_>) {
        let group = segment.destination();
        self.identify(now, &mut segment);
        match self.host.sender.send_to(segment.bytes(), &socket_address(group)) {
            Ok(_) => self.count_sent(group, |counts| &mut counts.relayed),
            Err(_) => self.count_sent(group, |counts| &mut counts.dropped),
        }
    }

    /// Gives the packet an IPv4 identification and remembers it, so that it is recognised when the
    /// host's kernel loops it back.
    fn identify(&mut self, now: Instant, packet: &mut Packet<'_>) {
        self.identification = self.identification.wrapping_add(1);
        packet.identify(self.identification);
        // A looped-back packet of a group that this relay does not receive is never read.
        if self.groups.contains_key(&packet.destination())
            && let Some(print) = packet.fingerprint()
        {
            self.looped_back.remember(now, print);
        }
    }

    fn count_sent(&mut self, group: Ipv4Addr, of: fn(&mut RelayCounts) -> &mut u64) {
        *of(&mut self.outbound.total) += 1;
        if self.sent.len() < MAX_SENT_GROUPS || self.sent.contains_key(&group) {
            *of(self.sent.entry(group).or_default()) += 1;
        }
    }

    fn refresh_host_address(&mut self, now: Instant) {
        let Some(translation) = &mut self.translation else { return };
        let fresh = |read: Instant| now.saturating_duration_since(read) < ADDRESS_LIFETIME;
        if !self.host_address_read_at.is_some_and(fresh) {
            self.host_address_read_at = Some(now);
            let host = ifreq::address(&self.host.sender, &self.upstream);
            translation.set_host(host.unwrap_or(None));
        }
    }
}

//! From the container to the LAN.

use std::net::UdpSocket;
use std::time::Instant;

use crate::notice::Notice;
use crate::proxy::control::status::RelayCounts;
use crate::proxy::relay::batch::{BATCH, Batch, Flow, Parts};
use crate::proxy::relay::family::Relayed;
use crate::proxy::relay::packet::Packet;
use crate::proxy::relay::port_translation::Destination;
use crate::proxy::relay::send_rules::check_port;
use crate::proxy::relay::sockets::send_fragments;
use crate::proxy::relay::{BATCHES_PER_TURN, MAX_SENT_GROUPS, Relay, Watch, next};

/// `struct virtio_net_hdr` of linux/virtio_net.h: flags, type, header length, segment size,
/// checksum start and offset, in the machine's byte order.
const VNET_HEADER: usize = 10;
const VNET_NEEDS_CHECKSUM: u8 = 1;
const VNET_SEGMENT_NONE: u8 = 0;
const VNET_SEGMENT_UDP: u8 = 5;
/// Length of an Ethernet header: two addresses and the type.
const ETHERNET_HEADER: usize = 14;
const PACKET: usize = VNET_HEADER + ETHERNET_HEADER;

/// Batches that are read at most to find the packets that the kernel has looped back: those of one
/// batch that was cut into segments, and as many of other hosts.
const READS_OF_OWN: usize = 256;

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

impl<A: Relayed> Relay<A> {
    /// Sends the captured packets to the LAN. `watch` gets each new socket that receives answers.
    pub(crate) fn send(&mut self, now: Instant, batch: &mut Batch<A>, watch: Watch<'_>) {
        let is_on_upstream = self.is_on_upstream();
        self.send_batches(now, batch, watch, is_on_upstream);
    }

    /// The same. `only_remember`: the packets are on the upstream bridge already.
    pub(super) fn send_batches(
        &mut self,
        now: Instant,
        batch: &mut Batch<A>,
        watch: Watch<'_>,
        only_remember: bool,
    ) {
        self.refresh_upstream(now);
        for _ in 0..BATCHES_PER_TURN {
            if !only_remember {
                self.read_looped_back(now, batch);
            }
            let capture = &self.container.capture;
            let received = batch.receive(capture, Flow::Outbound, &self.interface);
            let Ok(count) = received else { return };
            self.send_batch(now, batch, count, watch, only_remember);
            if count < BATCH {
                return;
            }
        }
    }

    /// Sends the packets of a batch; see [`Relay::send_batches`].
    pub(super) fn send_batch(
        &mut self,
        now: Instant,
        batch: &mut Batch<A>,
        count: usize,
        watch: Watch<'_>,
        only_remember: bool,
    ) {
        for position in 0..count {
            let (frame, mut parts) = batch.open(position);
            match self.prepare_frame(now, frame, &mut parts, watch, only_remember) {
                Some((length, group)) => {
                    batch.queue(position, PACKET, length, group.socket_address(0));
                }
                None => batch.drop_packet(position),
            }
        }
        let Relay { host, upstream_now, outbound, sent, identification, .. } = self;
        batch.send(&host.sender, |bytes, parts, error| {
            let Some(packet) = Packet::<A>::parse(bytes) else { return };
            let group = packet.destination();
            // One of IPv4 has been identified.
            let (id, to) = (next(identification), group.socket_address(0));
            if !send_fragments(&host.sender, upstream_now, packet, id, to, &error, parts) {
                outbound.total.relayed_is_dropped();
                if let Some(counts) = sent.get_mut(&group) {
                    counts.relayed_is_dropped();
                }
            }
        });
    }

    /// As [`Relay::prepare`], for a captured frame.
    fn prepare_frame(
        &mut self,
        now: Instant,
        frame: &mut [u8],
        parts: &mut Parts<'_, A>,
        watch: Watch<'_>,
        only_remember: bool,
    ) -> Option<(usize, A)> {
        let offload = Offload::parse(frame);
        let packet = frame.get_mut(PACKET..).and_then(Packet::parse);
        let (Some(offload), Some(packet)) = (offload, packet) else {
            self.outbound.total.dropped += 1;
            return None;
        };
        if only_remember {
            self.remember(now, &packet);
            return None;
        }
        self.prepare(now, packet, offload, parts, watch)
    }

    /// Reads the packets that the kernel has looped back, before so many are sent, or so much time
    /// has passed, that they would no longer be known for the container's own.
    fn read_looped_back(&mut self, now: Instant, batch: &mut Batch<A>) {
        for _ in 0..READS_OF_OWN {
            if !self.looped_back.must_be_read(now) || !self.receive_batch(now, batch) {
                return;
            }
        }
    }

    /// Prepares a packet for the LAN and returns its length and group; `None` when it is not sent,
    /// or was sent here as segments.
    fn prepare(
        &mut self,
        now: Instant,
        mut packet: Packet<'_, A>,
        offload: Offload,
        parts: &mut Parts<'_, A>,
        watch: Watch<'_>,
    ) -> Option<(usize, A)> {
        let group = packet.destination();
        if !self.rules.is_relayed(group) {
            return None;
        }
        if let Err(rule) = self.check(now, &packet) {
            self.deny(group, rule);
            return None;
        }
        let segments = packet.segment_lengths(offload.segment);
        let (admitted, limited) = match offload.segment {
            0 => {
                let fragments = packet.fragments(self.mtu);
                let admitted = self.outbound.rate.admit_fragments(now, fragments, packet.len());
                (usize::from(admitted), usize::from(!admitted))
            }
            _ => {
                let total = segments.size_hint().0;
                let rate = &mut self.outbound.rate;
                let admitted = segments.take_while(|length| rate.admit(now, *length)).count();
                (admitted, total - admitted)
            }
        };
        self.count_sent(group, limited, |counts| &mut counts.limited);
        if admitted == 0 {
            return None;
        }
        if !self.translate(now, &mut packet, watch) {
            self.count_sent(group, admitted, |counts| &mut counts.dropped);
            return None;
        }
        if offload.segment > 0 {
            parts.begin(None);
            let mut left = admitted;
            packet.segment(offload.segment, |segment| {
                if left > 0 {
                    left -= 1;
                    self.send_segment(now, segment, parts);
                }
            });
            return None;
        }
        if offload.checksum {
            packet.complete();
        }
        self.identify(now, &mut packet);
        self.count_sent(group, 1, |counts| &mut counts.relayed);
        Some((packet.len(), group))
    }

    /// Checks whether the container may send a packet to the LAN.
    ///
    /// # Errors
    /// The rule that denies it, as people are shown it.
    fn check(&mut self, now: Instant, packet: &Packet<'_, A>) -> Result<(), String> {
        let Relay { rules, container, translation, .. } = self;
        let source = packet.source();
        if !rules.is_own(now, source, || container.all_addresses()) {
            return Err(format!("{source} is no address of the container"));
        }
        let Some(translation) = translation else {
            return rules.check(source, packet.destination());
        };
        if let Some((_, port)) = packet.ports() {
            check_port(port, translation.allowed())?;
        }
        // Without an address of the host nothing is sent.
        let host = translation.host().towards(packet.destination());
        host.map_or(Ok(()), |host| rules.check(host, packet.destination()))
    }

    /// Counts a packet that is not sent, and tells of the first one to each group.
    fn deny(&mut self, group: A, rule: String) {
        self.count_sent(group, 1, |counts| &mut counts.denied);
        if self.sent.get(&group).is_some_and(|counts| counts.denied == 1) {
            let (interface, group) = (self.interface.clone(), group.into());
            self.notices.push_back(Notice::SendDenied { interface, group, rule });
        }
    }

    /// Sets the source address and port that the LAN sees; `false` when the host has no address, or
    /// no port to give.
    fn translate(&mut self, now: Instant, packet: &mut Packet<'_, A>, watch: Watch<'_>) -> bool {
        let Some(translation) = &mut self.translation else { return true };
        let inside = packet.source();
        let Some((port, destination_port)) = packet.ports() else {
            // Not the first fragment: only the first has the ports.
            let Some(host) = translation.host().towards(packet.destination()) else { return false };
            packet.set_source(host, 0);
            return true;
        };
        let group = packet.destination();
        let is_far = packet.hop_limit() > 1 && !group.is_link_scope();
        let to = Destination { group, port: destination_port, is_far };
        let opened = |socket: &UdpSocket| watch(socket, port);
        match translation.outside(now, (inside, port), to, opened) {
            Some((host, port)) => {
                packet.set_source(host, port);
                true
            }
            None => false,
        }
    }

    fn send_segment(&mut self, now: Instant, mut segment: Packet<'_, A>, parts: &mut Parts<'_, A>) {
        let group = segment.destination();
        self.identify(now, &mut segment);
        match parts.send(&self.host.sender, segment.bytes(), group.socket_address(0)) {
            Ok(()) => self.count_sent(group, 1, |counts| &mut counts.relayed),
            Err(_) => self.count_sent(group, 1, |counts| &mut counts.dropped),
        }
    }

    /// Gives a packet of IPv4 an identification and remembers it, so that it is recognised when the
    /// host's kernel loops it back.
    fn identify(&mut self, now: Instant, packet: &mut Packet<'_, A>) {
        let identification = next(&mut self.identification);
        packet.identify(identification);
        self.remember(now, packet);
    }

    /// Remembers a packet, so that it is recognised when it comes back.
    fn remember(&mut self, now: Instant, packet: &Packet<'_, A>) {
        // A looped-back packet of a group that this relay does not receive is never read.
        if self.groups.contains_key(&packet.destination())
            && let Some(print) = packet.fingerprint()
        {
            self.looped_back.remember(now, print);
        }
    }

    fn count_sent(&mut self, group: A, packets: usize, of: fn(&mut RelayCounts) -> &mut u64) {
        let packets = packets as u64;
        *of(&mut self.outbound.total) += packets;
        if packets > 0 && (self.sent.len() < MAX_SENT_GROUPS || self.sent.contains_key(&group)) {
            *of(self.sent.entry(group).or_default()) += packets;
        }
    }
}

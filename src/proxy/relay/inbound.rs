//! From the LAN into the container.

use std::net::Ipv4Addr;
use std::time::Instant;

use crate::multicast::Address;
use crate::proxy::control::status::RelayCounts;
use crate::proxy::relay::batch::Batch;
use crate::proxy::relay::packet::{Integrity, Packet, build};
use crate::proxy::relay::port_translation::Answer;
use crate::proxy::relay::sockets::{send_fragments, socket_address};
use crate::proxy::relay::{BATCHES_PER_TURN, Relay, RelayedGroup, admits};

/// TTL of a unicast answer: it reaches the container's own sockets and is not forwarded.
const ONE_HOP: u8 = 1;

impl Relay {
    /// Injects the packets that have arrived into the container.
    pub(crate) fn receive(&mut self, now: Instant, batch: &mut Batch) {
        for _ in 0..BATCHES_PER_TURN {
            let Ok(count) = batch.receive(&self.host.receiver) else { return };
            for position in 0..count {
                if let Some(length) = self.prepare_inbound(now, batch.slot(position)) {
                    // The route to 224.0.0.1 exists on every interface: see the query injector.
                    batch.queue(position, 0, length, Ipv4Addr::ALL_SYSTEMS);
                }
            }
            let Relay { container, interface, groups, inbound, .. } = self;
            batch.send(&container.injector, |bytes, error| {
                let Some(packet) = Packet::parse(bytes) else { return };
                let group = packet.destination();
                let injector = &container.injector;
                if !send_fragments(injector, interface, &packet, Ipv4Addr::ALL_SYSTEMS, &error) {
                    inbound.total.relayed_is_dropped();
                    if let Some(received) = groups.get_mut(&group) {
                        received.counts.relayed_is_dropped();
                    }
                }
            });
            if count < crate::proxy::relay::batch::BATCH {
                return;
            }
        }
    }

    /// Prepares a packet for injection and returns its length; `None` when the container does not
    /// get it.
    fn prepare_inbound(&mut self, now: Instant, bytes: &mut [u8]) -> Option<usize> {
        let mut packet = Packet::parse(bytes)?;
        let RelayedGroup { filter, counts } = self.groups.get_mut(&packet.destination())?;
        if !admits(filter, packet.source()) || self.looped_back.take(|| packet.fingerprint()) {
            return None;
        }
        let total = &mut self.inbound.total;
        let mut count = |of: fn(&mut RelayCounts) -> &mut u64| {
            *of(counts) += 1;
            *of(total) += 1;
        };
        if packet.check() == Integrity::Damaged {
            count(|counts| &mut counts.dropped);
            return None;
        }
        if !self.inbound.rate.admit(now, packet.len()) {
            count(|counts| &mut counts.limited);
            return None;
        }
        count(|counts| &mut counts.relayed);
        packet.set_ttl(0);
        Some(packet.len())
    }

    /// Injects unicast answers that arrived on the host port of the container's `port`.
    pub(crate) fn answer(&mut self, now: Instant, port: u16, buffer: &mut [u8]) {
        let Some(translation) = &mut self.translation else { return };
        while let Ok(Answer { from, to, length }) = translation.receive(now, port, buffer) {
            let Some(payload) = buffer.get(..length) else { continue };
            let packet = build(from, to, ONE_HOP, payload);
            let total = &mut self.inbound.total;
            if !self.inbound.rate.admit(now, packet.len()) {
                total.limited += 1;
                continue;
            }
            let address = socket_address(to.0);
            match self.container.injector.send_to(&packet, &address) {
                Ok(_) => total.relayed += 1,
                Err(_) => total.dropped += 1,
            }
        }
    }
}

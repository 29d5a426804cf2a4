//! From the LAN into the container.

use std::io;
use std::time::Instant;

use crate::proxy::control::status::RelayCounts;
use crate::proxy::relay::answers::Answer;
use crate::proxy::relay::batch::{BATCH, Batch, Flow, Parts};
use crate::proxy::relay::family::Relayed;
use crate::proxy::relay::packet::{Integrity, Packet, build};
use crate::proxy::relay::sockets::{inject_fragments, send_fragments};
use crate::proxy::relay::{BATCHES_PER_TURN, Relay, RelayedGroup, admits, next};

/// TTL of a unicast answer: it reaches the container's own sockets and is not forwarded.
const ONE_HOP: u8 = 1;
/// Answers that are read from one socket before the event loop serves the other descriptors.
const ANSWERS_PER_TURN: usize = BATCHES_PER_TURN * BATCH;
/// The interface by which packets reach the container's own addresses.
const LOOPBACK: &str = "lo";

impl<A: Relayed> Relay<A> {
    /// Injects the packets that have arrived into the container.
    pub(crate) fn receive(&mut self, now: Instant, batch: &mut Batch<A>) {
        for _ in 0..BATCHES_PER_TURN {
            if !self.receive_batch(now, batch) {
                return;
            }
        }
    }

    /// Injects at most [`BATCH`] packets. Tells whether more may be waiting.
    pub(super) fn receive_batch(&mut self, now: Instant, batch: &mut Batch<A>) -> bool {
        let received = batch.receive(self.host.receiver(), Flow::Inbound, &self.interface);
        let Ok(count) = received else { return false };
        self.refresh_upstream(now);
        // A packet of the container is captured before it is on the bridge. What was received just
        // now is among what is known after this.
        if let Some(mut own) = self.on_upstream.take() {
            self.send_batches(now, &mut own, &mut |_, _| (), true);
            self.on_upstream = Some(own);
        }
        self.inject(now, batch, count);
        count == BATCH
    }

    /// Injects the packets of a batch.
    pub(super) fn inject(&mut self, now: Instant, batch: &mut Batch<A>, count: usize) {
        let to = A::INJECTED_TO.socket_address(0);
        for position in 0..count {
            match self.prepare_inbound(now, batch.open(position).0) {
                Some(length) => batch.queue(position, 0, length, to),
                None => batch.drop_packet(position),
            }
        }
        let Relay { container, interface, groups, inbound, identification, .. } = self;
        batch.send(&container.injector, |bytes, parts, error| {
            let Some(group) = A::injected_group(bytes) else { return };
            let (injector, id) = (&container.injector, next(identification));
            if !inject_fragments(injector, interface, bytes, id, &error, parts) {
                inbound.total.relayed_is_dropped();
                if let Some(received) = groups.get_mut(&group) {
                    received.counts.relayed_is_dropped();
                }
            }
        });
    }

    /// Prepares a packet in its slot for injection and returns its length; `None` when the container
    /// does not get it.
    fn prepare_inbound(&mut self, now: Instant, slot: &mut [u8]) -> Option<usize> {
        let mut packet = Packet::<A>::parse(slot.get_mut(A::START..)?)?;
        if self.is_of_dead(now, &packet) {
            return None;
        }
        let RelayedGroup { filter, counts } = self.groups.get_mut(&packet.destination())?;
        if !admits(filter, packet.source()) || self.looped_back.take(|| packet.fingerprint()) {
            return None;
        }
        let total = &mut self.inbound.total;
        let mut count = |of: fn(&mut RelayCounts) -> &mut u64| {
            *of(counts) += 1;
            *of(total) += 1;
        };
        let whole = match packet.check() {
            Integrity::Damaged => false,
            // A sender on this host has left the checksum to hardware. What is longer than the MTU
            // was left to be cut too, into datagrams of a size that is not known here.
            Integrity::Completed => packet.len() <= self.mtu,
            Integrity::Intact | Integrity::Unknown => true,
        };
        if !whole {
            count(|counts| &mut counts.dropped);
            return None;
        }
        if !self.inbound.rate.admit(now, packet.len()) {
            count(|counts| &mut counts.limited);
            return None;
        }
        count(|counts| &mut counts.relayed);
        let length = packet.len();
        Some(A::make_injectable(slot, length))
    }

    /// Injects unicast answers that arrived on the host port of the container's `port`.
    pub(crate) fn answer(&mut self, now: Instant, port: u16, batch: &mut Batch<A>) {
        let (buffer, mut parts) = batch.scratch();
        for _ in 0..ANSWERS_PER_TURN {
            let Some(translation) = &self.translation else { return };
            let answer = match translation.receive(port, buffer) {
                Ok(answer) => answer,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // It did not come whole.
                Err(_) => {
                    self.inbound.total.dropped += 1;
                    continue;
                }
            };
            self.refresh_neighbourhood(now);
            let payload = buffer.get(..answer.length).unwrap_or(&[]);
            *self.inject_answer(now, &answer, payload, &mut parts) += 1;
        }
    }

    /// Injects an answer. Returns what counts it.
    fn inject_answer(
        &mut self,
        now: Instant,
        answer: &Answer<A>,
        payload: &[u8],
        parts: &mut Parts<'_, A>,
    ) -> &mut u64 {
        let total = &mut self.inbound.total;
        if !self.neighbourhood.has_heard(answer) {
            return &mut total.denied;
        }
        let Answer { from, to, .. } = *answer;
        let mut bytes = build(from, to, ONE_HOP, payload);
        if !self.inbound.rate.admit(now, bytes.len()) {
            return &mut total.limited;
        }
        let injector = &self.container.injector;
        let target = to.0.socket_address(self.container.index());
        let Err(error) = parts.send(injector, &bytes, target) else {
            return &mut total.relayed;
        };
        let id = next(&mut self.identification);
        let whole = Packet::parse(&mut bytes).is_some_and(|packet| {
            send_fragments(injector, LOOPBACK, packet, id, target, &error, parts)
        });
        if whole { &mut total.relayed } else { &mut total.dropped }
    }
}

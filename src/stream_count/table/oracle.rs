//! The arithmetic of the program `bpf/count.bpf.c` in Rust. Tests run both side by side.

use std::net::Ipv4Addr;

use super::{SETS, Stream, Table, WAYS};
use crate::stream_count::datagram::{Datagram, Rtp};

/// A step above this is a restart and no loss (`MAX_DROPOUT` of RFC 3550 A.1).
const MAX_DROPOUT: u16 = 3000;
/// Numbers below the highest that are still told apart.
const WINDOW: u16 = 64;
const RESTART_EXPECTED: u32 = 0x1_0000;
/// Nanoseconds in which the rate is measured.
const RATE_WINDOW: u64 = 1_000_000_000;
/// A stream of so many packets keeps its place, unless it is silent for so many nanoseconds.
const ESTABLISHED: u64 = 16;
pub(super) const SILENCE: u64 = 30_000_000_000;

impl Stream {
    /// The stream as it would be at another time, in a place that no other stream had before: the
    /// program leaves what only a stream of RTP has until the first such packet.
    pub fn without_times(mut self) -> Stream {
        let window_packets = 0;
        if self.has_rtp == 0 {
            (self.highest, self.span, self.payload_type) = (0, 0, 0);
            (self.ssrc, self.restart_at, self.seen) = (0, 0, 0);
        }
        Stream {
            version: 2,
            last: 0,
            window_start: 0,
            window_packets,
            window_bytes: 0,
            before_time: 0,
            before_packets: 0,
            before_bytes: 0,
            ..self
        }
    }

    fn is(&self, interface: u32, datagram: &Datagram) -> bool {
        self.version != 0
            && self.interface == interface
            && self.group == raw(datagram.group)
            && self.source == raw(datagram.source)
            && self.port == datagram.port
    }

    fn count(&mut self, datagram: &Datagram, now: u64) {
        let (packets, bytes) = (u64::from(datagram.packets), u64::from(datagram.bytes));
        self.packets += packets;
        self.bytes += bytes;
        self.last = now;
        let time = now.wrapping_sub(self.window_start);
        if time >= RATE_WINDOW {
            self.before_time = time;
            self.before_packets = self.window_packets;
            self.before_bytes = self.window_bytes;
            self.window_start = now;
            self.window_packets = 0;
            self.window_bytes = 0;
        }
        self.window_packets += packets;
        self.window_bytes += bytes;
        if let Some(rtp) = &datagram.rtp {
            self.count_rtp(rtp);
        }
    }

    fn count_rtp(&mut self, rtp: &Rtp) {
        self.payload_type = rtp.payload_type;
        if self.has_rtp == 0 || self.ssrc != rtp.ssrc {
            self.ssrc_changes += u32::from(self.has_rtp);
            self.has_rtp = 1;
            self.begin_sequence(rtp);
            return;
        }
        self.rtp += 1;
        let step = rtp.sequence.wrapping_sub(self.highest);
        let back = step.wrapping_neg();
        let is_forward = step < 0x8000;
        if if is_forward { step > MAX_DROPOUT } else { back >= WINDOW } {
            self.count_implausible(rtp);
            return;
        }
        self.restart_at = 0;
        if is_forward && step > 0 {
            self.advance(step, rtp.last_sequence);
        } else if self.seen >> back & 1 != 0 {
            self.duplicated += 1;
        } else {
            self.seen |= 1 << back;
            self.reordered += 1;
            if back <= self.span {
                self.lost = self.lost.saturating_sub(1);
            } else {
                // Sent before the first that arrived.
                self.lost += u64::from(back - self.span - 1);
                self.span = back;
            }
        }
    }

    fn begin_sequence(&mut self, rtp: &Rtp) {
        self.ssrc = rtp.ssrc;
        self.highest = rtp.last_sequence;
        self.seen = 1;
        self.span = 0;
        self.restart_at = 0;
    }

    /// A number that neither loss nor reordering explains: believed with the second in a row.
    fn count_implausible(&mut self, rtp: &Rtp) {
        if self.restart_at != RESTART_EXPECTED | u32::from(rtp.sequence) {
            self.restart_at = RESTART_EXPECTED | u32::from(rtp.last_sequence.wrapping_add(1));
            self.duplicated += 1;
            return;
        }
        // The one before was the first of the new numbers, and no duplicate.
        self.duplicated = self.duplicated.wrapping_sub(1);
        self.restarts += 1;
        self.begin_sequence(rtp);
        self.seen = 3;
        self.span = 1;
    }

    fn advance(&mut self, step: u16, last: u16) {
        let all = last.wrapping_sub(self.highest);
        self.lost += u64::from(step - 1);
        self.seen = self.seen.checked_shl(all.into()).unwrap_or(0) | 1;
        if all > step {
            // Those between the first and the last.
            let more = all - step;
            self.seen |= if more < WINDOW - 1 { (2 << more) - 1 } else { u64::MAX };
        }
        self.span = self.span.saturating_add(all).min(WINDOW - 1);
        self.highest = last;
    }
}

impl Table {
    /// An empty table. Its memory is occupied as it is written to.
    pub fn new() -> Box<Self> {
        // SAFETY: a table of zeros is an empty one: all fields are integers.
        unsafe { Box::new_zeroed().assume_init() }
    }

    /// Counts a datagram that has arrived at the interface of this index.
    pub fn count(&mut self, interface: u32, datagram: &Datagram, now: u64) {
        let first = place(interface, datagram);
        let Some(set) = self.streams.get_mut(first..first + WAYS) else { return };
        if let Some(stream) = set.iter_mut().find(|stream| stream.is(interface, datagram)) {
            stream.count(datagram, now);
            return;
        }
        // The stream gets a free place, or that of the one that was silent longest among those that
        // may lose theirs. So a sender of many streams takes no place of one that flows.
        let silent_since = |stream: &&mut Stream| if stream.version == 0 { 0 } else { stream.last };
        let may_lose = |s: &&mut Stream| {
            s.packets < ESTABLISHED || now.wrapping_sub(silent_since(s)) >= SILENCE
        };
        let Some(stream) = set.iter_mut().filter(may_lose).min_by_key(silent_since) else {
            self.refused += 1;
            return;
        };
        self.evicted += u64::from(stream.version != 0);
        *stream = Stream {
            version: stream.version.wrapping_add(2),
            interface,
            group: raw(datagram.group),
            source: raw(datagram.source),
            port: datagram.port,
            last: now,
            window_start: now,
            ..Stream::default()
        };
        stream.count(datagram, now);
    }

    /// All streams.
    pub fn streams(&self) -> impl Iterator<Item = &Stream> {
        self.streams.iter().filter(|stream| stream.version != 0)
    }
}

/// The first place of the streams with the hash of this one.
fn place(interface: u32, datagram: &Datagram) -> usize {
    let ends = raw(datagram.source).wrapping_mul(0x85eb_ca6b);
    let from = u32::from(datagram.port) ^ interface << 16;
    let mut hash = (raw(datagram.group) ^ ends ^ from).wrapping_mul(0x9e37_79b1);
    hash ^= hash >> 15;
    hash = hash.wrapping_mul(0x2c1b_3c6d);
    (hash >> 20) as usize % SETS * WAYS
}

fn raw(address: Ipv4Addr) -> u32 {
    u32::from_ne_bytes(address.octets())
}

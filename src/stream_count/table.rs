//! The table of streams, as the program `bpf/count.bpf.c` writes it.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::stream_count::datagram::{Datagram, Rtp};

/// Changes with the layout and with the meaning of a field: a proxy reads the table of the proxy
/// before it only if both have the same.
pub const LAYOUT: u32 = 1;

/// Streams that share a set by their hash.
const WAYS: usize = 4;
/// Sets of the table.
const SETS: usize = 64;
/// A step above this is a restart and no loss (`MAX_DROPOUT` of RFC 3550 A.1).
const MAX_DROPOUT: u16 = 3000;
/// Numbers below the highest that are still told apart.
const WINDOW: u16 = 64;
const RESTART_EXPECTED: u32 = 0x1_0000;
/// Nanoseconds in which the rate is measured.
const RATE_WINDOW: u64 = 1_000_000_000;
/// A stream of so many packets keeps its place, unless it is silent for so many nanoseconds.
const ESTABLISHED: u64 = 16;
const SILENCE: u64 = 30_000_000_000;

/// What has arrived at an interface for one group from one source, to one port.
///
/// Times are CLOCK_MONOTONIC in nanoseconds.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stream {
    /// Odd while the place is given to another stream; 0: the place is free.
    version: u32,
    /// Index of the interface in its namespace.
    pub interface: u32,
    /// In network byte order, as `source`.
    group: u32,
    source: u32,
    /// Destination port; 0: fragments that are not the first.
    pub port: u16,
    highest: u16,
    /// Synchronisation source of the last RTP packet.
    pub ssrc: u32,
    /// Datagrams.
    pub packets: u64,
    /// Bytes of their UDP payload.
    pub bytes: u64,
    /// When the last one arrived.
    pub last: u64,
    /// The window in which the rate is measured, and the whole one before it.
    pub(super) window_start: u64,
    pub(super) window_packets: u64,
    pub(super) window_bytes: u64,
    pub(super) before_time: u64,
    pub(super) before_packets: u64,
    pub(super) before_bytes: u64,
    /// RTP packets with the SSRC of the one before.
    pub rtp: u64,
    /// RTP sequence numbers from which nothing has arrived.
    pub lost: u64,
    /// RTP packets that arrived after one with a higher number.
    pub reordered: u64,
    /// RTP packets whose number had arrived already, or was too old to tell.
    pub duplicated: u64,
    /// How often another SSRC has come.
    pub ssrc_changes: u32,
    /// How often the numbers began anew with the same SSRC.
    pub restarts: u32,
    /// Bit n: the number that is n below the highest has arrived.
    seen: u64,
    /// The number that confirms a restart, with bit 16 set; 0: none.
    restart_at: u32,
    /// Distance from the first number to the highest, up to 63.
    span: u16,
    /// RTP payload type of the last packet.
    pub payload_type: u8,
    has_rtp: u8,
}

/// The table, and how many streams have lost their place in it.
#[repr(C)]
pub struct Table {
    /// Streams that have lost their place to another one.
    evicted: u64,
    /// Packets of streams that have found no place.
    refused: u64,
    /// Always 0, which the verifier cannot know.
    zero: u64,
    streams: [Stream; SETS * WAYS],
}

/// Bytes of the table.
pub const SIZE: usize = size_of::<Table>();

impl Stream {
    /// The group.
    pub fn group(&self) -> Ipv4Addr {
        Ipv4Addr::from_octets(self.group.to_ne_bytes())
    }

    /// Who sends it.
    pub fn source(&self) -> Ipv4Addr {
        Ipv4Addr::from_octets(self.source.to_ne_bytes())
    }

    /// The stream as it would be at another time.
    #[cfg(any(test, feature = "fuzzing"))]
    pub fn without_times(self) -> Stream {
        let window_packets = 0;
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

    /// Takes a stream that another table had, if there is room.
    pub fn restore(&mut self, stream: Stream) {
        let datagram = Datagram {
            group: stream.group(),
            source: stream.source(),
            port: stream.port,
            packets: 0,
            bytes: 0,
            rtp: None,
        };
        let first = place(stream.interface, &datagram);
        let Some(set) = self.streams.get_mut(first..first + WAYS) else { return };
        if let Some(free) = set.iter_mut().find(|place| place.version == 0) {
            *free = Stream { version: 2, ..stream };
        }
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

/// Copies the streams of a table that the program writes at the same time.
///
/// # Safety
/// The pointer is to a table that stays mapped during the call, and that nobody writes except the
/// program.
pub unsafe fn read(table: *const Table) -> Vec<Stream> {
    let mut streams = Vec::new();
    for position in 0..SETS * WAYS {
        // SAFETY: the caller's promise, and the position is within the table. No reference is made to
        // what another processor writes.
        let (place, version) = unsafe {
            let place = (&raw const (*table).streams).cast::<Stream>().add(position);
            (place, AtomicU32::from_ptr((&raw const (*place).version).cast_mut()))
        };
        let before = version.load(Ordering::Acquire);
        if before == 0 || before & 1 != 0 {
            continue;
        }
        // SAFETY: as above. A field is a number, whatever is read.
        let stream = unsafe { place.read_volatile() };
        std::sync::atomic::fence(Ordering::Acquire);
        // Another stream has got the place meanwhile: this one is not there any more.
        if version.load(Ordering::Relaxed) == before {
            streams.push(stream);
        }
    }
    streams
}

#[cfg(test)]
mod tests;

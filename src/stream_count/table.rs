//! The table of streams, as the program `bpf/count.bpf.c` writes it.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, Ordering};

/// Changes with the layout and with the meaning of a field: a proxy goes on with the table of the proxy
/// before it only if both have the same.
pub const LAYOUT: u32 = 1;

/// Streams that share a set by their hash.
const WAYS: usize = 4;
/// Sets of the table.
const SETS: usize = 64;

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
mod oracle;
#[cfg(test)]
mod tests;

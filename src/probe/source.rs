//! One sender to a group.

use std::net::SocketAddr;
use std::time::Duration;

use crate::probe::arrival::Arrival;
use crate::probe::report::SourceReport;
use crate::probe::rtp::{Header, SenderInfo};
use crate::probe::sequence::Sequence;

/// A rate is believed once it was observed for this long.
const RATE_AFTER: Duration = Duration::from_millis(100);

/// The longest time between two consecutive arrivals.
#[derive(Debug, Clone, Copy)]
pub(super) struct Gaps {
    pub(super) first: Duration,
    pub(super) last: Duration,
    longest: Duration,
    longest_from: Duration,
}

impl Gaps {
    pub(super) fn new(at: Duration) -> Self {
        Gaps { first: at, last: at, longest: Duration::ZERO, longest_from: at }
    }

    pub(super) fn arrival(&mut self, at: Duration) {
        let gap = at.saturating_sub(self.last);
        if gap > self.longest {
            (self.longest, self.longest_from) = (gap, self.last);
        }
        self.last = self.last.max(at);
    }

    /// The longest gap and its start, the silence from the last packet up to `until` included.
    pub(super) fn longest(&self, until: Duration) -> (Duration, Duration) {
        let mut all = *self;
        all.arrival(until);
        (all.longest, all.longest_from)
    }
}

/// One sender to a group: an address and port, and the SSRC if it speaks RTP.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) address: SocketAddr,
    pub(super) packets: u64,
    pub(super) bytes: u64,
    pub(super) rtp: Option<Rtp>,
    gaps: Gaps,
}

impl Source {
    /// Begins with its first packet.
    pub(super) fn new(arrival: &Arrival<'_>, header: Option<Header>, clock: Option<u32>) -> Self {
        Source {
            address: arrival.source,
            packets: 1,
            bytes: arrival.length as u64,
            rtp: header.map(|h| Rtp::new(arrival, h, clock)),
            gaps: Gaps::new(arrival.at),
        }
    }

    /// The SSRC, if it speaks RTP.
    pub(super) fn ssrc(&self) -> Option<u32> {
        self.rtp.as_ref().map(|rtp| rtp.ssrc)
    }

    /// Counts its next packet.
    pub(super) fn packet(&mut self, arrival: &Arrival<'_>, header: Option<Header>) {
        self.packets += 1;
        self.bytes += arrival.length as u64;
        self.gaps.arrival(arrival.at);
        if let (Some(rtp), Some(header)) = (&mut self.rtp, header) {
            rtp.packet(arrival, header);
        }
    }

    /// Takes over the counts of a source that was not RTP after all.
    pub(super) fn absorb(&mut self, other: &Source) {
        self.packets += other.packets;
        self.bytes += other.bytes;
    }

    /// The same without RTP.
    pub(super) fn into_plain(self) -> Self {
        Source { rtp: None, ..self }
    }

    /// What is known of it when the measurement ends at `until`.
    pub(super) fn report(&self, until: Duration) -> SourceReport {
        let sequence = self.rtp.as_ref().map(|rtp| &rtp.sequence);
        SourceReport {
            source: self.address,
            ssrc: self.ssrc(),
            payload_type: self.rtp.as_ref().map(|rtp| rtp.payload_type),
            packets: self.packets,
            bytes: self.bytes,
            expected: sequence.map(Sequence::expected),
            lost: sequence.map(Sequence::lost),
            duplicated: sequence.map_or(0, Sequence::duplicated),
            reordered: sequence.map_or(0, Sequence::reordered),
            restarts: sequence.map_or(0, Sequence::restarts),
            longest_gap: self.gaps.longest(until).0,
            jitter: self.rtp.as_ref().and_then(Rtp::jitter),
            first_packet: self.gaps.first,
        }
    }
}

/// What only RTP tells.
#[derive(Debug)]
pub(super) struct Rtp {
    ssrc: u32,
    payload_type: u8,
    clock_rate: u32,
    pub(super) sequence: Sequence,
    /// When the numbering was first seen, and when its highest number arrived.
    first: Duration,
    highest_at: Duration,
    /// Transit time of the last packet in clock ticks, modulo 2^32.
    transit: u32,
    /// Jitter in clock ticks; nothing before the second packet.
    jitter: Option<f64>,
}

impl Rtp {
    fn new(arrival: &Arrival<'_>, header: Header, clock_rate: Option<u32>) -> Self {
        let full = SenderInfo::parse(arrival.start, &header).map(|info| info.sequence);
        let clock_rate = clock_rate.unwrap_or(Header::clock_rate(header.payload_type)).max(1);
        Rtp {
            ssrc: header.ssrc,
            payload_type: header.payload_type,
            clock_rate,
            sequence: Sequence::new(header.sequence, full),
            first: arrival.at,
            highest_at: arrival.at,
            transit: transit(arrival.at, header.timestamp, clock_rate),
            jitter: None,
        }
    }

    fn packet(&mut self, arrival: &Arrival<'_>, header: Header) {
        let full = SenderInfo::parse(arrival.start, &header).map(|info| info.sequence);
        let room = self.packets_in(arrival.at.saturating_sub(self.highest_at));
        let restarts = self.sequence.restarts();
        if self.sequence.packet(header.sequence, full, room) {
            self.highest_at = arrival.at;
        }
        if self.sequence.restarts() != restarts {
            self.first = arrival.at;
        }
        // RFC 3550 A.8.
        let transit = transit(arrival.at, header.timestamp, self.clock_rate);
        let difference = f64::from((transit.wrapping_sub(self.transit) as i32).unsigned_abs());
        self.transit = transit;
        let jitter = self.jitter.unwrap_or(0.0);
        self.jitter = Some(jitter + (difference - jitter) / 16.0);
    }

    /// How many packets the source sends in `time`, by its rate so far; 0 while that is not
    /// known well enough.
    fn packets_in(&self, time: Duration) -> u64 {
        let observed = self.highest_at.saturating_sub(self.first);
        if observed < RATE_AFTER {
            return 0;
        }
        let span = u128::from(self.sequence.span());
        let packets = span.saturating_mul(time.as_nanos()) / observed.as_nanos();
        u64::try_from(packets).unwrap_or(u64::MAX)
    }

    /// Interarrival jitter; `None` before the second packet.
    pub(super) fn jitter(&self) -> Option<Duration> {
        self.jitter.map(|ticks| Duration::from_secs_f64(ticks / f64::from(self.clock_rate)))
    }
}

/// Arrival time minus timestamp in clock ticks; both origins are arbitrary.
fn transit(at: Duration, timestamp: u32, clock_rate: u32) -> u32 {
    let ticks = at.as_nanos() * u128::from(clock_rate) / 1_000_000_000;
    (ticks as u32).wrapping_sub(timestamp)
}

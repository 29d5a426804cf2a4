//! What arrived of one group: counts, gaps and jitter, without sockets and without a clock.
//!
//! Every time here is the time since the start of the measurement, given by the caller.

use std::net::SocketAddr;
use std::time::Duration;

use crate::probe::arrival::Arrival;
use crate::probe::report::{GroupReport, Interval, SourceReport};
use crate::probe::rtp::Header;
use crate::probe::source::{Gaps, Source};

/// Sources that are told apart in one group. What others send is counted for the group only.
const MAX_SOURCES: usize = 256;

/// The statistics of one group.
///
/// Call [`packet`](Self::packet) for each arrival in the order of arrival, and
/// [`report`](Self::report) at the end; in between [`interval`](Self::interval) for a live view.
#[derive(Debug)]
pub struct GroupStats {
    joined: Duration,
    clock_rate: Option<u32>,
    packets: u64,
    bytes: u64,
    gaps: Option<Gaps>,
    sources: Vec<Source>,
    /// Where the last packet's source is in `sources`: mostly the next one's too.
    recent: usize,
    /// Packets of sources beyond [`MAX_SOURCES`].
    unattributed: u64,
    shown: Shown,
}

/// What the last [`GroupStats::interval`] showed.
#[derive(Debug, Default)]
struct Shown {
    packets: u64,
    bytes: u64,
    lost: u64,
    gaps: Option<Gaps>,
}

impl GroupStats {
    /// Begins with the join, at `joined`. `clock_rate` is that of the RTP timestamps in Hz;
    /// `None`: by payload type ([`Header::clock_rate`]).
    pub fn new(joined: Duration, clock_rate: Option<u32>) -> Self {
        GroupStats {
            joined,
            clock_rate,
            packets: 0,
            bytes: 0,
            gaps: None,
            sources: Vec::new(),
            recent: 0,
            unattributed: 0,
            shown: Shown::default(),
        }
    }

    /// Packets so far.
    pub fn packets(&self) -> u64 {
        self.packets
    }

    /// When the last packet arrived.
    pub fn last_arrival(&self) -> Option<Duration> {
        self.gaps.map(|g| g.last)
    }

    /// Counts one datagram.
    pub fn packet(&mut self, arrival: Arrival<'_>) {
        self.packets += 1;
        self.bytes += arrival.length as u64;
        for gaps in [&mut self.gaps, &mut self.shown.gaps] {
            gaps.get_or_insert(Gaps::new(arrival.at)).arrival(arrival.at);
        }
        let header = Header::parse(arrival.start, arrival.length);
        let ssrc = header.map(|h| h.ssrc);
        match self.find(arrival.source, ssrc) {
            Some(index) => {
                self.recent = index;
                self.sources[index].packet(&arrival, header);
            }
            None => self.new_source(&arrival, header),
        }
    }

    /// What arrived since the last call, up to `until`.
    pub fn interval(&mut self, until: Duration) -> Interval {
        let totals = self.totals();
        let gap = self.shown.gaps.map(|g| g.longest(until).0);
        let interval = Interval {
            packets: self.packets - self.shown.packets,
            bytes: self.bytes - self.shown.bytes,
            lost: totals.lost.map(|lost| lost.saturating_sub(self.shown.lost)),
            longest_gap: gap,
            jitter: totals.jitter,
        };
        self.shown = Shown {
            packets: self.packets,
            bytes: self.bytes,
            lost: totals.lost.unwrap_or(0).max(self.shown.lost),
            // Silence goes on from where it began, but a gap that has ended was shown.
            gaps: self.gaps.map(|g| Gaps::new(g.last)),
        };
        interval
    }

    /// The result of a measurement that ended at `until`: the gap from the last packet to then
    /// counts. `kernel_dropped` are packets the socket's full buffer cost.
    pub fn report(&self, until: Duration, kernel_dropped: u64) -> GroupReport {
        let totals = self.totals();
        let longest = self.gaps.map(|g| g.longest(until));
        GroupReport {
            packets: self.packets,
            bytes: self.bytes,
            rtp: totals.lost.is_some(),
            expected: totals.expected,
            lost: totals.lost,
            duplicated: totals.duplicated,
            reordered: totals.reordered,
            kernel_dropped,
            unattributed: self.unattributed,
            longest_gap: longest.map(|(gap, _)| gap),
            longest_gap_from: longest.map(|(_, from)| from),
            jitter: totals.jitter,
            join_to_first_packet: self.gaps.map(|g| g.first.saturating_sub(self.joined)),
            sources: self.source_reports(until),
        }
    }

    fn find(&self, source: SocketAddr, ssrc: Option<u32>) -> Option<usize> {
        let is = |s: &Source| s.address == source && s.ssrc() == ssrc;
        if self.sources.get(self.recent).is_some_and(is) {
            return Some(self.recent);
        }
        self.sources.iter().position(is)
    }

    fn new_source(&mut self, arrival: &Arrival<'_>, header: Option<Header>) {
        // A datagram that only looks like RTP has a random SSRC that never comes again: one
        // candidate at a time, the one before turns into plain packets.
        if header.is_some()
            && let Some(index) = self.candidate(arrival.source)
        {
            let candidate = self.sources.swap_remove(index);
            self.recent = 0;
            match self.find(arrival.source, None) {
                Some(plain) => self.sources[plain].absorb(&candidate),
                None => self.sources.push(candidate.into_plain()),
            }
        }
        if self.sources.len() == MAX_SOURCES {
            self.unattributed += 1;
            return;
        }
        self.recent = self.sources.len();
        self.sources.push(Source::new(arrival, header, self.clock_rate));
    }

    /// The RTP source at `address` of which one packet came.
    fn candidate(&self, address: SocketAddr) -> Option<usize> {
        let unconfirmed = |s: &Source| s.address == address && s.rtp.is_some() && s.packets == 1;
        self.sources.iter().position(unconfirmed)
    }

    /// The sources by arrival; a lone look-alike of RTP among plain packets is one of them.
    fn source_reports(&self, until: Duration) -> Vec<SourceReport> {
        let mut reports = Vec::new();
        for source in self.sources.iter().filter(|s| !self.is_look_alike(s)) {
            let folded = self.sources.iter().find(|s| {
                source.rtp.is_none() && s.address == source.address && self.is_look_alike(s)
            });
            let mut report = source.report(until);
            report.packets += folded.map_or(0, |s| s.packets);
            report.bytes += folded.map_or(0, |s| s.bytes);
            reports.push(report);
        }
        reports.sort_by_key(|report| report.first_packet);
        reports
    }

    fn is_look_alike(&self, source: &Source) -> bool {
        source.rtp.is_some()
            && source.packets == 1
            && self.sources.iter().any(|s| s.address == source.address && s.rtp.is_none())
    }

    fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for source in self.sources.iter().filter(|s| !self.is_look_alike(s)) {
            let Some(rtp) = &source.rtp else { continue };
            let sequence = &rtp.sequence;
            *totals.expected.get_or_insert(0) += sequence.expected();
            *totals.lost.get_or_insert(0) += sequence.lost();
            totals.duplicated += sequence.duplicated();
            totals.reordered += sequence.reordered();
            totals.jitter = totals.jitter.max(rtp.jitter());
        }
        totals
    }
}

#[derive(Debug, Default)]
struct Totals {
    expected: Option<u64>,
    lost: Option<u64>,
    duplicated: u64,
    reordered: u64,
    jitter: Option<Duration>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::rtp::HEADER;

    const A: &str = "10.0.0.1:5004";
    const B: &str = "10.0.0.2:5004";

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn group() -> GroupStats {
        GroupStats::new(Duration::ZERO, None)
    }

    /// RTP at 90 kHz, its timestamp that of `at` plus `early` ticks.
    fn rtp(stats: &mut GroupStats, from: &str, ssrc: u32, number: u16, at: Duration, early: u32) {
        let mut bytes = [0; HEADER];
        let timestamp = (at.as_micros() * 9 / 100) as u32;
        let timestamp = timestamp.wrapping_sub(early);
        Header { payload_type: 96, sequence: number, timestamp, ssrc }.write(&mut bytes);
        let source = from.parse().unwrap();
        stats.packet(Arrival { at, source, start: &bytes, length: 1000 });
    }

    fn plain(stats: &mut GroupStats, from: &str, at: Duration, bytes: &[u8]) {
        let source = from.parse().unwrap();
        stats.packet(Arrival { at, source, start: bytes, length: bytes.len() });
    }

    #[test]
    fn an_undisturbed_stream() {
        let mut stats = GroupStats::new(ms(5), None);
        for n in 0..1000u64 {
            rtp(&mut stats, A, 1, n as u16, ms(10 + n), 0);
        }
        let report = stats.report(ms(1009), 0);
        assert_eq!((report.packets, report.bytes, report.lost), (1000, 1_000_000, Some(0)));
        assert_eq!(report.longest_gap, Some(ms(1)));
        assert_eq!(report.join_to_first_packet, Some(ms(5)));
        assert_eq!(report.jitter, Some(Duration::ZERO));
        assert_eq!(report.sources.len(), 1);
        assert_eq!(report.sources[0].ssrc, Some(1));
        assert!(report.rtp);
    }

    #[test]
    fn a_blackout_to_the_end_is_a_gap() {
        let mut stats = group();
        for n in 0..100 {
            rtp(&mut stats, A, 1, n as u16, ms(n), 0);
        }
        let report = stats.report(ms(4099), 0);
        assert_eq!(report.longest_gap, Some(ms(4000)));
        assert_eq!(report.longest_gap_from, Some(ms(99)));
        assert_eq!(report.sources[0].longest_gap, ms(4000));
        assert_eq!(stats.report(ms(99), 0).longest_gap, Some(ms(1)), "ended by the last packet");
    }

    #[test]
    fn a_blackout_in_the_middle_is_a_gap_and_its_packets_are_lost() {
        let mut stats = group();
        for n in (0..1000).chain(71_000..72_000) {
            rtp(&mut stats, A, 1, n as u16, ms(n), 0);
        }
        let report = stats.report(ms(71_999), 0);
        assert_eq!(report.longest_gap, Some(ms(70_001)));
        assert_eq!(report.lost, Some(70_000), "more than a wrap");
    }

    #[test]
    fn a_second_sender_is_not_loss() {
        let mut stats = group();
        for n in 0..500u64 {
            rtp(&mut stats, A, 1, n as u16, ms(n), 0);
            rtp(&mut stats, B, 2, (n * 7) as u16, ms(n), 0);
        }
        let report = stats.report(ms(499), 0);
        assert_eq!(report.sources.len(), 2);
        assert_eq!(report.sources[0].lost, Some(0));
        assert_eq!(report.sources[1].lost, Some(6 * 499));
    }

    #[test]
    fn a_restarted_sender_is_a_new_source_and_not_loss() {
        let mut stats = group();
        for n in 0..100 {
            rtp(&mut stats, A, 1, n as u16, ms(n), 0);
        }
        for n in 0..100 {
            rtp(&mut stats, A, 2, 40_000 + n as u16, ms(300 + n), 0);
        }
        let report = stats.report(ms(399), 0);
        assert_eq!((report.packets, report.lost, report.duplicated), (200, Some(0), 0));
        assert_eq!(report.longest_gap, Some(ms(201)));
        assert_eq!(report.sources.iter().map(|s| s.ssrc).collect::<Vec<_>>(), [Some(1), Some(2)]);
    }

    #[test]
    fn other_udp_is_counted_and_its_loss_is_unknown() {
        let mut stats = group();
        plain(&mut stats, A, ms(0), b"hello");
        plain(&mut stats, A, ms(30), b"hello");
        let report = stats.report(ms(40), 0);
        assert_eq!((report.packets, report.bytes, report.lost), (2, 10, None));
        assert_eq!((report.longest_gap, report.jitter), (Some(ms(30)), None));
        assert!(!report.rtp);
    }

    #[test]
    fn random_data_is_one_plain_source() {
        let mut stats = group();
        let mut random = 1u64;
        for n in 0..1000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let bytes: Vec<u8> = (0..4u64)
                .flat_map(|i| random.wrapping_mul(2 * i + 3).rotate_left(29).to_be_bytes())
                .collect();
            plain(&mut stats, A, ms(n), &bytes);
        }
        let report = stats.report(ms(999), 0);
        assert_eq!((report.packets, report.lost, report.sources.len()), (1000, None, 1));
        assert_eq!(report.sources[0].packets, 1000);
    }

    #[test]
    fn one_rtp_packet_is_rtp() {
        let mut stats = group();
        rtp(&mut stats, A, 9, 77, ms(3), 0);
        let report = stats.report(ms(3), 0);
        assert_eq!((report.packets, report.lost, report.expected), (1, Some(0), Some(1)));
    }

    #[test]
    fn jitter_is_the_mean_deviation_of_the_transit_time() {
        let mut stats = group();
        // The transit time alternates by 90 ticks, 1 ms: J tends to that (RFC 3550 A.8).
        for n in 0..1000u64 {
            rtp(&mut stats, A, 1, n as u16, ms(n), if n % 2 == 0 { 0 } else { 90 });
        }
        let jitter = stats.report(ms(999), 0).jitter.unwrap();
        assert!(jitter.abs_diff(ms(1)) < Duration::from_micros(20), "{jitter:?}");
    }

    #[test]
    fn nothing_is_nothing() {
        let report = group().report(ms(1000), 0);
        assert_eq!((report.packets, report.lost, report.longest_gap), (0, None, None));
        assert_eq!(report.join_to_first_packet, None);
    }

    #[test]
    fn sources_are_bounded() {
        let mut stats = group();
        for n in 0..1000u16 {
            plain(&mut stats, &format!("10.0.{}.{}:9", n / 256, n % 256), ms(0), b"x");
        }
        let report = stats.report(ms(0), 0);
        assert_eq!((report.packets, report.sources.len()), (1000, MAX_SOURCES));
        assert_eq!(report.unattributed, 1000 - MAX_SOURCES as u64);
    }

    #[test]
    fn intervals_show_what_is_new_and_the_silence_that_lasts() {
        let mut stats = group();
        for n in (0..500).chain(510..1000) {
            rtp(&mut stats, A, 1, n as u16, ms(n), 0);
        }
        let first = stats.interval(ms(1000));
        assert_eq!((first.packets, first.lost), (990, Some(10)));
        assert_eq!(first.longest_gap, Some(ms(11)));
        let silent = stats.interval(ms(2000));
        assert_eq!((silent.packets, silent.lost), (0, Some(0)));
        assert_eq!(silent.longest_gap, Some(ms(1001)), "from the last packet");
        rtp(&mut stats, A, 1, 2500, ms(2500), 0);
        let back = stats.interval(ms(3000));
        assert_eq!((back.packets, back.lost), (1, Some(1500)));
        assert_eq!(back.longest_gap, Some(ms(1501)));
    }
}

//! What people are told of a stream.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::stream_count::table::Stream;

/// What has arrived for a group from one source, to all ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamCount {
    /// The group.
    pub group: Ipv4Addr,
    /// The source.
    pub source: Ipv4Addr,
    /// Datagrams.
    pub packets: u64,
    /// Bytes of their UDP payload.
    pub bytes: u64,
    /// Datagrams a second, over the last whole second or a longer time; 0 after 5 s without any.
    pub packet_rate: u64,
    /// Bytes a second.
    pub byte_rate: u64,
    /// Milliseconds since the last datagram.
    pub last_packet_ms: u64,
    /// `None`: most of it is not RTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtp: Option<RtpCount>,
}

/// What an RTP receiver would tell (RFC 3550 §6.4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RtpCount {
    /// Synchronisation source.
    pub ssrc: u32,
    /// Payload type.
    pub payload_type: u8,
    /// Sequence numbers from which nothing has arrived.
    pub lost: u64,
    /// Packets that arrived after one with a higher number.
    pub reordered: u64,
    /// Packets whose number had arrived already, or was too old to tell.
    pub duplicated: u64,
    /// How often another SSRC has come.
    pub ssrc_changes: u64,
    /// How often the numbers began anew with the same SSRC.
    pub restarts: u64,
}

/// The streams that have arrived at an interface, by group and source.
pub fn of_interface(streams: &[Stream], interface: u32, now: u64) -> Vec<StreamCount> {
    let mut own: Vec<_> = streams.iter().filter(|s| s.interface == interface).collect();
    own.sort_by_key(|stream| (stream.group(), stream.source(), stream.port));
    let mut counts: Vec<StreamCount> = Vec::new();
    for stream in own {
        let next = of_port(stream, now);
        match counts.last_mut() {
            Some(last) if (last.group, last.source) == (next.group, next.source) => last.add(&next),
            _ => counts.push(next),
        }
    }
    counts
}

fn of_port(stream: &Stream, now: u64) -> StreamCount {
    // While the first window is open, and after a stream has stopped, the open one counts.
    let open = now.saturating_sub(stream.window_start);
    let is_open = stream.before_time == 0 || open > 2 * SECOND;
    let (packets, bytes, time) = match is_open {
        true => (stream.window_packets, stream.window_bytes, open.max(SECOND)),
        false => (stream.before_packets, stream.before_bytes, stream.before_time),
    };
    let a_second = |n: u64| (u128::from(n) * u128::from(SECOND) / u128::from(time)) as u64;
    // Of a stream that has stopped, the mean would fall for minutes.
    let silent = now.saturating_sub(stream.last);
    let (packets, bytes) = if silent > SILENT { (0, 0) } else { (packets, bytes) };
    // One of four payloads of chance has the version of RTP, and each another SSRC.
    let is_rtp = stream.rtp > 0 && stream.rtp >= stream.packets / 2;
    StreamCount {
        group: stream.group(),
        source: stream.source(),
        packets: stream.packets,
        bytes: stream.bytes,
        packet_rate: a_second(packets),
        byte_rate: a_second(bytes),
        last_packet_ms: now.saturating_sub(stream.last) / MILLISECOND,
        rtp: is_rtp.then(|| RtpCount {
            ssrc: stream.ssrc,
            payload_type: stream.payload_type,
            lost: stream.lost,
            reordered: stream.reordered,
            duplicated: stream.duplicated,
            ssrc_changes: stream.ssrc_changes.into(),
            restarts: stream.restarts.into(),
        }),
    }
}

/// Nanoseconds.
const SECOND: u64 = 1_000_000_000;
/// Silence after which nothing arrives a second.
const SILENT: u64 = 5 * SECOND;
const MILLISECOND: u64 = 1_000_000;

impl StreamCount {
    /// Adds what has arrived at another port, or from another source.
    pub fn add(&mut self, other: &StreamCount) {
        self.packets += other.packets;
        self.bytes += other.bytes;
        self.packet_rate += other.packet_rate;
        self.byte_rate += other.byte_rate;
        let is_newer = other.last_packet_ms < self.last_packet_ms;
        self.last_packet_ms = self.last_packet_ms.min(other.last_packet_ms);
        match (&mut self.rtp, other.rtp) {
            (Some(rtp), Some(other)) => {
                if is_newer {
                    (rtp.ssrc, rtp.payload_type) = (other.ssrc, other.payload_type);
                }
                rtp.lost += other.lost;
                rtp.reordered += other.reordered;
                rtp.duplicated += other.duplicated;
                rtp.ssrc_changes += other.ssrc_changes;
                rtp.restarts += other.restarts;
            }
            (None, rtp) => self.rtp = rtp,
            (Some(_), None) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_that_has_stopped_has_no_rate() {
        let mut stream = Stream::default();
        (stream.interface, stream.last) = (7, 100 * SECOND);
        (stream.window_start, stream.window_packets, stream.window_bytes) = (stream.last, 1, 100);
        stream.before_time = SECOND;
        (stream.before_packets, stream.before_bytes) = (1000, 100_000);
        let rates = |silent| {
            let count = of_interface(&[stream], 7, 100 * SECOND + silent)[0];
            (count.packet_rate, count.byte_rate)
        };
        assert_eq!(rates(0), (1000, 100_000));
        assert_eq!(rates(5 * SECOND), (0, 20), "the mean of the open window");
        assert_eq!(rates(5 * SECOND + 1), (0, 0));
    }
}

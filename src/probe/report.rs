//! Results as people read them and as JSON.
//!
//! `mcrun probe recv --json` prints one [`Line::Result`] at the end, and with `--interval` a
//! [`Line::Interval`] per interval before it, each on a line of its own; `mcrun probe send
//! --json` one [`Line::Sent`]. The field `type` tells them apart. Times are in the unit that
//! ends the field's name; what is unknown is `null`.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// One line of JSON output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Line {
    /// What came since the last such line.
    Interval(IntervalLine),
    /// The result of a receiver.
    Result(ReceiveResult),
    /// The result of a sender.
    Sent(SendResult),
}

/// What came in one interval.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IntervalLine {
    /// Time since the start in seconds.
    #[serde(rename = "elapsed_s", with = "seconds")]
    pub elapsed: Duration,
    /// Each group, in the order given.
    pub groups: Vec<PerGroup<Interval>>,
}

/// The result of `mcrun probe recv`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReceiveResult {
    /// How long was measured, in seconds.
    #[serde(rename = "elapsed_s", with = "seconds")]
    pub elapsed: Duration,
    /// What ended it.
    pub ended: Ended,
    /// Promises that were broken, a sentence each; empty when all is well.
    pub broken: Vec<String>,
    /// Packets of all groups.
    pub packets: u64,
    /// Lost packets of all groups; `null` if none of them is RTP.
    pub lost: Option<u64>,
    /// The longest gap of any group; `null` when nothing came at all.
    #[serde(rename = "longest_gap_ms", with = "millis")]
    pub longest_gap: Option<Duration>,
    /// Each group, in the order given.
    pub groups: Vec<PerGroup<GroupReport>>,
}

/// The result of `mcrun probe send`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SendResult {
    /// How long was sent, in seconds.
    #[serde(rename = "elapsed_s", with = "seconds")]
    pub elapsed: Duration,
    /// What ended it.
    pub ended: Ended,
    /// Each group, in the order given.
    pub groups: Vec<PerGroup<SendReport>>,
}

/// Something about one group and port.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PerGroup<T> {
    /// The group's address.
    pub group: IpAddr,
    /// The UDP port.
    pub port: u16,
    /// What is said about it.
    #[serde(flatten)]
    pub report: T,
}

impl<T> PerGroup<T> {
    /// The group and the port.
    pub(super) fn name(&self) -> String {
        SocketAddr::new(self.group, self.port).to_string()
    }
}

/// What ended a measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ended {
    /// `--duration` was over.
    Duration,
    /// `--count` was reached.
    Count,
    /// Nothing came for `--timeout`.
    Timeout,
    /// SIGINT or SIGTERM.
    Signal,
}

/// One group in one interval.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Packets that came.
    pub packets: u64,
    /// Their UDP payload in bytes.
    pub bytes: u64,
    /// Packets newly known to be lost; `null` while nothing is known (no RTP).
    pub lost: Option<u64>,
    /// Longest time without a packet, the silence that still lasts included, counted from the
    /// packet before it; `null` before the first packet.
    #[serde(rename = "longest_gap_ms", with = "millis")]
    pub longest_gap: Option<Duration>,
    /// Jitter now, the greatest of all sources.
    #[serde(rename = "jitter_ms", with = "millis")]
    pub jitter: Option<Duration>,
}

/// One group in the whole measurement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GroupReport {
    /// Packets that came, duplicates included.
    pub packets: u64,
    /// Their UDP payload in bytes.
    pub bytes: u64,
    /// Whether any source spoke RTP: without, loss is unknown.
    pub rtp: bool,
    /// Packets the RTP sources sent between the first and the last that came.
    pub expected: Option<u64>,
    /// How many of those never came (RFC 3550 §6.4.1, but not net of duplicates).
    pub lost: Option<u64>,
    /// Packets that had come already.
    pub duplicated: u64,
    /// Packets that came after one that was sent later.
    pub reordered: u64,
    /// Packets that reached this host and found the socket's buffer full: part of `lost`.
    pub kernel_dropped: u64,
    /// Packets of sources beyond the 256 that are told apart: counted, loss unknown.
    pub unattributed: u64,
    /// Longest time between two packets, or from the last packet to the end of the measurement.
    #[serde(rename = "longest_gap_ms", with = "millis")]
    pub longest_gap: Option<Duration>,
    /// When that began, since the start of the measurement.
    #[serde(rename = "longest_gap_from_ms", with = "millis")]
    pub longest_gap_from: Option<Duration>,
    /// Interarrival jitter at the end (RFC 3550 A.8), the greatest of all sources.
    #[serde(rename = "jitter_ms", with = "millis")]
    pub jitter: Option<Duration>,
    /// From the join to the first packet's arrival in the kernel.
    #[serde(rename = "join_to_first_packet_ms", with = "millis")]
    pub join_to_first_packet: Option<Duration>,
    /// Each source, by its first packet.
    pub sources: Vec<SourceReport>,
}

/// One source of a group: an address and port and, with RTP, an SSRC. A sender that starts
/// anew is a new source.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SourceReport {
    /// Address and port it sends from.
    pub source: SocketAddr,
    /// Its SSRC; `null` if it does not speak RTP.
    pub ssrc: Option<u32>,
    /// Its RTP payload type.
    pub payload_type: Option<u8>,
    /// As in the group.
    pub packets: u64,
    /// As in the group.
    pub bytes: u64,
    /// As in the group.
    pub expected: Option<u64>,
    /// As in the group.
    pub lost: Option<u64>,
    /// As in the group.
    pub duplicated: u64,
    /// As in the group.
    pub reordered: u64,
    /// Times its numbering began anew under the same SSRC.
    pub restarts: u64,
    /// As in the group: its silence up to the end counts, also when it was replaced.
    #[serde(rename = "longest_gap_ms", with = "millis")]
    pub longest_gap: Duration,
    /// As in the group.
    #[serde(rename = "jitter_ms", with = "millis")]
    pub jitter: Option<Duration>,
    /// When its first packet came, since the start of the measurement.
    #[serde(rename = "first_packet_ms", with = "millis")]
    pub first_packet: Duration,
}

/// What was sent to one group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SendReport {
    /// Address and port it was sent from.
    pub source: SocketAddr,
    /// The RTP SSRC.
    pub ssrc: u32,
    /// Packets handed to the kernel.
    pub packets: u64,
    /// Their UDP payload in bytes.
    pub bytes: u64,
    /// Packets the kernel refused; their sequence numbers are missing on the wire.
    pub failed: u64,
}

impl fmt::Display for IntervalLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, group) in self.groups.iter().enumerate() {
            let Interval { packets, lost, longest_gap, jitter, .. } = &group.report;
            let newline = if index == 0 { "" } else { "\n" };
            let (elapsed, name) = (self.elapsed.as_secs_f64(), group.name());
            write!(f, "{newline}{elapsed:7.1} s  {name}  {packets:7} packets  ")?;
            write!(f, "{:>5} lost  gap {}  ", or_unknown(*lost), of_ms(*longest_gap))?;
            write!(f, "jitter {}", of_ms(*jitter))?;
        }
        Ok(())
    }
}

impl fmt::Display for ReceiveResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for group in &self.groups {
            let r = &group.report;
            write!(f, "{}: {} packets", group.name(), r.packets)?;
            if r.packets == 0 {
                writeln!(f, " in {:.1} s", self.elapsed.as_secs_f64())?;
                continue;
            }
            match (r.lost, r.expected) {
                (Some(lost), Some(expected)) => {
                    write!(f, ", {lost} lost ({:.3} %)", percent(lost, expected))?;
                    write!(f, ", {} duplicated, {} reordered", r.duplicated, r.reordered)?;
                }
                _ => f.write_str(", loss unknown (not RTP)")?,
            }
            if r.kernel_dropped > 0 {
                write!(f, ", {} of them by a full socket buffer here", r.kernel_dropped)?;
            }
            write!(f, "\n  longest gap {}", of_ms(r.longest_gap))?;
            if let Some(from) = r.longest_gap_from {
                write!(f, " from {:.3} s on", from.as_secs_f64())?;
            }
            writeln!(
                f,
                ", jitter {}, first packet {} after the join",
                of_ms(r.jitter),
                of_ms(r.join_to_first_packet)
            )?;
            for s in &r.sources {
                write!(f, "  from {}", s.source)?;
                if let Some(ssrc) = s.ssrc {
                    write!(f, " ssrc {ssrc:08x}")?;
                }
                write!(f, ": {} packets, {} lost", s.packets, or_unknown(s.lost))?;
                if s.restarts > 0 {
                    write!(f, ", numbering restarted {} times", s.restarts)?;
                }
                writeln!(f, ", longest gap {}", of_ms(Some(s.longest_gap)))?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for SendResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for group in &self.groups {
            let r = &group.report;
            let seconds = self.elapsed.as_secs_f64();
            let rate = if seconds > 0.0 { r.packets as f64 / seconds } else { 0.0 };
            write!(f, "{}: {} packets sent from {}", group.name(), r.packets, r.source)?;
            write!(f, " in {seconds:.3} s, {rate:.0}/s")?;
            if r.failed > 0 {
                write!(f, ", {} refused by the kernel", r.failed)?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// `lost` of `expected` in percent; 0 of nothing.
pub(super) fn percent(lost: u64, expected: u64) -> f64 {
    if expected == 0 { 0.0 } else { lost as f64 * 100.0 / expected as f64 }
}

fn or_unknown(count: Option<u64>) -> String {
    count.map_or("?".into(), |count| count.to_string())
}

fn of_ms(time: Option<Duration>) -> String {
    match time {
        None => "?".into(),
        Some(time) if time < Duration::from_millis(100) => {
            format!("{:.3} ms", time.as_secs_f64() * 1e3)
        }
        Some(time) => format!("{:.0} ms", time.as_secs_f64() * 1e3),
    }
}

/// Seconds with microseconds.
mod seconds {
    use super::*;

    pub(super) fn serialize<S: serde::Serializer>(t: &Duration, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_f64((t.as_secs_f64() * 1e6).round() / 1e6)
    }

    pub(super) fn deserialize<'de, D>(d: D) -> Result<Duration, D::Error>
    where
        D: serde::Deserializer<'de>,
    {
        Duration::try_from_secs_f64(f64::deserialize(d)?).map_err(serde::de::Error::custom)
    }
}

/// Milliseconds with microseconds; of a [`Duration`] or an optional one.
mod millis {
    use super::*;

    pub(super) trait Millis: Sized {
        fn to(&self) -> Option<f64>;
        fn from(ms: Option<f64>) -> Result<Self, String>;
    }

    impl Millis for Option<Duration> {
        fn to(&self) -> Option<f64> {
            self.map(|t| (t.as_secs_f64() * 1e6).round() / 1e3)
        }
        fn from(ms: Option<f64>) -> Result<Self, String> {
            let duration = |ms| Duration::try_from_secs_f64(ms / 1e3).map_err(|e| e.to_string());
            ms.map(duration).transpose()
        }
    }

    impl Millis for Duration {
        fn to(&self) -> Option<f64> {
            Some(*self).to()
        }
        fn from(ms: Option<f64>) -> Result<Self, String> {
            <Option<Duration> as Millis>::from(ms)?.ok_or("null instead of milliseconds".into())
        }
    }

    pub(super) fn serialize<T: Millis, S>(time: &T, s: S) -> Result<S::Ok, S::Error>
    where
        S: serde::Serializer,
    {
        time.to().serialize(s)
    }

    pub(super) fn deserialize<'de, T: Millis, D>(d: D) -> Result<T, D::Error>
    where
        D: serde::Deserializer<'de>,
    {
        T::from(Option::deserialize(d)?).map_err(serde::de::Error::custom)
    }
}

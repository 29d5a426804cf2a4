//! Values of the command line as people write them.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

/// The port of RTP where none is named (RFC 3551 §8).
pub const DEFAULT_PORT: u16 = 5004;

/// Where a stream goes: `GROUP` or `GROUP:PORT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Destination {
    /// The multicast group.
    pub group: IpAddr,
    /// The UDP port, not 0.
    pub port: u16,
}

impl Destination {
    /// As a socket address.
    pub fn address(self) -> SocketAddr {
        SocketAddr::new(self.group, self.port)
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address().fmt(f)
    }
}

impl FromStr for Destination {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let destination = match text.parse::<IpAddr>() {
            Ok(group) => Destination { group, port: DEFAULT_PORT },
            Err(_) => {
                let address: SocketAddr = text.parse().map_err(|_| {
                    "not an address; write GROUP or GROUP:PORT, such as 239.1.1.1:5004".to_string()
                })?;
                Destination { group: address.ip(), port: address.port() }
            }
        };
        match destination.group {
            IpAddr::V6(_) => Err("only IPv4 groups can be measured yet".into()),
            IpAddr::V4(group) if !group.is_multicast() => {
                Err(format!("{group} is not a multicast group (224.0.0.0 to 239.255.255.255)"))
            }
            _ if destination.port == 0 => Err("port 0 cannot be used; 1 to 65535 can".into()),
            _ => Ok(destination),
        }
    }
}

/// A time: a number and `ns`, `us`, `ms`, `s`, `m` or `h`, as in `500ms`, `1.5s` or `2m`;
/// without a unit in seconds.
///
/// # Errors
/// A text that names the units, for anything else and for more than a year.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let form = "write a number and ms, s, m or h, such as 500ms, 10s or 2m";
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic() || c == 'µ');
    let unit = match &text[digits.len()..] {
        "ns" => 1e-9,
        "us" | "µs" => 1e-6,
        "ms" => 1e-3,
        "s" | "" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        other => return Err(format!("unknown unit {other:?}; {form}")),
    };
    // f64 would also read "1e5", "inf" and "+1".
    if !digits.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return Err(format!("{digits:?} is not a number; {form}"));
    }
    let number: f64 = digits.parse().map_err(|_| format!("{digits:?} is not a number; {form}"))?;
    let seconds = number * unit;
    if seconds > 366.0 * 86400.0 {
        return Err("longer than a year".into());
    }
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

/// A time that is not zero.
///
/// # Errors
/// As [`parse_duration`], and for zero.
pub fn parse_positive_duration(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        Duration::ZERO => Err("must be more than 0".into()),
        time => Ok(time),
    }
}

/// What may be lost: a number of packets, or with `%` a share of those sent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum LossLimit {
    /// So many packets.
    Packets(u64),
    /// So many of a hundred.
    Percent(f64),
}

impl LossLimit {
    /// Whether `lost` of `expected` packets are more.
    pub fn is_broken(self, lost: u64, expected: u64) -> bool {
        match self {
            LossLimit::Packets(limit) => lost > limit,
            LossLimit::Percent(limit) => crate::probe::report::percent(lost, expected) > limit,
        }
    }
}

impl FromStr for LossLimit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = "write a number of packets, or a share such as 0.1%";
        let limit = match text.strip_suffix('%') {
            Some(share) => share
                .parse()
                .ok()
                .filter(|share| (0.0..=100.0).contains(share))
                .map(LossLimit::Percent),
            None => text.parse().ok().map(LossLimit::Packets),
        };
        limit.ok_or(form.into())
    }
}

impl fmt::Display for LossLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LossLimit::Packets(limit) => write!(f, "{limit}"),
            LossLimit::Percent(limit) => write!(f, "{limit}%"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, ms) in [
            ("500ms", 500),
            ("10s", 10_000),
            ("2m", 120_000),
            ("1.5s", 1500),
            ("1h", 3_600_000),
            ("7", 7000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "s", "5d", "-1s", "1e3s", "infs", "nans", "1..2s", "9999999h", "5 s"] {
            assert!(parse_duration(text).is_err(), "{text:?}");
        }
        assert!(parse_positive_duration("0s").is_err());
    }

    #[test]
    fn destinations() {
        let destination: Destination = "239.1.2.3".parse().unwrap();
        assert_eq!(destination.to_string(), "239.1.2.3:5004");
        assert_eq!("232.1.1.1:20000".parse::<Destination>().unwrap().port, 20000);
        for text in ["", "10.0.0.1", "239.1.1.1:0", "239.1.1.1:65536", "239.1.1", "ff02::1", "x"] {
            assert!(text.parse::<Destination>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn loss_limits() {
        assert!("0".parse::<LossLimit>().unwrap().is_broken(1, 1000));
        assert!(!"0".parse::<LossLimit>().unwrap().is_broken(0, 1000));
        let share: LossLimit = "0.1%".parse().unwrap();
        assert!(!share.is_broken(1, 1000) && share.is_broken(2, 1000));
        for text in ["", "%", "-1", "101%", "nan%", "1.5"] {
            assert!(text.parse::<LossLimit>().is_err(), "{text:?}");
        }
    }
}

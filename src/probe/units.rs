//! Values of the command line as people write them.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::str::FromStr;
use std::time::Duration;

/// The port of RTP where none is named (RFC 3551 §8).
pub const DEFAULT_PORT: u16 = 5004;

/// Where a stream goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Destination {
    /// The multicast group.
    pub group: IpAddr,
    /// The UDP port, not 0.
    pub port: u16,
    /// Index of the interface; 0: where the route to the group points. An IPv6 group of the link or of
    /// the interface has one.
    pub ifindex: u32,
}

impl Destination {
    /// As a socket address.
    pub fn address(self) -> SocketAddr {
        scoped(self.group, self.port, self.ifindex)
    }
}

/// The socket address of an address on an interface. Of IPv6 the kernel wants the interface of what is
/// of the link (`__ipv6_addr_needs_scope_id` in include/net/ipv6.h).
pub(super) fn scoped(address: IpAddr, port: u16, ifindex: u32) -> SocketAddr {
    match address {
        IpAddr::V4(_) => SocketAddr::new(address, port),
        IpAddr::V6(address) => SocketAddrV6::new(address, port, 0, ifindex).into(),
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        SocketAddr::new(self.group, self.port).fmt(f)
    }
}

/// A destination as people write it: `GROUP` or `GROUP:PORT`, of IPv6 `GROUP`, `GROUP%ZONE`, `[GROUP]:PORT`
/// or `[GROUP%ZONE]:PORT` (RFC 4007 §11). A zone is an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The multicast group.
    pub group: IpAddr,
    /// The UDP port, not 0.
    pub port: u16,
    /// Name or index of the interface.
    pub zone: Option<String>,
}

impl Target {
    /// Whether the group is another one on each interface, so that one has to be named: interface-local
    /// and link-local scope of IPv6 (RFC 4291 §2.7).
    pub fn needs_interface(&self) -> bool {
        matches!(self.group, IpAddr::V6(group) if matches!(scope(group), 1 | 2))
    }

    /// The destination on the interface with this index.
    pub fn on(&self, ifindex: u32) -> Destination {
        Destination { group: self.group, port: self.port, ifindex }
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = || {
            "not an address; write GROUP or GROUP:PORT, such as 239.1.1.1:5004 or [ff15::1]:5004"
                .to_owned()
        };
        let port = |text: &str| text.parse::<u16>().map_err(|_| form());
        let (address, port) = if let Some(rest) = text.strip_prefix('[') {
            let (address, rest) = rest.split_once(']').ok_or_else(form)?;
            // Brackets are of IPv6.
            let is_v6 = address.contains(':');
            match rest.strip_prefix(':') {
                Some(number) if is_v6 => (address, port(number)?),
                None if is_v6 && rest.is_empty() => (address, DEFAULT_PORT),
                _ => return Err(form()),
            }
        } else if text.matches(':').count() == 1 {
            let (address, number) = text.split_once(':').ok_or_else(form)?;
            (address, port(number)?)
        } else {
            (text, DEFAULT_PORT)
        };
        let (address, zone) = match address.split_once('%') {
            Some((address, zone)) => (address, Some(zone)),
            None => (address, None),
        };
        let group = address.parse().map_err(|_| form())?;
        match group {
            IpAddr::V4(group) if !group.is_multicast() => {
                Err(format!("{group} is not a multicast group (224.0.0.0 to 239.255.255.255)"))
            }
            IpAddr::V4(group) if zone.is_some() => {
                Err(format!("{group} is IPv4 and has no zone; --interface names the interface"))
            }
            IpAddr::V6(group) if !group.is_multicast() => {
                Err(format!("{group} is not a multicast group (ff00::/8)"))
            }
            IpAddr::V6(group) if matches!(scope(group), 0 | 15) => {
                Err(format!("{group} is of a reserved scope; ff02:: is the link, ff0e:: is global"))
            }
            _ if zone == Some("") => {
                Err(format!("the zone behind {group}% is missing: write the interface"))
            }
            _ if port == 0 => Err("port 0 cannot be used; 1 to 65535 can".into()),
            _ => Ok(Target { group, port, zone: zone.map(str::to_owned) }),
        }
    }
}

/// The scope of an IPv6 group (RFC 4291 §2.7).
fn scope(group: Ipv6Addr) -> u16 {
    group.segments()[0] & 0x0f
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
        for (text, shown, zone) in [
            ("239.1.2.3", "239.1.2.3:5004", None),
            ("232.1.1.1:20000", "232.1.1.1:20000", None),
            ("ff15::1", "[ff15::1]:5004", None),
            ("[ff15::1]", "[ff15::1]:5004", None),
            ("[ff3e::8000:1]:6000", "[ff3e::8000:1]:6000", None),
            ("ff02::fb%eth1", "[ff02::fb]:5004", Some("eth1")),
            ("[ff02::fb%3]:5353", "[ff02::fb]:5353", Some("3")),
        ] {
            let target: Target = text.parse().unwrap();
            assert_eq!((target.on(7).to_string().as_str(), target.zone.as_deref()), (shown, zone));
        }
        for text in [
            "",
            "10.0.0.1",
            "239.1.1.1:0",
            "239.1.1.1:65536",
            "239.1.1",
            "x",
            "fe80::1",
            "ff00::1",
            "ff0f::1",
            "[ff15::1]:0",
            "[ff15::1]x",
            "[ff15::1",
            "[239.1.1.1]:5004",
            "ff02::fb%",
            "239.1.1.1%eth0",
            "[]:1",
            "%eth0",
        ] {
            assert!(text.parse::<Target>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn what_is_of_the_link_needs_an_interface() {
        for (text, needs) in [("ff01::1", true), ("ff12::1", true), ("ff05::1", false)] {
            let target: Target = text.parse().unwrap();
            assert_eq!(target.needs_interface(), needs, "{text}");
        }
        let target: Target = "ff02::fb".parse().unwrap();
        assert_eq!(target.on(7).address().to_string(), "[ff02::fb%7]:5004");
        assert!(!"224.0.0.251".parse::<Target>().unwrap().needs_interface());
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

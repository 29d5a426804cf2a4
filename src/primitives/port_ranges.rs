//! Sets of UDP ports, as the administrator writes them.

use std::fmt;
use std::ops::RangeInclusive;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Ports, as a list of single ports and ranges: `[5353, "6000-6100"]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PortRanges(Vec<RangeInclusive<u16>>);

impl PortRanges {
    /// Whether there is no port in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a port is in it.
    pub fn contains(&self, port: u16) -> bool {
        self.0.iter().any(|range| range.contains(&port))
    }
}

impl FromIterator<RangeInclusive<u16>> for PortRanges {
    fn from_iter<I: IntoIterator<Item = RangeInclusive<u16>>>(ranges: I) -> Self {
        PortRanges(ranges.into_iter().collect())
    }
}

/// `5353, 6000-6100`.
impl fmt::Display for PortRanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, range) in self.0.iter().enumerate() {
            let comma = if position == 0 { "" } else { ", " };
            match (range.start(), range.end()) {
                (first, last) if first == last => write!(f, "{comma}{first}")?,
                (first, last) => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

/// A number, or two numbers and a hyphen between them.
#[derive(Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "a port is a number from 1 to 65535, or a range such as \"6000-6100\""
)]
enum Written {
    Port(u16),
    Range(String),
}

impl Serialize for PortRanges {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|range| match (range.start(), range.end()) {
            (first, last) if first == last => Written::Port(*first),
            (first, last) => Written::Range(format!("{first}-{last}")),
        }))
    }
}

impl<'de> Deserialize<'de> for PortRanges {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let written = Vec::<Written>::deserialize(deserializer)?;
        let range = |written: &Written| match written {
            Written::Port(port) => (*port > 0).then_some(*port..=*port).ok_or("0".to_owned()),
            Written::Range(text) => parse(text).ok_or_else(|| format!("{text:?}")),
        };
        let ranges: Result<_, String> = written.iter().map(range).collect();
        ranges.map(PortRanges).map_err(|wrong| {
            serde::de::Error::custom(format_args!(
                "{wrong} is no port; a port is a number from 1 to 65535, or a range such as \
                 \"6000-6100\""
            ))
        })
    }
}

fn parse(text: &str) -> Option<RangeInclusive<u16>> {
    let port = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u16>().ok().filter(|port| digits && *port > 0)
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (port(first)?, port(last)?);
    (first <= last).then_some(first..=last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<PortRanges, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn ports_are_read_shown_and_written_alike() {
        let text = r#"[5353,"6000-6100"]"#;
        let ports = read(text).unwrap();
        assert_eq!(ports.to_string(), "5353, 6000-6100");
        assert_eq!(serde_json::to_string(&ports).unwrap(), text);
        let inside = [5353, 6000, 6050, 6100];
        assert!(inside.into_iter().all(|port| ports.contains(port)));
        assert!([0, 5352, 5354, 5999, 6101].into_iter().all(|port| !ports.contains(port)));
        assert_eq!(read(r#"["319"]"#).unwrap().to_string(), "319");
        assert!(read("[]").unwrap().is_empty());
    }

    #[test]
    fn what_is_no_port_is_named() {
        for wrong in ["0", "\"0\"", "\"9-8\"", "\"1-70000\"", "\"-\"", "\"+5\"", "\"5 - 6\""] {
            let error = read(&format!("[{wrong}]")).unwrap_err();
            assert!(error.starts_with(&format!("{wrong} is no port; ")), "{error}");
        }
        for wrong in ["[70000]", "[-1]", "[true]"] {
            assert!(read(wrong).unwrap_err().contains("a port is a number"), "{wrong}");
        }
    }
}

//! Values of one attachment key that the administrator allows.

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::{Value, json};
use toml::Spanned;
use toml::de::{DeValue, ValueDeserializer};

use crate::attachment::error::suggestion;

/// What the values of a key are.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    /// Names; in the file patterns, where `*` at the end stands for anything.
    Names,
    /// MAC addresses; in the file whole ones, or their beginning and `*`.
    MacAddresses,
    /// One of these words.
    Words(&'static [&'static str]),
    /// Addresses, with or without a prefix length; in the file networks that contain them.
    Addresses,
    /// Networks, with or without `@GATEWAY`; in the file networks that contain them.
    Networks,
    /// Numbers from the first to the last; in the file numbers and ranges such as `"100-200"`.
    Numbers(i64, i64),
}

/// The value of `ip` that leaves the choice to a server.
pub(super) const DHCP: &str = "dhcp";

/// The same for IPv6.
pub(super) const DHCP6: &str = "dhcp6";

/// The value of `ip` that leaves it to a router.
pub(super) const SLAAC: &str = "slaac";

/// Values that are allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Allowed {
    /// Patterns of names.
    Names(Vec<String>),
    /// Words.
    Words(Vec<String>),
    /// Networks in which the address must be.
    Addresses(Vec<IpNet>),
    /// Networks in which the whole network must be.
    Networks(Vec<IpNet>),
    /// Numbers.
    Numbers(Vec<RangeInclusive<i64>>),
}

impl Kind {
    /// Reads a list of the file; a list of one may be written without brackets.
    ///
    /// # Errors
    /// What is wrong, without the line, and the place.
    pub(super) fn read(self, key: &str, value: Spanned<DeValue<'_>>) -> Result<Allowed, ReadError> {
        let items: Vec<Spanned<DeValue<'_>>> = match value.get_ref() {
            DeValue::Array(_) => match value.into_inner() {
                DeValue::Array(items) => items.into_iter().collect(),
                _ => Vec::new(),
            },
            _ => vec![value],
        };
        match self {
            Kind::Names => each(items, pattern).map(Allowed::Names),
            Kind::MacAddresses => each(items, mac_pattern).map(Allowed::Names),
            Kind::Words(words) => {
                each(items, |text: String| match words.iter().any(|word| *word == text) {
                    true => Ok(text),
                    false => Err(format!("unknown {key}; {}", suggestion(&text, words))),
                })
                .map(Allowed::Words)
            }
            Kind::Addresses => each(items, network).map(Allowed::Addresses),
            Kind::Networks => each(items, network).map(Allowed::Networks),
            Kind::Numbers(low, high) => {
                each(items, |written| range(written, low, high)).map(Allowed::Numbers)
            }
        }
    }

    /// Every value.
    pub(super) fn everything(self) -> Allowed {
        let networks = || vec![IpNet::V4(Default::default()), IpNet::V6(Default::default())];
        match self {
            Kind::Names | Kind::MacAddresses => Allowed::Names(vec!["*".into()]),
            Kind::Words(words) => Allowed::Words(words.iter().map(|w| (*w).to_owned()).collect()),
            Kind::Addresses => Allowed::Addresses(networks()),
            Kind::Networks => Allowed::Networks(networks()),
            Kind::Numbers(low, high) => Allowed::Numbers(vec![low..=high]),
        }
    }

    /// No value.
    pub(super) fn nothing(self) -> Allowed {
        match self {
            Kind::Names | Kind::MacAddresses => Allowed::Names(Vec::new()),
            Kind::Words(_) => Allowed::Words(Vec::new()),
            Kind::Addresses => Allowed::Addresses(Vec::new()),
            Kind::Networks => Allowed::Networks(Vec::new()),
            Kind::Numbers(..) => Allowed::Numbers(Vec::new()),
        }
    }
}

impl Allowed {
    /// Whether a value, as the attachment syntax writes it, is allowed.
    pub(super) fn contains(&self, value: &str) -> bool {
        match self {
            Allowed::Names(patterns) => patterns.iter().any(|pattern| matches(pattern, value)),
            Allowed::Words(words) => words.iter().any(|word| word == value),
            // It may be any address.
            Allowed::Addresses(networks) if value == DHCP => {
                networks.contains(&IpNet::V4(Default::default()))
            }
            Allowed::Addresses(networks) if value == SLAAC || value == DHCP6 => {
                networks.contains(&IpNet::V6(Default::default()))
            }
            Allowed::Addresses(networks) => {
                let text = value.split('/').next().unwrap_or_default();
                let address = text.parse::<IpAddr>();
                address.is_ok_and(|address| networks.iter().any(|net| net.contains(&address)))
            }
            Allowed::Networks(networks) => {
                let text = value.split('@').next().unwrap_or_default();
                let asked = text.parse::<IpNet>();
                asked.is_ok_and(|asked| networks.iter().any(|net| net.contains(&asked)))
            }
            Allowed::Numbers(ranges) => {
                value.parse().is_ok_and(|number| ranges.iter().any(|range| range.contains(&number)))
            }
        }
    }

    /// The list as the file has it.
    pub(super) fn as_json(&self) -> Value {
        match self {
            Allowed::Names(texts) | Allowed::Words(texts) => json!(texts),
            Allowed::Addresses(networks) | Allowed::Networks(networks) => json!(networks),
            Allowed::Numbers(ranges) => {
                let each = ranges.iter().map(|range| match (*range.start(), *range.end()) {
                    (first, last) if first == last => json!(first),
                    (first, last) => json!(format!("{first}-{last}")),
                });
                each.collect()
            }
        }
    }
}

/// The list in words: `none`, or its parts separated by commas.
impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = self.as_json();
        let parts = list.as_array().map(Vec::as_slice).unwrap_or_default();
        if parts.is_empty() {
            return f.write_str("none");
        }
        for (position, part) in parts.iter().enumerate() {
            f.write_str(if position == 0 { "" } else { ", " })?;
            match part.as_str() {
                Some(text) => f.write_str(text)?,
                None => write!(f, "{part}")?,
            }
        }
        Ok(())
    }
}

/// A value that cannot be read: where it is in the text, and what is wrong.
pub(super) struct ReadError {
    /// Offset in bytes.
    pub(super) at: usize,
    /// What is wrong and what would be right.
    pub(super) message: String,
}

/// Reads each value of a list.
fn each<'t, I: Deserialize<'t> + fmt::Debug, T>(
    items: Vec<Spanned<DeValue<'t>>>,
    convert: impl Fn(I) -> Result<T, String>,
) -> Result<Vec<T>, ReadError> {
    let items = items.into_iter().map(|item| {
        let at = item.span().start;
        let value = I::deserialize(ValueDeserializer::from(item))
            .map_err(|error| ReadError { at, message: one_line(error.message()) })?;
        let shown = format!("{value:?}");
        convert(value).map_err(|why| ReadError { at, message: format!("{shown}: {why}") })
    });
    items.collect()
}

/// The text of an error of the TOML parser as one line.
pub(in crate::attachment) fn one_line(message: &str) -> String {
    message.replace('\n', " ")
}

/// A pattern of names.
fn pattern(text: String) -> Result<String, String> {
    match text.find('*') {
        Some(at) if at + 1 < text.len() => Err("* can only be the last character".into()),
        _ if text.is_empty() => Err("a name, or the beginning of a name and *".into()),
        _ => Ok(text),
    }
}

/// A pattern of MAC addresses, as they are shown: in lower case.
fn mac_pattern(text: String) -> Result<String, String> {
    const LENGTH: usize = "02:00:00:00:00:07".len();
    let text = text.to_lowercase();
    let (beginning, is_whole) = match text.strip_suffix('*') {
        Some(beginning) => (beginning, false),
        None => (text.as_str(), true),
    };
    let fits = |(at, byte): (usize, u8)| match at % 3 {
        2 => byte == b':',
        _ => byte.is_ascii_hexdigit(),
    };
    let length = beginning.len();
    let has_length = if is_whole { length == LENGTH } else { length < LENGTH };
    match has_length && beginning.bytes().enumerate().all(fits) {
        true => Ok(text),
        false => Err("not a MAC address, as in 02:00:00:00:00:07, or its beginning and *".into()),
    }
}

/// Whether a name matches a pattern: the name itself, or its beginning and a `*`.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning),
        None => name == pattern,
    }
}

/// A network; an address alone is a network of one.
fn network(text: String) -> Result<IpNet, String> {
    let net = match text.parse::<IpNet>() {
        Ok(net) => net,
        Err(_) => match text.parse::<IpAddr>() {
            Ok(address) => IpNet::from(address),
            Err(_) => return Err("not a network, as in 192.0.2.0/24".into()),
        },
    };
    match net.trunc() {
        whole if whole == net => Ok(net),
        whole => Err(format!("bits are set behind the prefix; did you mean {whole}?")),
    }
}

/// A number, or two numbers and a hyphen between them.
#[derive(Deserialize)]
#[serde(untagged, expecting = "not a number, nor a range such as \"100-200\"")]
enum Written {
    Number(i64),
    Range(String),
}

impl fmt::Debug for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Written::Number(number) => write!(f, "{number}"),
            Written::Range(text) => write!(f, "{text:?}"),
        }
    }
}

fn range(written: Written, low: i64, high: i64) -> Result<RangeInclusive<i64>, String> {
    let parsed = match written {
        Written::Number(number) => Some((number, number)),
        Written::Range(text) => {
            // The first character may be the sign of the first number.
            let hyphen = text.char_indices().skip(1).find(|(_, c)| *c == '-').map(|(at, _)| at);
            let (first, last) = match hyphen {
                Some(at) => (&text[..at], &text[at + 1..]),
                None => (text.as_str(), text.as_str()),
            };
            first.parse().ok().zip(last.parse().ok())
        }
    };
    match parsed {
        Some((first, last)) if low <= first && first <= last && last <= high => Ok(first..=last),
        _ => Err(format!("not a number from {low} to {high}, nor a range of them")),
    }
}

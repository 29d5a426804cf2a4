//! A unicast Ethernet address.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A unicast Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddr([u8; 6]);

impl From<[u8; 6]> for MacAddr {
    fn from(octets: [u8; 6]) -> Self {
        MacAddr(octets)
    }
}

impl MacAddr {
    /// The bytes, in the order of transmission.
    pub fn octets(self) -> [u8; 6] {
        self.0
    }

    /// The link-local address of an interface that has this MAC address alone (RFC 4291 appendix A).
    pub fn link_local_address(self) -> Ipv6Addr {
        let [a, b, c, d, e, f] = self.0;
        let identifier = u64::from_be_bytes([a ^ 2, b, c, 0xff, 0xfe, d, e, f]);
        Ipv6Addr::from_bits(0xfe80_u128 << 112 | u128::from(identifier))
    }

    /// From the bytes of a link-layer address attribute; `None` unless there are six.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(MacAddr)
    }
}

impl FromStr for MacAddr {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let form = "six hexadecimal bytes such as 02:00:5e:10:00:01";
        let mut octets = [0u8; 6];
        let mut parts = s.split([':', '-']);
        for octet in &mut octets {
            let part = parts.next().ok_or(format!("too short; a MAC is {form}"))?;
            if part.is_empty() || part.len() > 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(format!("{part:?} is not a byte; a MAC is {form}"));
            }
            *octet = u8::from_str_radix(part, 16).map_err(|e| e.to_string())?;
        }
        if parts.next().is_some() {
            return Err(format!("too long; a MAC is {form}"));
        }
        if octets[0] & 1 != 0 {
            return Err(
                "a multicast address; an interface needs a unicast one (even first byte)".into()
            );
        }
        if octets == [0; 6] {
            return Err("all zero; an interface needs a unicast address".into());
        }
        Ok(MacAddr(octets))
    }
}

impl TryFrom<String> for MacAddr {
    type Error = String;
    fn try_from(s: String) -> Result<Self, String> {
        s.parse()
    }
}

impl From<MacAddr> for String {
    fn from(mac: MacAddr) -> String {
        mac.to_string()
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

//! Names of networks.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The name of a network, which is also the name of its file: 1 to 64 letters, digits, `_`, `-` and
/// `.`, the first one a letter or a digit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NetworkName(String);

/// Why a text is no name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "not the name of a network: 1 to 64 letters, digits, _, - and ., the first one a letter or a \
     digit"
)]
pub struct NetworkNameError;

/// The longest name in bytes.
const MAX: usize = 64;

impl NetworkName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NetworkName {
    type Err = NetworkNameError;

    fn from_str(text: &str) -> Result<Self, NetworkNameError> {
        let first = text.bytes().next().ok_or(NetworkNameError)?;
        let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
        match text.len() <= MAX && first.is_ascii_alphanumeric() && text.bytes().all(fits) {
            true => Ok(NetworkName(text.to_owned())),
            false => Err(NetworkNameError),
        }
    }
}

impl TryFrom<String> for NetworkName {
    type Error = NetworkNameError;

    fn try_from(text: String) -> Result<Self, NetworkNameError> {
        text.parse()
    }
}

impl From<NetworkName> for String {
    fn from(name: NetworkName) -> String {
        name.0
    }
}

impl fmt::Display for NetworkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leads_to_no_other_directory() {
        for good in ["media", "red-1.a_B", "0", &"x".repeat(64)] {
            assert_eq!(good.parse::<NetworkName>().map(|n| n.to_string()), Ok(good.to_owned()));
        }
        for bad in ["", ".", "..", ".x", "-x", "a/b", "a b", "ä", "a\n", &"x".repeat(65)] {
            assert_eq!(bad.parse::<NetworkName>(), Err(NetworkNameError), "{bad:?}");
        }
    }
}

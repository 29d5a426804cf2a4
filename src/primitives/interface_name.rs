//! A network interface name.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A network interface name the kernel accepts (`dev_valid_name` in net/core/dev.c): 1 to 15
/// bytes, not `.` or `..`, without `/`, `:` and white space. Control characters and
/// non-ASCII bytes, which the kernel would take, are refused too.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InterfaceName(String);

impl InterfaceName {
    /// The default name of attachment `position` (from 0): `mc0`, `mc1`...
    pub fn numbered(position: usize) -> Self {
        InterfaceName(format!("mc{position}"))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for InterfaceName {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let bad = |why: &str| {
            Err(format!(
                "{why}; an interface name is 1 to 15 characters without '/', ':' and spaces"
            ))
        };
        if s.is_empty() {
            return bad("empty");
        }
        if s.len() > 15 {
            return bad(&format!("{} characters long", s.len()));
        }
        if s == "." || s == ".." {
            return bad("not a name");
        }
        match s.chars().find(|c| !c.is_ascii_graphic() || matches!(c, '/' | ':')) {
            Some(c) => bad(&format!("has {c:?}")),
            None => Ok(InterfaceName(s.to_owned())),
        }
    }
}

impl TryFrom<String> for InterfaceName {
    type Error = String;
    fn try_from(s: String) -> Result<Self, String> {
        s.parse()
    }
}

impl From<InterfaceName> for String {
    fn from(name: InterfaceName) -> String {
        name.0
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

//! Errors of a plugin, with the codes of the CNI specification ("Error").

use std::fmt;

use serde_json::{Value, json};

use crate::attachment::{AdminError, SpecError};
use crate::net::netlink::NetlinkError;
use crate::service::AttachError;
use crate::state::StateDirError;

/// Why a call failed: one line, and a code for the program that called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CniError {
    code: u64,
    message: String,
}

/// The codes that the specification gives a meaning.
const INCOMPATIBLE_VERSION: u64 = 1;
const UNSUPPORTED_FIELD: u64 = 2;
const UNKNOWN_CONTAINER: u64 = 3;
const ENVIRONMENT: u64 = 4;
const IO: u64 = 5;
const DECODE: u64 = 6;
const CONFIG: u64 = 7;
const NOT_AVAILABLE: u64 = 50;
/// The plugin's own codes begin at 100: the attachment was refused or failed.
const ATTACH: u64 = 100;
/// The attachment is not as it was made.
const BROKEN: u64 = 101;
/// Another plugin, to which a part was delegated, said nothing that can be understood.
const DELEGATE: u64 = 102;

impl CniError {
    pub(super) fn version(message: impl Into<String>) -> Self {
        Self::new(INCOMPATIBLE_VERSION, message)
    }

    pub(super) fn unsupported(message: impl Into<String>) -> Self {
        Self::new(UNSUPPORTED_FIELD, message)
    }

    /// No such container: nothing has to be cleaned up.
    pub(super) fn container(message: impl Into<String>) -> Self {
        Self::new(UNKNOWN_CONTAINER, message)
    }

    pub(super) fn environment(message: impl Into<String>) -> Self {
        Self::new(ENVIRONMENT, message)
    }

    pub(super) fn io(message: impl Into<String>) -> Self {
        Self::new(IO, message)
    }

    pub(super) fn decode(message: impl Into<String>) -> Self {
        Self::new(DECODE, message)
    }

    pub(super) fn config(message: impl Into<String>) -> Self {
        Self::new(CONFIG, message)
    }

    /// No container can be attached now.
    pub(super) fn unavailable(message: impl fmt::Display) -> Self {
        Self::new(NOT_AVAILABLE, message.to_string())
    }

    pub(super) fn broken(message: impl Into<String>) -> Self {
        Self::new(BROKEN, message)
    }

    pub(super) fn delegate(message: impl Into<String>) -> Self {
        Self::new(DELEGATE, message)
    }

    /// What another plugin said, with its own code.
    pub(super) fn of_delegate(code: Option<u64>, message: impl Into<String>) -> Self {
        Self::new(code.filter(|code| *code > 0).unwrap_or(DELEGATE), message)
    }

    fn new(code: u64, message: impl Into<String>) -> Self {
        // A line for terminals and logs, whatever text is quoted in it.
        let message = message.into().chars().filter(|c| !c.is_control()).take(1000).collect();
        CniError { code, message }
    }

    /// What the plugin prints.
    pub(super) fn json(&self, version: &str) -> Value {
        let details = match self.code {
            DECODE | CONFIG | UNSUPPORTED_FIELD => "the network configuration is refused",
            ENVIRONMENT => "the call is refused",
            _ => "",
        };
        json!({"cniVersion": version, "code": self.code, "msg": self.message, "details": details})
    }
}

impl fmt::Display for CniError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<AttachError> for CniError {
    fn from(error: AttachError) -> Self {
        let code = match error {
            AttachError::Ended(_) => UNKNOWN_CONTAINER,
            AttachError::Broken(_)
            | AttachError::NotAttached(_)
            | AttachError::NoInterface { .. } => BROKEN,
            _ => ATTACH,
        };
        Self::new(code, error.to_string())
    }
}

impl From<SpecError> for CniError {
    fn from(error: SpecError) -> Self {
        Self::config(error.to_string())
    }
}

impl From<AdminError> for CniError {
    fn from(error: AdminError) -> Self {
        Self::new(ATTACH, error.to_string())
    }
}

impl From<StateDirError> for CniError {
    fn from(error: StateDirError) -> Self {
        Self::io(error.to_string())
    }
}

impl From<NetlinkError> for CniError {
    fn from(error: NetlinkError) -> Self {
        Self::io(format!("cannot read the network's state: {error}"))
    }
}

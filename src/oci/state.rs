//! The state JSON on a hook's standard input (OCI runtime specification, "State").

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Most bytes that a hook reads from its standard input.
pub const MAX_STATE: usize = 1 << 20;

/// A container id that can name a directory: 1 to 128 characters of `A-Z a-z 0-9 _ + - . @`, the
/// first one a letter or a digit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContainerId(String);

impl ContainerId {
    /// The id.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ContainerId {
    type Error = StateError;

    fn try_from(id: String) -> Result<Self, StateError> {
        let valid = |c: char| c.is_ascii_alphanumeric() || "_+-.@".contains(c);
        let first = id.chars().next().is_some_and(|c| c.is_ascii_alphanumeric());
        if first && id.len() <= 128 && id.chars().all(valid) {
            Ok(ContainerId(id))
        } else {
            Err(StateError::Id(id.chars().take(140).collect()))
        }
    }
}

impl From<ContainerId> for String {
    fn from(id: ContainerId) -> String {
        id.0
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a hook needs of the state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerState {
    /// The container's id.
    pub id: ContainerId,
    /// Process id of the container's init, in the runtime's pid namespace. Absent or 0 in poststop.
    pub pid: Option<i32>,
    /// The bundle's directory. Some versions of crun give a wrong one.
    pub bundle: Option<PathBuf>,
    /// Annotations, as config.json has them.
    pub annotations: BTreeMap<String, String>,
}

/// Why the state JSON is refused.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Not JSON, or not a state.
    #[error("the state on standard input is not an OCI state: {0}")]
    Json(#[from] serde_json::Error),
    /// An id that cannot name a directory.
    #[error(
        "container id {0:?} is refused: 1 to 128 letters, digits and _+-.@ are taken, a letter or digit first"
    )]
    Id(String),
    /// Too long.
    #[error("the state on standard input is longer than {MAX_STATE} bytes")]
    Long,
}

impl ContainerState {
    /// Parses the state JSON. Keys it does not need may be absent, unknown or of any value.
    ///
    /// # Errors
    /// [`StateError`], on anything that is not a state with a usable id.
    pub fn parse(json: &[u8]) -> Result<Self, StateError> {
        #[derive(Deserialize)]
        struct Raw {
            id: String,
            pid: Option<i32>,
            bundle: Option<PathBuf>,
            annotations: Option<BTreeMap<String, String>>,
        }
        if json.len() > MAX_STATE {
            return Err(StateError::Long);
        }
        let raw: Raw = serde_json::from_slice(json)?;
        Ok(ContainerState {
            id: raw.id.try_into()?,
            pid: raw.pid.filter(|pid| *pid > 0),
            bundle: raw.bundle.filter(|path| !path.as_os_str().is_empty()),
            annotations: raw.annotations.unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_as_runc_writes_it() {
        let state = ContainerState::parse(
            br#"{"ociVersion":"1.0.2-dev","id":"c1","status":"creating","pid":4711,"bundle":"/b","annotations":{"io.mcrun.mcast":"parent=eth0"},"future":[1]}"#,
        )
        .unwrap();
        assert_eq!((state.id.as_str(), state.pid), ("c1", Some(4711)));
        assert_eq!(state.annotations["io.mcrun.mcast"], "parent=eth0");
    }

    #[test]
    fn a_poststop_state_without_pid() {
        let state = ContainerState::parse(br#"{"id":"c1","pid":0,"annotations":null}"#).unwrap();
        assert_eq!((state.pid, state.bundle), (None, None));
    }

    #[test]
    fn nonsense_is_one_line() {
        for json in [
            "",
            "{",
            "[]",
            "{\"id\":7}",
            "{\"id\":\"../etc\"}",
            "{\"id\":\"\"}",
            "{\"id\":\"a\",\"pid\":\"x\"}",
        ] {
            let error = ContainerState::parse(json.as_bytes()).unwrap_err().to_string();
            assert!(!error.contains('\n') && !error.is_empty(), "{json}: {error}");
        }
        let long = format!("{{\"id\":\"{}\"}}", "a".repeat(129));
        assert!(matches!(ContainerState::parse(long.as_bytes()), Err(StateError::Id(_))));
        assert!(matches!(ContainerState::parse(&vec![b' '; MAX_STATE + 1]), Err(StateError::Long)));
    }
}

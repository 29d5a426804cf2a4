//! Why a proxy does not start.

use std::io;

/// Why a proxy does not start.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}")]
pub(in crate::proxy) struct StartError {
    what: String,
    source: io::Error,
}

impl StartError {
    /// `what` cannot be done, or is not valid, because of `why`.
    pub(in crate::proxy) fn new(what: impl Into<String>, why: &str) -> Self {
        StartError { what: what.into(), source: io::Error::other(why.to_owned()) }
    }
}

pub(in crate::proxy) trait Context<T> {
    /// Names what was to be done when the error came.
    fn context(self, what: impl FnOnce() -> String) -> Result<T, StartError>;
}

impl<T, E: Into<io::Error>> Context<T> for Result<T, E> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T, StartError> {
        self.map_err(|e| StartError { what: what(), source: e.into() })
    }
}

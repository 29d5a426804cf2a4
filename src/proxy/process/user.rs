//! The user that a proxy becomes.

use std::fs::File;
use std::io;
use std::path::Path;

use crate::state::hold_proxy_user;

/// A user id that no other process has. It is free again when this value is dropped.
#[derive(Debug)]
pub(crate) struct ProxyUser {
    /// User id and group id.
    pub(crate) id: u32,
    _lock: File,
}

impl ProxyUser {
    /// Holds an id that the service has reserved.
    ///
    /// # Errors
    /// `EAGAIN` when another proxy has it, and those of open(2).
    pub(crate) fn hold(state_dir: &Path, id: u32) -> io::Result<Self> {
        Ok(ProxyUser { id, _lock: hold_proxy_user(state_dir, id)? })
    }
}

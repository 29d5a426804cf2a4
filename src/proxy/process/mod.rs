//! What makes the proxy a process: log, sandbox and its directory.

pub(crate) mod log;
pub(crate) mod sandbox;
pub(crate) mod state_dir;

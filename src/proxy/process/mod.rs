//! What makes the proxy a process: log, sandbox and its directory.

pub(crate) mod container_dir;
pub(crate) mod log;
pub(crate) mod sandbox;

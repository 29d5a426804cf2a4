//! The proxy as a process: its user, its log, its memory, its sandbox, and the container's directory.

pub(crate) mod container_dir;
pub(crate) mod log;
pub(crate) mod memory;
pub(crate) mod sandbox;
pub(crate) mod user;

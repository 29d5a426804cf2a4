//! What runtimes hand over: state JSON and config.json.

pub mod capabilities;
pub mod config;
pub mod seccomp;
pub mod spec;
pub mod user;

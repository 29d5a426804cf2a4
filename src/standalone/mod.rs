//! OCI runtimes driven directly: containers from a root filesystem or a bundle, without images.
//!
//! `mcrun run` is two processes. The *client* is the one that the user sees: it copies stdio,
//! forwards signals, and ends with the container's status. The *shim* holds the container, as
//! containerd's shims do. Each ends a foreground container when the other dies. With `-d` only the
//! shim stays, and keeps the output. No process of the runtime outlives its command.

mod cgroup;
mod command_check;
mod container;
mod control;
mod error;
mod exec;
mod id;
mod logs;
mod options;
mod output_log;
mod process;
mod run;
mod runtime;
mod shim;
mod shim_client;
mod shim_protocol;
mod spawn;
mod stdio;
mod teardown;

pub use crate::standalone::container::{Container, ContainerRecord, ContainerState};
pub use crate::standalone::control::{collect_garbage, kill, parse_signal, remove, stop};
pub use crate::standalone::error::StandaloneError;
pub use crate::standalone::exec::{ExecOptions, exec};
pub use crate::standalone::id::GENERATED_PREFIX;
pub use crate::standalone::logs::{LogOptions, logs};
pub use crate::standalone::options::{ContainerSource, RunOptions};
pub use crate::standalone::run::run;
pub use crate::standalone::runtime::{Runtime, RuntimeKind};

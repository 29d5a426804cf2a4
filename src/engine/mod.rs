//! OCI runtimes driven directly: containers from a root filesystem or a bundle, without images.
//!
//! `mcrun run` is two processes. The *front* is what the user sees: it relays stdio and signals
//! and ends with the container's status. The *supervisor* holds the container as containerd's
//! shims do. Each ends a foreground container when the other dies; with `-d` the supervisor
//! stays alone. No process of the runtime lives longer than the step it does.

mod cgroup;
mod channel;
mod container;
mod control;
mod error;
mod exec;
mod front;
mod id;
mod options;
mod process;
mod relay;
mod run;
mod runtime;
mod spawn;
mod supervisor;
mod teardown;

pub use container::{Container, Record};
pub use control::{collect_garbage, kill, parse_signal, remove, stop};
pub use error::EngineError;
pub use exec::{ExecOptions, exec};
pub use options::{RunOptions, Source};
pub use run::run;
pub use runtime::{Kind, Runtime};

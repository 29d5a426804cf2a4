//! The attachment service: attaches a container to LANs, takes attachments back, and replaces proxies.

mod attach;
pub mod detach;
mod parents;
mod proxies;

use std::io;
use std::path::PathBuf;

use crate::attachment::{AdminError, SpecError};
use crate::link::apply::ApplyError;
use crate::link::plan::PlanError;
use crate::net::netlink::NetlinkError;
use crate::oci::{ConfigError, ContainerId, StateError};
use crate::proxy::LaunchError;
use crate::state::{StateDirError, Store};

pub use attach::{AttachRequest, attach, attach_running};
pub use detach::{Collected, collect_garbage, detach_running};
pub use proxies::{Reloaded, reload};

/// Why a hook failed: one line that names what was wrong.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The state on standard input.
    #[error(transparent)]
    State(#[from] StateError),
    /// The bundle.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The state names no bundle.
    #[error("the state names no bundle, so it cannot be told whether an attachment is asked for")]
    NoBundle,
    /// What is asked for.
    #[error("{origin}: {source}")]
    Spec {
        /// The annotation or variable.
        origin: &'static str,
        /// What is wrong with it.
        source: SpecError,
    },
    /// What the administrator allows.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// No container process.
    #[error("the state names no process of the container; a createRuntime hook is told its pid")]
    NoPid,
    /// The container's process has ended.
    #[error("the container's process {0} has ended")]
    Ended(i32),
    /// The container has no network of its own.
    #[error(
        "the container shares the host's network namespace: an attachment needs one of its own"
    )]
    HostNetwork,
    /// The container shares the network of another one, by the path of its namespace.
    #[error(
        "the container shares the network namespace {0} of another one: an attachment needs one of its own, so ask for it where that one is started"
    )]
    SharedNetwork(PathBuf),
    /// The namespace is that of an attached container.
    #[error(
        "the container shares the network namespace of container {0}, which is attached: an attachment needs one of its own"
    )]
    AttachedNetwork(ContainerId),
    /// The annotation has fallen apart.
    #[error(
        "io.mcrun.mcast: {0} has become an annotation of its own: this engine splits annotations at \
         commas, so quote the whole: --annotation '\"io.mcrun.mcast=...\"'"
    )]
    SplitAnnotation(&'static str),
    /// The attachments do not go together.
    #[error("--mcast: {0}")]
    Together(SpecError),
    /// Nothing is attached.
    #[error("container {0} is not attached (mcrun ps shows the attached ones)")]
    NotAttached(ContainerId),
    /// No interface of this name.
    #[error("the container has no attached interface {name}; it has {there}")]
    NoInterface {
        /// What was asked for.
        name: String,
        /// What there is, separated by commas.
        there: String,
    },
    /// Missing privileges.
    #[error("{0} is missing: a runtime that attaches containers runs as root")]
    Privilege(&'static str),
    /// The namespace of the container.
    #[error("cannot reach the container's network namespace: {0}")]
    Namespace(#[from] io::Error),
    /// No randomness.
    #[error("cannot get a random number for the proxy's mark: {0}")]
    Mark(io::Error),
    /// Facts could not be read.
    #[error("cannot read the network's state: {0}")]
    Facts(#[from] NetlinkError),
    /// The host and the request do not go together.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The parent cannot have this child beside those that it has.
    #[error("{0}")]
    Parent(String),
    /// A step failed.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// The proxy did not start.
    #[error(transparent)]
    Proxy(#[from] LaunchError),
    /// The state directory.
    #[error(transparent)]
    StateDir(#[from] StateDirError),
}

/// Takes back what is left of a container's attachment.
///
/// # Errors
/// [`AttachError`], when something could not be removed.
pub fn remove(id: &ContainerId, store: &Store) -> Result<(), AttachError> {
    match store.lock(id)? {
        Some(dir) => detach::detach(dir),
        None => Ok(()),
    }
}

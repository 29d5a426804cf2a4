//! Why a hook failed.

use std::io;
use std::path::PathBuf;

use crate::attachment::{AdminError, SpecError};
use crate::oci::{ConfigError, ContainerId, StateError};
use crate::service::AttachError;

/// Why a hook failed: one line that names what is wrong.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
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
    /// No container process.
    #[error("the state names no process of the container; a createRuntime hook is told its pid")]
    NoPid,
    /// The container shares the network of another one, by the path of its namespace.
    #[error(
        "the container shares the network namespace {0} of another one: an attachment needs one of its own, so ask for it where that one is started"
    )]
    SharedNetwork(PathBuf),
    /// The network namespace that config.json names by a path.
    #[error("cannot open the network namespace {path}: {source}")]
    Namespace {
        /// The path, or that of the running program's own namespace.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The annotation was split by the engine.
    #[error(
        "io.mcrun.mcast: {0} has become an annotation of its own: this engine splits annotations at \
         commas, so quote the whole: --annotation '\"io.mcrun.mcast=...\"'"
    )]
    SplitAnnotation(&'static str),
    /// Its creation was interrupted.
    #[error(
        "container {0} asks for an attachment and has none, as its creation was interrupted: delete it \
         and create it again"
    )]
    NotAttached(ContainerId),
    /// mcrun.toml, which says whether the variable counts.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// The attachment service.
    #[error(transparent)]
    Attach(#[from] AttachError),
}

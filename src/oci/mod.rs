//! What OCI runtimes hand over and read: a hook's state JSON, the bundle's config.json, and the
//! container's id in the name of a control group.

pub mod caller;
pub mod capabilities;
mod config;
mod document;
mod hooks;
mod process;
mod seccomp;
pub mod spec;
mod state;
pub mod user;

pub use crate::oci::config::{BundleConfig, ConfigError, PodRole};
pub use crate::oci::document::{ConfigDocument, DocumentError};
pub use crate::oci::hooks::{has_mcrun_hook, hook_entries};
pub use crate::oci::process::container_id_of;
pub use crate::oci::state::{ContainerId, ContainerState, MAX_STATE, StateError};

/// The annotation that asks for attachments.
pub const ANNOTATION: &str = "io.mcrun.mcast";
/// The annotation that holds the name people call the container by.
pub const NAME_ANNOTATION: &str = "io.mcrun.name";
/// The container's environment variable that asks for attachments, for engines without
/// annotations.
pub const VARIABLE: &str = "MCRUN_MCAST";

//! The attachment service: attaches containers to LANs, removes attachments, and replaces proxies.
//!
//! The service knows containers by id, name, network namespace and lifetime, and nothing of who
//! runs them. The adapters do: the OCI hook ([`crate::hook`]), docker's networks
//! ([`crate::docker_network`]) and `mcrun attach` each make an [`AttachRequest`].

mod attach;
mod check;
mod claims;
mod conflicts;
mod detach;
mod error;
mod host_links;
pub(crate) mod keeper_socket;
mod late;
mod leases;
mod making;
mod namespace;
mod parents;
mod pool;
mod preparation;
mod proxies;
mod reload;
mod repair;
mod request;
mod shims;
mod unfinished;
mod unserved;
mod verify;

pub use crate::state::Lifetime;
pub use attach::{attach, attach_more, attach_prepared};
pub use check::check;
pub use detach::{Collected, Garbage, collect_garbage, detach, remove_asked, remove_stopped};
pub use error::AttachError;
pub use late::complete;
pub(crate) use making::lacking_capabilities;
pub(crate) use namespace::running_namespace;
pub use preparation::{Preparation, prepare};
pub use reload::{Reloaded, Revived, reload, revive, runs_another_program};
pub use repair::repair;
pub use request::{AttachRequest, NetworkNamespace};
pub use shims::{ShimError, add_shim, remove_shim, sync_shims};
pub use verify::verify;

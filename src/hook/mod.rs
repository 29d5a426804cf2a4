//! What the OCI hooks do: attach a container when it is created, clean up when it has stopped. `mcrun
//! attach` and `mcrun detach` do the same to one that runs.
//!
//! State JSON -> container state -> attachments -> facts -> plan -> apply -> proxy -> record.

mod entry;
mod request;

use crate::oci::ContainerState;
use crate::service::{self, AttachError};
use crate::state::Store;

pub use entry::{environment, program};
pub use request::asks;

/// `createRuntime` and `prestart`: attaches the container to what it asks for. A container that
/// asks for nothing costs a look at its annotations and its environment.
///
/// Called again for a container that is attached already, it finds nothing to do. It returns
/// when the proxy is ready, so that the container's first join is seen.
///
/// # Errors
/// [`AttachError`]; nothing is left behind then, and the runtime does not start the container.
pub fn create(state_json: &[u8], store: &Store) -> Result<(), AttachError> {
    let state = ContainerState::parse(state_json)?;
    match request::of(&state)? {
        Some(request) => service::attach(&state, request, store),
        None => Ok(()),
    }
}

/// `poststop`: takes back what is left of the container's attachment. A container that is not
/// known has nothing left.
///
/// # Errors
/// [`AttachError`], when the state cannot be understood or something could not be removed.
pub fn poststop(state_json: &[u8], store: &Store) -> Result<(), AttachError> {
    let id = ContainerState::parse(state_json)?.id;
    service::remove(&id, store)
}

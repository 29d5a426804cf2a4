//! The OCI hooks: an adapter that turns a container's state and bundle into a request to
//! [`crate::service`].
//!
//! State JSON -> container state -> config.json ->
//! [`AttachRequest`](crate::service::AttachRequest).

mod entry;
mod error;
mod pod;
mod report;
mod request;
mod variable;

use crate::attachment::Attachment;
use crate::oci::{BundleConfig, ContainerId, ContainerState};
use crate::service;
use crate::service::Preparation;
use crate::state::{AttachmentRecord, Store};

pub use entry::{environment, program};
pub use error::HookError;
pub use report::{note, report};
pub use request::asks_for_attachment;
pub use variable::Caller;

/// `createRuntime` and `prestart`: attaches the container to what it asks for. For a container that
/// asks for nothing, its annotations and its environment are read, and that is all.
///
/// Called again for a container that is attached already, it does nothing. It returns when the
/// proxy is ready, so that the container's first join is seen.
///
/// # Errors
/// [`HookError`]; nothing is left behind then, and the runtime does not start the container.
pub fn create(state_json: &[u8], store: &Store) -> Result<(), HookError> {
    let state = ContainerState::parse(state_json)?;
    match request::of(&state, Caller::of_hook())? {
        Some(request) => Ok(service::attach(request, store)?),
        None => Ok(()),
    }
}

/// What a container asks for that is about to be created, and what of the attachment has begun.
pub struct Prepared {
    attachments: Vec<Attachment>,
    preparation: Preparation,
}

/// Begins the attachment of a container that is about to be created; `None`: it asks for nothing.
///
/// # Errors
/// [`HookError`]: the container is not to be created.
pub fn prepare(
    config: &BundleConfig,
    caller: Caller,
    store: &Store,
) -> Result<Option<Prepared>, HookError> {
    let Some(attachments) = request::asked_before(config, caller)? else { return Ok(None) };
    let preparation = service::prepare(&attachments, store)?;
    Ok(Some(Prepared { attachments, preparation }))
}

/// Attaches a container that has been created since, and that waits for its start.
///
/// # Errors
/// [`HookError`]; nothing is left behind then, and the container is to be deleted.
pub fn attach_created(
    state: &ContainerState,
    config: &BundleConfig,
    prepared: Prepared,
    store: &Store,
) -> Result<(), HookError> {
    let Prepared { attachments, preparation } = prepared;
    let request = request::of_attachments(state, config, attachments)?;
    Ok(service::attach_prepared(request, preparation, store)?)
}

/// Refuses to start a container that asks for attachments and has none: whoever created it was killed
/// before it was attached.
///
/// # Errors
/// [`HookError::NotAttached`], and a mcrun.toml that cannot be understood.
pub fn refuse_unattached(
    id: &ContainerId,
    config: &BundleConfig,
    caller: Caller,
    store: &Store,
) -> Result<(), HookError> {
    let Some(recorded) = request::recorded_id(config, caller, id)? else { return Ok(()) };
    match store.read(&recorded) {
        Ok(Some(AttachmentRecord::Attached(_))) => Ok(()),
        _ => Err(HookError::NotAttached(id.clone())),
    }
}

/// Before the container's command runs: completes the attachment where interfaces of the container
/// have come since it was created. A container that is not attached is left alone.
///
/// # Errors
/// [`HookError`]; the container is not to be started then.
pub fn before_start(id: &str) -> Result<(), HookError> {
    // An id that cannot be one is for the runtime to refuse.
    let Ok(id) = ContainerId::try_from(id.to_owned()) else { return Ok(()) };
    Ok(service::complete(&id, &Store::from_env())?)
}

/// `poststart`: the same where no wrapper stands before `start`. The command runs already.
///
/// # Errors
/// [`HookError`]; what the runtime does then is its own: runc ends the container.
pub fn poststart(state_json: &[u8], store: &Store) -> Result<(), HookError> {
    let id = ContainerState::parse(state_json)?.id;
    Ok(service::complete(&id, store)?)
}

/// `poststop`: removes what is left of what the container asked for. A container that is not known
/// has nothing left, and one of the same id that runs from another bundle keeps what it has.
///
/// # Errors
/// [`HookError`], if the state cannot be parsed or something could not be removed.
pub fn poststop(state_json: &[u8], store: &Store) -> Result<(), HookError> {
    remove(&ContainerState::parse(state_json)?, store)
}

/// The same for a state that is known.
///
/// # Errors
/// [`HookError`], if something could not be removed.
pub fn remove(state: &ContainerState, store: &Store) -> Result<(), HookError> {
    Ok(service::remove_asked(&state.id, state.bundle.as_deref(), store)?)
}

/// Whether a container that is attached has ended.
pub fn has_ended(id: &ContainerId, store: &Store) -> bool {
    matches!(store.read(id), Ok(Some(record)) if !record.container().is_alive())
}

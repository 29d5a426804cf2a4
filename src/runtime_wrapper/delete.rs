//! `delete` of a container that this program has attached without hooks.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::hook;
use crate::oci::{ContainerId, ContainerState};
use crate::runtime_wrapper::below;
use crate::runtime_wrapper::bundle::AskingBundle;
use crate::state::Store;

/// Deletes the container and what is left of its attachment; of a container that has ended both at once.
/// The result is the runtime's exit status: what cannot be removed is in the system's log, and mcrun gc
/// tries again.
///
/// # Errors
/// When the runtime does not start.
pub(super) fn run(
    runtime: &Path,
    arguments: &[OsString],
    id: ContainerId,
    (path, bundle): (PathBuf, &AskingBundle),
) -> io::Result<ExitCode> {
    let store = Store::from_env();
    let annotations = bundle.config.annotations();
    let state = ContainerState { id, pid: None, bundle: Some(path), annotations };
    let has_ended = hook::has_ended(&state.id, &store);
    let mut child = below::spawn(runtime, arguments)?;
    let early = has_ended.then(|| hook::remove(&state, &store));
    let status = child.wait()?;
    let removed = match early {
        Some(removed) => removed,
        None if status.success() => hook::remove(&state, &store),
        None => Ok(()),
    };
    if let Err(error) = removed {
        hook::note("mcrun-runtime", &state, &error);
    }
    Ok(below::exit_code(status))
}

//! A failure of the hook, told to everybody who may be listening.

use crate::hook::HookError;
use crate::oci::ContainerState;
use crate::oci::caller;
use crate::oci::caller::CALLER_ANNOTATION;
use crate::state::{Refusal, Store, state_dir};
use crate::sys::syslog;

const PROGRAM: &str = "mcrun-hook";

/// Tells why a hook has failed: on standard error, which runc repeats, and as [`note`] does.
pub fn report(state_json: &[u8], error: &HookError) {
    eprintln!("{PROGRAM}: {error}");
    match ContainerState::parse(state_json) {
        Ok(state) => note(PROGRAM, &state, error),
        Err(_) => syslog::error(PROGRAM, error),
    }
}

/// Tells why a container is not attached: in syslog with the container's id; in the state directory, for
/// mcrun doctor; and to the process that waits for the start of the container, where crun throws the
/// hook's standard error away.
pub fn note(program: &str, state: &ContainerState, error: &HookError) {
    syslog::error(program, format_args!("container {}: {error}", state.id));
    // mcrun doctor shows it. Where it cannot be kept, as without a state directory, the log has it.
    let refusal = Refusal::now(state.id.as_str(), &error.to_string());
    let _ = Store::from_env().remember_refusal(&refusal);
    let state_dir = state_dir();
    let value = state.annotations.get(CALLER_ANNOTATION);
    // Who has made the container has ended when it is started again.
    let maker = value.and_then(|value| caller::find(&state_dir, value)).filter(|p| p.is_alive());
    let waiting = maker.or_else(|| caller::find_starting(&state_dir, state.id.as_str()));
    if let Some(process) = waiting {
        caller::tell(process, &format!("{program}: {error}"));
    }
}

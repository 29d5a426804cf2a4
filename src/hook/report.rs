//! A failure of the hook, told to everybody who may be listening.

use crate::hook::HookError;
use crate::oci::ContainerState;
use crate::oci::caller;
use crate::oci::caller::CALLER_ANNOTATION;
use crate::state::{Refusal, Store, state_dir};
use crate::sys::syslog;

const PROGRAM: &str = "mcrun-hook";

/// Tells why a hook has failed: on standard error, which runc repeats; in syslog with the
/// container's id; in the state directory, for mcrun doctor; and to the process that waits for the
/// start of the container, where crun throws the hook's standard error away.
pub fn report(state_json: &[u8], error: &HookError) {
    let line = format!("{PROGRAM}: {error}");
    eprintln!("{line}");
    let Ok(state) = ContainerState::parse(state_json) else {
        syslog::error(PROGRAM, error);
        return;
    };
    syslog::error(PROGRAM, format_args!("container {}: {error}", state.id));
    // mcrun doctor shows it. Where it cannot be kept, as without a state directory, the log has it.
    let refusal = Refusal::now(state.id.as_str(), &error.to_string());
    let _ = Store::from_env().remember_refusal(&refusal);
    let state_dir = state_dir();
    let value = state.annotations.get(CALLER_ANNOTATION);
    // Who has made the container has ended when it is started again.
    let maker = value.and_then(|value| caller::find(&state_dir, value)).filter(|p| p.is_alive());
    let waiting = maker.or_else(|| caller::find_starting(&state_dir, state.id.as_str()));
    if let Some(process) = waiting {
        caller::tell(process, &line);
    }
}

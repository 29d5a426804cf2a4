//! The real runtime as a child of this process, where something is to be done behind it.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitCode, ExitStatus};

use nix::sys::prctl;
use nix::sys::signal::Signal;

/// Starts the runtime, with this process's descriptors 0, 1 and 2.
///
/// # Errors
/// When the runtime does not start.
pub(super) fn spawn(runtime: &Path, arguments: &[OsString]) -> io::Result<Child> {
    let mut command = Command::new(runtime);
    command.args(arguments);
    // Whoever kills this process means the runtime.
    // SAFETY: prctl(2) is a system call and allocates nothing.
    unsafe { command.pre_exec(|| Ok(prctl::set_pdeathsig(Signal::SIGKILL)?)) };
    command.spawn()
}

/// The runtime's exit status as this process's own; 128 and the signal's number for a runtime that was
/// killed.
pub(super) fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| Some(128 + status.signal()?));
    code.and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from)
}

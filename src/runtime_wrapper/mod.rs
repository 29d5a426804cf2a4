//! `mcrun-runtime`: the OCI runtime that Docker, containerd and CRI-O call. They can be told of a
//! runtime, but not of hooks.
//!
//! Command line -> bundle -> does it ask for attachments? -> hooks into config.json -> the real
//! runtime in place of this process, or below it where what hooks say would be lost. Before `start`,
//! interfaces that came after `create` are looked at. Other commands than these, `run` and `restore` are passed on unread.

mod bundle;
mod command_line;
mod docker;
mod hook_output;
mod real_runtime;
mod report;

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use crate::attachment::AdminError;
use crate::hook;
use crate::hook::HookError;
use crate::json_edit::EditError;
use crate::oci::ConfigError;
use crate::runtime_wrapper::command_line::RuntimeCommandLine;
use crate::runtime_wrapper::hook_output::HookOutput;

pub use crate::runtime_wrapper::docker::{FACTS_FILE, facts_file};

/// Why the real runtime was not run.
#[derive(Debug, thiserror::Error)]
enum WrapperError {
    /// The bundle.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The attachments that the container asks for.
    #[error(transparent)]
    Request(#[from] HookError),
    /// config.json cannot take hooks.
    #[error("{path}: {source}")]
    Edit { path: PathBuf, source: EditError },
    /// config.json could not be replaced.
    #[error("cannot write {path}: {source}")]
    Write { path: PathBuf, source: io::Error },
    /// The hook is missing.
    #[error(transparent)]
    Hook(io::Error),
    /// mcrun.toml.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// No runtime, or not the one that was named.
    #[error("{0}")]
    Runtime(String),
    /// The real runtime does not start.
    #[error("cannot run {path}: {source}")]
    Exec { path: PathBuf, source: io::Error },
}

/// Runs the program. `config_dir` is the directory of mcrun.toml. It does not return when the real
/// runtime has replaced this process.
pub fn main(config_dir: &Path) -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let line = RuntimeCommandLine::parse(&arguments);
    exec_runtime(&line, &arguments, config_dir).unwrap_or_else(|error| {
        report::failure(&line, &format!("mcrun-runtime: {error}"));
        ExitCode::FAILURE
    })
}

fn exec_runtime(
    line: &RuntimeCommandLine,
    arguments: &[OsString],
    config_dir: &Path,
) -> Result<ExitCode, WrapperError> {
    let runtime = real_runtime::find(config_dir)?;
    if let Some(bundle) = line.bundle() {
        let output = HookOutput::of(line, &bundle, &runtime);
        let in_use = bundle::prepare(&bundle, config_dir, output.as_ref())?;
        if let Some(HookOutput::File(output)) = output.filter(|_| in_use) {
            return hook_output::run(&runtime, arguments, line, &output)
                .map_err(|source| WrapperError::Exec { path: runtime, source });
        }
    }
    if let Some(id) = line.started().and_then(OsStr::to_str) {
        hook::before_start(id)?;
    }
    let source = Command::new(&runtime).args(arguments).exec();
    Err(WrapperError::Exec { path: runtime, source })
}

//! `mcrun-runtime`: the OCI runtime that Docker, containerd and CRI-O call. They can be told of a
//! runtime, but not of hooks.
//!
//! Command line -> bundle -> does it ask for attachments? -> `create`: the real runtime below this
//! process, which attaches the container. Where engines do not say how they will find the container's
//! process, and for `run` and `restore`: hooks into config.json -> the real runtime in place of this
//! process, or below it where what hooks say would be lost. Before `start`, interfaces that came after
//! `create` are looked at; `delete` removes what is left. Other commands than these are passed on unread.

mod below;
mod bundle;
mod command_line;
mod containers;
mod create;
mod delete;
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
use crate::oci::{ConfigError, ContainerId};
use crate::runtime_wrapper::bundle::AskingBundle;
use crate::runtime_wrapper::command_line::RuntimeCommandLine;
use crate::runtime_wrapper::containers::Containers;
use crate::runtime_wrapper::create::Creation;
use crate::runtime_wrapper::hook_output::HookOutput;
use crate::state::Store;

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
    let exec = |source| WrapperError::Exec { path: runtime.clone(), source };
    let containers = Containers::of(line, &runtime);
    if let Some(path) = line.bundle()
        && let Some(bundle) = AskingBundle::read(&path, config_dir)?
    {
        let direct = containers
            .as_ref()
            .and_then(|containers| Creation::of(&runtime, line, arguments, &bundle, containers));
        if let Some(creation) = direct {
            if let Some(code) = creation.run()? {
                return Ok(code);
            }
        } else {
            let output = HookOutput::of(line, &path, &runtime);
            let in_use = bundle.add_hooks(output.as_ref())?;
            if let Some(HookOutput::File(output)) = output.filter(|_| in_use) {
                return hook_output::run(&runtime, arguments, line, &output).map_err(exec);
            }
        }
    }
    if let Some(id) = line.started().and_then(OsStr::to_str) {
        if let Some((id, _, bundle)) = attached_here(id, containers.as_ref(), config_dir)? {
            hook::refuse_unattached(&id, &bundle.config, bundle.caller, &Store::from_env())?;
        }
        hook::before_start(id)?;
    }
    if let Some(id) = line.deleted().and_then(OsStr::to_str)
        && let Ok(Some((id, path, bundle))) = attached_here(id, containers.as_ref(), config_dir)
    {
        return delete::run(&runtime, arguments, id, (path, &bundle)).map_err(exec);
    }
    let source = Command::new(&runtime).args(arguments).exec();
    Err(exec(source))
}

/// A container that was created and asks for attachments, and has no hooks for that: its id and its
/// bundle.
///
/// # Errors
/// When its config.json cannot be read any more.
fn attached_here(
    id: &str,
    containers: Option<&Containers>,
    config_dir: &Path,
) -> Result<Option<(ContainerId, PathBuf, AskingBundle)>, ConfigError> {
    // An id that cannot be one is for the runtime to refuse.
    let Ok(id) = ContainerId::try_from(id.to_owned()) else { return Ok(None) };
    let Some(path) = containers.and_then(|containers| containers.bundle(&id)) else {
        return Ok(None);
    };
    let bundle = AskingBundle::read(&path, config_dir)?.filter(|bundle| !bundle.has_hook());
    Ok(bundle.map(|bundle| (id, path, bundle)))
}

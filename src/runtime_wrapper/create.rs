//! `create` without hooks: this process attaches the container itself.
//!
//! The runtime spends some ten milliseconds on the container before it is there, and some more on each
//! hook. So the LAN is asked for the addresses and the proxy is started while the runtime works, and the
//! container is attached as soon as the runtime has ended. The container's command waits for `start`, as
//! behind a hook.
//!
//! Whoever kills this process in between leaves a container that was created and not attached. `start`
//! sees that by the bundle, and refuses. `delete` removes what is left.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use crate::hook;
use crate::hook::{HookError, Prepared};
use crate::oci::{ContainerId, ContainerState};
use crate::runtime_wrapper::WrapperError;
use crate::runtime_wrapper::below;
use crate::runtime_wrapper::bundle::AskingBundle;
use crate::runtime_wrapper::command_line::RuntimeCommandLine;
use crate::runtime_wrapper::containers::Containers;
use crate::runtime_wrapper::report::LogEnd;
use crate::state::Store;

/// A container that is to be created and attached.
pub(super) struct Creation<'a> {
    runtime: &'a Path,
    line: &'a RuntimeCommandLine,
    arguments: &'a [OsString],
    bundle: &'a AskingBundle,
    containers: &'a Containers,
    id: ContainerId,
    pid_file: &'a Path,
}

impl<'a> Creation<'a> {
    /// `None` where hooks are to attach the container: without a file for the container's process id, and
    /// where a hook is in config.json already.
    pub(super) fn of(
        runtime: &'a Path,
        line: &'a RuntimeCommandLine,
        arguments: &'a [OsString],
        bundle: &'a AskingBundle,
        containers: &'a Containers,
    ) -> Option<Self> {
        let id = line.created().and_then(OsStr::to_str)?;
        let id = ContainerId::try_from(id.to_owned()).ok()?;
        let pid_file = line.pid_file.as_deref()?;
        let is_direct = !bundle.has_hook();
        is_direct.then_some(Creation { runtime, line, arguments, bundle, containers, id, pid_file })
    }

    /// Creates the container and attaches it; `None`: the container asks for nothing after all. The
    /// result is the runtime's exit status.
    ///
    /// # Errors
    /// Why nothing was created, or is there any more.
    pub(super) fn run(self) -> Result<Option<ExitCode>, WrapperError> {
        let store = Store::from_env();
        let AskingBundle { config, caller, .. } = self.bundle;
        let prepared = hook::prepare(config, *caller, &store);
        let Some(prepared) = prepared.inspect_err(|error| self.note(error))? else {
            return Ok(None);
        };
        let log = LogEnd::of(self.line);
        let exec = |source| WrapperError::Exec { path: self.runtime.to_owned(), source };
        let status = below::spawn(self.runtime, self.arguments)
            .and_then(|mut child| child.wait())
            .map_err(exec)?;
        if status.success()
            && let Err(error) = self.attach(prepared, &store)
        {
            self.note(&error);
            self.delete();
            log.failure(self.line, &format!("mcrun-runtime: {error}"));
            return Ok(Some(ExitCode::FAILURE));
        }
        Ok(Some(below::exit_code(status)))
    }

    fn attach(&self, prepared: Prepared, store: &Store) -> Result<(), HookError> {
        let pid = fs::read_to_string(self.pid_file).ok().and_then(|text| text.trim().parse().ok());
        let state = ContainerState { pid, ..self.state() };
        hook::attach_created(&state, &self.bundle.config, prepared, store)
    }

    /// The container as a hook would be told of it.
    fn state(&self) -> ContainerState {
        let bundle = self.containers.bundle(&self.id).or_else(|| self.bundle.absolute_path());
        let annotations = self.bundle.config.annotations();
        ContainerState { id: self.id.clone(), pid: None, bundle, annotations }
    }

    fn note(&self, error: &HookError) {
        hook::note("mcrun-runtime", &self.state(), error);
    }

    /// What the runtime says of that would hide why.
    fn delete(&self) {
        let mut delete = Command::new(self.runtime);
        delete.args(self.line.options(self.arguments)).args(["delete", "--force"]);
        delete.arg(self.id.as_str()).stdin(Stdio::null());
        let deleted: io::Result<_> = delete.stdout(Stdio::null()).stderr(Stdio::null()).status();
        if deleted.is_ok_and(|status| status.success()) {
            let _ = fs::remove_file(self.pid_file);
        }
    }
}

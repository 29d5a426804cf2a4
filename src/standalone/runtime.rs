//! OCI runtimes: where they are, and their command line.
//!
//! runc's command line is the contract the others keep; the few differences are in [`RuntimeKind`].

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::standalone::StandaloneError;

/// Which runtime a program is, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuntimeKind {
    /// runc, and whatever is not one of the others.
    Runc,
    /// crun.
    Crun,
    /// youki.
    Youki,
}

/// The runtimes that are looked for when none is named, in this order.
const KNOWN: [&str; 3] = ["runc", "crun", "youki"];

/// Engines with images, which `--rootfs` and `--bundle` do not go through.
const NOT_RUNTIMES: [&str; 8] =
    ["docker", "podman", "nerdctl", "ctr", "containerd", "lxc", "incus", "nspawn"];

/// An OCI runtime.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Runtime {
    path: PathBuf,
}

impl Runtime {
    /// Finds a runtime: `engine` is a path when it has a `/`, else a name looked for in `PATH`;
    /// without one `MCRUN_ENGINE` counts, else the first of runc, crun and youki that is there.
    ///
    /// # Errors
    /// When there is none.
    pub fn find(engine: Option<&str>) -> Result<Self, StandaloneError> {
        let search =
            std::env::var_os("PATH").unwrap_or_else(|| crate::oci::spec::DEFAULT_PATH.into());
        let variable = std::env::var("MCRUN_ENGINE").ok().filter(|value| !value.is_empty());
        let named = match (engine, &variable) {
            (Some(name), _) => Some(("--engine ", name)),
            (None, Some(name)) => Some(("MCRUN_ENGINE=", name.as_str())),
            (None, None) => None,
        };
        Self::find_in(named, &search).map_err(StandaloneError::new)
    }

    fn find_in(engine: Option<(&str, &str)>, search: &OsStr) -> Result<Self, String> {
        let named = |name: &str| {
            let mut candidates = std::env::split_paths(search).map(|dir| dir.join(name));
            candidates.find(|path| path.is_absolute() && is_program(path))
        };
        let path = match engine {
            None => KNOWN.iter().find_map(|name| named(name)).ok_or_else(|| {
                format!("no OCI runtime found in PATH; install one of {}", KNOWN.join(", "))
            })?,
            Some((origin, path)) if path.contains('/') => {
                let path = std::path::absolute(path).map_err(|e| format!("{origin}{path}: {e}"))?;
                if !is_program(&path) {
                    return Err(format!("{origin}{}: no such program", path.display()));
                }
                path
            }
            Some((origin, name)) if NOT_RUNTIMES.contains(&name) => {
                return Err(format!(
                    "{origin}{name}: --rootfs and --bundle need an OCI runtime, one of {}",
                    KNOWN.join(", ")
                ));
            }
            Some((origin, name)) => {
                named(name).ok_or_else(|| format!("{origin}{name}: no such program in PATH"))?
            }
        };
        Ok(Runtime { path })
    }

    /// The program, by absolute path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its name, for people.
    pub fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Which one it is.
    pub fn kind(&self) -> RuntimeKind {
        match self.name() {
            name if name.starts_with("crun") => RuntimeKind::Crun,
            name if name.starts_with("youki") => RuntimeKind::Youki,
            _ => RuntimeKind::Runc,
        }
    }

    /// `create`: everything but running the command. Its stdio becomes the command's unless
    /// there is a console.
    pub(super) fn create(&self, files: &Files<'_>, id: &str) -> Command {
        let mut command = self.command(files.log);
        command.arg("create").arg("--bundle").arg(files.bundle);
        command.arg("--pid-file").arg(files.pid);
        if let Some(console) = files.console {
            command.arg("--console-socket").arg(console);
        }
        command.arg(id);
        command
    }

    /// `start`: runs the command of a created container.
    pub(super) fn start(&self, log: &Path, id: &str) -> Command {
        let mut command = self.command(log);
        command.args(["start", id]);
        command
    }

    /// `exec`, detached: returns when the process of `process` (its file) runs.
    pub(super) fn exec(&self, files: &Files<'_>, process: &Path, id: &str) -> Command {
        let mut command = self.command(files.log);
        command.args(["exec", "--detach", "--process"]).arg(process);
        command.arg("--pid-file").arg(files.pid);
        if let Some(console) = files.console {
            command.arg("--console-socket").arg(console);
        }
        command.arg(id);
        command
    }

    /// `delete --force`: kills what still runs, runs the poststop hooks, and forgets the
    /// container; of an unknown one it removes the remains.
    pub(super) fn delete(&self, log: &Path, id: &str) -> Command {
        let mut command = self.command(log);
        command.args(["delete", "--force", id]);
        command
    }

    /// `state`: the container's state JSON on stdout.
    pub(super) fn state(&self, log: &Path, id: &str) -> Command {
        let mut command = self.command(log);
        command.args(["state", id]);
        command
    }

    fn command(&self, log: &Path) -> Command {
        let mut command = Command::new(&self.path);
        command.arg("--log").arg(log).args(["--log-format", "json"]);
        // Runtimes hand inherited sockets and the service manager's notification on to the
        // container, which was not asked for.
        for name in ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "NOTIFY_SOCKET"] {
            command.env_remove(name);
        }
        command.stdin(Stdio::null()).current_dir("/");
        crate::standalone::spawn::reset_signals(&mut command);
        command
    }
}

/// Paths a runtime is given.
#[derive(Debug, Clone, Copy)]
pub(super) struct Files<'a> {
    /// The bundle's directory.
    pub(super) bundle: &'a Path,
    /// Where it logs, as JSON.
    pub(super) log: &'a Path,
    /// Where it writes the pid.
    pub(super) pid: &'a Path,
    /// The socket that gets the master of the terminal.
    pub(super) console: Option<&'a Path>,
}

fn is_program(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(dir: &Path, name: &str) {
        std::fs::write(dir.join(name), "").unwrap();
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(dir.join(name), mode).unwrap();
    }

    #[test]
    fn the_named_or_the_first_known_runtime_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let search = dir.path().as_os_str();
        let error = Runtime::find_in(None, search).unwrap_err();
        assert_eq!(error, "no OCI runtime found in PATH; install one of runc, crun, youki");
        std::fs::write(dir.path().join("runc"), "not executable").unwrap();
        program(dir.path(), "crun");
        assert_eq!(Runtime::find_in(None, search).unwrap().kind(), RuntimeKind::Crun);
        program(dir.path(), "runc");
        assert_eq!(Runtime::find_in(None, search).unwrap().name(), "runc");
        assert_eq!(Runtime::find_in(Some(("--engine ", "crun")), search).unwrap().name(), "crun");
        let path = dir.path().join("crun");
        assert_eq!(
            Runtime::find_in(Some(("", path.to_str().unwrap())), OsStr::new("")).unwrap().path(),
            path
        );
    }

    #[test]
    fn what_is_no_runtime_is_refused_by_name() {
        let search = OsStr::new("/nonexistent");
        let error = Runtime::find_in(Some(("MCRUN_ENGINE=", "docker")), search).unwrap_err();
        assert!(error.starts_with("MCRUN_ENGINE=docker: --rootfs and --bundle need"), "{error}");
        let error = Runtime::find_in(Some(("--engine ", "rnuc")), search).unwrap_err();
        assert_eq!(error, "--engine rnuc: no such program in PATH");
        let error = Runtime::find_in(Some(("--engine ", "/nonexistent/runc")), search).unwrap_err();
        assert_eq!(error, "--engine /nonexistent/runc: no such program");
    }
}

//! What hooks say over crun.
//!
//! crun gives hooks /dev/null as their standard error, unless an annotation names a file. Its own
//! error has only the exit status of the hook. So mcrun-runtime names a file in the bundle, waits for
//! `crun create`, and reports the hook's last line in place of crun's error. `crun run` takes this
//! process's place, since it lasts as long as its container: the hook itself tells it.

use std::ffi::OsString;
use std::fs;
use std::fs::{File, OpenOptions};
use std::io;
use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use nix::sys::prctl;
use nix::sys::signal::Signal;

use crate::runtime_wrapper::command_line::RuntimeCommandLine;
use crate::runtime_wrapper::report;

/// The annotation of config.json that names the file (crun(1)).
pub(super) const ANNOTATION: &str = "run.oci.hooks.stderr";
/// The file in the bundle.
const FILE: &str = "mcrun-hook.stderr";
/// Most bytes of it that are read.
const MAX: u64 = 64 << 10;

/// Where what hooks say goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum HookOutput {
    /// To this file, which crun gives to hooks as their standard error.
    File(PathBuf),
    /// To the standard error of the process that crun will be.
    Caller,
}

impl HookOutput {
    /// That of a container that is about to be made by crun; `None` for another runtime, whose errors
    /// have the hook's words. A runtime is crun if its program is called so.
    pub(super) fn of(line: &RuntimeCommandLine, bundle: &Path, runtime: &Path) -> Option<Self> {
        let is_crun = |path: &Path| path.file_name().is_some_and(|name| name == "crun");
        let crun = is_crun(runtime) || fs::canonicalize(runtime).is_ok_and(|path| is_crun(&path));
        match (crun, line.creates(), line.runs()) {
            // crun itself opens the file, whatever directory it is in by then.
            (true, true, _) => std::path::absolute(bundle.join(FILE)).ok().map(HookOutput::File),
            (true, _, true) => Some(HookOutput::Caller),
            _ => None,
        }
    }
}

/// Runs the runtime and waits for it. Its exit status is the result.
///
/// # Errors
/// When the runtime does not start.
pub(super) fn run(
    runtime: &Path,
    arguments: &[OsString],
    line: &RuntimeCommandLine,
    output: &Path,
) -> io::Result<ExitCode> {
    let length = |log: &PathBuf| fs::metadata(log).map_or(0, |log| log.len());
    let logged = line.log.as_ref().map(length);
    let mut command = Command::new(runtime);
    command.args(arguments);
    // Whoever kills this process means the runtime.
    // SAFETY: prctl(2) is a system call and allocates nothing.
    unsafe { command.pre_exec(|| Ok(prctl::set_pdeathsig(Signal::SIGKILL)?)) };
    let status = command.status()?;
    let said = read(output);
    let _ = fs::remove_file(output);
    if let (false, Some(said)) = (status.success(), said.as_deref().and_then(last_line)) {
        // One entry in place of crun's: engines show the last one, and podman reads no two.
        if let (Some(log), Some(length)) = (&line.log, logged) {
            let _ = OpenOptions::new().write(true).open(log).and_then(|log| log.set_len(length));
        }
        report::failure(line, said);
    }
    let code = status.code().or_else(|| Some(128 + status.signal()?));
    Ok(code.and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}

fn read(path: &Path) -> Option<String> {
    let mut text = Vec::new();
    File::open(path).ok()?.take(MAX).read_to_end(&mut text).ok()?;
    Some(String::from_utf8_lossy(&text).into_owned())
}

fn last_line(text: &str) -> Option<&str> {
    text.lines().rev().map(str::trim).find(|line| !line.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_somewhere_over_crun_alone() {
        let of = |words: &[&str], runtime: &str| {
            let line = words.iter().map(OsString::from).collect::<Vec<_>>();
            HookOutput::of(&RuntimeCommandLine::parse(&line), "/b".as_ref(), runtime.as_ref())
        };
        let file = HookOutput::File(Path::new("/b").join(FILE));
        assert_eq!(of(&["create", "c1"], "/opt/crun"), Some(file));
        assert_eq!(of(&["create", "c1"], "/opt/runc"), None);
        assert_eq!(of(&["run", "c1"], "/opt/crun"), Some(HookOutput::Caller));
        assert_eq!(of(&["run", "c1"], "/opt/runc"), None);
        assert_eq!(of(&["restore", "c1"], "/opt/crun"), None);
    }

    #[test]
    fn the_last_line_is_the_cause() {
        assert_eq!(
            last_line("a warning\nmcrun-hook: parent=nope\n\n"),
            Some("mcrun-hook: parent=nope")
        );
        assert_eq!(last_line(" \n"), None);
    }
}

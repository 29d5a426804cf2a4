//! What hooks say over crun.
//!
//! crun gives hooks /dev/null as their standard error, unless an annotation names a file. Its own
//! error has only the exit status of the hook. So mcrun-runtime names a file in the bundle, waits for
//! `crun create`, and reports the hook's last line in place of crun's error. `crun run` takes this
//! process's place, since it lasts as long as its container: the hook itself tells it.

use std::ffi::OsString;
use std::fs;
use std::fs::File;
use std::io;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::runtime_wrapper::below;
use crate::runtime_wrapper::command_line::RuntimeCommandLine;
use crate::runtime_wrapper::report::LogEnd;

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
    let log = LogEnd::of(line);
    let status = below::spawn(runtime, arguments)?.wait()?;
    let said = read(output);
    let _ = fs::remove_file(output);
    if let (false, Some(said)) = (status.success(), said.as_deref().and_then(last_line)) {
        // In place of crun's own words.
        log.failure(line, said);
    }
    Ok(below::exit_code(status))
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

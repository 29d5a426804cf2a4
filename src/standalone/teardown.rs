//! Removing everything of a container. It goes on after an error and reports them all.

use std::fs::File;
use std::io;
use std::io::{Seek, Write};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, poll};
use serde_json::json;

use crate::standalone::cgroup;
use crate::standalone::container::{Container, ContainerRecord};
use crate::standalone::process::{Reaper, children, kill_children};
use crate::standalone::runtime::Runtime;
use crate::standalone::spawn::{failure_text, output_file, reset_signals, run_captured};
use crate::sys::process::poll_timeout;

/// Longest time one step may take: a killed process to end, the runtime or a hook to return.
pub(super) const STEP: Duration = Duration::from_secs(30);

/// Kills the container, lets the runtime forget it (which runs the poststop hooks), and removes
/// its cgroups and its directory. Returns what went wrong.
pub(super) fn teardown(
    container: &Container,
    record: &ContainerRecord,
    reaper: &mut Reaper,
) -> Vec<String> {
    let mut failures = Vec::new();
    // The state directory may be lost. Runtimes refuse `delete` without a directory for the log.
    if let Err(error) = container.make_dir() {
        failures.push(format!("cannot make {}: {error}", container.dir().display()));
    }
    let log = container.log();
    let log = log.as_path();
    // The log may have the error of a failed start, which must not be taken for one of `delete`.
    let _ = std::fs::remove_file(log);
    let init = record.init.and_then(|init| init.open().ok());
    if let Some(init) = init {
        if let Err(error) = init.signal(libc::SIGKILL) {
            failures.push(format!("cannot kill the container's init: {error}"));
        } else if !init.wait(STEP) {
            failures.push("the container's init does not end".to_owned());
        }
        reaper.reap();
    }
    // Before `create` has succeeded, the runtime may know another container by this id.
    let known = match record.init {
        Some(_) => true,
        None => match registered_bundle(&record.runtime, container.id(), log, reaper) {
            Some(bundle) => bundle == container.dir(),
            None => true,
        },
    };
    let mut poststop_ran = false;
    if known {
        let mut delete = record.runtime.delete(log, container.id());
        match run_captured(reaper, &mut delete, STEP) {
            Ok((0, _, _)) => poststop_ran = record.init.is_some(),
            Ok((_, _, stderr)) if is_gone(&failure_text(log, &stderr)) => {}
            Ok((_, _, stderr)) => {
                let why = failure_text(log, &stderr);
                failures.push(format!("{} delete: {why}", record.runtime.name()));
            }
            Err(error) => failures.push(format!("{}: {error}", record.runtime.path().display())),
        }
    }
    if let (Some(hook), false) = (&record.hook, poststop_ran)
        && let Err(why) = run_poststop(hook, container, reaper)
    {
        failures.push(format!("poststop hook: {why}"));
    }
    if let Some(path) = &record.cgroup {
        failures.extend(cgroup::remove(path));
    }
    if let Err(error) = container.remove_dir() {
        failures.push(format!("cannot remove {}: {error}", container.dir().display()));
    }
    failures
}

/// Kills what a killed runtime left running below this process, which must be the subreaper.
pub(super) fn kill_orphans(reaper: &mut Reaper) {
    let deadline = Instant::now() + STEP;
    loop {
        reaper.reap();
        let left = deadline.saturating_duration_since(Instant::now());
        let orphans = children();
        if orphans.is_empty() || left.is_zero() {
            return;
        }
        kill_children(&orphans);
        let mut fds = [PollFd::new(reaper.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut fds, poll_timeout(left));
    }
}

/// The bundle of the container that the runtime knows by this id; `None` when it knows none.
fn registered_bundle(
    runtime: &Runtime,
    id: &str,
    log: &Path,
    reaper: &mut Reaper,
) -> Option<std::path::PathBuf> {
    let (status, stdout, _) = run_captured(reaper, &mut runtime.state(log, id), STEP).ok()?;
    let _ = std::fs::remove_file(log);
    if status != 0 {
        return None;
    }
    let state: serde_json::Value = serde_json::from_str(&stdout).ok()?;
    Some(state.get("bundle")?.as_str()?.into())
}

fn is_gone(text: &str) -> bool {
    text.contains("does not exist")
}

/// Runtimes run no poststop hook for a container whose creation failed, where the hook may have
/// made something already.
fn run_poststop(hook: &Path, container: &Container, reaper: &mut Reaper) -> io::Result<()> {
    let state = json!({
        "ociVersion": "1.0.2",
        "id": container.id(),
        "status": "stopped",
        "pid": 0,
        "bundle": container.dir(),
        "annotations": {},
    });
    let mut stdin: File = output_file()?;
    stdin.write_all(state.to_string().as_bytes())?;
    stdin.rewind()?;
    let mut command = Command::new(hook);
    command.arg("poststop").stdin(stdin).current_dir("/").env_clear();
    let environment = crate::hook::environment(crate::hook::Caller::WithAnnotations);
    command.envs(environment.iter().filter_map(|entry| entry.split_once('=')));
    reset_signals(&mut command);
    match run_captured(reaper, &mut command, STEP)? {
        (0, _, _) => Ok(()),
        (status, _, stderr) => Err(io::Error::other(format!("status {status}: {}", stderr.trim()))),
    }
}

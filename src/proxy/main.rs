//! The start of a proxy: everything is opened as root, then the privileges go.

use std::fs::File;
use std::io;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::process::ExitCode;
use std::time::Instant;

use nix::sys::signal::{SigHandler, Signal, signal};
use serde::de::DeserializeOwned;

use crate::notice::Notice;
use crate::proxy::config::{CreatedInterface, INSTALLED, ProxyTask, READY, REFUSED};
use crate::proxy::event_loop::Driver;
use crate::proxy::process::sandbox;
use crate::proxy::setup::Opened;
use crate::sys::inherited_fds::close_inherited;

/// Longest line of the task.
const MAX_LINE: u64 = 1 << 20;
/// Bytes of the task that are read at once: a usual one.
const TASK_BUFFER: usize = 1024;
/// Interfaces of one container.
const MAX_INTERFACES: usize = 64;

/// Why a proxy does not start.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}")]
pub(super) struct StartError {
    what: String,
    source: io::Error,
}

pub(super) trait Context<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T, StartError>;
}

impl<T, E: Into<io::Error>> Context<T> for Result<T, E> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T, StartError> {
        self.map_err(|e| StartError { what: what(), source: e.into() })
    }
}

pub(super) fn refuse<T>(what: impl Into<String>, why: &str) -> Result<T, StartError> {
    Err(StartError { what: what.into(), source: io::Error::other(why.to_owned()) })
}

/// All of `mcrun-proxy`: reads its task, serves, and ends with the container.
///
/// What it hears and says on its standard streams is told at [`ProxyTask`]; it closes both.
pub fn main() -> ExitCode {
    // SAFETY: nothing of this process is open yet except the standard streams.
    unsafe { close_inherited(&[]) };
    // Descriptors of their own, so that a later message of any library can't end up in a socket
    // that happens to be number 1.
    let own = |stream: BorrowedFd<'_>| stream.try_clone_to_owned().map(File::from);
    let (Ok(task), Ok(mut answer)) = (own(io::stdin().as_fd()), own(io::stdout().as_fd())) else {
        return ExitCode::FAILURE;
    };
    match start(task, &mut answer) {
        Ok(driver) => {
            if tell(&mut answer, READY).is_err() {
                // Nobody waits for it any more: the hook was killed.
                return ExitCode::FAILURE;
            }
            drop(answer);
            driver.run();
            ExitCode::SUCCESS
        }
        Err(error) => {
            // Whoever does not read it sees the status.
            let _ = tell(&mut answer, &format!("{REFUSED}{error}"));
            ExitCode::FAILURE
        }
    }
}

fn start(task: File, answer: &mut File) -> Result<Driver, StartError> {
    // SIGTERM ends the proxy at once, whatever its parent ignored; what is left to clean then
    // is up to who sent it.
    // SAFETY: no handler is installed or replaced.
    unsafe { signal(Signal::SIGTERM, SigHandler::SigDfl) }
        .context(|| "cannot reset SIGTERM".into())?;
    leave_parent().context(|| "cannot change to the root directory".into())?;
    silence_standard_streams().context(|| "cannot open /dev/null".into())?;
    reset_oom_score();
    take_short_turns();

    let mut task = BufReader::with_capacity(TASK_BUFFER, task);
    let config: ProxyTask = next(&mut task)?;
    if config.interfaces.is_empty() || config.interfaces.len() > MAX_INTERFACES {
        let count = config.interfaces.len();
        return refuse(format!("{count} interfaces"), "a proxy serves 1 to 64");
    }
    let now = Instant::now();
    let mut opened = Opened::open(config, now)?;
    let made: Vec<CreatedInterface> = next(&mut task)?;
    drop(task);
    opened.install(&made)?;
    // The links may come up: what they bring waits in sockets.
    tell(answer, INSTALLED).context(|| "cannot answer the hook".into())?;
    let parts = opened.complete(now)?;
    let mut driver = Driver::new(parts, now).context(|| "cannot set up the event loop".into())?;
    let landlocked = sandbox::enter(driver.home()).map_err(|e| StartError {
        what: "cannot give up privileges".into(),
        source: io::Error::other(e),
    })?;
    if !landlocked {
        driver.log(now, Notice::NoLandlock {});
    }
    driver.join_existing_memberships(now);
    Ok(driver)
}

/// Reads the next line of the task.
fn next<T: DeserializeOwned>(task: &mut BufReader<File>) -> Result<T, StartError> {
    let mut line = Vec::new();
    let read = task.by_ref().take(MAX_LINE).read_until(b'\n', &mut line);
    read.context(|| "cannot read the task on standard input".into())?;
    serde_json::from_slice(&line).context(|| "the task on standard input is not valid".into())
}

/// With one call, so that the hook is woken once.
fn tell(answer: &mut File, line: &str) -> io::Result<()> {
    answer.write_all(format!("{line}\n").as_bytes())
}

/// Survives the caller's session and keeps no directory of its busy.
fn leave_parent() -> io::Result<()> {
    // The leader of a process group, as a shell makes one, has left already.
    let _ = nix::unistd::setsid();
    std::env::set_current_dir("/")
}

/// Nothing may hold the hook's pipes, and nothing may be printed into a socket.
fn silence_standard_streams() -> io::Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    nix::unistd::dup2_stdout(&null)?;
    nix::unistd::dup2_stderr(&null)?;
    Ok(())
}

/// A runtime protects itself from the OOM killer, and its children inherit that. A value above
/// zero stays: lowering it takes CAP_SYS_RESOURCE.
fn reset_oom_score() {
    const FILE: &str = "/proc/self/oom_score_adj";
    if let Ok(value) = std::fs::read_to_string(FILE)
        && value.starts_with('-')
    {
        // Without it the proxy works as well.
        let _ = std::fs::write(FILE, "0");
    }
}

/// Asks the scheduler for turns of a tenth of a millisecond, which is about what a join takes: on a
/// processor that the container is at work on they then come at once, and no more of them than before
/// (`sched_runtime` of a process without priority, Linux 6.12).
fn take_short_turns() {
    const TURN_NS: u64 = 100_000;
    // SAFETY: an all-zero sched_attr is a valid one.
    let mut attributes: libc::sched_attr = unsafe { std::mem::zeroed() };
    attributes.size = size_of::<libc::sched_attr>() as u32;
    attributes.sched_flags = libc::SCHED_FLAG_KEEP_POLICY as u64;
    // SAFETY: it takes numbers.
    attributes.sched_nice = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
    attributes.sched_runtime = TURN_NS;
    // SAFETY: the kernel reads as many bytes as `size` says. Where it refuses, all is as before.
    unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
}

//! Starting a proxy: what the hook does.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::config::ProxyConfig;
use crate::state::{ProcessRef, state_dir};

/// A proxy that takes longer to say it is ready is ended.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest answer of a proxy.
const MAX_ANSWER: usize = 4096;
/// The program, beside the one that runs.
const PROGRAM: &str = "mcrun-proxy";

/// A proxy that is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpawnedProxy {
    /// Its process id.
    pub pid: i32,
    /// Its start time in clock ticks since boot.
    pub start: u64,
}

/// Why there is no proxy.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// The program could not be started.
    #[error("cannot start {}: {source}", program.display())]
    Start {
        /// What was to be started.
        program: PathBuf,
        /// Why it was not.
        source: io::Error,
    },
    /// Its pipes broke.
    #[error("cannot talk to the new proxy: {0}")]
    Pipe(#[from] io::Error),
    /// It said why it cannot run.
    #[error("the proxy did not start: {0}")]
    Refused(String),
    /// It ended without a word.
    #[error("the proxy ended at its start without saying why")]
    Died,
    /// It said nothing.
    #[error("the proxy was not ready within {} s", PATIENCE.as_secs())]
    Timeout,
}

/// Starts the proxy of a container and waits until it is ready. It is `mcrun-proxy` beside the
/// running program, in a session of its own, with nothing of the caller's environment but
/// `MCRUN_STATE_DIR`, and holds none of the caller's descriptors.
///
/// # Errors
/// See [`SpawnError`]; no process is left then.
pub fn spawn(config: &ProxyConfig) -> Result<SpawnedProxy, SpawnError> {
    let program = std::env::current_exe()
        .map_err(|source| SpawnError::Start { program: PROGRAM.into(), source })?
        .with_file_name(PROGRAM);
    let mut command = Command::new(&program);
    command
        .env_clear()
        // Absolute, since the proxy keeps no directory busy.
        .env("MCRUN_STATE_DIR", std::path::absolute(state_dir())?)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    // SAFETY: setsid(2) is async-signal-safe, and the closure does nothing else.
    unsafe { command.pre_exec(|| Ok(nix::unistd::setsid().map(drop)?)) };
    let mut child = command.spawn().map_err(|source| SpawnError::Start { program, source })?;
    match await_ready(&mut child, config) {
        Ok(start) => Ok(SpawnedProxy { pid: child.id().cast_signed(), start }),
        Err(error) => {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
            Err(error)
        }
    }
}

fn await_ready(child: &mut Child, config: &ProxyConfig) -> Result<u64, SpawnError> {
    let deadline = Instant::now() + PATIENCE;
    let closed = || io::Error::from(io::ErrorKind::BrokenPipe);
    let text = serde_json::to_vec(config).map_err(io::Error::from)?;
    // A proxy reads all of it before anything else; if it ends first, its answer says why.
    let sent = child.stdin.take().ok_or_else(closed)?.write_all(&text);
    let mut stdout = child.stdout.take().ok_or_else(closed)?;
    let mut answer = Vec::new();
    while answer.len() < MAX_ANSWER && !answer.contains(&b'\n') {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(stdout.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) => return Err(SpawnError::Timeout),
            Ok(_) => {}
            Err(nix::errno::Errno::EINTR) => continue,
            Err(e) => return Err(io::Error::from(e).into()),
        }
        let mut buffer = [0; 512];
        match stdout.read(&mut buffer)? {
            0 => break,
            n => answer.extend_from_slice(&buffer[..n]),
        }
    }
    let answer = String::from_utf8_lossy(&answer);
    let answer = answer.lines().next().unwrap_or("");
    match answer.strip_prefix("error: ") {
        Some(reason) => Err(SpawnError::Refused(reason.to_owned())),
        None if answer == "ready" => Ok(ProcessRef::of(child.id().cast_signed())?.start),
        None => {
            sent?;
            Err(SpawnError::Died)
        }
    }
}

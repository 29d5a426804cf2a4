//! Starting a proxy: what the hook does.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
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

/// A proxy that has been started and waits for its task. Dropped, it is ended.
#[derive(Debug)]
pub struct Starting {
    child: Child,
    sent: io::Result<()>,
    ready: bool,
}

impl Starting {
    /// Starts the proxy of a container before its task is known: what does not depend on the task is done
    /// while the task is found. It is `mcrun-proxy` beside the running program, with nothing of the
    /// caller's environment but `MCRUN_STATE_DIR`. It makes a session of its own and holds none of the
    /// caller's descriptors.
    ///
    /// # Errors
    /// [`SpawnError::Start`].
    pub fn begin() -> Result<Self, SpawnError> {
        let program = std::env::current_exe()
            .map_err(|source| SpawnError::Start { program: PROGRAM.into(), source })?
            .with_file_name(PROGRAM);
        // Neither a directory nor anything else that is to be done between fork and exec: without
        // it the caller's memory is not copied first.
        let child = Command::new(&program)
            .env_clear()
            // Absolute, since the proxy keeps no directory busy.
            .env("MCRUN_STATE_DIR", std::path::absolute(state_dir())?)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|source| SpawnError::Start { program, source })?;
        Ok(Starting { child, sent: Ok(()), ready: false })
    }

    /// Tells it its task.
    ///
    /// # Errors
    /// [`SpawnError::Pipe`].
    pub fn give(&mut self, config: &ProxyConfig) -> Result<(), SpawnError> {
        let text = serde_json::to_vec(config).map_err(io::Error::from)?;
        // A proxy reads all of it before anything else; if it ends first, its answer says why.
        self.sent = self.child.stdin.take().ok_or_else(closed)?.write_all(&text);
        Ok(())
    }

    /// Waits until it is ready.
    ///
    /// # Errors
    /// See [`SpawnError`]; no process is left then.
    pub fn ready(mut self) -> Result<SpawnedProxy, SpawnError> {
        let deadline = Instant::now() + PATIENCE;
        let mut stdout = self.child.stdout.take().ok_or_else(closed)?;
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
            None if answer == "ready" => {
                let ProcessRef { pid, start } = ProcessRef::of(self.child.id().cast_signed())?;
                self.ready = true;
                Ok(SpawnedProxy { pid, start })
            }
            None => {
                std::mem::replace(&mut self.sent, Ok(()))?;
                Err(SpawnError::Died)
            }
        }
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        if !self.ready {
            // It may have ended by itself.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn closed() -> io::Error {
    io::ErrorKind::BrokenPipe.into()
}

//! Starting a proxy: what the hook does.

use std::io;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::Serialize;

use crate::primitives::MacAddr;
use crate::proxy::config::{INSTALLED, ProxyConfig, READY, REFUSED};
use crate::state::state_dir;
use crate::sys::process::ProcessRef;

/// A proxy that takes longer to say it is ready is ended.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest answer of a proxy.
const MAX_ANSWER: usize = 4096;
/// The program, beside the one that runs.
const PROGRAM: &str = "mcrun-proxy";

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

/// A proxy on its way. Dropped before it is [kept](Starting::keep), it is ended.
///
/// # Order of calls
/// [`begin`](Self::begin), [`give`](Self::give), [`go`](Self::go), [`installed`](Self::installed),
/// [`ready`](Self::ready), [`keep`](Self::keep). What the proxy does after one of them goes on while the
/// caller does something else.
#[derive(Debug)]
pub struct Starting {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: ChildStdout,
    sent: io::Result<()>,
    /// What it has answered and nobody has looked at.
    answer: Vec<u8>,
    kept: bool,
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
        let mut child = Command::new(&program)
            .env_clear()
            // Absolute, since the proxy keeps no directory busy.
            .env("MCRUN_STATE_DIR", std::path::absolute(state_dir())?)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|source| SpawnError::Start { program, source })?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().ok_or_else(closed)?;
        Ok(Starting { child, stdin, stdout, sent: Ok(()), answer: Vec::new(), kept: false })
    }

    /// Tells it its task.
    ///
    /// # Errors
    /// [`SpawnError::Pipe`]. One that has ended has left an answer that says why.
    pub fn give(&mut self, config: &ProxyConfig) -> Result<(), SpawnError> {
        self.send(config)
    }

    /// Tells it that all its interfaces are there, as far as they are not yet to come: their indexes in the
    /// container's namespace and their hardware addresses, in the order of the task.
    ///
    /// # Errors
    /// As [`give`](Self::give).
    pub fn go(&mut self, made: &[(u32, Option<MacAddr>)]) -> Result<(), SpawnError> {
        self.send(&made)?;
        self.stdin = None;
        Ok(())
    }

    /// Waits until its rules and sockets are in place, so that links may come up.
    ///
    /// # Errors
    /// See [`SpawnError`].
    pub fn installed(&mut self) -> Result<(), SpawnError> {
        self.expect(INSTALLED)
    }

    /// Waits until it has given up its privileges and serves.
    ///
    /// # Errors
    /// See [`SpawnError`].
    pub fn ready(&mut self) -> Result<(), SpawnError> {
        self.expect(READY)
    }

    /// Its process.
    ///
    /// # Errors
    /// See [`SpawnError`]; one that has ended is asked why.
    pub fn process(&mut self) -> Result<ProcessRef, SpawnError> {
        match ProcessRef::of(self.child.id().cast_signed()) {
            Ok(process) => Ok(process),
            Err(error) => {
                self.expect(READY)?;
                Err(error.into())
            }
        }
    }

    /// Lets it live.
    pub fn keep(mut self) {
        self.kept = true;
    }

    fn send(&mut self, message: &impl Serialize) -> Result<(), SpawnError> {
        let mut line = serde_json::to_vec(message).map_err(io::Error::from)?;
        line.push(b'\n');
        let sent = self.stdin.as_mut().ok_or_else(closed).and_then(|pipe| pipe.write_all(&line));
        if self.sent.is_ok() {
            self.sent = sent;
        }
        Ok(())
    }

    fn expect(&mut self, wanted: &str) -> Result<(), SpawnError> {
        match self.next_line()? {
            Some(line) if line == wanted => Ok(()),
            Some(line) if line.starts_with(REFUSED) => {
                Err(SpawnError::Refused(line[REFUSED.len()..].to_owned()))
            }
            _ => {
                std::mem::replace(&mut self.sent, Ok(()))?;
                Err(SpawnError::Died)
            }
        }
    }

    /// The next line of its answer, without its end; `None` when it has ended without one.
    fn next_line(&mut self) -> Result<Option<String>, SpawnError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(end) = self.answer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.answer.drain(..=end).collect();
                return Ok(Some(String::from_utf8_lossy(&line[..end]).into_owned()));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(self.stdout.as_fd(), PollFlags::POLLIN)], timeout) {
                Ok(0) => return Err(SpawnError::Timeout),
                Ok(_) => {}
                Err(nix::errno::Errno::EINTR) => continue,
                Err(e) => return Err(io::Error::from(e).into()),
            }
            let mut buffer = [0; 512];
            match self.stdout.read(&mut buffer)? {
                0 => return Ok(None),
                n => self.answer.extend_from_slice(&buffer[..n]),
            }
            if self.answer.len() > MAX_ANSWER {
                return Ok(None);
            }
        }
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        if !self.kept {
            // It may have ended by itself.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn closed() -> io::Error {
    io::ErrorKind::BrokenPipe.into()
}

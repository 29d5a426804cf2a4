//! ProxyLaunch a proxy: what the hook does.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, pipe2};
use serde::Serialize;

use crate::proxy::config::{CreatedInterface, INSTALLED, KEEP, ProxyTask, READY, REFUSED};
use crate::proxy::control::group;
use crate::state::state_dir;
use crate::sys::process::ProcessRef;
use crate::sys::spawn;

/// A proxy whose next answer takes longer is killed.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest answer of a proxy, in bytes.
const MAX_ANSWER: usize = 4096;
/// File name of the proxy, in the directory of the running program.
pub const PROGRAM: &str = "mcrun-proxy";

/// Why a proxy was not launched.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The program could not be executed.
    #[error("cannot start {}: {source}", program.display())]
    Start {
        /// Path of the program.
        program: PathBuf,
        /// Error of execve(2), or of finding the path.
        source: io::Error,
    },
    /// A pipe to or from the proxy failed.
    #[error("cannot talk to the new proxy: {0}")]
    Pipe(#[from] io::Error),
    /// The proxy answered that it cannot serve, with this reason.
    #[error("the proxy did not start: {0}")]
    Refused(String),
    /// The proxy ended without an answer.
    #[error("the proxy ended at its start without giving a reason")]
    Died,
    /// The proxy did not answer in time.
    #[error("the proxy did not answer within {} s", ANSWER_TIMEOUT.as_secs())]
    Timeout,
}

/// A proxy that is being launched. Dropping this value kills the proxy, unless
/// [`detach_child`](Self::detach_child) was called. If this process is killed before
/// [`keep`](Self::keep), the proxy ends by itself.
///
/// # Order of calls
/// [`spawn`](Self::spawn), [`send_task`](Self::send_task),
/// [`send_interfaces`](Self::send_interfaces), [`wait_for_rules`](Self::wait_for_rules),
/// [`wait_until_ready`](Self::wait_until_ready), [`keep`](Self::keep),
/// [`detach_child`](Self::detach_child). `keep` may come before `wait_until_ready`, as soon as a
/// record names the proxy. The proxy works on between two of the calls, so that the caller can do
/// something else meanwhile.
#[derive(Debug)]
pub struct ProxyLaunch {
    child: ChildProcess,
    stdin: Option<File>,
    stdout: File,
    /// First error of writing to `stdin`. It counts only if the proxy gives no reason itself.
    write_result: io::Result<()>,
    /// Bytes received that [`ProxyLaunch::next_line`] has not returned.
    received: Vec<u8>,
    detached: bool,
    /// What the proxy's control group lacks, for people.
    group_notice: Option<String>,
}

/// The process of a proxy that is being launched.
#[derive(Debug)]
enum ChildProcess {
    /// Started in the control group of proxies. Nobody has waited for it.
    InGroup(i32),
    Plain(Child),
}

/// The program file of proxies: `mcrun-proxy` in the directory of the running program.
///
/// # Errors
/// If the path of the running program is unknown.
pub fn program() -> io::Result<PathBuf> {
    Ok(std::env::current_exe()?.with_file_name(PROGRAM))
}

impl ProxyLaunch {
    /// Starts `mcrun-proxy` from the directory of the running program.
    ///
    /// The task follows later, so that the proxy does what does not depend on it while the caller
    /// prepares the task. The proxy's environment holds `MCRUN_STATE_DIR` and nothing else. The
    /// proxy makes a session of its own and inherits no descriptor except its standard streams.
    ///
    /// # Errors
    /// [`LaunchError::Start`]; [`LaunchError::Pipe`] if the current directory is unknown.
    pub fn spawn() -> Result<Self, LaunchError> {
        let program =
            program().map_err(|source| LaunchError::Start { program: PROGRAM.into(), source })?;
        // Absolute, because the proxy changes its directory to `/`.
        let state_dir = std::path::absolute(state_dir())?;
        let in_group = || {
            group::open().and_then(|(group, lacks)| {
                let spawned = spawn_in_group(&program, &state_dir, group.as_fd());
                spawned.map(|spawned| (spawned, lacks))
            })
        };
        let in_group = match in_group() {
            // `mcrun gc` has removed the group meanwhile.
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => in_group(),
            spawned => spawned,
        };
        let ((child, stdin, stdout), group_notice) = match in_group {
            Ok(spawned) => spawned,
            // If the program cannot be executed, this says so.
            Err(error) => {
                let spawned = spawn(&program, &state_dir)
                    .map_err(|source| LaunchError::Start { program, source })?;
                (spawned, Some(format!("it is that of the program which started it: {error}")))
            }
        };
        Ok(ProxyLaunch {
            child,
            stdin: Some(stdin),
            stdout,
            write_result: Ok(()),
            received: Vec::new(),
            detached: false,
            group_notice,
        })
    }

    /// Sends the task, the first line of the proxy's standard input.
    ///
    /// # Errors
    /// [`LaunchError::Pipe`] if the task cannot be serialized. An error of writing is returned by
    /// the next call that waits, unless the proxy gives a reason itself.
    pub fn send_task(&mut self, task: &ProxyTask) -> Result<(), LaunchError> {
        match &self.group_notice {
            None => self.send_line(task),
            notice => self.send_line(&ProxyTask { group_notice: notice.clone(), ..task.clone() }),
        }
    }

    /// Sends the second line: for each interface of the task, in its order, the index in
    /// the container's namespace and the MAC address. The index is 0 where a relay's interface
    /// does not exist yet.
    ///
    /// # Errors
    /// As [`send_task`](Self::send_task).
    pub fn send_interfaces(&mut self, created: &[CreatedInterface]) -> Result<(), LaunchError> {
        self.send_line(&created)
    }

    /// Tells the proxy that the record of its container names it. From here on it serves the
    /// container, also if this process ends. An error is returned by the next call that waits.
    pub fn keep(&mut self) {
        self.send_bytes(format!("{KEEP}\n").as_bytes());
        self.stdin = None;
    }

    /// Waits until the rules are installed. Links may be set up from then on.
    ///
    /// # Errors
    /// See [`LaunchError`].
    pub fn wait_for_rules(&mut self) -> Result<(), LaunchError> {
        self.expect_line(INSTALLED)
    }

    /// Waits until the proxy has given up its privileges and serves.
    ///
    /// # Errors
    /// See [`LaunchError`].
    pub fn wait_until_ready(&mut self) -> Result<(), LaunchError> {
        self.expect_line(READY)
    }

    /// The process of the proxy.
    ///
    /// # Errors
    /// See [`LaunchError`]: if the process has ended, the reason that it gave.
    pub fn process(&mut self) -> Result<ProcessRef, LaunchError> {
        match ProcessRef::of(self.child.id()) {
            Ok(process) => Ok(process),
            Err(error) => {
                self.expect_line(READY)?;
                Err(error.into())
            }
        }
    }

    /// Leaves the proxy running when this value is dropped, as it is here.
    pub fn detach_child(mut self) {
        self.detached = true;
    }

    fn send_line(&mut self, message: &impl Serialize) -> Result<(), LaunchError> {
        let mut line = serde_json::to_vec(message).map_err(io::Error::from)?;
        line.push(b'\n');
        self.send_bytes(&line);
        Ok(())
    }

    fn send_bytes(&mut self, bytes: &[u8]) {
        let pipe = self.stdin.as_mut().ok_or_else(closed_pipe);
        let result = pipe.and_then(|pipe| pipe.write_all(bytes));
        if self.write_result.is_ok() {
            self.write_result = result;
        }
    }

    fn expect_line(&mut self, wanted: &str) -> Result<(), LaunchError> {
        match self.next_line()? {
            Some(line) if line == wanted => Ok(()),
            Some(line) if line.starts_with(REFUSED) => {
                Err(LaunchError::Refused(line[REFUSED.len()..].to_owned()))
            }
            _ => {
                std::mem::replace(&mut self.write_result, Ok(()))?;
                Err(LaunchError::Died)
            }
        }
    }

    /// The next line of the answer, without its line end; `None` if the proxy closes its output
    /// before the line is complete, or if the line is too long.
    fn next_line(&mut self) -> Result<Option<String>, LaunchError> {
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        loop {
            if let Some(end) = self.received.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.received.drain(..=end).collect();
                return Ok(Some(String::from_utf8_lossy(&line[..end]).into_owned()));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(self.stdout.as_fd(), PollFlags::POLLIN)], timeout) {
                Ok(0) => return Err(LaunchError::Timeout),
                Ok(_) => {}
                Err(nix::errno::Errno::EINTR) => continue,
                Err(e) => return Err(io::Error::from(e).into()),
            }
            let mut buffer = [0; 512];
            match self.stdout.read(&mut buffer)? {
                0 => return Ok(None),
                n => self.received.extend_from_slice(&buffer[..n]),
            }
            if self.received.len() > MAX_ANSWER {
                return Ok(None);
            }
        }
    }
}

impl Drop for ProxyLaunch {
    fn drop(&mut self) {
        if !self.detached {
            self.child.end();
        }
    }
}

impl ChildProcess {
    fn id(&self) -> i32 {
        match self {
            ChildProcess::InGroup(pid) => *pid,
            ChildProcess::Plain(child) => child.id().cast_signed(),
        }
    }

    /// Kills the process and waits for its end.
    fn end(&mut self) {
        // If it fails, the proxy has ended by itself, and there is nothing left to do.
        match self {
            ChildProcess::InGroup(pid) => {
                let pid = Pid::from_raw(*pid);
                let _ = kill(pid, Signal::SIGKILL);
                let _ = waitpid(pid, None);
            }
            ChildProcess::Plain(child) => {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}

/// A process, and the other ends of its standard input and output.
type Spawned = (ChildProcess, File, File);

fn spawn_in_group(program: &Path, state_dir: &Path, group: BorrowedFd<'_>) -> io::Result<Spawned> {
    let (task, stdin) = pipe2(OFlag::O_CLOEXEC)?;
    let (stdout, answer) = pipe2(OFlag::O_CLOEXEC)?;
    let null = File::options().write(true).open("/dev/null")?;
    let program = CString::new(program.as_os_str().as_bytes())?;
    let variable = [b"MCRUN_STATE_DIR=", state_dir.as_os_str().as_bytes()].concat();
    let variable = CString::new(variable)?;
    let streams = [task.as_fd(), answer.as_fd(), null.as_fd()];
    let pid = spawn::spawn_in_group(&program, &variable, streams, group)?;
    Ok((ChildProcess::InGroup(pid), stdin.into(), stdout.into()))
}

fn spawn(program: &Path, state_dir: &Path) -> io::Result<Spawned> {
    // No `current_dir` and no `pre_exec`: with either, std forks and copies this process's page
    // tables first; without them it uses posix_spawn.
    let mut child = Command::new(program)
        .env_clear()
        .env("MCRUN_STATE_DIR", state_dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let stdin = OwnedFd::from(child.stdin.take().ok_or_else(closed_pipe)?);
    let stdout = OwnedFd::from(child.stdout.take().ok_or_else(closed_pipe)?);
    Ok((ChildProcess::Plain(child), stdin.into(), stdout.into()))
}

fn closed_pipe() -> io::Error {
    io::ErrorKind::BrokenPipe.into()
}

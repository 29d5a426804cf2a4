//! Launches the processes that hold a lease: what the attachment service does.

use std::fs::File;
use std::io;
use std::io::{Read, Write};
use std::mem;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::dhcp::client::AFTER_DECLINE;
use crate::dhcp::task::{KEEP, LeaseTask, REFUSED, declined, leased};
use crate::primitives::MacAddr;
use crate::state::state_dir;
use crate::sys::process::ProcessRef;

const PROGRAM: &str = "mcrun-dhcp";
/// How long a process may take to give its address back.
const PATIENCE: Duration = Duration::from_millis(500);
/// Longest answer in bytes.
const MAX_ANSWER: usize = 1024;
/// Addresses that somebody else has, and that an address is waited for in spite of.
const MOST_DECLINED: u32 = 2;

/// A process that is being launched. Dropping this value ends it, and the address is given back,
/// except after [`LeaseLaunch::keep`].
#[derive(Debug)]
pub struct LeaseLaunch {
    child: Option<Child>,
    stdin: File,
    stdout: File,
    /// What was read behind a line.
    behind: Vec<u8>,
    declined: Option<(IpAddr, MacAddr)>,
}

/// The program file of these processes: `mcrun-dhcp` in the directory of the running program.
///
/// # Errors
/// If the path of the running program is unknown.
pub fn program() -> io::Result<PathBuf> {
    Ok(std::env::current_exe()?.with_file_name(PROGRAM))
}

impl LeaseLaunch {
    /// Starts one with its task.
    ///
    /// # Errors
    /// Those of execve(2), with the program's path, and of writing to it.
    pub fn spawn(task: &LeaseTask) -> io::Result<Self> {
        let program = program()?;
        let mut child = Command::new(&program)
            .env_clear()
            // Absolute, because the process changes its directory to `/`.
            .env("MCRUN_STATE_DIR", std::path::absolute(state_dir())?)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| {
                io::Error::new(error.kind(), format!("{}: {error}", program.display()))
            })?;
        let broken = || io::Error::from(io::ErrorKind::BrokenPipe);
        let stdin = child.stdin.take().map(OwnedFd::from).ok_or_else(broken)?;
        let stdout = child.stdout.take().map(OwnedFd::from).ok_or_else(broken)?;
        let mut launch = LeaseLaunch {
            child: Some(child),
            stdin: stdin.into(),
            stdout: stdout.into(),
            behind: Vec::new(),
            declined: None,
        };
        let mut line = serde_json::to_vec(task)?;
        line.push(b'\n');
        launch.stdin.write_all(&line)?;
        Ok(launch)
    }

    /// Waits for the address until then; `None`: no server has given one. The pause after an address
    /// that somebody else has comes on top, twice at most.
    ///
    /// # Errors
    /// The reason that the process gives.
    pub fn wait(&mut self, mut until: Instant) -> io::Result<Option<IpNet>> {
        let mut pauses = 0;
        while let Some(line) = self.line(until)? {
            if let Some(declined) = declined(&line) {
                self.declined = Some(declined);
                if pauses == MOST_DECLINED {
                    return Ok(None);
                }
                pauses += 1;
                until += AFTER_DECLINE;
                continue;
            }
            return leased(&line).map(Some).ok_or_else(|| reason(&line));
        }
        Ok(None)
    }

    /// The last address that a server has given and somebody else has, and the station that has it.
    pub fn declined(&self) -> Option<(IpAddr, MacAddr)> {
        self.declined
    }

    /// Waits until a process that is to get an address later has started.
    ///
    /// # Errors
    /// The reason that the process gives.
    pub fn wait_started(&mut self, until: Instant) -> io::Result<()> {
        match self.line(until)? {
            Some(line) if line.starts_with(REFUSED) => Err(reason(&line)),
            Some(_) => Ok(()),
            None => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// The process.
    ///
    /// # Errors
    /// When it has ended.
    pub fn process(&self) -> io::Result<ProcessRef> {
        let child = self.child.as_ref().ok_or(io::ErrorKind::NotFound)?;
        ProcessRef::of(child.id().cast_signed())
    }

    /// Tells the process that the record names it. From here on it holds the lease, also if this
    /// process ends.
    pub fn keep(mut self) {
        // If it has ended, `mcrun reload` starts another one.
        let _ = self.stdin.write_all(format!("{KEEP}\n").as_bytes());
        self.child = None;
    }

    fn line(&mut self, until: Instant) -> io::Result<Option<String>> {
        let mut line = mem::take(&mut self.behind);
        loop {
            if let Some(end) = line.iter().position(|byte| *byte == b'\n') {
                self.behind = line.split_off(end + 1);
                return Ok(Some(String::from_utf8_lossy(&line[..end]).into_owned()));
            }
            let left = until.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(self.stdout.as_fd(), PollFlags::POLLIN)], timeout) {
                Ok(0) => return Ok(None),
                Err(nix::errno::Errno::EINTR) => continue,
                Err(error) => return Err(error.into()),
                Ok(_) => {}
            }
            let mut buffer = [0; 256];
            let length = self.stdout.read(&mut buffer)?;
            line.extend_from_slice(&buffer[..length]);
            if length == 0 || line.len() > MAX_ANSWER {
                return Err(io::Error::other("the process ended without an answer"));
            }
        }
    }
}

fn reason(line: &str) -> io::Error {
    io::Error::other(line.strip_prefix(REFUSED).unwrap_or(line).to_owned())
}

impl Drop for LeaseLaunch {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        // If it fails, the process has ended by itself.
        let _ = ProcessRef::of(child.id().cast_signed()).and_then(|process| process.end(PATIENCE));
        let _ = child.wait();
    }
}

/// Ends a process that holds a lease: the address is given back.
///
/// # Errors
/// Those of pidfd_send_signal(2).
pub fn release(process: ProcessRef) -> io::Result<()> {
    process.end(PATIENCE)
}

/// Ends one whose place another one takes: the container keeps the address.
///
/// # Errors
/// Those of pidfd_send_signal(2).
pub fn end_for_successor(process: ProcessRef) -> io::Result<()> {
    match process.open() {
        Ok(open) => {
            open.signal(libc::SIGKILL)?;
            open.wait(PATIENCE);
            Ok(())
        }
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        Err(error) => Err(error),
    }
}

//! Processes that outlive the program which wrote their number down.

use std::fs::File;
use std::io;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};

/// A process by number and start time: a number alone may by now be another's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessRef {
    /// Process id.
    pub pid: i32,
    /// Start time in clock ticks since boot (`proc_pid_stat(5)`, field 22).
    pub start: u64,
}

impl ProcessRef {
    /// The process that has this number now.
    ///
    /// # Errors
    /// `ESRCH` when there is none.
    pub fn of(pid: i32) -> io::Result<Self> {
        let gone = || io::Error::from_raw_os_error(libc::ESRCH);
        // A line of some 300 bytes. The kernel makes it anew for each read.
        let mut line = [0; 1024];
        let stat = File::open(format!("/proc/{pid}/stat")).and_then(|mut f| f.read(&mut line));
        let stat = String::from_utf8_lossy(&line[..stat.map_err(|_| gone())?]);
        // The command, field 2, is in parentheses and may hold anything.
        let rest = stat.rsplit_once(") ").map(|(_, rest)| rest).ok_or_else(gone)?;
        let mut fields = rest.split_ascii_whitespace();
        // A zombie has ended: only its number is left.
        if matches!(fields.next(), None | Some("Z" | "X")) {
            return Err(gone());
        }
        let start = fields.nth(18).and_then(|s| s.parse().ok()).ok_or_else(gone)?;
        Ok(ProcessRef { pid, start })
    }

    /// Whether this very process still runs.
    pub fn is_alive(self) -> bool {
        Self::of(self.pid).is_ok_and(|now| now == self)
    }

    /// The calling process.
    ///
    /// # Errors
    /// When /proc is not to be had.
    pub fn current() -> io::Result<Self> {
        Self::of(std::process::id().cast_signed())
            .map_err(|_| io::Error::other("cannot read /proc/self/stat; is /proc mounted?"))
    }

    /// A handle on this very process: it is opened first and the start time compared after that,
    /// so that it cannot be another's.
    ///
    /// # Errors
    /// `ESRCH` when it has ended, also when its number is another's now.
    pub fn open(self) -> io::Result<PidFd> {
        // SAFETY: pidfd_open takes a number and flags, no pointers.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, self.pid, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call has just returned this descriptor, which nobody else knows.
        let fd = PidFd(unsafe { OwnedFd::from_raw_fd(fd as i32) });
        if self.is_alive() { Ok(fd) } else { Err(io::Error::from_raw_os_error(libc::ESRCH)) }
    }

    /// Ends the process: SIGTERM, and SIGKILL after `patience`. Returns when it has ended.
    ///
    /// # Errors
    /// Those of `pidfd_send_signal(2)`; a process that has ended already is none.
    pub fn end(self, patience: Duration) -> io::Result<()> {
        let process = match self.open() {
            Ok(process) => process,
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(()),
            Err(error) => return Err(error),
        };
        process.signal(libc::SIGTERM)?;
        if !process.wait(patience) {
            process.signal(libc::SIGKILL)?;
            process.wait(Duration::from_secs(5));
        }
        Ok(())
    }
}

/// A file descriptor that stands for a process (`pidfd_open(2)`, Linux 5.3).
#[derive(Debug)]
pub struct PidFd(OwnedFd);

impl PidFd {
    /// Sends a signal; a process that has ended is no error.
    ///
    /// # Errors
    /// `EPERM` without privilege over the process.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        let none = std::ptr::null::<libc::siginfo_t>();
        // SAFETY: the descriptor is open, and a null siginfo is allowed (pidfd_send_signal(2)).
        let result = unsafe {
            libc::syscall(libc::SYS_pidfd_send_signal, self.0.as_raw_fd(), signal, none, 0)
        };
        match Errno::result(result) {
            Ok(_) | Err(Errno::ESRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits for the process to end; `false` when it has not after `limit`.
    pub fn wait(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            // Rounded up: a wait that ends early would become a busy loop.
            let millis = left.as_micros().div_ceil(1000).min(60_000_000) as i32;
            let timeout = PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)], timeout) {
                Ok(0) if left.is_zero() => return false,
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => return true,
                Err(_) => return false,
            }
        }
    }
}

impl From<PidFd> for OwnedFd {
    fn from(process: PidFd) -> OwnedFd {
        process.0
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_process_is_known_until_it_ends() {
        let mut child = Command::new("sleep").arg("100").spawn().unwrap();
        let process = ProcessRef::of(child.id() as i32).unwrap();
        assert!(process.is_alive());
        assert!(!ProcessRef { start: process.start + 1, ..process }.is_alive());
        process.end(Duration::from_secs(5)).unwrap();
        // A zombie now, until it is waited for.
        assert!(!process.is_alive());
        child.wait().unwrap();
        process.end(Duration::ZERO).unwrap();
        assert_eq!(process.open().unwrap_err().raw_os_error(), Some(libc::ESRCH));
    }
}

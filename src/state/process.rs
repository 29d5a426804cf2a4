//! Processes that outlive the program which wrote their number down.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

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
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).map_err(|_| gone())?;
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

    /// Opens a pidfd of this very process.
    ///
    /// # Errors
    /// `ESRCH` when it has ended, also when its number is another's now.
    pub fn open(self) -> io::Result<OwnedFd> {
        // SAFETY: pidfd_open takes a number and flags, no pointers.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, self.pid, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call has just returned this descriptor, which nobody else knows.
        let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        // The pidfd pins whoever it is; only now the comparison means anything.
        if self.is_alive() { Ok(fd) } else { Err(io::Error::from_raw_os_error(libc::ESRCH)) }
    }

    /// Ends the process: SIGTERM, and SIGKILL after `patience`. Returns when it has ended.
    ///
    /// # Errors
    /// Those of `pidfd_send_signal(2)`; a process that has ended already is none.
    pub fn end(self, patience: Duration) -> io::Result<()> {
        let pidfd = match self.open() {
            Ok(fd) => fd,
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(()),
            Err(error) => return Err(error),
        };
        send_signal(&pidfd, libc::SIGTERM)?;
        if !wait(&pidfd, patience)? {
            send_signal(&pidfd, libc::SIGKILL)?;
            wait(&pidfd, Duration::from_secs(5))?;
        }
        Ok(())
    }
}

fn send_signal(pidfd: &OwnedFd, signal: i32) -> io::Result<()> {
    // SAFETY: a descriptor, a number, no siginfo, no flags.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    match io::Error::last_os_error() {
        _ if result == 0 => Ok(()),
        error if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        error => Err(error),
    }
}

/// Waits until the process has ended; false when it has not within `limit`.
fn wait(pidfd: &OwnedFd, limit: Duration) -> io::Result<bool> {
    use std::os::fd::AsFd;
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) if left.is_zero() => return Ok(false),
            Ok(0) | Err(nix::errno::Errno::EINTR) => {}
            Ok(_) => return Ok(true),
            Err(errno) => return Err(errno.into()),
        }
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

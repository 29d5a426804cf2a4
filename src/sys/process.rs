//! Processes that outlive the program which wrote their number down.

use std::fs::File;
use std::io;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::Child;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
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
        match Stat::read(pid) {
            // A zombie has ended: only its number is left.
            Some(stat) if !matches!(stat.state, 'Z' | 'X') => {
                Ok(ProcessRef { pid, start: stat.start })
            }
            _ => Err(io::Error::from_raw_os_error(libc::ESRCH)),
        }
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
        let gone = || io::Error::from_raw_os_error(libc::ESRCH);
        let pid = Some(self.pid).filter(|pid| *pid > 0).and_then(Pid::from_raw).ok_or_else(gone)?;
        let fd = PidFd(pidfd_open(pid, PidfdFlags::empty())?);
        if self.is_alive() { Ok(fd) } else { Err(gone()) }
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

/// What `/proc/PID/stat` says of a process (proc_pid_stat(5)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stat {
    /// `R`, `S`, `Z` and so on (field 3).
    state: char,
    /// Process id of the parent; 0 for one in an outer pid namespace (field 4).
    pub(crate) parent: i32,
    /// Start time in clock ticks since boot (field 22).
    start: u64,
}

impl Stat {
    /// Whether it waits for something, and a signal ends the wait.
    pub(crate) fn is_asleep(&self) -> bool {
        self.state == 'S'
    }

    /// Of the process that has this number now; `None` when there is none.
    pub(crate) fn read(pid: i32) -> Option<Self> {
        // A line of some 300 bytes. The kernel makes it anew for each read.
        let mut line = [0; 1024];
        let length = File::open(format!("/proc/{pid}/stat")).ok()?.read(&mut line).ok()?;
        Self::parse(&String::from_utf8_lossy(&line[..length]))
    }

    pub(crate) fn parse(line: &str) -> Option<Self> {
        // The command, field 2, is in parentheses and may hold anything.
        let mut fields = line.rsplit_once(") ")?.1.split_ascii_whitespace();
        let state = fields.next()?.chars().next()?;
        let parent = fields.next()?.parse().ok()?;
        let start = fields.nth(17)?.parse().ok()?;
        Some(Stat { state, parent, start })
    }
}

/// Time left until a deadline, for poll(2): rounded up to milliseconds, since a wait that ends
/// early would become a busy loop, and 60,000 seconds at most.
pub(crate) fn poll_timeout(left: Duration) -> PollTimeout {
    let milliseconds = left.as_micros().div_ceil(1000).min(60_000_000) as i32;
    PollTimeout::try_from(milliseconds).unwrap_or(PollTimeout::MAX)
}

/// A file descriptor that stands for a process (pidfd_open(2), Linux 5.3).
#[derive(Debug)]
pub struct PidFd(OwnedFd);

impl PidFd {
    /// Of a child that was not waited for yet, so that its number is its own.
    ///
    /// # Errors
    /// Those of pidfd_open(2): `EMFILE`, `ENOSYS` before Linux 5.3.
    pub(crate) fn of_child(child: &Child) -> io::Result<Self> {
        Ok(PidFd(pidfd_open(Pid::from_child(child), PidfdFlags::empty())?))
    }

    /// A duplicate of one of the process's descriptors, with the same offset.
    ///
    /// # Errors
    /// Those of pidfd_getfd(2): `EBADF` if it has none of this number, `EPERM` without privilege
    /// over the process, `ENOSYS` before Linux 5.6.
    pub(crate) fn descriptor(&self, number: i32) -> io::Result<OwnedFd> {
        Ok(pidfd_getfd(&self.0, number, PidfdGetfdFlags::empty())?)
    }

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
            let ended = PollFd::new(self.0.as_fd(), PollFlags::POLLIN);
            match poll(&mut [ended], poll_timeout(left)) {
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
    fn the_fields_of_stat_are_found_behind_any_command() {
        let line = "7 (a) R 1 (x)) S 4 7 7 0 -1 4194304 1 0 0 0 1 2 0 0 20 0 1 0 987 8 9 10\n";
        assert_eq!(Stat::parse(line), Some(Stat { state: 'S', parent: 4, start: 987 }));
        for line in ["", "7 (a", "7 (a) S", "7 (a) S 4 7", "7 (a) S x 7"] {
            assert_eq!(Stat::parse(line), None, "{line:?}");
        }
        let own = Stat::read(std::process::id().cast_signed()).unwrap();
        assert_eq!(own.parent, nix::unistd::getppid().as_raw());
    }

    #[test]
    fn waits_are_rounded_up_and_bounded() {
        let milliseconds = |left| poll_timeout(left).as_millis();
        assert_eq!(milliseconds(Duration::ZERO), Some(0));
        assert_eq!(milliseconds(Duration::from_micros(1001)), Some(2));
        assert_eq!(milliseconds(Duration::MAX), Some(60_000_000));
    }

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

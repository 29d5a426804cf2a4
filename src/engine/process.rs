//! Processes: identities that survive pid reuse, waiting for their end, reaping orphans.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

/// A process by pid and start time: the pair is unique until the machine restarts, where a
/// pid alone may belong to somebody else by now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// Its pid in the host's pid namespace.
    pub pid: i32,
    /// Clock ticks after boot at which it started (field 22 of `proc_pid_stat(5)`).
    pub start_time: u64,
}

impl ProcessId {
    /// The process that has this pid now; `None` when there is none.
    pub fn of(pid: i32) -> Option<Self> {
        let (_, start_time) = stat(pid)?;
        Some(ProcessId { pid, start_time })
    }

    /// The calling process.
    ///
    /// # Errors
    /// When /proc is not to be had.
    pub fn current() -> io::Result<Self> {
        Self::of(std::process::id() as i32)
            .ok_or_else(|| io::Error::other("cannot read /proc/self/stat; is /proc mounted?"))
    }

    /// Whether it still runs; a zombie does not.
    pub fn is_alive(self) -> bool {
        stat(self.pid).is_some_and(|(state, start)| start == self.start_time && state != b'Z')
    }

    /// A handle on the process; `None` when it has ended.
    ///
    /// The pidfd is opened first and the start time compared after it, so that the handle
    /// cannot be another process's.
    pub(super) fn open(self) -> Option<PidFd> {
        let fd = PidFd::open(self.pid).ok()?;
        self.is_alive().then_some(fd)
    }
}

/// State and start time of a process.
fn stat(pid: i32) -> Option<(u8, u64)> {
    parse_stat(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The command name in parentheses may itself hold spaces and parentheses: the last one counts.
fn parse_stat(text: &str) -> Option<(u8, u64)> {
    let mut fields = text.get(text.rfind(')')? + 1..)?.split_ascii_whitespace();
    let state = *fields.next()?.as_bytes().first()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

/// A file descriptor that stands for a process (`pidfd_open(2)`, Linux 5.3).
#[derive(Debug)]
pub(super) struct PidFd(OwnedFd);

impl PidFd {
    fn open(pid: i32) -> io::Result<Self> {
        // SAFETY: no memory is passed; a non-negative result is a descriptor nobody else owns,
        // and the kernel sets close-on-exec on it.
        unsafe {
            let fd = libc::syscall(libc::SYS_pidfd_open, pid, 0);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(PidFd(OwnedFd::from_raw_fd(fd as RawFd)))
        }
    }

    /// Sends a signal; a process that has ended is no error.
    pub(super) fn signal(&self, signal: i32) -> io::Result<()> {
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

    /// Waits for the process to end; `false` when it has not after `timeout`.
    pub(super) fn wait(&self, timeout: Duration) -> bool {
        wait_readable(self.0.as_fd(), timeout)
    }
}

/// Waits until `fd` is readable (or hung up); `false` on timeout.
fn wait_readable(fd: BorrowedFd<'_>, timeout: Duration) -> bool {
    let deadline = std::time::Instant::now() + timeout;
    loop {
        let left = deadline.saturating_duration_since(std::time::Instant::now());
        let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
        match poll(&mut fds, poll_timeout(left)) {
            Ok(0) => return false,
            Ok(_) => return true,
            Err(Errno::EINTR) => {}
            Err(_) => return false,
        }
    }
}

/// A duration as `poll(2)` takes it, rounded up to the millisecond so that the wait does not
/// turn into a busy loop at its end.
pub(super) fn poll_timeout(left: Duration) -> PollTimeout {
    let milliseconds = left.as_micros().div_ceil(1000).min(60_000_000) as i32;
    PollTimeout::try_from(milliseconds).unwrap_or(PollTimeout::MAX)
}

/// Makes orphans of this process's descendants its children instead of init's
/// (`PR_SET_CHILD_SUBREAPER(2const)`): a container's init is one as soon as `runc create` is
/// done, and only its parent learns how it ended.
pub(super) fn become_subreaper() -> io::Result<()> {
    Ok(nix::sys::prctl::set_child_subreaper(true)?)
}

/// Closes every descriptor above stderr except those in `keep`: a detached process must not
/// hold its starter's pipes and locks.
pub(super) fn close_inherited(keep: &[BorrowedFd<'_>]) {
    let mut keep: Vec<u32> = keep.iter().map(|fd| fd.as_raw_fd() as u32).collect();
    keep.sort_unstable();
    let mut first = 3;
    for fd in keep.into_iter().chain([u32::MAX]) {
        if fd > first {
            let last = if fd == u32::MAX { fd } else { fd - 1 };
            // SAFETY: takes no memory. Descriptors owned by live values of this process are
            // the caller's to name in `keep`.
            unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
        }
        first = first.max(fd.saturating_add(1));
    }
}

/// The children of this process, adopted orphans included.
pub(super) fn children() -> Vec<i32> {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return Vec::new() };
    tasks
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("children")).ok())
        .flat_map(|list| {
            list.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<i32>>()
        })
        .collect()
}

/// Reaps all children of this process, and keeps the status of those that somebody waits for.
///
/// SIGCHLD must be blocked in every thread from before the first child on.
#[derive(Debug)]
pub(super) struct Reaper {
    signals: SignalFd,
    awaited: HashMap<i32, Option<i32>>,
    keep_all: bool,
}

impl Reaper {
    /// A reaper that also takes the signals in `others`, which must be blocked.
    pub(super) fn new(others: &[Signal]) -> io::Result<Self> {
        let mut set = SigSet::empty();
        set.add(Signal::SIGCHLD);
        for signal in others {
            set.add(*signal);
        }
        set.thread_block()?;
        let signals = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        Ok(Reaper { signals, awaited: HashMap::new(), keep_all: false })
    }

    /// Becomes readable when a child ended or a signal came.
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.signals.as_fd()
    }

    /// Keeps the status of `pid`, a child or one that becomes a child by adoption.
    pub(super) fn await_exit(&mut self, pid: i32) {
        self.awaited.entry(pid).or_insert(None);
    }

    /// Keeps the status of every child for now: a process whose pid is about to be learned may
    /// have ended before.
    pub(super) fn keep_all(&mut self, keep: bool) {
        self.keep_all = keep;
    }

    /// The exit status of an awaited process: its code, or 128 + the signal that ended it.
    pub(super) fn status(&self, pid: i32) -> Option<i32> {
        self.awaited.get(&pid).copied().flatten()
    }

    /// Forgets an awaited process whose status was taken.
    pub(super) fn forget(&mut self, pid: i32) {
        self.awaited.remove(&pid);
    }

    /// Takes what is there: reaps, and returns the other signals that came.
    pub(super) fn turn(&mut self) -> Vec<i32> {
        let mut signals = Vec::new();
        while let Ok(Some(info)) = self.signals.read_signal() {
            if info.ssi_signo as i32 != libc::SIGCHLD {
                signals.push(info.ssi_signo as i32);
            }
        }
        loop {
            let (pid, status) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, code),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, 128 + signal as i32),
                Ok(WaitStatus::StillAlive) | Err(_) => break,
                Ok(_) => continue,
            };
            if self.keep_all || self.awaited.contains_key(&pid.as_raw()) {
                self.awaited.insert(pid.as_raw(), Some(status));
            }
        }
        signals
    }
}

/// Sends SIGKILL to children by pid; they are unreaped children of ours, so the pid is theirs.
pub(super) fn kill_children(pids: &[i32]) {
    for pid in pids {
        let _ = nix::sys::signal::kill(Pid::from_raw(*pid), Signal::SIGKILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_time_is_found_behind_a_hostile_command_name() {
        let text = "12 (a) R 1 (b)) S 1 12 12 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 1 2";
        assert_eq!(parse_stat(text), Some((b'S', 987_654)));
        assert_eq!(parse_stat("12 (short) S 1"), None);
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn another_start_time_is_another_process() {
        let me = ProcessId::current().unwrap();
        assert!(me.is_alive() && me.open().is_some());
        let other = ProcessId { start_time: me.start_time + 1, ..me };
        assert!(!other.is_alive() && other.open().is_none());
    }
}

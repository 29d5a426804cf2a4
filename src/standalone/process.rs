//! Child processes: reaping them and orphans, and what they inherit.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// Makes orphans of this process's descendants its children instead of init's
/// (`PR_SET_CHILD_SUBREAPER(2const)`): a container's init is one as soon as `runc create` is
/// done, and only its parent learns how it ended.
pub(super) fn become_subreaper() -> io::Result<()> {
    Ok(nix::sys::prctl::set_child_subreaper(true)?)
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
    pub(super) fn reap(&mut self) -> Vec<i32> {
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

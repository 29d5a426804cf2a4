//! The network namespaces of docker's containers, which docker mounts at a path that it tells before:
//! in what order things are done to them, and waiting for those that are not mounted yet.
//!
//! docker before 28 has a container join its networks before the container has a namespace. It mounts
//! the namespace while the runtime creates the container (libnetwork-setkey, a prestart hook), and
//! tells nobody. The kernel tells of each change of the mounts (proc_pid_mountinfo(5)).

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::net::netns::NetNs;

/// Sandboxes that are waited for at most.
const MOST: usize = 1024;
/// How long a sandbox is waited for: docker gives up much sooner.
const PATIENCE: Duration = Duration::from_secs(600);
/// The sandboxes are looked at again after this time, whatever the kernel tells: one that is added while
/// the kernel is waited for may have been mounted just before.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// One thing at a time for each sandbox.
#[derive(Debug, Default)]
pub(super) struct SandboxLocks(Mutex<HashMap<PathBuf, Arc<Mutex<()>>>>);

impl SandboxLocks {
    /// Runs `work` while nobody else does something to the sandbox.
    pub(super) fn with<T>(&self, sandbox: &Path, work: impl FnOnce() -> T) -> T {
        let all = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let lock = Arc::clone(all().entry(sandbox.to_owned()).or_default());
        let result = {
            let _held = lock.lock().unwrap_or_else(PoisonError::into_inner);
            work()
        };
        let mut all = all();
        // The table's and this one: nobody waits.
        if Arc::strong_count(&lock) == 2 {
            all.remove(sandbox);
        }
        result
    }
}

/// The sandboxes that are waited for, each with the end of the wait.
#[derive(Debug, Default)]
pub(super) struct Awaited {
    sandboxes: Mutex<VecDeque<(PathBuf, Instant)>>,
    added: Condvar,
}

impl Awaited {
    /// Waits for one more. Where there are too many, the oldest one is forgotten.
    pub(super) fn add(&self, sandbox: &Path) {
        let mut sandboxes = self.sandboxes.lock().unwrap_or_else(PoisonError::into_inner);
        sandboxes.retain(|(known, _)| known != sandbox);
        if sandboxes.len() >= MOST {
            sandboxes.pop_front();
        }
        sandboxes.push_back((sandbox.to_owned(), Instant::now() + PATIENCE));
        self.added.notify_one();
    }

    /// Waits no more for one.
    pub(super) fn forget(&self, sandbox: &Path) {
        let mut sandboxes = self.sandboxes.lock().unwrap_or_else(PoisonError::into_inner);
        sandboxes.retain(|(known, _)| known != sandbox);
    }

    /// The sandboxes that are mounted now; returns when there is one.
    pub(super) fn mounted(&self) -> Vec<PathBuf> {
        let mut changes = None;
        loop {
            let mut sandboxes = self.sandboxes.lock().unwrap_or_else(PoisonError::into_inner);
            while sandboxes.is_empty() {
                changes = None;
                sandboxes = self.added.wait(sandboxes).unwrap_or_else(PoisonError::into_inner);
            }
            // It is opened before the look, so that nothing happens between the two.
            changes = changes.or_else(|| File::open("/proc/self/mountinfo").ok());
            let now = Instant::now();
            let mut mounted = Vec::new();
            sandboxes.retain(|(sandbox, end)| {
                let is_mounted = is_mounted(sandbox);
                if is_mounted {
                    mounted.push(sandbox.clone());
                }
                !is_mounted && now < *end
            });
            if !mounted.is_empty() {
                return mounted;
            }
            drop(sandboxes);
            wait_for_mount(changes.as_ref());
        }
    }
}

/// Whether a namespace is mounted there.
pub(super) fn is_mounted(sandbox: &Path) -> bool {
    NetNs::open(sandbox).is_ok()
}

/// Waits until the mounts have changed since the file was opened or waited for last.
fn wait_for_mount(changes: Option<&File>) {
    let Some(changes) = changes else { return std::thread::sleep(LOOK_AGAIN) };
    let timeout = PollTimeout::try_from(LOOK_AGAIN).unwrap_or(PollTimeout::MAX);
    // An error counts as a change.
    let _ = poll(&mut [PollFd::new(changes.as_fd(), PollFlags::POLLPRI)], timeout);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_mounted_is_told_and_what_is_not_is_waited_for() {
        let awaited = Arc::new(Awaited::default());
        awaited.add(Path::new("/nonexistent"));
        // Any namespace's file will do.
        awaited.add(Path::new("/proc/self/ns/net"));
        assert_eq!(awaited.mounted(), [Path::new("/proc/self/ns/net")]);
        let waiter = {
            let awaited = Arc::clone(&awaited);
            std::thread::spawn(move || awaited.mounted())
        };
        awaited.add(Path::new("/proc/thread-self/ns/net"));
        assert_eq!(waiter.join().unwrap(), [Path::new("/proc/thread-self/ns/net")]);
        awaited.forget(Path::new("/nonexistent"));
        assert!(awaited.sandboxes.lock().unwrap().is_empty());
    }

    #[test]
    fn the_number_that_is_waited_for_is_limited() {
        let awaited = Awaited::default();
        for number in 0..2 * MOST {
            awaited.add(Path::new(&format!("/nonexistent/{number}")));
        }
        assert_eq!(awaited.sandboxes.lock().unwrap().len(), MOST);
    }

    #[test]
    fn one_thing_at_a_time_is_done_to_a_sandbox_and_no_lock_stays() {
        let locks = Arc::new(SandboxLocks::default());
        let busy = Arc::new(Mutex::new(()));
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let (locks, busy) = (Arc::clone(&locks), Arc::clone(&busy));
                std::thread::spawn(move || {
                    for _ in 0..100 {
                        locks.with(Path::new("/s"), || drop(busy.try_lock().expect("alone")));
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert!(locks.0.lock().unwrap().is_empty());
    }
}

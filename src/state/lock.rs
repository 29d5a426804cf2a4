//! Locks of directories that are waited for, but not without end.
//!
//! A lock of flock(2) can be taken by whoever has a descriptor of the directory. Each proxy has one
//! of its container's, to remove it at the end, and a proxy may hang or be in the hands of an
//! attacker.

use std::fs;
use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// Time after which the holder of a lock is looked for.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);
/// Time for which a lock is waited for in all. Each command holds a lock for milliseconds, and a
/// command that waits for a proxy to end for some seconds at most.
pub(super) const LIMIT: Duration = Duration::from_secs(20);

/// Locks a directory or file, and waits for it no longer than `limit`. `false`: the time is over.
///
/// # Errors
/// Those of flock(2) and of making a thread.
pub(super) fn lock_within(file: &File, limit: Duration) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => return Ok(true),
        Err(TryLockError::WouldBlock) => {}
        Err(TryLockError::Error(error)) => return Err(error),
    }
    if limit.is_zero() {
        return Ok(false);
    }
    // flock(2) has no time limit. A lock belongs to the open file, which the thread shares. If the
    // time is over, the thread gives back what it gets after all, or ends with the process.
    let (sender, receiver) = mpsc::channel();
    let shared = file.try_clone()?;
    thread::Builder::new().spawn(move || {
        let locked = shared.lock();
        let is_locked = locked.is_ok();
        if sender.send(locked).is_err() && is_locked {
            let _ = shared.unlock();
        }
    })?;
    match receiver.recv_timeout(limit) {
        Ok(locked) => locked.map(|()| true),
        Err(_) => Ok(false),
    }
}

/// Process ids of those who hold a lock of flock(2) on a file, as /proc/locks shows them.
pub(super) fn holders(file: &File) -> io::Result<Vec<i32>> {
    let meta = file.metadata()?;
    let (major, minor) = (libc::major(meta.dev()), libc::minor(meta.dev()));
    let name = format!("{major:02x}:{minor:02x}:{}", meta.ino());
    let text = fs::read_to_string("/proc/locks")?;
    Ok(text.lines().filter_map(|line| holder_in(line, &name)).collect())
}

/// The process of a line such as `1: FLOCK  ADVISORY  WRITE 4711 00:2a:123 0 EOF`, if the line is
/// about this file. One who waits has `->` behind the number.
fn holder_in(line: &str, file: &str) -> Option<i32> {
    let mut words = line.split_ascii_whitespace().skip(1);
    let is_flock = words.next() == Some("FLOCK");
    let pid = words.nth(2)?.parse().ok()?;
    (is_flock && words.next() == Some(file)).then_some(pid)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_lock_is_waited_for_and_not_without_end() {
        let dir = tempfile::tempdir().unwrap();
        let open = || File::open(dir.path()).unwrap();
        let (first, second, third) = (open(), open(), open());
        assert!(lock_within(&first, Duration::ZERO).unwrap());
        assert_eq!(holders(&second).unwrap(), [std::process::id().cast_signed()]);
        let begun = Instant::now();
        assert!(!lock_within(&second, Duration::from_millis(50)).unwrap());
        assert!(begun.elapsed() >= Duration::from_millis(50));
        thread::scope(|scope| {
            let waiting = scope.spawn(|| lock_within(&third, Duration::from_secs(20)).unwrap());
            drop(first);
            assert!(waiting.join().unwrap(), "what the second got too late, it has given back");
        });
    }

    #[test]
    fn holders_are_told_from_those_who_wait() {
        let file = "00:2a:123";
        let holder = |line: &str| holder_in(line, file);
        assert_eq!(holder("1: FLOCK  ADVISORY  WRITE 4711 00:2a:123 0 EOF"), Some(4711));
        assert_eq!(holder("1: -> FLOCK  ADVISORY  WRITE 4712 00:2a:123 0 EOF"), None);
        assert_eq!(holder("1: OFDLCK ADVISORY  WRITE -1 00:2a:123 0 0"), None);
        assert_eq!(holder("1: FLOCK  ADVISORY  WRITE 4711 00:2a:124 0 EOF"), None);
        assert_eq!(holder(""), None);
    }
}

//! The last attachments that a hook has refused: `refusals.jsonl` in the state directory.
//!
//! An engine may throw the hook's words away, and a host may have no system log. An object of JSON
//! stands on each line. A file that is full becomes `refusals.jsonl.1`, in place of the one before it.
//! Each writer appends its line with one call; a line that was torn all the same is left out by
//! readers. Only a hook that fails writes.

use std::fs;
use std::fs::File;
use std::io;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::primitives::printable;
use crate::state::StateDirError;
use crate::state::Store;
use crate::state::store::at;

pub(super) const FILE: &str = "refusals.jsonl";
/// Bytes from which on the file is full: some hundred refusals.
const LIMIT: u64 = 32 << 10;
/// Most bytes that are read of a file: a full one, and a line.
const MAX_READ: u64 = LIMIT + (8 << 10);
/// Characters of a reason that are kept.
const MAX_REASON: usize = 1000;
/// Characters of an id that are kept.
const MAX_ID: usize = 128;

/// An attachment that was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// When, in seconds since 1970.
    time: u64,
    /// The container's id.
    pub container: String,
    /// The hook's error, in one line.
    pub reason: String,
}

impl Refusal {
    /// One of now. What is too long ends early.
    pub fn now(container: &str, reason: &str) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Refusal {
            time: now.as_secs(),
            container: printable(container, MAX_ID),
            reason: printable(reason, MAX_REASON),
        }
    }

    /// When it was, in milliseconds since 1970.
    pub(crate) fn time_ms(&self) -> u64 {
        self.time.saturating_mul(1000)
    }

    /// How long ago it was; nothing if the clock was set back since.
    pub fn age(&self) -> Duration {
        let then = UNIX_EPOCH.checked_add(Duration::from_secs(self.time)).unwrap_or(UNIX_EPOCH);
        SystemTime::now().duration_since(then).unwrap_or_default()
    }
}

impl Store {
    /// Keeps a refusal.
    ///
    /// # Errors
    /// A state directory that cannot be made or written.
    pub fn remember_refusal(&self, refusal: &Refusal) -> Result<(), StateDirError> {
        self.make()?;
        let path = self.root().join(FILE);
        append(&path, refusal, LIMIT).map_err(at("write", &path))
    }

    /// The refusals that are kept, oldest first.
    ///
    /// # Errors
    /// Those of [`Store::check`], and a file that cannot be read.
    pub fn refusals(&self) -> Result<Vec<Refusal>, StateDirError> {
        let mut refusals = Vec::new();
        for path in self.refusal_files()? {
            let file = File::options().read(true).custom_flags(libc::O_NOFOLLOW).open(&path);
            let mut bytes = Vec::new();
            let read = file.and_then(|file| file.take(MAX_READ).read_to_end(&mut bytes));
            read.map_err(at("read", &path))?;
            let lines = bytes.split(|byte| *byte == b'\n');
            refusals.extend(lines.filter_map(|line| serde_json::from_slice::<Refusal>(line).ok()));
        }
        Ok(refusals)
    }

    /// The files that are there, the older one first.
    ///
    /// # Errors
    /// Those of [`Store::check`].
    pub(crate) fn refusal_files(&self) -> Result<Vec<PathBuf>, StateDirError> {
        if !self.check()? {
            return Ok(Vec::new());
        }
        let newest = self.root().join(FILE);
        let files = [before(&newest), newest];
        // A symbolic link or a pipe is none of ours.
        let is_file = |path: &PathBuf| fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file());
        Ok(files.into_iter().filter(is_file).collect())
    }
}

fn append(path: &Path, refusal: &Refusal, limit: u64) -> io::Result<()> {
    // The line end comes first too: it ends a line that a writer was killed in.
    let line = format!("\n{}\n", serde_json::to_string(refusal)?);
    if fs::symlink_metadata(path).is_ok_and(|meta| meta.len() + line.len() as u64 > limit) {
        fs::rename(path, before(path))?;
    }
    // A pipe in its place is not waited for.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let mut file =
        File::options().append(true).create(true).mode(0o600).custom_flags(flags).open(path)?;
    file.write_all(line.as_bytes())
}

fn before(path: &Path) -> PathBuf {
    path.with_extension("jsonl.1")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::at(dir.path().join("state"));
        (dir, store)
    }

    #[test]
    fn refusals_are_kept_and_torn_lines_are_left_out() {
        let (_dir, store) = store();
        assert_eq!(store.refusals().unwrap(), []);
        let first = Refusal::now("c1", "parent=x: there is no such interface");
        store.remember_refusal(&first).unwrap();
        let path = store.root().join(FILE);
        let whole = fs::read(&path).unwrap();
        for length in 0..whole.len() - 1 {
            fs::write(&path, &whole[..length]).unwrap();
            let second = Refusal::now("c2", "a\nb\u{1b}");
            store.remember_refusal(&second).unwrap();
            let kept = store.refusals().unwrap();
            assert_eq!(kept.last(), Some(&second));
            assert_eq!(second.reason, "a\\nb\\u{1b}");
            assert!(kept.len() <= 2);
        }
        assert!(first.age() < Duration::from_secs(600));
    }

    #[test]
    fn the_files_do_not_grow_and_the_newest_is_there() {
        let (_dir, store) = store();
        store.make().unwrap();
        let path = store.root().join(FILE);
        for n in 0..100 {
            let refusal = Refusal::now(&format!("c{n}"), &"x".repeat(5000));
            append(&path, &refusal, LIMIT).unwrap();
        }
        let files = store.refusal_files().unwrap();
        assert!(files.iter().all(|file| fs::metadata(file).unwrap().len() <= LIMIT));
        let kept = store.refusals().unwrap();
        assert!((30..100).contains(&kept.len()), "{}", kept.len());
        assert_eq!(kept.last().unwrap().container, "c99");
    }

    #[test]
    fn what_is_no_file_is_not_followed_and_not_waited_for() {
        let (dir, store) = store();
        store.make().unwrap();
        let path = store.root().join(FILE);
        let other = dir.path().join("other");
        fs::write(&other, "").unwrap();
        std::os::unix::fs::symlink(&other, &path).unwrap();
        assert!(store.remember_refusal(&Refusal::now("c", "r")).is_err());
        assert_eq!(fs::read(&other).unwrap(), b"");
        fs::remove_file(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(store.remember_refusal(&Refusal::now("c", "r")).is_err());
        assert_eq!(store.refusals().unwrap(), []);
    }
}

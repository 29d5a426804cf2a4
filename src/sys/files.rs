//! Files that are replaced whole: a reader sees the old content or the new one, never a part.

use std::ffi::OsString;
use std::fs;
use std::fs::{File, Metadata, Permissions};
use std::io;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::statfs::{PROC_SUPER_MAGIC, statfs};

/// Whether a file is in a /proc, by whatever way its path leads there. The name of such a file says
/// nothing of what it is about later: process ids are used again. The last part of the path is not
/// followed if it is a symbolic link.
pub(crate) fn is_in_proc(path: &Path) -> bool {
    // Of a directory that is not there, the first above that is counts.
    let above = path.ancestors().skip(1).find_map(|directory| statfs(directory).ok());
    above.is_some_and(|info| info.filesystem_type() == PROC_SUPER_MAGIC)
}

/// Time for which a writer waits for others that write the same file.
const TURN: Duration = Duration::from_secs(5);
/// Time after which it looks again.
const RETRY: Duration = Duration::from_millis(2);

/// How a file is replaced.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Replacement<'m> {
    /// Permission bits of the new file, at most 0o7777, whatever the umask is.
    pub(crate) mode: u32,
    /// The file whose permission bits and owner the new one gets; `mode` does not count then.
    pub(crate) like: Option<&'m Metadata>,
    /// Waits until the content is on the disk: after a crash of the machine the path has the old
    /// content or the new one. Costs some milliseconds. Not for what a crash makes void anyway.
    pub(crate) fsync: bool,
    /// The caller holds a lock on the path. The temporary file is `PATH.new` then, a name that
    /// those who clean up know. Otherwise it is hidden, and writers take turns: the next one removes
    /// what one has left that was killed.
    pub(crate) locked: bool,
}

impl Replacement<'_> {
    /// For a file that only its owner reads, under no lock, and that a crash makes void.
    pub(crate) const PRIVATE: Replacement<'static> =
        Replacement { mode: 0o600, like: None, fsync: false, locked: false };
}

/// Replaces the file at `path`, or makes it: writes a temporary file in the same directory and
/// renames it (rename(2)). A symbolic link at `path` is replaced itself.
///
/// # Errors
/// Those of open(2), write(2), fchown(2), fchmod(2), fsync(2) and rename(2). The path is as it was
/// then, and the temporary file is removed.
pub(crate) fn replace(path: &Path, content: &[u8], how: Replacement<'_>) -> io::Result<()> {
    let (temporary, file) = temporary(path, how.locked)?;
    // The file is open, and so its lock is held, until it has its place.
    let written = fill(&file, content, how).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// Makes a file whole, or not at all: whatever is at `path` already stays. The content is on the disk
/// then.
///
/// # Errors
/// `AlreadyExists`, and those of [`replace`] and of link(2).
pub(crate) fn create(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let (temporary, file) = temporary(path, false)?;
    let how = Replacement { mode, fsync: true, ..Replacement::PRIVATE };
    let made = fill(&file, content, how).and_then(|()| fs::hard_link(&temporary, path));
    let _ = fs::remove_file(&temporary);
    made
}

/// A new file beside `path`. The ending of its name keeps programs that read `*.json` or `*.toml` of the
/// directory away from it.
fn temporary(path: &Path, locked: bool) -> io::Result<(PathBuf, File)> {
    let mut name = OsString::new();
    let file = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    if !locked {
        name.push(".");
    }
    name.push(file);
    name.push(if locked { ".new" } else { ".mcrun-new" });
    let path = path.with_file_name(name);
    let file = if locked { create_new(&path)? } else { create_in_turn(&path)? };
    Ok((path, file))
}

/// A new file at `path`, which is locked (flock(2)) for as long as it is open. Waits for another one who
/// has made such a file. One that nobody has locked was left by a writer that was killed.
fn create_in_turn(path: &Path) -> io::Result<File> {
    let is_there = |file: &File| -> io::Result<bool> {
        let (own, there) = (file.metadata()?, fs::symlink_metadata(path));
        Ok(there.is_ok_and(|there| (there.dev(), there.ino()) == (own.dev(), own.ino())))
    };
    let until = Instant::now() + TURN;
    loop {
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        match File::options().write(true).create_new(true).mode(0o600).open(path) {
            Ok(file) => {
                // Somebody may have taken it for one that was left, and removed it.
                file.lock()?;
                if is_there(&file)? {
                    return Ok(file);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                match File::options().read(true).custom_flags(flags).open(path) {
                    Ok(file) if file.try_lock().is_err() => thread::sleep(RETRY),
                    Ok(file) if !is_there(&file)? => {}
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    // A link, or the file of a user whose turn it cannot be.
                    _ => fs::remove_file(path)?,
                }
            }
            Err(error) => return Err(error),
        }
        if Instant::now() >= until {
            let why = format!("{} is another writer's all the time", path.display());
            return Err(io::Error::new(io::ErrorKind::TimedOut, why));
        }
    }
}

/// With `O_EXCL`, which follows no link that somebody has put there. What is there was left by a
/// writer that was killed.
fn create_new(path: &Path) -> io::Result<File> {
    let create = || File::options().write(true).create_new(true).mode(0o600).open(path);
    match create() {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::remove_file(path)?;
            create()
        }
        result => result,
    }
}

fn fill(mut file: &File, content: &[u8], how: Replacement<'_>) -> io::Result<()> {
    file.write_all(content)?;
    let mut mode = how.mode;
    if let Some(like) = how.like {
        let own = file.metadata()?;
        if (own.uid(), own.gid()) != (like.uid(), like.gid()) {
            fchown(file, Some(like.uid()), Some(like.gid()))?;
        }
        mode = like.mode() & 0o7777;
    }
    // After fchown(2), which clears set-user-ID bits.
    if mode != 0o600 {
        file.set_permissions(Permissions::from_mode(mode))?;
    }
    if how.fsync { file.sync_all() } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{chown, symlink};

    use super::*;

    fn state(path: &Path) -> (u32, u32, String) {
        let meta = fs::metadata(path).unwrap();
        (meta.mode() & 0o7777, meta.uid(), fs::read_to_string(path).unwrap())
    }

    #[test]
    fn the_mode_is_the_one_asked_for_and_nothing_else_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        replace(&path, b"one", Replacement::PRIVATE).unwrap();
        assert_eq!(state(&path), (0o600, 0, "one".into()));
        let how = Replacement { mode: 0o666, fsync: true, locked: true, ..Replacement::PRIVATE };
        replace(&path, b"two", how).unwrap();
        assert_eq!(state(&path), (0o666, 0, "two".into()));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn mode_and_owner_are_taken_from_another_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        fs::write(&path, "{}").unwrap();
        chown(&path, Some(7), Some(8)).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        let like = fs::metadata(&path).unwrap();
        let how = Replacement { like: Some(&like), ..Replacement::PRIVATE };
        replace(&path, b"{ }", how).unwrap();
        assert_eq!(state(&path), (0o640, 7, "{ }".into()));
    }

    #[test]
    fn what_a_killed_writer_left_is_no_obstacle_and_no_way_elsewhere() {
        let dir = tempfile::tempdir().unwrap();
        let (path, elsewhere) = (dir.path().join("record"), dir.path().join("elsewhere"));
        fs::write(&elsewhere, "theirs").unwrap();
        symlink(&elsewhere, dir.path().join("record.new")).unwrap();
        let how = Replacement { locked: true, ..Replacement::PRIVATE };
        replace(&path, b"ours", how).unwrap();
        assert_eq!(state(&path).2, "ours");
        assert_eq!(state(&elsewhere).2, "theirs");
    }

    #[test]
    fn the_next_writer_removes_what_a_killed_one_left_and_waits_for_one_that_lives() {
        let dir = tempfile::tempdir().unwrap();
        let (path, elsewhere) = (dir.path().join("a.prom"), dir.path().join("b"));
        let left = dir.path().join(".a.prom.mcrun-new");
        fs::write(&left, "torn").unwrap();
        replace(&path, b"whole", Replacement::PRIVATE).unwrap();
        assert_eq!((state(&path).2, left.exists()), ("whole".into(), false));
        fs::write(&elsewhere, "theirs").unwrap();
        symlink(&elsewhere, &left).unwrap();
        replace(&path, b"again", Replacement::PRIVATE).unwrap();
        assert_eq!((state(&path).2, state(&elsewhere).2), ("again".into(), "theirs".into()));
        let write = |number: usize| {
            let content = vec![b'0' + number as u8; 100_000];
            for _ in 0..50 {
                replace(&path, &content, Replacement::PRIVATE).unwrap();
                let now = fs::read(&path).unwrap();
                assert!(now.len() == content.len() && now.iter().all(|byte| *byte == now[0]));
            }
        };
        replace(&path, &vec![b'9'; 100_000], Replacement::PRIVATE).unwrap();
        thread::scope(|scope| (0..4).for_each(|number| _ = scope.spawn(move || write(number))));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn what_is_there_is_not_replaced_by_what_is_created() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("media.toml");
        create(&path, b"one", 0o644).unwrap();
        let error = create(&path, b"two", 0o644).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(state(&path), (0o644, 0, "one".into()));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failure_leaves_the_path_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("directory");
        fs::create_dir_all(path.join("content")).unwrap();
        assert!(replace(&path, b"x", Replacement::PRIVATE).is_err());
        assert!(path.join("content").is_dir());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(replace(Path::new("/"), b"x", Replacement::PRIVATE).is_err());
    }
}

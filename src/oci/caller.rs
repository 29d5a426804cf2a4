//! The process that waits for a container's start, and is told why a hook has failed.
//!
//! crun sends the standard error of hooks to /dev/null, and podman shows crun's words alone. So
//! `mcrun run` in front of podman notes its process, which podman's command takes over, and says in
//! an annotation which one it is. `mcrun start` has no annotation to add, and notes the ids of the
//! containers. A hook that fails writes its line to standard error of the process. The note is in the
//! state directory, which is root's: an annotation alone, which may be a stranger's, leads nowhere.

use std::fs;
use std::fs::{DirBuilder, File};
use std::io;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::path::Path;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::sys::process::ProcessRef;

/// The annotation that names the process.
pub const CALLER_ANNOTATION: &str = "io.mcrun.caller";
/// The notes, one for each process, in the state directory.
const DIRECTORY: &str = "callers";
/// A note is read up to this many bytes: a thousand ids.
const MAX_NOTE: u64 = 64 << 10;

/// Notes the calling process in the state directory. The value of the annotation.
///
/// # Errors
/// When the note cannot be written.
pub fn announce(state_dir: &Path) -> io::Result<String> {
    announce_for(state_dir, "")
}

/// The same for a process that starts containers which are there, by their full ids, each on a line.
///
/// # Errors
/// As [`announce`].
pub fn announce_for(state_dir: &Path, ids: &str) -> io::Result<String> {
    let directory = state_dir.join(DIRECTORY);
    DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
    // Those whose podman has ended.
    for entry in fs::read_dir(&directory)?.flatten() {
        let process = entry.file_name().to_str().and_then(parse);
        if !process.is_some_and(ProcessRef::is_alive) {
            let _ = fs::remove_file(entry.path());
        }
    }
    let process = ProcessRef::current()?;
    let value = format!("{}-{}", process.pid, process.start);
    File::create(directory.join(&value))?.write_all(ids.as_bytes())?;
    Ok(value)
}

/// The process that has noted that it starts a container.
pub fn find_starting(state_dir: &Path, id: &str) -> Option<ProcessRef> {
    let notes = fs::read_dir(state_dir.join(DIRECTORY)).ok()?.flatten();
    let mut starting = notes.filter_map(|note| {
        let process = note.file_name().to_str().and_then(parse)?;
        let mut ids = String::new();
        File::open(note.path()).ok()?.take(MAX_NOTE).read_to_string(&mut ids).ok()?;
        ids.lines().any(|line| line == id).then_some(process)
    });
    starting.find(|process| process.is_alive())
}

/// The process that an annotation names, if it was noted.
pub fn find(state_dir: &Path, value: &str) -> Option<ProcessRef> {
    let process = parse(value)?;
    state_dir.join(DIRECTORY).join(value).exists().then_some(process)
}

/// Writes a line to the standard error of a process that still runs, if the own goes nowhere and the
/// process reads or keeps what it is told. Never blocks.
pub fn tell(process: ProcessRef, line: &str) {
    if !goes_nowhere(&io::stderr()) {
        return;
    }
    let Ok(descriptor) = process.open().and_then(|process| process.descriptor(2)) else { return };
    let mut ready = [PollFd::new(descriptor.as_fd(), PollFlags::POLLOUT)];
    // A pipe that is ready takes PIPE_BUF bytes at once (pipe(7)).
    if poll(&mut ready, PollTimeout::ZERO).is_ok_and(|count| count > 0) {
        let line: String = line.chars().filter(|c| !c.is_control()).take(1000).collect();
        let _ = File::from(descriptor).write_all(format!("{line}\n").as_bytes());
    }
}

/// The number and start time of a process, each in plain digits: the value becomes a file name.
fn parse(value: &str) -> Option<ProcessRef> {
    let (pid, start) = value.split_once('-')?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (digits(pid) && digits(start))
        .then(|| Some(ProcessRef { pid: pid.parse().ok()?, start: start.parse().ok()? }))?
}

/// Whether a descriptor is /dev/null.
fn goes_nowhere(descriptor: &impl AsFd) -> bool {
    let Ok(null) = fs::metadata("/dev/null") else { return false };
    let Ok(own) = descriptor.as_fd().try_clone_to_owned().map(File::from) else { return false };
    own.metadata().is_ok_and(|own| own.file_type().is_char_device() && own.rdev() == null.rdev())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_found_by_its_note() {
        let directory = tempfile::tempdir().unwrap();
        // One of a process that has ended, and something that is none.
        fs::create_dir(directory.path().join(DIRECTORY)).unwrap();
        for name in ["1-2", "x"] {
            fs::write(directory.path().join(DIRECTORY).join(name), "").unwrap();
        }
        let value = announce(directory.path()).unwrap();
        let names = fs::read_dir(directory.path().join(DIRECTORY)).unwrap().flatten();
        let names: Vec<_> = names.map(|entry| entry.file_name()).collect();
        assert_eq!(names, [value.as_str()]);
        assert_eq!(find(directory.path(), &value), Some(ProcessRef::current().unwrap()));
    }

    #[test]
    fn who_starts_a_container_is_found_by_its_id() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(find_starting(directory.path(), "aa"), None);
        let value = announce_for(directory.path(), "aa\nbb\n").unwrap();
        let own = ProcessRef::current().unwrap();
        assert_eq!(find_starting(directory.path(), "bb"), Some(own));
        assert_eq!(find_starting(directory.path(), "b"), None);
        assert_eq!(find_starting(directory.path(), ""), None);
        // The note of a process that has ended.
        let notes = directory.path().join(DIRECTORY);
        fs::rename(notes.join(value), notes.join("1-2")).unwrap();
        assert_eq!(find_starting(directory.path(), "bb"), None);
    }

    #[test]
    fn an_annotation_of_a_stranger_leads_nowhere() {
        let directory = tempfile::tempdir().unwrap();
        let own = ProcessRef::current().unwrap();
        for value in [&format!("{}-{}", own.pid, own.start), "../x-1", "1-", "-", "", "1-2/../3"] {
            assert_eq!(find(directory.path(), value), None, "{value}");
        }
        assert!(parse("1-99999999999999999999").is_none());
    }
}

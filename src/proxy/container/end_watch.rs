//! Watches for the end of the container.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::state::Lifetime;
use crate::sys::process::ProcessRef;

/// A descriptor that is readable when the container may have ended.
pub(crate) enum EndWatch {
    /// A pidfd of the container's init: readable when the process has ended.
    Process(OwnedFd),
    /// Watches the directory of the file where the network namespace is mounted.
    NamespacePath {
        /// Reports files that were removed from the directory (inotify(7)).
        inotify: Inotify,
        /// Name of the namespace's file.
        name: OsString,
    },
}

impl EndWatch {
    /// Opens the watch.
    ///
    /// # Errors
    /// Those of pidfd_open(2), `ESRCH` for a process that has ended; those of inotify_init(2) and
    /// inotify_add_watch(2); `EINVAL` for a path without a file name.
    pub(crate) fn open(lifetime: &Lifetime) -> io::Result<Self> {
        match lifetime {
            Lifetime::Process(process) => Self::of_process(*process),
            Lifetime::NamespacePath(path) => Self::of_path(path),
        }
    }

    fn of_process(process: ProcessRef) -> io::Result<Self> {
        Ok(EndWatch::Process(process.open()?.into()))
    }

    /// `ip netns del` and CNI runtimes unmount the namespace and unlink the file.
    fn of_path(path: &Path) -> io::Result<Self> {
        let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let removals =
            AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVED_FROM | AddWatchFlags::IN_MOVE_SELF;
        inotify.add_watch(directory, removals | AddWatchFlags::IN_ONLYDIR)?;
        Ok(EndWatch::NamespacePath { inotify, name: name.to_owned() })
    }

    /// Whether the container has ended. To be called when the descriptor is readable.
    pub(crate) fn has_ended(&self) -> bool {
        match self {
            EndWatch::Process(_) => true,
            EndWatch::NamespacePath { inotify, name } => {
                let events = inotify.read_events().unwrap_or_default();
                events.iter().any(|event| {
                    // The directory was renamed, removed or unmounted: the path is gone with it.
                    // The kernel ends a watch by IN_IGNORED.
                    event.mask.intersects(AddWatchFlags::IN_IGNORED | AddWatchFlags::IN_MOVE_SELF)
                        || event.name.as_deref() == Some(OsStr::new(name))
                })
            }
        }
    }
}

impl AsFd for EndWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            EndWatch::Process(pidfd) => pidfd.as_fd(),
            EndWatch::NamespacePath { inotify, .. } => inotify.as_fd(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_path_ends_with_its_file_and_with_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("blue");
        for name in ["blue", "green"] {
            fs::write(directory.path().join(name), "").unwrap();
        }
        let watch = EndWatch::open(&Lifetime::NamespacePath(path.clone())).unwrap();
        assert!(!watch.has_ended(), "nothing has happened");
        fs::remove_file(directory.path().join("green")).unwrap();
        assert!(!watch.has_ended(), "another file was removed");
        fs::remove_file(&path).unwrap();
        assert!(watch.has_ended());
    }

    #[test]
    fn a_path_ends_with_its_directory() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("namespaces/blue");
        fs::create_dir(directory.path().join("namespaces")).unwrap();
        let watch = EndWatch::open(&Lifetime::NamespacePath(path)).unwrap();
        assert!(!watch.has_ended());
        fs::remove_dir(directory.path().join("namespaces")).unwrap();
        assert!(watch.has_ended());
        let before = directory.path().join("before");
        fs::create_dir(&before).unwrap();
        let watch = EndWatch::open(&Lifetime::NamespacePath(before.join("blue"))).unwrap();
        fs::rename(&before, directory.path().join("after")).unwrap();
        assert!(watch.has_ended(), "the directory has another name");
        let none = Lifetime::NamespacePath(directory.path().join("none/blue"));
        assert_eq!(EndWatch::open(&none).err().unwrap().kind(), io::ErrorKind::NotFound);
    }
}

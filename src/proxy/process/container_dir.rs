//! The container's directory in the state directory. The proxy holds it open, so that it can remove
//! the directory without privileges.
//!
//! The service makes `containers/` with owner root and mode 1733, in a state directory that only
//! root may enter, and `containers/ID` with mode 0700 and the proxy's user as its owner. A process
//! of that user that holds both descriptors may remove `ID` and its files. Other processes cannot
//! reach them.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat};
use nix::sys::stat::{Mode, fchmod, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use socket2::{Domain, SockAddr, Socket, Type};

/// The proxy's control socket in the container's directory.
pub(crate) const CONTROL_SOCKET: &str = "control.sock";
/// The control socket of a proxy that is to replace another. The service renames it.
pub(crate) const SUCCESSOR_SOCKET: &str = "control.sock.new";
/// The log file, where there is no syslog.
pub(crate) const LOG_FILE: &str = "proxy.log";
/// All files that may be in the directory.
const FILES: [&str; 5] =
    [CONTROL_SOCKET, SUCCESSOR_SOCKET, LOG_FILE, "record.json", "record.json.new"];

/// The directory of one container, and the one that holds all containers' directories.
#[derive(Debug)]
pub(crate) struct ContainerDir {
    containers: OwnedFd,
    own: File,
    id: String,
}

impl ContainerDir {
    /// Opens the directory of a container in a state directory.
    ///
    /// # Errors
    /// `EINVAL` for an id that is not a file name, and those of open(2).
    pub(crate) fn open(state_dir: &Path, id: &str) -> io::Result<Self> {
        if id.is_empty() || id == "." || id == ".." || id.contains(['/', '\0']) {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        let containers = open(&state_dir.join("containers"), flags | OFlag::O_PATH, Mode::empty())?;
        // Without O_PATH, because flock(2) needs it.
        let own = openat(&containers, id, flags, Mode::empty())?;
        Ok(ContainerDir { containers, own: own.into(), id: id.to_owned() })
    }

    /// The directory that holds all containers' directories.
    pub(crate) fn containers(&self) -> BorrowedFd<'_> {
        self.containers.as_fd()
    }

    /// The container's own directory.
    pub(crate) fn own(&self) -> BorrowedFd<'_> {
        self.own.as_fd()
    }

    /// Makes a control socket of this name, with mode 0600, in place of an earlier one.
    ///
    /// # Errors
    /// Those of unlink(2), socket(2), fchmod(2) and bind(2).
    pub(crate) fn listen(&self, name: &str) -> io::Result<UnixListener> {
        match unlinkat(&self.own, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(e) => return Err(e.into()),
        }
        let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
        // bind(2) gives the file the socket's own mode (net/unix/af_unix.c, unix_bind_bsd). The
        // umask would do as well, except that all threads of a process share it.
        fchmod(&socket, Mode::from_bits_truncate(0o600))?;
        socket.bind(&SockAddr::unix(short_path(&self.own, name))?)?;
        socket.listen(libc::SOMAXCONN)?;
        Ok(OwnedFd::from(socket).into())
    }

    /// Connects to the control socket.
    ///
    /// # Errors
    /// Those of connect(2).
    pub(crate) fn connect(&self) -> io::Result<UnixStream> {
        UnixStream::connect(short_path(&self.own, CONTROL_SOCKET))
    }

    /// Opens the log file for appending, with mode 0600.
    ///
    /// # Errors
    /// Those of open(2).
    pub(crate) fn log_file(&self) -> io::Result<OwnedFd> {
        let flags = OFlag::O_WRONLY
            | OFlag::O_APPEND
            | OFlag::O_CREAT
            | OFlag::O_CLOEXEC
            | OFlag::O_NOFOLLOW;
        Ok(openat(&self.own, LOG_FILE, flags, Mode::from_bits_truncate(0o600))?)
    }

    /// Removes all files and the directory. It is no error if they are gone already.
    ///
    /// Waits for the directory's lock, so that a hook that holds it finishes first. A hook that
    /// cleans up itself ends this process.
    ///
    /// # Errors
    /// The first error, after all removals were tried.
    pub(crate) fn remove(&self) -> io::Result<()> {
        self.own.lock()?;
        let inode = |stat: nix::sys::stat::FileStat| (stat.st_dev, stat.st_ino);
        let held = fstatat(&self.own, "", AtFlags::AT_EMPTY_PATH).map(inode)?;
        match fstatat(&self.containers, self.id.as_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(named) if inode(named) == held => {}
            // It is gone, or the name is that of another container's directory with the same id.
            Ok(_) | Err(Errno::ENOENT) => return Ok(()),
            Err(e) => return Err(e.into()),
        }
        let files = FILES.map(|name| unlinkat(&self.own, name, UnlinkatFlags::NoRemoveDir));
        let directory = unlinkat(&self.containers, self.id.as_str(), UnlinkatFlags::RemoveDir);
        for result in files.into_iter().chain([directory]) {
            match result {
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }
}

/// A path that fits into a socket address (108 bytes), however long the state directory's is.
fn short_path(directory: &File, name: &str) -> PathBuf {
    format!("/proc/self/fd/{}/{name}", directory.as_raw_fd()).into()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_state_directory_may_have_a_long_path_and_nothing_is_left_in_it() {
        let base = tempfile::tempdir().unwrap();
        let state = base.path().join("s".repeat(120));
        let own = state.join("containers").join("c1");
        std::fs::create_dir_all(&own).unwrap();
        std::fs::write(own.join("record.json"), "{}").unwrap();
        let container_dir = ContainerDir::open(&state, "c1").unwrap();
        let first = container_dir.listen(CONTROL_SOCKET).unwrap();
        let mode = std::fs::metadata(own.join(CONTROL_SOCKET)).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
        assert!(UnixStream::connect(short_path(&container_dir.own, CONTROL_SOCKET)).is_ok());
        drop(first);
        let _second = container_dir.listen(CONTROL_SOCKET).unwrap();
        assert!(UnixStream::connect(short_path(&container_dir.own, CONTROL_SOCKET)).is_ok());
        container_dir.log_file().unwrap();
        container_dir.remove().unwrap();
        assert!(!own.exists());
        container_dir.remove().unwrap();
    }

    #[test]
    fn the_directory_of_a_later_container_of_the_same_id_stays() {
        let base = tempfile::tempdir().unwrap();
        let own = base.path().join("containers/c1");
        std::fs::create_dir_all(&own).unwrap();
        let container_dir = ContainerDir::open(base.path(), "c1").unwrap();
        std::fs::remove_dir(&own).unwrap();
        std::fs::create_dir(&own).unwrap();
        container_dir.remove().unwrap();
        assert!(own.exists());
    }

    #[test]
    fn an_id_that_is_a_path_is_refused() {
        let base = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(base.path().join("containers")).unwrap();
        for id in ["", ".", "..", "a/b", "../x"] {
            let error = ContainerDir::open(base.path(), id).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EINVAL), "{id:?}");
        }
    }
}

//! Network namespaces: the only code that enters one.
//!
//! A thread enters one for as long as a closure runs, and a guard takes it back, also when the
//! closure panics; if it cannot go back, the process ends rather than to go on in the wrong
//! namespace. Sockets stay in the namespace they were opened in, so a closure that returns sockets
//! is all that is needed. A thread of its own for each visit would cost a hook and a proxy a tenth
//! of their time.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use nix::sched::{CloneFlags, setns, unshare};

/// A handle on a network namespace; it keeps the namespace alive.
#[derive(Debug)]
pub struct NetNs {
    file: File,
}

/// What tells one namespace from another: device and inode of its file (`namespaces(7)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct NetNsId {
    dev: u64,
    ino: u64,
}

impl NetNsId {
    /// The inode, by which `lsns` and `ls -l /proc/PID/ns` name it.
    pub fn inode(self) -> u64 {
        self.ino
    }
}

impl NetNs {
    /// Opens a namespace file, such as `/run/netns/NAME`.
    ///
    /// # Errors
    /// That of open(2), and `EINVAL` when the file is not a network namespace.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        OwnedFd::from(File::open(path)?).try_into()
    }

    /// Opens the namespace of a process.
    ///
    /// # Errors
    /// `ENOENT` when there is no such process.
    pub fn of_pid(pid: i32) -> io::Result<Self> {
        Self::open(format!("/proc/{pid}/ns/net"))
    }

    /// Opens the namespace of the calling thread.
    ///
    /// # Errors
    /// That of open(2).
    pub fn current() -> io::Result<Self> {
        Self::open("/proc/thread-self/ns/net")
    }

    /// Makes a new namespace, with nothing in it but a loopback interface that is down. It
    /// lives as long as the handle, its processes and its sockets.
    ///
    /// # Errors
    /// `EPERM` without CAP_SYS_ADMIN.
    pub fn create() -> io::Result<Self> {
        let restore = RestoreNamespace::from_here()?;
        unshare(CloneFlags::CLONE_NEWNET)?;
        let created = Self::current();
        drop(restore);
        created
    }

    /// Runs `f` in the namespace, on the calling thread, and gives back what it returns.
    ///
    /// # Errors
    /// `EPERM` without CAP_SYS_ADMIN over the namespace.
    ///
    /// # Panics
    /// With the panic of `f`.
    pub fn run<T>(&self, f: impl FnOnce() -> T) -> io::Result<T> {
        let restore = RestoreNamespace::from_here()?;
        setns(&self.file, CloneFlags::CLONE_NEWNET)?;
        let value = f();
        drop(restore);
        Ok(value)
    }

    /// Makes a command run in the namespace. Only the network is entered: a fresh `/sys`, as
    /// `ip netns exec` mounts it, would hide the cgroups from a container runtime.
    ///
    /// # Errors
    /// `EMFILE` when the handle cannot be duplicated.
    pub fn enter_on_exec<'c>(&self, command: &'c mut Command) -> io::Result<&'c mut Command> {
        let file = self.file.try_clone()?;
        // SAFETY: the closure runs between fork and exec and makes one async-signal-safe
        // system call; it allocates nothing.
        Ok(unsafe { command.pre_exec(move || Ok(setns(&file, CloneFlags::CLONE_NEWNET)?)) })
    }

    /// Its identity, to compare with another's.
    ///
    /// # Errors
    /// That of fstat(2).
    pub fn id(&self) -> io::Result<NetNsId> {
        let meta = self.file.metadata()?;
        Ok(NetNsId { dev: meta.dev(), ino: meta.ino() })
    }

    /// Whether the caller's user namespace owns the network namespace, or is an ancestor of the one
    /// that does: only then the caller's capabilities count for the network
    /// (`user_namespaces(7)`).
    ///
    /// # Errors
    /// That of `NS_GET_USERNS`, which `ioctl_ns(2)` describes.
    pub fn is_of_this_user_namespace(&self) -> io::Result<bool> {
        // SAFETY: NS_GET_USERNS takes no argument; it gives a new descriptor or an error.
        let owner = unsafe { libc::ioctl(self.file.as_raw_fd(), libc::NS_GET_USERNS as _) };
        if owner >= 0 {
            // SAFETY: the descriptor was just opened, and belongs to nobody else.
            drop(unsafe { OwnedFd::from_raw_fd(owner) });
            return Ok(true);
        }
        match io::Error::last_os_error() {
            // The owner is out of the caller's scope.
            error if error.raw_os_error() == Some(libc::EPERM) => Ok(false),
            error => Err(error),
        }
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl TryFrom<OwnedFd> for NetNs {
    type Error = io::Error;

    /// `EINVAL` when the descriptor is not a network namespace's.
    fn try_from(fd: OwnedFd) -> io::Result<Self> {
        // SAFETY: NS_GET_NSTYPE takes no argument and only reads the file's type; it fails on
        // any file that is not a namespace.
        let kind = unsafe { libc::ioctl(fd.as_raw_fd(), libc::NS_GET_NSTYPE as _) };
        if kind == libc::CLONE_NEWNET {
            Ok(NetNs { file: fd.into() })
        } else {
            Err(io::Error::from_raw_os_error(libc::EINVAL))
        }
    }
}

impl From<NetNs> for OwnedFd {
    fn from(ns: NetNs) -> OwnedFd {
        ns.file.into()
    }
}

/// Takes the thread back to the namespace in which this was made.
struct RestoreNamespace(NetNs);

impl RestoreNamespace {
    /// Checks that there is a way back first: without CAP_SYS_ADMIN over the namespace that it is
    /// in, as in a user namespace, a thread could leave it and not return.
    fn from_here() -> io::Result<Self> {
        let restore = NetNs::current()?;
        setns(&restore.file, CloneFlags::CLONE_NEWNET)?;
        Ok(RestoreNamespace(restore))
    }
}

impl Drop for RestoreNamespace {
    fn drop(&mut self) {
        if let Err(error) = setns(&self.0.file, CloneFlags::CLONE_NEWNET) {
            eprintln!("cannot return to the previous network namespace: {error}");
            std::process::abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_callers_thread_is_back_in_its_namespace_whatever_happens_in_another() {
        let before = NetNs::current().unwrap().id().unwrap();
        let ns = NetNs::create().unwrap();
        let inside = ns.run(|| NetNs::current().unwrap().id().unwrap()).unwrap();
        assert_eq!(inside, ns.id().unwrap());
        assert_ne!(inside, before);
        assert_eq!(NetNs::current().unwrap().id().unwrap(), before);
        let panic = std::panic::catch_unwind(|| ns.run(|| panic!("inside")));
        assert!(panic.is_err());
        assert_eq!(NetNs::current().unwrap().id().unwrap(), before);
    }

    #[test]
    fn a_command_starts_in_the_namespace() {
        let ns = NetNs::create().unwrap();
        let mut command = Command::new("readlink");
        command.arg("/proc/self/ns/net");
        let output = ns.enter_on_exec(&mut command).unwrap().output().unwrap();
        let ino = ns.file.metadata().unwrap().ino();
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), format!("net:[{ino}]"));
    }

    #[test]
    fn a_file_that_is_no_network_namespace_is_refused() {
        for path in ["/dev/null", "/proc/self/ns/uts"] {
            let error = NetNs::open(path).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EINVAL), "{path}");
        }
    }
}

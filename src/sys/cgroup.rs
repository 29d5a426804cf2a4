//! Control groups of version 2 (cgroups(7), Documentation/admin-guide/cgroup-v2.rst).

use std::fs;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

/// Where version 2 is mounted: alone, or beside version 1.
const MOUNTS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];

/// A control group.
#[derive(Debug)]
pub(crate) struct ControlGroup {
    directory: OwnedFd,
    path: PathBuf,
}

impl ControlGroup {
    /// Opens the group of this name at the top of the hierarchy; makes it where there is none.
    ///
    /// # Errors
    /// `NotFound` where version 2 is not mounted; `EROFS`, `EACCES` and others of mkdir(2), as in a
    /// container.
    pub(crate) fn open_or_make(name: &str) -> io::Result<Self> {
        // In the usual case one or two system calls.
        if let Some(group) = MOUNTS.iter().find_map(|mount| Self::open(mount, name).ok()) {
            return Ok(group);
        }
        let is_mounted = |mount: &&str| {
            statfs(*mount).is_ok_and(|info| info.filesystem_type() == CGROUP2_SUPER_MAGIC)
        };
        let mount = MOUNTS.into_iter().find(is_mounted).ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, "no cgroup2 is mounted at /sys/fs/cgroup")
        })?;
        match fs::create_dir(Path::new(mount).join(name)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Self::open(mount, name),
        }
    }

    /// Opens the group of this name at the top of the hierarchy, if it is there.
    ///
    /// # Errors
    /// `ENOENT` where it is not, or where version 2 is not mounted.
    pub(crate) fn find(name: &str) -> io::Result<Self> {
        let found = MOUNTS.iter().find_map(|mount| Self::open(mount, name).ok());
        let group = found.ok_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))?;
        // Below version 1 a directory of this name is something else.
        match statfs(&group.path)?.filesystem_type() {
            CGROUP2_SUPER_MAGIC => Ok(group),
            _ => Err(io::Error::from_raw_os_error(libc::ENOENT)),
        }
    }

    /// Removes the group.
    ///
    /// # Errors
    /// `EBUSY` while it has processes or groups, and others of rmdir(2).
    pub(crate) fn remove(self) -> io::Result<()> {
        fs::remove_dir(&self.path)
    }

    fn open(mount: &str, name: &str) -> io::Result<Self> {
        let path = Path::new(mount).join(name);
        let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW;
        let directory = File::options().read(true).custom_flags(flags).open(&path)?;
        Ok(ControlGroup { directory: directory.into(), path })
    }

    /// The directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the group has a file, such as `memory.max`, which is there with its controller.
    pub(crate) fn has(&self, file: &str) -> bool {
        let flags = nix::fcntl::AtFlags::empty();
        nix::sys::stat::fstatat(&self.directory, file, flags).is_ok()
    }

    /// Writes a file of the group.
    ///
    /// # Errors
    /// `ENOENT` without the controller, and others of write(2).
    pub(crate) fn write(&self, file: &str, value: &str) -> io::Result<()> {
        fs::write(self.path.join(file), value)
    }

    /// Lets the groups of the level of this group have these controllers.
    ///
    /// # Errors
    /// `ENOENT` where version 1 has a controller, `EBUSY` where the level above has processes.
    pub(crate) fn enable(&self, controllers: &str) -> io::Result<()> {
        let above = self.path.parent().unwrap_or(Path::new("/"));
        fs::write(above.join("cgroup.subtree_control"), controllers)
    }
}

impl AsFd for ControlGroup {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

impl AsRawFd for ControlGroup {
    fn as_raw_fd(&self) -> i32 {
        self.directory.as_raw_fd()
    }
}

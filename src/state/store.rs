//! The state directory: one directory for each container, locked by who changes it.

use std::fs;
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use crate::attachment::UidRange;
use crate::net::netns::NetNsId;
use crate::oci::ContainerId;
use crate::state::dhcp_leases;
use crate::state::lock;
use crate::state::root;
use crate::state::{AttachmentRecord, ProxyUserError, ReservedUser, state_dir};
use crate::sys::files;
use crate::sys::files::Replacement;

/// Bytes of a record that are read; sixteen attachments with long rule lists stay below.
const MAX_RECORD: u64 = 4 << 20;
/// The file in a container's directory.
pub(super) const RECORD: &str = "record.json";

/// Mode of the directory that holds all containers' directories. Earlier versions wrote 1770 and
/// group 65534, which was the group of all proxies. Their proxies may use this mode too.
const CONTAINERS_MODE: u32 = 0o1733;

/// What went wrong in the state directory, and where.
#[derive(Debug, thiserror::Error)]
#[error("state directory: cannot {action} {path}: {source}")]
pub struct StateDirError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

pub(super) fn at<'p>(
    action: &'static str,
    path: &'p Path,
) -> impl FnOnce(io::Error) -> StateDirError + 'p {
    move |source| StateDirError { action, path: path.to_owned(), source }
}

/// The error of a lock that somebody does not release.
pub(super) fn held(file: &File, path: &Path) -> StateDirError {
    let holders = lock::holders(file).unwrap_or_default();
    let processes: Vec<_> = holders.iter().map(ToString::to_string).collect();
    let who = match processes.as_slice() {
        [] => "another process has locked it".to_owned(),
        _ => format!("process {} has locked it", processes.join(", ")),
    };
    let why = format!("{who} for {} s", lock::LIMIT.as_secs());
    at("lock", path)(io::Error::new(io::ErrorKind::TimedOut, why))
}

/// The state directory.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    /// The one that the environment names, or the default. Nothing is made yet.
    pub fn from_env() -> Self {
        Store::at(state_dir())
    }

    /// One at a path.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Store { root: root.into() }
    }

    /// The directory.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn containers(&self) -> PathBuf {
        self.root.join("containers")
    }

    /// Where a container's record and control socket are.
    pub fn container_dir(&self, id: &ContainerId) -> PathBuf {
        self.containers().join(id.as_str())
    }

    /// Ids of all containers that have a directory, sorted.
    ///
    /// # Errors
    /// That of readdir(3), and those of [`Store::check`]; a state directory that does not exist is
    /// empty.
    pub fn list(&self) -> Result<Vec<ContainerId>, StateDirError> {
        if !self.check()? {
            return Ok(Vec::new());
        }
        let path = self.containers();
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(at("list", &path)(e)),
        };
        let mut ids: Vec<_> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok()?.try_into().ok())
            .collect();
        ids.sort();
        Ok(ids)
    }

    /// A container's record, read without its lock: it is replaced whole. `None` when there is
    /// none, or none yet.
    ///
    /// # Errors
    /// When it exists and cannot be read or understood.
    pub fn read(&self, id: &ContainerId) -> Result<Option<AttachmentRecord>, StateDirError> {
        if !self.check()? {
            return Ok(None);
        }
        let path = self.container_dir(id);
        match open_container(&path, libc::O_PATH) {
            Ok(dir) => read_record(&dir, &path),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(at("open", &path)(e)),
        }
    }

    /// The records that name this network namespace. What cannot be read or understood is `mcrun
    /// gc`'s business.
    ///
    /// # Errors
    /// Those of [`Store::list`].
    pub fn in_namespace(&self, namespace: NetNsId) -> Result<Vec<AttachmentRecord>, StateDirError> {
        // To look for a number takes a small part of the time that it takes to understand a record.
        let number = namespace.inode().to_string();
        let named =
            |text: &Vec<u8>| std::str::from_utf8(text).is_ok_and(|text| text.contains(&number));
        let ids = self.list()?.into_iter();
        let texts = ids.filter_map(|id| {
            let dir = open_container(&self.container_dir(&id), libc::O_PATH).ok()?;
            read_text(&dir).ok()
        });
        let records = texts.filter(named).filter_map(|text| serde_json::from_slice(&text).ok());
        Ok(records
            .filter(|record: &AttachmentRecord| record.container().netns == namespace)
            .collect())
    }

    /// Locks the directory of a container, making it first where there is none.
    ///
    /// # Errors
    /// When it cannot be made or locked: a full or read-only file system, no privilege.
    pub fn lock_or_create(&self, id: &ContainerId) -> Result<LockedDir, StateDirError> {
        self.make_parents()?;
        let path = self.container_dir(id);
        // A directory that somebody removed while we waited for its lock is made anew.
        loop {
            match DirBuilder::new().mode(0o700).create(&path) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(at("make", &path)(e));
                }
                _ => {}
            }
            // The way to it is checked already, and only root can change it.
            if let Some(locked) = self.lock_checked(id)? {
                return Ok(locked);
            }
        }
    }

    /// Locks the directory of a container; `None` when it has none.
    ///
    /// # Errors
    /// When it exists and cannot be locked, and those of [`Store::check`].
    pub fn lock(&self, id: &ContainerId) -> Result<Option<LockedDir>, StateDirError> {
        if !self.check()? {
            return Ok(None);
        }
        self.lock_checked(id)
    }

    fn lock_checked(&self, id: &ContainerId) -> Result<Option<LockedDir>, StateDirError> {
        self.lock_by(id, |dir| self.lock_container(id, dir).map(|()| true))
    }

    /// The same, without waiting; `None` also when somebody else has the lock.
    ///
    /// # Errors
    /// As [`Store::lock`].
    pub fn try_lock(&self, id: &ContainerId) -> Result<Option<LockedDir>, StateDirError> {
        let path = self.container_dir(id);
        self.lock_by(id, |dir| lock::lock_within(dir, Duration::ZERO).map_err(at("lock", &path)))
    }

    fn lock_by(
        &self,
        id: &ContainerId,
        lock: impl Fn(&File) -> Result<bool, StateDirError>,
    ) -> Result<Option<LockedDir>, StateDirError> {
        let path = self.container_dir(id);
        loop {
            let dir = match open_container(&path, 0) {
                Ok(dir) => dir,
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(e) => return Err(at("open", &path)(e)),
            };
            if !lock(&dir)? {
                return Ok(None);
            }
            // Removed, or made anew, while we waited: that lock guards nothing.
            let same =
                |a: &fs::Metadata, b: &fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
            match (dir.metadata(), fs::metadata(&path)) {
                (Ok(held), Ok(named)) if same(&held, &named) => {
                    return Ok(Some(LockedDir { path, dir }));
                }
                _ => {}
            }
        }
    }

    /// Locks a container's directory. A proxy holds the lock for microseconds, at its end. One that
    /// does not let go is hung, or an attacker has taken it over: it is killed.
    fn lock_container(&self, id: &ContainerId, dir: &File) -> Result<(), StateDirError> {
        let path = self.container_dir(id);
        if lock::lock_within(dir, lock::PATIENCE).map_err(at("lock", &path))? {
            return Ok(());
        }
        let holders = lock::holders(dir).unwrap_or_default();
        let record = self.read(id).ok().flatten();
        let proxy = record.as_ref().and_then(AttachmentRecord::attached).and_then(|a| a.proxy);
        if let Some(proxy) = proxy.filter(|proxy| holders.contains(&proxy.pid)) {
            // If this fails, the lock is waited for all the same.
            let _ = proxy.open().and_then(|process| process.signal(libc::SIGKILL));
        }
        match lock::lock_within(dir, lock::LIMIT - lock::PATIENCE).map_err(at("lock", &path))? {
            true => Ok(()),
            false => Err(held(dir, &path)),
        }
    }

    /// Locks out everybody else who asks for this lock, until the file is dropped: for what several
    /// containers share. It is held for a few milliseconds.
    ///
    /// # Errors
    /// When the directory cannot be made or locked.
    pub fn lock_all(&self) -> Result<File, StateDirError> {
        self.make_parents()?;
        let file = File::open(&self.root).map_err(at("open", &self.root))?;
        match lock::lock_within(&file, lock::LIMIT).map_err(at("lock", &self.root))? {
            true => Ok(file),
            false => Err(held(&file, &self.root)),
        }
    }

    /// Reserves a user id of `range` for a proxy of this container, which has a directory.
    ///
    /// # Errors
    /// [`ProxyUserError`].
    pub fn reserve_proxy_user(
        &self,
        container: &ContainerId,
        range: UidRange,
    ) -> Result<ReservedUser, ProxyUserError> {
        ReservedUser::reserve(&self.root, container, range)
    }

    /// Checks that nobody but root can replace the state directory, the directory of all containers,
    /// or a directory on the way to them. `false`: the state directory does not exist, and may be
    /// made.
    ///
    /// # Errors
    /// What must not be followed, and why. Nothing may be made then.
    pub fn check(&self) -> Result<bool, StateDirError> {
        let refuse = |found: root::Unsafe| at("use", &found.path)(found.source);
        if !root::check(&self.root).map_err(refuse)? {
            return Ok(false);
        }
        let path = self.containers();
        match fs::symlink_metadata(&path) {
            // Proxies may write it: see the module's text.
            Ok(meta) => root::check_kind_and_owner(&meta).map_err(at("use", &path))?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(at("read", &path)(e)),
        }
        Ok(true)
    }

    /// Makes the state directory where there is none.
    ///
    /// # Errors
    /// Those of mkdir(2) and of [`Store::check`].
    pub fn make(&self) -> Result<(), StateDirError> {
        if self.check()? {
            return Ok(());
        }
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.root)
            .map_err(at("make", &self.root))?;
        // Whoever was faster may have been somebody else.
        self.check().map(drop)
    }

    fn make_parents(&self) -> Result<(), StateDirError> {
        self.make()?;
        let path = self.containers();
        match DirBuilder::new().mode(0o700).create(&path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(at("make", &path)(e)),
            Ok(()) => {}
        }
        let meta = fs::metadata(&path).map_err(at("read", &path))?;
        // Sticky, and writable for the users of proxies: see the module's text.
        let root = fs::metadata(&self.root).map_err(at("read", &self.root))?;
        let mode = match root.mode() & 0o077 {
            0 => CONTAINERS_MODE,
            // Others would get at it too. Then proxies leave their directories to `mcrun gc`.
            _ => 0o700,
        };
        if meta.mode() & 0o7777 != mode {
            fs::set_permissions(&path, Permissions::from_mode(mode))
                .map_err(at("change the mode of", &path))?;
        }
        Ok(())
    }
}

/// A container's directory, locked: nobody else attaches, detaches or cleans it meanwhile. A
/// lock ends with its process, however that ends.
#[derive(Debug)]
pub struct LockedDir {
    path: PathBuf,
    dir: File,
}

impl LockedDir {
    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Lets a proxy of this user id remove the directory when it has dropped its privileges.
    ///
    /// # Errors
    /// `EPERM` without privilege.
    pub fn hand_to_proxy(&self, user: u32) -> Result<(), StateDirError> {
        chown(&self.path, Some(user), Some(user)).map_err(at("change the owner of", &self.path))
    }

    /// The record, when there is one.
    ///
    /// # Errors
    /// When it exists and cannot be read or understood.
    pub fn read(&self) -> Result<Option<AttachmentRecord>, StateDirError> {
        read_record(&self.dir, &self.path)
    }

    /// Replaces the record whole.
    ///
    /// # Errors
    /// `ENOSPC`, `EROFS` and their like.
    pub fn write(&self, record: &AttachmentRecord) -> Result<(), StateDirError> {
        let path = self.path.join(RECORD);
        let write = || -> io::Result<()> {
            let mut text = serde_json::to_vec_pretty(record)?;
            text.push(b'\n');
            // No fsync: after a crash of the machine there is no container.
            let how = Replacement { locked: true, ..Replacement::PRIVATE };
            files::replace(&path, &text, how)
        };
        write().map_err(at("write", &path))
    }

    /// Removes the directory and all that is in it. That it is gone already is as wanted.
    ///
    /// # Errors
    /// Any other.
    pub fn remove(self) -> Result<(), StateDirError> {
        match fs::remove_dir_all(&self.path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(at("remove", &self.path)(e)),
            _ => Ok(()),
        }
    }
}

/// Opens a container's directory. What else may be in its place is not followed and not waited for.
fn open_container(path: &Path, flags: i32) -> io::Result<File> {
    let flags = flags | libc::O_DIRECTORY | libc::O_NOFOLLOW;
    let opened = OpenOptions::new().read(true).custom_flags(flags).open(path);
    opened.map_err(|error| match error.raw_os_error() {
        Some(libc::ENOTDIR) => io::Error::other("it is no directory"),
        _ => error,
    })
}

/// Reads the record in a container's directory, whose path is only told.
fn read_record(dir: &File, path: &Path) -> Result<Option<AttachmentRecord>, StateDirError> {
    let path = path.join(RECORD);
    match read_text(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(at("read", &path)(e)),
        Ok(text) => {
            let record = serde_json::from_slice(&text);
            let mut record = record.map_err(|e| at("understand", &path)(e.into()))?;
            if let Some(root) = path.ancestors().nth(3) {
                dhcp_leases::complete(&mut record, root);
            }
            Ok(Some(record))
        }
    }
}

fn read_text(dir: &File) -> io::Result<Vec<u8>> {
    read_file(dir.as_fd(), Path::new(RECORD))
}

/// Reads a record.
///
/// # Errors
/// Those of openat(2), and [`is_no_record`].
pub(super) fn read_file(dir: BorrowedFd<'_>, path: &Path) -> io::Result<Vec<u8>> {
    // A container's directory is the proxy's user's. A proxy that was taken over must not have root
    // wait for a FIFO, or read another file in place of the record.
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let file = File::from(openat(dir, path, flags, Mode::empty())?);
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    // Nor believe what a proxy has written.
    if !root::is_trusted(meta.uid()) {
        return Err(io::Error::other(format!("it belongs to user {}", meta.uid())));
    }
    // A usual record fits: one call reads it.
    let mut text = Vec::with_capacity(4096);
    file.take(MAX_RECORD).read_to_end(&mut text)?;
    Ok(text)
}

/// Whether [`read_file`] has found something that is no record.
pub(super) fn is_no_record(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Other || error.raw_os_error() == Some(libc::ELOOP)
}

#[cfg(test)]
mod tests;

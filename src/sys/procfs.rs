//! A proc filesystem that nobody else sees.

use std::io;
use std::os::fd::OwnedFd;

use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

/// The root of a new proc filesystem for the caller's pid namespace. It is mounted nowhere and
/// ends with the last descriptor that is open in it. Each has a cache of its own since Linux 5.8.
///
/// # Errors
/// Those of fsopen(2), fsconfig(2) and fsmount(2): `ENOSYS` before Linux 5.2, `EPERM` without
/// CAP_SYS_ADMIN or where parts of all other proc filesystems are covered (`mount_too_revealing`
/// in fs/namespace.c).
pub(crate) fn new_instance() -> io::Result<OwnedFd> {
    let context = fsopen(c"proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

//! A proc filesystem that nobody else sees.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

/// `FSOPEN_CLOEXEC`, `FSCONFIG_CMD_CREATE`, `FSMOUNT_CLOEXEC` and the attributes of linux/mount.h.
const FSOPEN_CLOEXEC: libc::c_uint = 1;
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;
const FSMOUNT_CLOEXEC: libc::c_uint = 1;
const NOSUID_NODEV_NOEXEC: libc::c_uint = 0x2 | 0x4 | 0x8;

/// Its root, for the caller's pid namespace. It is mounted nowhere, and goes with what is open of it. Since
/// Linux 5.8 each is a filesystem with a cache of its own.
///
/// # Errors
/// Those of fsopen(2), fsconfig(2) and fsmount(2): `ENOSYS` before Linux 5.2, `EPERM` without CAP_SYS_ADMIN
/// or where parts of all other proc filesystems are covered (`mount_too_revealing` in fs/namespace.c).
pub(crate) fn new_instance() -> io::Result<OwnedFd> {
    // SAFETY: the name is a C string.
    let context =
        descriptor(unsafe { libc::syscall(libc::SYS_fsopen, c"proc".as_ptr(), FSOPEN_CLOEXEC) })?;
    let none = ptr::null::<libc::c_char>();
    // SAFETY: this command takes no key and no value.
    let created = unsafe {
        libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), FSCONFIG_CMD_CREATE, none, none, 0)
    };
    if created < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it takes numbers.
    descriptor(unsafe {
        libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), FSMOUNT_CLOEXEC, NOSUID_NODEV_NOEXEC)
    })
}

fn descriptor(result: libc::c_long) -> io::Result<OwnedFd> {
    match i32::try_from(result) {
        // SAFETY: the kernel has just made it, and nobody else knows of it.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

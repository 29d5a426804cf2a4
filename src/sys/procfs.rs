//! Proc filesystems: one that nobody else sees, and what the paths of files there say.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path};

use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

use crate::sys::files::is_in_proc;

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

/// The process in a path `/proc/PID/ns/net`.
pub(crate) fn process_of_network(path: &Path) -> Option<i32> {
    let mut parts = path.components().rev();
    let mut next = || match parts.next()? {
        Component::Normal(part) => part.to_str(),
        _ => None,
    };
    let is_namespace = next()? == "net" && next()? == "ns" && is_in_proc(path);
    next()?.parse().ok().filter(|_| is_namespace)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_named_by_the_path_of_its_namespace() {
        let own = std::process::id();
        let path = format!("/proc/{own}/ns/net");
        assert_eq!(process_of_network(Path::new(&path)), Some(own as i32));
        for other in ["/proc/self/ns/net", "/proc/1/ns/mnt", "/run/1/ns/net", "/net", "ns/net"] {
            assert_eq!(process_of_network(Path::new(other)), None, "{other}");
        }
    }
}

//! Cgroups that a killed runtime leaves behind.

use std::path::Path;

use crate::sys::mountinfo;
use crate::sys::mountinfo::Mount;

/// Whether the host has the unified hierarchy only (cgroups(7), version 2).
pub(super) fn is_v2() -> bool {
    nix::sys::statfs::statfs("/sys/fs/cgroup")
        .is_ok_and(|fs| fs.filesystem_type() == nix::sys::statfs::CGROUP2_SUPER_MAGIC)
}

/// The cgroup of a container, relative to the root of each hierarchy.
pub(super) fn path_of(id: &str) -> String {
    format!("/mcrun-{id}")
}

/// Removes a cgroup and what is below it from every hierarchy; the processes in it must have
/// ended. Returns what could not be removed.
pub(super) fn remove(cgroup: &str) -> Vec<String> {
    let is_hierarchy = |mount: &Mount| matches!(mount.filesystem.as_str(), "cgroup" | "cgroup2");
    let mut failed = Vec::new();
    for mount in mountinfo::mounts().into_iter().filter(is_hierarchy) {
        let dir = mount.point.join(cgroup.trim_start_matches('/'));
        if dir.is_dir() {
            remove_tree(&dir, 0, &mut failed);
        }
    }
    failed
}

/// Directories only, deepest first: the files of a cgroup cannot be unlinked, and go with it.
fn remove_tree(dir: &Path, depth: u8, failed: &mut Vec<String>) {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    for entry in entries.filter(|e| depth < 16 && e.file_type().is_ok_and(|t| t.is_dir())) {
        remove_tree(&entry.path(), depth + 1, failed);
    }
    match std::fs::remove_dir(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            failed.push(format!("cannot remove cgroup {}: {error}", dir.display()));
        }
        _ => {}
    }
}

//! Cgroups that a killed runtime leaves behind.

use std::path::{Path, PathBuf};

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
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut failed = Vec::new();
    for mount in mounts.lines().filter_map(cgroup_mount) {
        let dir = mount.join(cgroup.trim_start_matches('/'));
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

/// The mount point of a cgroup hierarchy, from a line of mountinfo (proc_pid_mountinfo(5)).
fn cgroup_mount(line: &str) -> Option<PathBuf> {
    let (mount, filesystem) = line.split_once(" - ")?;
    let kind = filesystem.split(' ').next()?;
    matches!(kind, "cgroup" | "cgroup2").then(|| mount.split(' ').nth(4).map(PathBuf::from))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_are_found_in_mountinfo() {
        let line = "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu";
        assert_eq!(cgroup_mount(line), Some("/sys/fs/cgroup/cpu".into()));
        let line = "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755";
        assert_eq!(cgroup_mount(line), None);
    }
}

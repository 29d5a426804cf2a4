//! A container by one of its processes.

use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::lookup::RunningContainer;
use crate::oci::{ContainerId, container_id_of};
use crate::sys::process::{ProcessRef, Stat};

/// The process that was started first of those in a network namespace.
pub(super) fn first_in(inode: u64) -> Option<i32> {
    let entries = fs::read_dir("/proc").ok()?.flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let inside = pids.filter(|pid| {
        // It follows the link, whose target is the namespace.
        fs::metadata(format!("/proc/{pid}/ns/net")).is_ok_and(|meta| meta.ino() == inode)
    });
    let started = inside.filter_map(|pid| Some((ProcessRef::of(pid).ok()?.start, pid)));
    started.min().map(|(_, pid)| pid)
}

/// Ancestors of a process that are looked at.
const MAX_DEPTH: usize = 64;

/// The container of a process: its init is the outermost ancestor in the same network namespace.
pub(super) fn find(pid: i32) -> Option<RunningContainer> {
    let namespace = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/net")).ok();
    let own = namespace(pid)?;
    let mut init = pid;
    for _ in 0..MAX_DEPTH {
        match Stat::read(init).map(|stat| stat.parent) {
            Some(parent) if parent > 0 && namespace(parent).as_ref() == Some(&own) => init = parent,
            _ => break,
        }
    }
    let id = container_id_of(init).unwrap_or_else(|| format!("pid-{init}"));
    Some(RunningContainer {
        id: ContainerId::try_from(id).ok()?,
        pid: init,
        bundle: None,
        machine: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_is_not_there_is_none() {
        assert_eq!(find(i32::MAX), None);
        assert_eq!(find(-1), None);
    }

    #[test]
    fn a_namespace_without_a_process_has_none() {
        let own = fs::metadata("/proc/self/ns/net").unwrap().ino();
        assert!(first_in(own).is_some());
        assert_eq!(first_in(0), None);
    }
}

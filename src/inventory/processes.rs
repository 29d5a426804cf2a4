//! One look through the processes of the host.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::proxy;
use crate::sys::process::ProcessRef;

/// Most namespaces that are kept.
const MAX_NAMESPACES: usize = 4096;

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Processes {
    /// All proxies of the state directory; without root, those of any.
    pub(super) proxies: Vec<ProxyProcess>,
    /// Processes of `mcrun`, each with its command.
    pub(super) programs: Vec<(i32, String)>,
    /// A file of each network namespace that a process is in, by device and inode.
    pub(super) namespaces: HashMap<(u64, u64), PathBuf>,
}

/// A proxy that runs.
#[derive(Debug)]
pub(super) struct ProxyProcess {
    pub(super) process: ProcessRef,
    /// The container whose directory it has open, or had before the directory went.
    pub(super) container: Option<String>,
    pub(super) sockets: usize,
    /// BPF objects: what they are, and their ids, which each kind has its own of.
    pub(super) bpf: BTreeSet<(&'static str, u32)>,
}

impl Processes {
    /// Looks at all processes. What ends meanwhile is left out.
    pub(super) fn find(root: &Path) -> Self {
        let root = fs::canonicalize(root).unwrap_or_else(|_| root.to_owned());
        let mut found = Processes::default();
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        for pid in entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok()) {
            let namespace = PathBuf::from(format!("/proc/{pid}/ns/net"));
            if found.namespaces.len() < MAX_NAMESPACES
                && let Ok(meta) = fs::metadata(&namespace)
            {
                found.namespaces.entry((meta.dev(), meta.ino())).or_insert(namespace);
            }
            let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            match comm.trim_end() {
                name if name == proxy::PROGRAM => found.proxies.extend(proxy_process(pid, &root)),
                "mcrun" => found.programs.extend(program(pid)),
                _ => {}
            }
        }
        found
    }

    /// The proxy that is this process.
    pub(super) fn proxy(&self, process: ProcessRef) -> Option<&ProxyProcess> {
        self.proxies.iter().find(|proxy| proxy.process == process)
    }
}

/// A process of `mcrun`, and its command.
fn program(pid: i32) -> Option<(i32, String)> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let command = line.split(|byte| *byte == 0).nth(1)?;
    Some((pid, String::from_utf8_lossy(command).into_owned()))
}

/// A proxy of the state directory at `root`. Where its descriptors cannot be seen, it may be one.
fn proxy_process(pid: i32, root: &Path) -> Option<ProxyProcess> {
    let process = ProcessRef::of(pid).ok()?;
    let mut proxy = ProxyProcess { process, container: None, sockets: 0, bpf: BTreeSet::new() };
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { return Some(proxy) };
    let mut is_of_root = false;
    for descriptor in descriptors.flatten() {
        let Ok(target) = fs::read_link(descriptor.path()) else { continue };
        match target.to_str() {
            Some(text) if text.starts_with("socket:") => proxy.sockets += 1,
            Some("anon_inode:bpf-prog") => {
                let id = bpf_id(pid, &descriptor.file_name(), "prog_id:");
                proxy.bpf.extend(id.map(|id| ("program", id)));
            }
            Some("anon_inode:bpf-map") => {
                let id = bpf_id(pid, &descriptor.file_name(), "map_id:");
                proxy.bpf.extend(id.map(|id| ("map", id)));
            }
            Some("anon_inode:bpf_link") => {
                let id = bpf_id(pid, &descriptor.file_name(), "link_id:");
                proxy.bpf.extend(id.map(|id| ("link", id)));
            }
            _ => {
                is_of_root |= target.starts_with(root);
                if let Some(container) = container_of(&target, root) {
                    proxy.container = Some(container);
                }
            }
        }
    }
    is_of_root.then_some(proxy)
}

/// The container of a path in its directory; the kernel marks a path that has gone.
fn container_of(path: &Path, root: &Path) -> Option<String> {
    let below = path.strip_prefix(root.join("containers")).ok()?;
    let name = below.components().next()?.as_os_str().to_str()?;
    Some(name.strip_suffix(" (deleted)").unwrap_or(name).to_owned())
}

fn bpf_id(pid: i32, descriptor: &std::ffi::OsStr, field: &str) -> Option<u32> {
    let path = Path::new("/proc").join(pid.to_string()).join("fdinfo").join(descriptor);
    let text = fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| line.strip_prefix(field)?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_known_by_its_directory_also_when_that_has_gone() {
        let of = |path: &str| container_of(Path::new(path), Path::new("/run/mcrun"));
        assert_eq!(of("/run/mcrun/containers/c1"), Some("c1".into()));
        assert_eq!(of("/run/mcrun/containers/c1 (deleted)"), Some("c1".into()));
        assert_eq!(of("/run/mcrun/containers/c1/control.sock"), Some("c1".into()));
        assert_eq!(of("/run/mcrun/containers"), None);
        assert_eq!(of("/run/mcrun/proxy-users"), None);
    }
}

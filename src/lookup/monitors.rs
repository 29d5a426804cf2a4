//! The processes that monitor containers: containerd's shims, conmon and the monitors of LXC.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::lookup::{Machine, RunningContainer, lxc};
use crate::oci::ContainerId;
use crate::sys::process::ProcessRef;

/// A command line is read up to this many bytes; those of conmon have some two thousand.
const MAX_COMMAND_LINE: u64 = 64 << 10;

/// A monitor, as its command line describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Monitor {
    /// `containerd-shim-...`: it works in the directory of the bundle, beside which are those of
    /// the other containers of its namespace.
    Shim,
    /// conmon, with the container's id, its bundle and the file that holds its pid.
    Conmon { id: String, bundle: PathBuf, pid_file: PathBuf },
    /// That of LXC or Incus, whose child the container's init is.
    Lxc(Machine),
}

/// The running containers of all engines.
pub(super) fn all() -> Vec<RunningContainer> {
    let mut found = BTreeMap::new();
    for process in processes() {
        // A user may start a program of root's with any command line.
        let monitor = command_line(&process).and_then(|line| parse(&line));
        match monitor.filter(|_| is_started_by_root(&process)) {
            // The process itself is asked for its directory: a shim's command line has none.
            Some(Monitor::Shim) => {
                let Ok(bundle) = fs::read_link(process.join("cwd")) else { continue };
                // One shim may hold all containers of a pod.
                let siblings = bundle.parent().and_then(|parent| fs::read_dir(parent).ok());
                for sibling in siblings.into_iter().flatten().flatten() {
                    let Ok(id) = sibling.file_name().into_string() else { continue };
                    let bundle = sibling.path();
                    insert(&mut found, id, &bundle.join("init.pid"), &bundle);
                }
            }
            Some(Monitor::Conmon { id, bundle, pid_file }) => {
                insert(&mut found, id, &pid_file, &bundle);
            }
            Some(Monitor::Lxc(machine)) => {
                let container = init_of(&process).and_then(|init| machine.running(init));
                found.extend(container.map(|container| (container.id.to_string(), container)));
            }
            None => {}
        }
    }
    found.into_values().collect()
}

/// The bundle of a container of containerd's. It is there before the container's runtime has said
/// which process the container has.
pub(super) fn bundle_of(id: &ContainerId) -> Option<PathBuf> {
    processes().iter().find_map(|process| {
        let line = command_line(process)?;
        if parse(&line) != Some(Monitor::Shim) {
            return None;
        }
        let directory = fs::read_link(process.join("cwd")).ok()?;
        let bundle = directory.parent()?.join(id.as_str());
        bundle.join("config.json").is_file().then_some(bundle)
    })
}

/// The process of docker's hook that gives a container its networks, before docker 28
/// (`processSetKeyReexec` in libnetwork/sandbox_externalkey_unix.go): it ends when docker has done so.
pub(super) fn docker_hook_of(id: &ContainerId) -> Option<i32> {
    processes().iter().find_map(|process| {
        let line = command_line(process)?;
        let is_it = line.first()? == "libnetwork-setkey" && line.iter().any(|a| a == id.as_str());
        is_it.then(|| process.file_name()?.to_str()?.parse().ok()).flatten()
    })
}

fn insert(
    found: &mut BTreeMap<String, RunningContainer>,
    id: String,
    pid_file: &Path,
    bundle: &Path,
) {
    let pid = read(pid_file).and_then(|text| text.trim().parse().ok()).filter(|pid| *pid > 0);
    let Some(pid) = pid else { return };
    if let Ok(container) = id.clone().try_into() {
        let bundle = Some(bundle.to_owned());
        found.insert(id, RunningContainer { id: container, pid, bundle, machine: None });
    }
}

/// The init of a container that LXC monitors: the oldest of the monitor's children with a pid or
/// network namespace of its own. Hooks, which are children too, have those of the host.
fn init_of(monitor: &Path) -> Option<i32> {
    let namespace = |process: &Path, kind: &str| fs::read_link(process.join("ns").join(kind)).ok();
    let tasks = fs::read_dir(monitor.join("task")).ok()?.flatten();
    let lists = tasks.filter_map(|task| read(&task.path().join("children")));
    let children: Vec<i32> = lists
        .flat_map(|list| list.split(' ').filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect();
    let inits = children.into_iter().filter(|pid| {
        let child = PathBuf::from(format!("/proc/{pid}"));
        ["pid", "net"].iter().any(|kind| {
            namespace(&child, kind).is_some_and(|its| Some(its) != namespace(monitor, kind))
        })
    });
    inits.filter_map(|pid| Some((ProcessRef::of(pid).ok()?.start, pid))).min().map(|(_, pid)| pid)
}

/// Whether root has started a process: all its user ids are 0 (proc_pid_status(5)). The first one of
/// a program with the set-user-ID bit is its caller's.
fn is_started_by_root(process: &Path) -> bool {
    let status = read(&process.join("status")).unwrap_or_default();
    let ids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    ids.is_some_and(|ids| ids.split_whitespace().all(|id| id == "0"))
}

/// The directories below `/proc` of root's processes in this process's own pid namespace: a
/// container may give its processes any command line.
fn processes() -> Vec<PathBuf> {
    let own = fs::read_link("/proc/self/ns/pid").ok();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbered = entries.map(|entry| entry.path()).filter(|path| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.bytes().all(|b| b.is_ascii_digit())
    });
    numbered
        .filter(|path| {
            fs::metadata(path).is_ok_and(|m| m.uid() == 0)
                && fs::read_link(path.join("ns/pid")).ok() == own
        })
        .collect()
}

fn command_line(process: &Path) -> Option<Vec<String>> {
    let text = read(&process.join("cmdline"))?;
    Some(text.trim_end_matches('\0').split('\0').map(str::to_owned).collect())
}

fn read(file: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    fs::File::open(file).ok()?.take(MAX_COMMAND_LINE).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn parse(line: &[String]) -> Option<Monitor> {
    let program = Path::new(line.first()?).file_name()?.to_str()?;
    if program.starts_with("containerd-shim") {
        return Some(Monitor::Shim);
    }
    if program != "conmon" {
        return lxc::parse(line).map(Monitor::Lxc);
    }
    // The engine puts them first; what comes later may be the command line of something else.
    let value = |options: [&str; 2]| {
        let at = line.iter().position(|argument| options.contains(&argument.as_str()))?;
        line.get(at + 1).cloned()
    };
    Some(Monitor::Conmon {
        id: value(["-c", "--cid"])?,
        bundle: value(["-b", "--bundle"])?.into(),
        pid_file: value(["-p", "--container-pidfile"])?.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn holders_are_known_by_their_command_lines() {
        let conmon = "/usr/bin/conmon --api-version 1 -c 9f6e -u 9f6e -r /usr/bin/runc -b /s/9f6e/userdata \
                      -p /run/9f6e/pidfile -n cam --exit-command /usr/bin/podman -c other";
        let expected = Monitor::Conmon {
            id: "9f6e".into(),
            bundle: "/s/9f6e/userdata".into(),
            pid_file: "/run/9f6e/pidfile".into(),
        };
        assert_eq!(parse(&words(conmon)), Some(expected));
        let shim = "/usr/bin/containerd-shim-runc-v2 -namespace moby -id 9f6e -address /run/c.sock";
        assert_eq!(parse(&words(shim)), Some(Monitor::Shim));
        for other in ["sh -c conmon", "/usr/bin/conmon -c 9f6e -b", "/usr/bin/containerd", ""] {
            assert_eq!(parse(&words(other)), None, "{other}");
        }
    }
}

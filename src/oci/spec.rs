//! config.json for a plain root filesystem: what docker gives a container that has no image.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    Linux, LinuxBuilder, LinuxDevice, LinuxDeviceBuilder, LinuxDeviceCgroup,
    LinuxDeviceCgroupBuilder, LinuxDeviceType, LinuxNamespace, LinuxNamespaceBuilder,
    LinuxNamespaceType, LinuxResourcesBuilder, Mount, MountBuilder, Process, ProcessBuilder,
    RootBuilder, Spec, SpecBuilder, UserBuilder,
};

use crate::oci::seccomp;

/// The search path docker gives a command.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Files of /proc and /sys that tell of the host or steer it.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

const READONLY: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// What a specification is made for.
#[derive(Debug, Clone)]
pub struct Base<'a> {
    /// Absolute path of the root filesystem, used in place.
    pub rootfs: &'a Path,
    /// Capabilities of the command (`CAP_...`).
    pub capabilities: &'a [String],
    /// All devices, nothing masked, nothing read-only, no system call filter.
    pub privileged: bool,
    /// The host has the unified cgroup hierarchy (v2) only.
    pub cgroup_v2: bool,
}

/// A specification in docker's image, without a command.
///
/// Its namespaces are pid, mount, ipc, uts, network and, with cgroup v2, cgroup. It has no
/// resource limits and no rlimits: raising those needs CAP_SYS_RESOURCE, which may be missing.
///
/// # Errors
/// None in practice: the builder of the specification's types has none to report here.
pub fn base(base: &Base<'_>) -> Result<Spec, OciSpecError> {
    let root = RootBuilder::default().path(base.rootfs).readonly(false).build()?;
    let mut spec = SpecBuilder::default()
        .version("1.0.2")
        .root(root)
        .process(process()?)
        .mounts(mounts(base.privileged)?)
        .linux(linux(base)?)
        .build()?;
    spec.set_hostname(None);
    Ok(spec)
}

fn process() -> Result<Process, OciSpecError> {
    let user = UserBuilder::default().uid(0u32).gid(0u32).build()?;
    let mut process = ProcessBuilder::default()
        .terminal(false)
        .user(user)
        .args(Vec::<String>::new())
        .env(vec![format!("PATH={DEFAULT_PATH}")])
        .cwd("/")
        .no_new_privileges(false)
        .build()?;
    process.set_rlimits(None);
    Ok(process)
}

fn mounts(privileged: bool) -> Result<Vec<Mount>, OciSpecError> {
    let access = if privileged { "rw" } else { "ro" };
    let mount = |destination: &str, kind: &str, options: &[&str]| {
        MountBuilder::default()
            .destination(destination)
            .typ(kind)
            .source(if destination == "/dev/shm" { "shm" } else { kind })
            .options(options.iter().map(|o| (*o).to_owned()).collect::<Vec<_>>())
            .build()
    };
    let closed = ["nosuid", "noexec", "nodev"];
    let with = |more: &[&'static str]| [&closed[..], more].concat();
    Ok(vec![
        mount("/proc", "proc", &closed)?,
        mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"])?,
        mount(
            "/dev/pts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        )?,
        mount("/sys", "sysfs", &with(&[access]))?,
        mount("/sys/fs/cgroup", "cgroup", &with(&[access]))?,
        mount("/dev/mqueue", "mqueue", &closed)?,
        mount("/dev/shm", "tmpfs", &with(&["mode=1777", "size=67108864"]))?,
    ])
}

fn linux(base: &Base<'_>) -> Result<Linux, OciSpecError> {
    let text = |list: &[&str]| list.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>();
    let empty = Vec::<String>::new;
    let resources =
        LinuxResourcesBuilder::default().devices(vec![device_rule(base.privileged)?]).build()?;
    // Every port and ping are open to users in a namespace of the container's own, as docker
    // has it.
    let sysctl = [
        ("net.ipv4.ip_unprivileged_port_start".to_owned(), "0".to_owned()),
        ("net.ipv4.ping_group_range".to_owned(), "0 2147483647".to_owned()),
    ];
    let mut linux = LinuxBuilder::default()
        .namespaces(namespaces(base.cgroup_v2)?)
        .resources(resources)
        .sysctl(std::collections::HashMap::from(sysctl))
        .masked_paths(if base.privileged { empty() } else { text(&MASKED) })
        .readonly_paths(if base.privileged { empty() } else { text(&READONLY) })
        .build()?;
    if base.privileged {
        linux.set_devices(Some(host_devices(Path::new("/dev"), 0)));
    } else {
        linux.set_seccomp(Some(seccomp::profile(base.capabilities)?));
    }
    Ok(linux)
}

fn namespaces(cgroup: bool) -> Result<Vec<LinuxNamespace>, OciSpecError> {
    use LinuxNamespaceType::{Cgroup, Ipc, Mount, Network, Pid, Uts};
    let kinds = [Pid, Mount, Ipc, Uts, Network].into_iter().chain(cgroup.then_some(Cgroup));
    kinds.map(|kind| LinuxNamespaceBuilder::default().typ(kind).build()).collect()
}

/// Everything is allowed or denied; the runtime itself adds the usual devices to the latter.
fn device_rule(allow: bool) -> Result<LinuxDeviceCgroup, OciSpecError> {
    LinuxDeviceCgroupBuilder::default().allow(allow).access("rwm").build()
}

/// The device nodes below a directory of the host. Pseudo terminals, shared memory and the
/// like are the container's own.
fn host_devices(dir: &Path, depth: u8) -> Vec<LinuxDevice> {
    const OWN: [&str; 8] = ["pts", "shm", "fd", "mqueue", ".udev", "console", "ptmx", "tty"];
    let mut devices = Vec::new();
    let Ok(entries) = std::fs::read_dir(dir) else { return devices };
    for entry in entries.flatten() {
        let Ok(kind) = entry.file_type() else { continue };
        if OWN.iter().any(|own| entry.file_name() == *own) {
            continue;
        }
        if kind.is_dir() && depth < 8 {
            devices.extend(host_devices(&entry.path(), depth + 1));
        }
        let kind = match kind {
            kind if kind.is_char_device() => LinuxDeviceType::C,
            kind if kind.is_block_device() => LinuxDeviceType::B,
            _ => continue,
        };
        // A device that went away meanwhile is not the container's loss.
        let Ok(metadata) = entry.metadata() else { continue };
        let device = LinuxDeviceBuilder::default()
            .path(entry.path())
            .typ(kind)
            .major(libc::major(metadata.rdev()) as i64)
            .minor(libc::minor(metadata.rdev()) as i64)
            .file_mode(metadata.mode() & 0o7777)
            .uid(metadata.uid())
            .gid(metadata.gid())
            .build();
        devices.extend(device);
    }
    devices
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(privileged: bool, cgroup_v2: bool) -> serde_json::Value {
        let capabilities = ["CAP_CHOWN".to_owned()];
        let rootfs = Path::new("/some/rootfs");
        let spec = base(&Base { rootfs, capabilities: &capabilities, privileged, cgroup_v2 });
        serde_json::to_value(spec.unwrap()).unwrap()
    }

    #[test]
    fn an_ordinary_container_is_closed() {
        let spec = json(false, false);
        assert_eq!(spec["root"]["path"], "/some/rootfs");
        assert!(spec["linux"]["seccomp"]["syscalls"].is_array());
        assert_eq!(spec["linux"]["resources"]["devices"][0]["allow"], false);
        assert_eq!(spec["linux"]["maskedPaths"].as_array().unwrap().len(), 12);
        assert!(spec["linux"].get("devices").is_none());
        assert!(spec["process"].get("rlimits").is_none());
        let options = &spec["mounts"][3]["options"];
        assert!(options.as_array().unwrap().iter().any(|o| o == "ro"), "{options}");
    }

    #[test]
    fn a_privileged_one_is_open() {
        let spec = json(true, false);
        assert!(spec["linux"].get("seccomp").is_none());
        assert_eq!(spec["linux"]["resources"]["devices"][0]["allow"], true);
        assert_eq!(spec["linux"]["maskedPaths"], serde_json::json!([]));
        let devices = spec["linux"]["devices"].as_array().unwrap();
        assert!(devices.iter().any(|device| device["path"] == "/dev/null"));
    }

    #[test]
    fn the_network_namespace_is_a_new_one_and_cgroup_comes_with_v2() {
        let kinds = |v2| {
            let spec = json(false, v2);
            let list = spec["linux"]["namespaces"].as_array().unwrap().clone();
            assert!(list.iter().all(|ns| ns.get("path").is_none()));
            list.iter().map(|ns| ns["type"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(kinds(false), ["pid", "mount", "ipc", "uts", "network"]);
        assert!(kinds(true).contains(&"cgroup".to_owned()));
    }
}

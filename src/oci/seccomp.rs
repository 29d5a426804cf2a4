//! The system call filter of containers made from a root filesystem.
//!
//! A list of what is denied, where docker's is a list of what is allowed: the calls that
//! docker documents as blocked, and later ones of the same kind. What a capability makes
//! sense of is allowed to those who have it.

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompBuilder, LinuxSeccompOperator, LinuxSyscall, LinuxSyscallBuilder,
};

/// Denied to everybody: old, unsafe, or not subject to namespaces.
const ALWAYS: &[&str] = &[
    "_sysctl",
    "add_key",
    "create_module",
    "get_kernel_syms",
    "keyctl",
    "move_pages",
    "nfsservctl",
    "query_module",
    "request_key",
    "sysfs",
    "uselib",
    "userfaultfd",
    "ustat",
    "vm86",
    "vm86old",
];

/// Denied with ENOSYS, on which programs fall back to what they did before these existed.
const ABSENT: &[&str] = &["io_uring_enter", "io_uring_register", "io_uring_setup"];

/// Denied without the capability.
const BY_CAPABILITY: &[(&str, &[&str])] = &[
    (
        "CAP_SYS_ADMIN",
        &[
            "fanotify_init",
            "fsconfig",
            "fsmount",
            "fsopen",
            "fspick",
            "lookup_dcookie",
            "mount",
            "mount_setattr",
            "move_mount",
            "open_tree",
            "pivot_root",
            "quotactl",
            "quotactl_fd",
            "setdomainname",
            "sethostname",
            "setns",
            "swapoff",
            "swapon",
            "umount",
            "umount2",
            "unshare",
        ],
    ),
    ("CAP_SYS_BOOT", &["kexec_file_load", "kexec_load", "reboot"]),
    ("CAP_SYS_MODULE", &["delete_module", "finit_module", "init_module"]),
    ("CAP_SYS_NICE", &["get_mempolicy", "mbind", "set_mempolicy", "set_mempolicy_home_node"]),
    ("CAP_SYS_PACCT", &["acct"]),
    ("CAP_SYS_PTRACE", &["kcmp", "pidfd_getfd", "process_madvise"]),
    ("CAP_SYS_RAWIO", &["ioperm", "iopl"]),
    (
        "CAP_SYS_TIME",
        &[
            "clock_adjtime",
            "clock_adjtime64",
            "clock_settime",
            "clock_settime64",
            "settimeofday",
            "stime",
        ],
    ),
    ("CAP_DAC_READ_SEARCH", &["open_by_handle_at"]),
    ("CAP_SYSLOG", &["syslog"]),
];

/// Flags of clone(2) that make a namespace.
const NAMESPACE_FLAGS: [i32; 7] = [
    libc::CLONE_NEWNS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
];

/// The filter for a command with these capabilities (`CAP_...`).
///
/// # Errors
/// None in practice: the builder of the specification's types has none to report here.
pub(super) fn profile(capabilities: &[String]) -> Result<LinuxSeccomp, OciSpecError> {
    let has = |name: &str| capabilities.iter().any(|own| own == name);
    let mut rules = vec![deny(ALWAYS, libc::EPERM, None)?, deny(ABSENT, libc::ENOSYS, None)?];
    for (capability, calls) in BY_CAPABILITY {
        if !has(capability) {
            rules.push(deny(calls, libc::EPERM, None)?);
        }
    }
    if !has("CAP_BPF") && !has("CAP_SYS_ADMIN") {
        rules.push(deny(&["bpf"], libc::EPERM, None)?);
    }
    if !has("CAP_PERFMON") && !has("CAP_SYS_ADMIN") {
        rules.push(deny(&["perf_event_open"], libc::EPERM, None)?);
    }
    if !has("CAP_SYS_ADMIN") {
        for flag in NAMESPACE_FLAGS {
            let flag = flag as u32 as u64;
            rules.push(deny(&["clone"], libc::EPERM, Some(argument(0, flag, Some(flag))?))?);
        }
        // Its flags are in memory, where a filter cannot see them; C libraries fall back to
        // clone on ENOSYS.
        rules.push(deny(&["clone3"], libc::ENOSYS, None)?);
    }
    // AF_VSOCK reaches the hypervisor from any network namespace (vsock(7)).
    let vsock = argument(0, libc::AF_VSOCK as u64, None)?;
    rules.push(deny(&["socket"], libc::EPERM, Some(vsock))?);
    LinuxSeccompBuilder::default()
        .default_action(LinuxSeccompAction::ScmpActAllow)
        .architectures(architectures())
        .syscalls(rules)
        .build()
}

/// The machine's own calls and those of the 32-bit programs it runs: a call of an architecture
/// that is not listed kills its program.
fn architectures() -> Vec<Arch> {
    match std::env::consts::ARCH {
        "x86_64" => vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32],
        "aarch64" => vec![Arch::ScmpArchAarch64, Arch::ScmpArchArm],
        _ => Vec::new(),
    }
}

fn deny(
    names: &[&str],
    errno: i32,
    argument: Option<LinuxSeccompArg>,
) -> Result<LinuxSyscall, OciSpecError> {
    let rule = LinuxSyscallBuilder::default()
        .names(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
        .action(LinuxSeccompAction::ScmpActErrno)
        .errno_ret(errno as u32);
    match argument {
        Some(argument) => rule.args(vec![argument]).build(),
        None => rule.build(),
    }
}

/// Argument `index` equals `value`, or, with `masked`, has `value` under that mask.
fn argument(
    index: usize,
    value: u64,
    masked: Option<u64>,
) -> Result<LinuxSeccompArg, OciSpecError> {
    let argument = LinuxSeccompArgBuilder::default().index(index).value(value);
    match masked {
        Some(mask) => argument.op(LinuxSeccompOperator::ScmpCmpMaskedEq).value_two(mask).build(),
        None => argument.op(LinuxSeccompOperator::ScmpCmpEq).build(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denied(capabilities: &[&str]) -> Vec<String> {
        let own: Vec<String> = capabilities.iter().map(|c| (*c).to_owned()).collect();
        let profile = profile(&own).unwrap();
        profile.syscalls().iter().flatten().flat_map(|rule| rule.names().clone()).collect()
    }

    #[test]
    fn a_capability_opens_its_calls_and_no_others() {
        let plain = denied(&["CAP_NET_RAW"]);
        let admin = denied(&["CAP_SYS_ADMIN"]);
        for call in ["mount", "unshare", "clone3", "bpf", "perf_event_open"] {
            assert!(plain.iter().any(|c| c == call), "{call}");
            assert!(!admin.iter().any(|c| c == call), "{call}");
        }
        for call in ["reboot", "keyctl", "io_uring_setup"] {
            assert!(admin.iter().any(|c| c == call), "{call}");
        }
    }
}

//! The sandbox: the proxy gives up all privileges that it does not need after its setup.
//!
//! The change of user, the loss of capabilities and the system call filter are mandatory: without
//! them the proxy does not run. Landlock is used as far as the kernel has it (Linux 5.13 and
//! later).

mod assembler;
mod few_calls;
mod system_calls;

use std::io;
use std::os::fd::AsFd;

use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus,
};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};

use crate::proxy::process::container_dir::ContainerDir;

/// Why the process could not be confined.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what}: {source}")]
pub(crate) struct SandboxError {
    what: &'static str,
    source: io::Error,
}

/// Names the step that failed.
fn failed<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> SandboxError {
    move |e| SandboxError { what, source: e.into() }
}

/// A process that has given up everything except what loads BPF programs, if it had that, and its system
/// calls.
#[must_use = "the process is to be confined wholly"]
pub(crate) struct Confined {
    /// Whether landlock is in force.
    pub(crate) has_landlock: bool,
}

/// Confines the process, irrevocably. It becomes the user and the group of this id. It can use the
/// descriptors that are open, remove the container's directory, and load BPF programs. It is to read
/// nothing that others write until [`Confined::complete`]. `attaches`: it can also attach BPF programs to
/// interfaces until then.
///
/// # Errors
/// When a mandatory step fails, or one of [`Confined::complete`] would. The process must end then.
pub(crate) fn enter(
    container_dir: &ContainerDir,
    id: u32,
    attaches: bool,
) -> Result<Confined, SandboxError> {
    system_calls::check().map_err(failed("install a system call filter"))?;
    limit_resources().map_err(failed("limit its resources"))?;
    setgroups(&[]).map_err(failed("drop the supplementary groups"))?;
    drop_bounding_set().map_err(failed("drop the capability bounding set"))?;
    let (user, group) = (Uid::from_raw(id), Gid::from_raw(id));
    // The change of user leaves the capabilities that are permitted.
    prctl(libc::PR_SET_KEEPCAPS, 1).map_err(failed("keep a capability"))?;
    setresgid(group, group, group).map_err(failed("change the group id"))?;
    setresuid(user, user, user).map_err(failed("change the user id"))?;
    prctl(libc::PR_SET_KEEPCAPS, 0).map_err(failed("keep no capability"))?;
    match drop_capabilities([if attaches { NET_ADMIN } else { 0 }, BPF_CAPABILITIES]) {
        // They are not permitted, in a user namespace for example, or unknown (Linux 5.8).
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => drop_capabilities([0, 0]),
        dropped => dropped,
    }
    .map_err(failed("drop its capabilities"))?;
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1).map_err(failed("set no_new_privs"))?;
    // Other processes of this user may not trace it.
    prctl(libc::PR_SET_DUMPABLE, 0).map_err(failed("become undumpable"))?;
    let has_landlock = landlock(Some(container_dir)).map_err(failed("enter landlock"))?;
    Ok(Confined { has_landlock })
}

/// Confines a process that uses the descriptors which are open and nothing else, irrevocably. It becomes
/// the user and the group of this id, without a capability, and makes the system calls of
/// [`few_calls`].
///
/// # Errors
/// When a mandatory step fails. The process must end then.
pub(crate) fn confine_without_files(id: u32) -> io::Result<()> {
    system_calls::check()?;
    limit_resources()?;
    setgroups(&[])?;
    drop_bounding_set()?;
    let (user, group) = (Uid::from_raw(id), Gid::from_raw(id));
    setresgid(group, group, group)?;
    setresuid(user, user, user)?;
    drop_capabilities([0, 0])?;
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1)?;
    prctl(libc::PR_SET_DUMPABLE, 0)?;
    landlock(None)?;
    few_calls::restrict()
}

impl Confined {
    /// Gives up the rest: the process has no capability, and makes the system calls of
    /// [`system_calls`].
    ///
    /// # Errors
    /// When a step fails. The process must end then.
    pub(crate) fn complete(self) -> Result<(), SandboxError> {
        drop_capabilities([0, 0]).map_err(failed("drop all capabilities"))?;
        system_calls::restrict().map_err(failed("install the system call filter"))
    }
}

/// CAP_BPF and CAP_PERFMON, as bits of the second word (linux/capability.h). Without the second one
/// the verifier also follows what a processor may do speculatively, which takes it 100 ms, and it
/// accepts less.
const BPF_CAPABILITIES: u32 = 1 << (39 - 32) | 1 << (38 - 32);
/// CAP_NET_ADMIN, as a bit of the first word.
const NET_ADMIN: u32 = 1 << 12;

/// Bounds what the process can use up, beside what its control group bounds for all proxies.
fn limit_resources() -> io::Result<()> {
    /// Bytes of memory. A relay's batch and the largest tables take some 10 MiB.
    const DATA: u64 = 256 << 20;
    /// Bytes of a file. The log is emptied far below.
    const FILE: u64 = 1 << 20;
    for (resource, limit) in
        [(Resource::RLIMIT_DATA, DATA), (Resource::RLIMIT_FSIZE, FILE), (Resource::RLIMIT_CORE, 0)]
    {
        let (_, hard) = getrlimit(resource)?;
        let limit = limit.min(hard);
        setrlimit(resource, limit, limit)?;
    }
    Ok(())
}

fn prctl(option: i32, value: libc::c_ulong) -> io::Result<()> {
    const ZERO: libc::c_ulong = 0;
    // SAFETY: the options used here take numbers only.
    match unsafe { libc::prctl(option, value, ZERO, ZERO, ZERO) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn drop_bounding_set() -> io::Result<()> {
    // EINVAL marks the first number that is no capability.
    for capability in 0..64 {
        match prctl(libc::PR_CAPBSET_DROP, capability) {
            Ok(()) => {}
            Err(e) if capability > 0 && e.raw_os_error() == Some(libc::EINVAL) => break,
            // Without CAP_SETPCAP the set stays. With no_new_privs nothing can make use of it.
            Err(e) if e.raw_os_error() == Some(libc::EPERM) => break,
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Empties the effective, permitted, inheritable and ambient sets, except these capabilities of either
/// word in the first two.
fn drop_capabilities([low, high]: [u32; 2]) -> io::Result<()> {
    /// `_LINUX_CAPABILITY_VERSION_3`: two words of 32 capabilities each.
    const VERSION: u32 = 0x2008_0522;
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    let header = Header { version: VERSION, pid: 0 };
    // Effective, permitted, inheritable.
    let sets = [[low, low, 0], [high, high, 0]];
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong)?;
    // SAFETY: capset(2) reads a header and, for this version, two structures of three words.
    match unsafe { libc::syscall(libc::SYS_capset, &raw const header, sets.as_ptr()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn landlock(container_dir: Option<&ContainerDir>) -> io::Result<bool> {
    let status = (|| {
        let ruleset = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(ABI::V5))?
            .create()?;
        let Some(container_dir) = container_dir else { return ruleset.restrict_self() };
        ruleset
            .add_rule(PathBeneath::new(container_dir.own().as_fd(), AccessFs::RemoveFile))?
            .add_rule(PathBeneath::new(container_dir.containers().as_fd(), AccessFs::RemoveDir))?
            .restrict_self()
    })();
    let status = status.map_err(|e: landlock::RulesetError| io::Error::other(e))?;
    Ok(status.ruleset != RulesetStatus::NotEnforced)
}

#[cfg(test)]
mod tests;

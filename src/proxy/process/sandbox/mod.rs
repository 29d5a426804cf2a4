//! Giving up everything the proxy does not need once it is set up.
//!
//! The user, the capabilities and the system call filter are mandatory: without them the
//! proxy does not run. Landlock is taken as far as the kernel has it (5.13 and later).

mod assembler;
mod system_calls;

use std::io;
use std::os::fd::AsFd;

use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus,
};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};

use crate::proxy::process::container_dir::ContainerDir;
use crate::state::PROXY_ID;

/// Why the process could not be confined.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what}: {source}")]
pub(crate) struct SandboxError {
    what: &'static str,
    source: io::Error,
}

/// Says what failed.
fn failed<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> SandboxError {
    move |e| SandboxError { what, source: e.into() }
}

/// Confines the process for good. Only descriptors that are open stay usable, and in the file
/// system nothing is possible but the removal of the container's own directory. The system calls
/// that are left are those of [`system_calls`].
///
/// Tells whether landlock is in force.
///
/// # Errors
/// When any mandatory step fails; the process must end then.
pub(crate) fn enter(home: &ContainerDir) -> Result<bool, SandboxError> {
    setgroups(&[]).map_err(failed("drop the supplementary groups"))?;
    drop_bounding_set().map_err(failed("drop the capability bounding set"))?;
    let (user, group) = (Uid::from_raw(PROXY_ID), Gid::from_raw(PROXY_ID));
    setresgid(group, group, group).map_err(failed("change the group id"))?;
    setresuid(user, user, user).map_err(failed("change the user id"))?;
    drop_capabilities().map_err(failed("drop all capabilities"))?;
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1).map_err(failed("set no_new_privs"))?;
    // Nobody of the same user may look into it.
    prctl(libc::PR_SET_DUMPABLE, 0).map_err(failed("become undumpable"))?;
    let confined = landlock(home).map_err(failed("enter landlock"))?;
    system_calls::restrict().map_err(failed("install the system call filter"))?;
    Ok(confined)
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
    // The kernel says EINVAL for the first number that is no capability.
    for capability in 0..64 {
        match prctl(libc::PR_CAPBSET_DROP, capability) {
            Ok(()) => {}
            Err(e) if capability > 0 && e.raw_os_error() == Some(libc::EINVAL) => break,
            // Without CAP_SETPCAP it stays as it is: no_new_privs keeps anything from using it.
            Err(e) if e.raw_os_error() == Some(libc::EPERM) => break,
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Empties the effective, permitted and inheritable sets (the change of user emptied the first
/// two and the ambient set unless some securebit was inherited).
fn drop_capabilities() -> io::Result<()> {
    /// `_LINUX_CAPABILITY_VERSION_3`: two words of 32 capabilities each.
    const VERSION: u32 = 0x2008_0522;
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    let header = Header { version: VERSION, pid: 0 };
    let none = [[0u32; 3]; 2];
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong)?;
    // SAFETY: capset(2) reads a header and, for this version, two structures of three words.
    match unsafe { libc::syscall(libc::SYS_capset, &raw const header, none.as_ptr()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn landlock(home: &ContainerDir) -> io::Result<bool> {
    let status = (|| {
        Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(ABI::V5))?
            .create()?
            .add_rule(PathBeneath::new(home.own().as_fd(), AccessFs::RemoveFile))?
            .add_rule(PathBeneath::new(home.containers().as_fd(), AccessFs::RemoveDir))?
            .restrict_self()
    })();
    let status = status.map_err(|e: landlock::RulesetError| io::Error::other(e))?;
    Ok(status.ruleset != RulesetStatus::NotEnforced)
}

#[cfg(test)]
mod tests;

//! Giving up everything the proxy does not need once it is set up.
//!
//! The user, the capabilities and the system call filter are mandatory: without them the
//! proxy does not run. Landlock is taken as far as the kernel has it (5.13 and later).

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;

use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus,
};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

use super::home::Home;
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
/// system nothing is possible but the removal of the container's own directory. The filter is that of
/// [`system_calls`].
///
/// Tells whether landlock is in force.
///
/// # Errors
/// When any mandatory step fails; the process must end then.
pub(crate) fn enter(home: &Home, filter: &BpfProgram) -> Result<bool, SandboxError> {
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
    seccompiler::apply_filter(filter)
        .map_err(io::Error::other)
        .map_err(failed("install the system call filter"))?;
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

fn landlock(home: &Home) -> io::Result<bool> {
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

/// What the event loop needs, and no more: no file is opened, no program started, no process
/// traced, and the only new sockets are those that hold joins.
///
/// Anything else fails with EPERM instead of killing the process: an overlooked call of a C
/// library then costs a log line and not a container's multicast.
///
/// # Errors
/// On an architecture that `seccompiler` does not know.
pub(crate) fn system_calls() -> io::Result<BpfProgram> {
    let always = [
        libc::SYS_read,
        libc::SYS_pread64,
        libc::SYS_lseek,
        libc::SYS_write,
        libc::SYS_recvfrom,
        libc::SYS_sendto,
        libc::SYS_sendmsg,
        libc::SYS_recvmsg,
        libc::SYS_recvmmsg,
        libc::SYS_sendmmsg,
        libc::SYS_bind,
        libc::SYS_getsockname,
        libc::SYS_epoll_ctl,
        libc::SYS_epoll_pwait,
        libc::SYS_ppoll,
        libc::SYS_accept4,
        libc::SYS_close,
        libc::SYS_ftruncate,
        libc::SYS_unlinkat,
        libc::SYS_flock,
        libc::SYS_newfstatat,
        libc::SYS_statx,
        libc::SYS_fstat,
        libc::SYS_brk,
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_madvise,
        libc::SYS_futex,
        libc::SYS_clock_gettime,
        libc::SYS_getpid,
        libc::SYS_gettid,
        libc::SYS_getrandom,
        libc::SYS_restart_syscall,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigreturn,
        libc::SYS_sigaltstack,
        libc::SYS_exit,
        libc::SYS_exit_group,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_epoll_wait,
    ];
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        always.into_iter().map(|number| (number, Vec::new())).collect();
    let not_executable = SeccompCmpOp::MaskedEq(libc::PROT_EXEC as u64);
    for number in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.insert(number, vec![rule(&[(2, not_executable.clone(), 0)])?]);
    }
    rules.insert(
        libc::SYS_socket,
        vec![rule(&[
            (0, SeccompCmpOp::Eq, libc::AF_INET as u64),
            // The rest of the word are flags such as SOCK_CLOEXEC.
            (1, SeccompCmpOp::MaskedEq(0xff), libc::SOCK_DGRAM as u64),
        ])?],
    );
    let mut options = Vec::new();
    for (level, names) in [
        // What a join waits for comes first: each is looked for from the first on.
        (libc::SOL_NETLINK, &[libc::NETLINK_ADD_MEMBERSHIP, libc::NETLINK_DROP_MEMBERSHIP][..]),
        (
            libc::IPPROTO_IP,
            &[
                libc::IP_DROP_MEMBERSHIP,
                libc::MCAST_JOIN_GROUP,
                libc::MCAST_JOIN_SOURCE_GROUP,
                libc::MCAST_LEAVE_GROUP,
                libc::MCAST_LEAVE_SOURCE_GROUP,
                libc::MCAST_MSFILTER,
                libc::IP_MULTICAST_ALL,
                libc::IP_MULTICAST_IF,
            ][..],
        ),
        (libc::SOL_SOCKET, &[libc::SO_ATTACH_FILTER, libc::SO_RCVBUF, libc::SO_REUSEADDR][..]),
    ] {
        for &name in names {
            options.push(rule(&[
                (1, SeccompCmpOp::Eq, level as u64),
                (2, SeccompCmpOp::Eq, name as u64),
            ])?);
        }
    }
    rules.insert(libc::SYS_setsockopt, options);
    let requests = [libc::SIOCGIFADDR, libc::SIOCGIFMTU, libc::FIONBIO];
    let requests = requests.map(|request| rule(&[(1, SeccompCmpOp::Eq, request)]));
    rules.insert(libc::SYS_ioctl, requests.into_iter().collect::<io::Result<_>>()?);
    // How much was lost to a full buffer.
    let meminfo = rule(&[
        (1, SeccompCmpOp::Eq, libc::SOL_SOCKET as u64),
        (2, SeccompCmpOp::Eq, libc::SO_MEMINFO as u64),
    ])?;
    rules.insert(libc::SYS_getsockopt, vec![meminfo]);
    let arch = std::env::consts::ARCH.try_into().map_err(io::Error::other)?;
    SeccompFilter::new(
        rules,
        SeccompAction::Errno(libc::EPERM.cast_unsigned()),
        SeccompAction::Allow,
        arch,
    )
    .and_then(TryInto::try_into)
    .map_err(io::Error::other)
}

fn rule(conditions: &[(u8, SeccompCmpOp, u64)]) -> io::Result<SeccompRule> {
    conditions
        .iter()
        .map(|(argument, operator, value)| {
            SeccompCondition::new(*argument, SeccompCmpArgLen::Dword, operator.clone(), *value)
        })
        .collect::<Result<Vec<_>, _>>()
        .and_then(SeccompRule::new)
        .map_err(io::Error::other)
}

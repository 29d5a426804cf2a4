//! The system calls that a confined proxy may make.

use std::io;
use std::ops::Range;
use std::os::fd::RawFd;

use libc::{c_long, sock_filter};

use crate::bpf::element_map;
use crate::proxy::config;
use crate::proxy::process::sandbox::assembler::{Assembler, Call, Label, OneOf};
use crate::sys::bpf;

/// The machine whose numbers these are (`AUDIT_ARCH_*` of `<linux/audit.h>`).
pub(super) const ARCHITECTURE: u32 = match () {
    () if cfg!(target_arch = "x86_64") => 0xc000_003e,
    () if cfg!(target_arch = "aarch64") => 0xc000_00b7,
    () if cfg!(target_arch = "riscv64") => 0xc000_00f3,
    () => panic!("mcrun-proxy is confined on x86_64, aarch64 and riscv64 only"),
};

/// Allowed with all arguments.
pub(super) const ALWAYS: &[c_long] = &[
    libc::SYS_read,
    libc::SYS_pread64,
    libc::SYS_lseek,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_recvmmsg,
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

/// Allowed with every descriptor except these. A [packet socket](config::PACKET_SOCKET) could send
/// any frame on any interface, and receive all frames once it is bound. The one of a
/// [parent](config::PARENT_FRAME_SOCKET) may only be written: then it sends where it is bound. Those
/// that [count](config::COUNT_SOCKETS) and those that [hear queries](config::TAP_SOCKETS) may be bound: their
/// locked filter keeps all else from them.
pub(super) const NOT_BY: &[(c_long, &[u32])] = &[
    (libc::SYS_sendto, PACKET_SOCKETS),
    (libc::SYS_sendmsg, PACKET_SOCKETS),
    (libc::SYS_sendmmsg, PACKET_SOCKETS),
    (libc::SYS_bind, NEVER_BOUND),
    (libc::SYS_write, NEVER_WRITTEN),
];
const PACKET_SOCKETS: &[u32] = &sockets::<{ 2 + COUNTING + TAPS }>([
    config::PACKET_SOCKET..config::PACKET_SOCKET + 1,
    config::PARENT_FRAME_SOCKET..config::PARENT_FRAME_SOCKET + 1,
    config::COUNT_SOCKETS,
    config::TAP_SOCKETS,
]);
const NEVER_BOUND: &[u32] = &sockets::<2>([
    config::PACKET_SOCKET..config::PACKET_SOCKET + 1,
    config::PARENT_FRAME_SOCKET..config::PARENT_FRAME_SOCKET + 1,
    0..0,
    0..0,
]);
const NEVER_WRITTEN: &[u32] = &sockets::<{ 1 + COUNTING + TAPS }>([
    config::PACKET_SOCKET..config::PACKET_SOCKET + 1,
    config::COUNT_SOCKETS,
    config::TAP_SOCKETS,
    0..0,
]);
const COUNTING: usize = (config::COUNT_SOCKETS.end - config::COUNT_SOCKETS.start) as usize;
const TAPS: usize = (config::TAP_SOCKETS.end - config::TAP_SOCKETS.start) as usize;

/// All numbers of these ranges.
const fn sockets<const N: usize>(ranges: [Range<RawFd>; 4]) -> [u32; N] {
    let mut sockets = [0; N];
    let (mut count, mut at) = (0, 0);
    while at < ranges.len() {
        let mut number = ranges[at].start;
        while number < ranges[at].end {
            sockets[count] = number as u32;
            (count, number) = (count + 1, number + 1);
        }
        at += 1;
    }
    assert!(count == N);
    sockets
}

/// Allowed with these arguments only.
pub(super) const CHECKED: &[(c_long, &[OneOf])] = &[
    (libc::SYS_mmap, NOT_EXECUTABLE),
    (libc::SYS_mprotect, NOT_EXECUTABLE),
    (
        libc::SYS_socket,
        &[
            value(0, &[libc::AF_INET as u32, libc::AF_INET6 as u32]),
            // The other bits are flags such as SOCK_CLOEXEC.
            OneOf { argument: 1, mask: 0xff, values: &[libc::SOCK_DGRAM as u32] },
        ],
    ),
    (
        libc::SYS_ioctl,
        &[value(
            1,
            &[
                libc::SIOCGIFADDR as u32,
                libc::SIOCGIFMTU as u32,
                libc::SIOCGIFCONF as u32,
                libc::SIOCGIFNETMASK as u32,
                libc::SIOCGIFINDEX as u32,
                libc::SIOCGIFNAME as u32,
                libc::SIOCGIFFLAGS as u32,
                libc::FIONBIO as u32,
            ],
        )],
    ),
    // The elements of maps that are open. No program is loaded, nor attached to an interface.
    (
        libc::SYS_bpf,
        &[value(
            0,
            &[
                element_map::BPF_MAP_LOOKUP_ELEM as u32,
                element_map::BPF_MAP_UPDATE_ELEM as u32,
                element_map::BPF_MAP_GET_NEXT_KEY as u32,
                element_map::BPF_MAP_LOOKUP_AND_DELETE_ELEM as u32,
                bpf::BPF_OBJ_GET_INFO_BY_FD as u32,
            ],
        )],
    ),
    // SO_MEMINFO: how many packets were lost because the receive buffer was full.
    (
        libc::SYS_getsockopt,
        &[value(1, &[libc::SOL_SOCKET as u32]), value(2, &[libc::SO_MEMINFO as u32])],
    ),
];

const NOT_EXECUTABLE: &[OneOf] =
    &[OneOf { argument: 2, mask: libc::PROT_EXEC as u32, values: &[0] }];

/// The socket options that may be set, by their level, and what else must hold. The filter compares
/// them in this order, so those that a join sets come first.
pub(super) const OPTIONS: &[(&[u32], &[u32], &[OneOf])] = &[
    (
        &[libc::IPPROTO_IP as u32],
        &[
            libc::IP_DROP_MEMBERSHIP as u32,
            libc::MCAST_JOIN_GROUP as u32,
            libc::MCAST_JOIN_SOURCE_GROUP as u32,
            libc::MCAST_LEAVE_GROUP as u32,
            libc::MCAST_LEAVE_SOURCE_GROUP as u32,
            libc::MCAST_MSFILTER as u32,
            libc::IP_MULTICAST_ALL as u32,
            libc::IP_MULTICAST_IF as u32,
            libc::IP_PKTINFO as u32,
        ],
        &[],
    ),
    (
        &[libc::IPPROTO_IPV6 as u32],
        &[
            libc::MCAST_JOIN_GROUP as u32,
            libc::MCAST_JOIN_SOURCE_GROUP as u32,
            libc::MCAST_LEAVE_GROUP as u32,
            libc::MCAST_LEAVE_SOURCE_GROUP as u32,
            libc::MCAST_MSFILTER as u32,
            libc::IPV6_MULTICAST_ALL as u32,
            libc::IPV6_MULTICAST_IF as u32,
            libc::IPV6_V6ONLY as u32,
            libc::IPV6_RECVPKTINFO as u32,
        ],
        &[],
    ),
    (
        &[libc::SOL_NETLINK as u32],
        &[libc::NETLINK_ADD_MEMBERSHIP as u32, libc::NETLINK_DROP_MEMBERSHIP as u32],
        &[],
    ),
    (
        &[libc::SOL_SOCKET as u32],
        &[
            libc::SO_ATTACH_FILTER as u32,
            libc::SO_RCVBUF as u32,
            libc::SO_REUSEADDR as u32,
            libc::SO_BINDTODEVICE as u32,
            // A program that the setup has loaded, or the proxy before this one.
            libc::SO_ATTACH_BPF as u32,
        ],
        &[],
    ),
    (
        &[libc::SOL_PACKET as u32],
        &[libc::PACKET_ADD_MEMBERSHIP as u32, libc::PACKET_DROP_MEMBERSHIP as u32],
        // Another one could make an interface of the host promiscuous.
        &[value(0, &[config::PACKET_SOCKET as u32])],
    ),
];

pub(super) const fn value(argument: u32, values: &'static [u32]) -> OneOf {
    OneOf { argument, mask: u32::MAX, values }
}

const ASSEMBLED: Assembler = assemble();
pub(super) static PROGRAM: [sock_filter; ASSEMBLED.len()] = ASSEMBLED.code();

const fn assemble() -> Assembler {
    const CALLS: usize = ALWAYS.len() + NOT_BY.len() + CHECKED.len() + 1;
    let mut program = Assembler::new(libc::EPERM as u32);

    let mut options = program.deny;
    let mut left = OPTIONS.len();
    while left > 0 {
        left -= 1;
        let (level, names, checks) = OPTIONS[left];
        let checked = program.all(checks);
        let named = program.one_of(value(2, names), checked, program.deny);
        options = program.one_of(value(1, level), named, options);
    }
    let mut calls = [call(libc::SYS_setsockopt, options); CALLS];
    let mut count = 1;
    let mut at = 0;
    while at < ALWAYS.len() {
        calls[count] = call(ALWAYS[at], program.allow);
        (at, count) = (at + 1, count + 1);
    }
    let mut at = 0;
    while at < NOT_BY.len() {
        let (number, descriptors) = NOT_BY[at];
        // Calls in a row with the same descriptors share their check.
        let same = at > 0 && NOT_BY[at - 1].1.len() == descriptors.len();
        let target = match same {
            true => calls[count - 1].target,
            false => program.one_of(value(0, descriptors), program.deny, program.allow),
        };
        calls[count] = call(number, target);
        (at, count) = (at + 1, count + 1);
    }
    let mut at = 0;
    while at < CHECKED.len() {
        let (number, checks) = CHECKED[at];
        calls[count] = call(number, program.all(checks));
        (at, count) = (at + 1, count + 1);
    }
    assert!(count == CALLS);
    program.finish(ARCHITECTURE, calls)
}

const fn call(number: c_long, target: Label) -> Call {
    Call { number: number as u32, target }
}

/// Whether the kernel takes such a filter.
///
/// # Errors
/// Those of seccomp(2): the kernel has no filters.
pub(super) fn check() -> io::Result<()> {
    let action = libc::SECCOMP_RET_ERRNO;
    // SAFETY: the kernel reads the action.
    let result = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &raw const action)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Restricts the process to the calls of this file: it cannot open a file, start a program or trace
/// a process, and the only sockets that it can open are UDP sockets, which hold joins.
///
/// Any other call fails with EPERM. It does not kill the process, so that a call of a C library
/// that was overlooked here does not end a container's multicast.
///
/// # Errors
/// Those of seccomp(2): the kernel has no filters, or `no_new_privs` is not set.
pub(super) fn restrict() -> io::Result<()> {
    install(&PROGRAM)
}

/// Installs a filter.
///
/// # Errors
/// Those of seccomp(2).
pub(super) fn install(filter: &'static [sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: filter.len() as libc::c_ushort,
        filter: filter.as_ptr().cast_mut(),
    };
    // SAFETY: the kernel reads `len` instructions and keeps a copy.
    let result = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

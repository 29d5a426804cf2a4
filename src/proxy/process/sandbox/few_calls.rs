//! The system calls of a process that reads and writes the descriptors which it has.

use std::io;

use libc::{c_long, sock_filter};

use crate::proxy::process::sandbox::assembler::{Assembler, Call};
use crate::proxy::process::sandbox::system_calls::{ARCHITECTURE, install};

/// Allowed with all arguments.
const ALWAYS: &[c_long] = &[
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_ppoll,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    libc::SYS_getsockname,
    libc::SYS_close,
    libc::SYS_clock_gettime,
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_futex,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

const ASSEMBLED: Assembler = assemble();
static PROGRAM: [sock_filter; ASSEMBLED.len()] = ASSEMBLED.code();

const fn assemble() -> Assembler {
    let mut program = Assembler::new(libc::EPERM as u32);
    // No memory that can be executed.
    let none = crate::proxy::process::sandbox::assembler::OneOf {
        argument: 2,
        mask: libc::PROT_EXEC as u32,
        values: &[0],
    };
    let mapped = program.all(&[none]);
    let mut calls = [Call { number: libc::SYS_mmap as u32, target: mapped }; ALWAYS.len() + 1];
    let mut at = 0;
    while at < ALWAYS.len() {
        calls[at + 1] = Call { number: ALWAYS[at] as u32, target: program.allow };
        at += 1;
    }
    program.finish(ARCHITECTURE, calls)
}

/// Restricts the process to these calls; any other one fails with EPERM.
///
/// # Errors
/// Those of seccomp(2).
pub(super) fn restrict() -> io::Result<()> {
    install(&PROGRAM)
}

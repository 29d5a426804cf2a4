//! bpf(2).

use std::ffi::CStr;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

/// The command that loads a program (linux/bpf.h).
const BPF_PROG_LOAD: libc::c_int = 5;
const LICENSE: &CStr = c"Dual MIT/GPL";

/// Loads a program of this type (`enum bpf_prog_type`), to be attached in this way (`enum
/// bpf_attach_type`; 0 where the type has only one). An instruction has 8 bytes (`struct bpf_insn`).
///
/// # Errors
/// `EPERM` without CAP_BPF; `EINVAL` or `EACCES` for what this kernel does not accept.
pub(crate) fn load_program<I>(
    kind: u32,
    attach_kind: u32,
    name: &CStr,
    instructions: &[I],
) -> io::Result<OwnedFd> {
    const { assert!(size_of::<I>() == 8, "struct bpf_insn has 8 bytes") }
    /// The beginning of `union bpf_attr` for `BPF_PROG_LOAD`.
    #[repr(C)]
    #[derive(Default)]
    struct Load {
        kind: u32,
        count: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel_version: u32,
        flags: u32,
        name: [u8; 16],
        device: u32,
        attach_kind: u32,
    }
    let mut load = Load {
        kind,
        count: instructions.len() as u32,
        instructions: instructions.as_ptr().addr() as u64,
        license: LICENSE.as_ptr().addr() as u64,
        name: short(name),
        attach_kind,
        ..Load::default()
    };
    // SAFETY: the structure is a beginning of bpf_attr; instructions and licence outlive the call. The
    // kernel returns a new descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(call(BPF_PROG_LOAD, &raw mut load)?) })
}

/// A name as the kernel takes it: 15 bytes at most.
pub(crate) fn short(name: &CStr) -> [u8; 16] {
    let mut short = [0; 16];
    for (to, from) in short.iter_mut().take(15).zip(name.to_bytes()) {
        *to = *from;
    }
    short
}

/// Calls bpf(2).
///
/// # Errors
/// Those of the command.
///
/// # Safety
/// The structure is a beginning of `union bpf_attr` for this command.
pub(crate) unsafe fn call<T>(command: libc::c_int, attributes: *mut T) -> io::Result<libc::c_int> {
    // SAFETY: the caller's promise; the kernel reads and writes as many bytes as the size says.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as libc::c_int) }
}

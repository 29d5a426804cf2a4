//! bpf(2).

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Commands of linux/bpf.h.
const BPF_MAP_CREATE: libc::c_int = 0;
const BPF_PROG_LOAD: libc::c_int = 5;
pub(crate) const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
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

/// What a map is for the kernel: its kind (`enum bpf_map_type`), the sizes of its keys and values in
/// bytes, how many there may be, and its flags.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct MapShape {
    pub(crate) kind: u32,
    pub(crate) key_size: u32,
    pub(crate) value_size: u32,
    pub(crate) max_entries: u32,
    pub(crate) flags: u32,
}

/// Makes a map, all 0 or empty.
///
/// # Errors
/// `EPERM` without CAP_BPF, `EINVAL` where the kernel has no such maps.
pub(crate) fn create_map(name: &CStr, shape: MapShape) -> io::Result<OwnedFd> {
    /// The beginning of `union bpf_attr` for `BPF_MAP_CREATE`.
    #[repr(C)]
    struct Create {
        shape: MapShape,
        inner: u32,
        node: u32,
        name: [u8; 16],
    }
    let mut create = Create { shape, inner: 0, node: 0, name: short(name) };
    // SAFETY: the structure is a beginning of bpf_attr. The kernel returns a new descriptor.
    unsafe { Ok(OwnedFd::from_raw_fd(call(BPF_MAP_CREATE, &raw mut create)?)) }
}

/// Checks that a descriptor is a map of this shape.
///
/// # Errors
/// `EINVAL` for another kind of file, and for a map of another shape; `EPERM` where an unprivileged
/// process may not call bpf(2).
pub(crate) fn check_map(descriptor: &OwnedFd, shape: MapShape) -> io::Result<()> {
    /// The beginning of `struct bpf_map_info`.
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        kind: u32,
        id: u32,
        key_size: u32,
        value_size: u32,
        max_entries: u32,
        flags: u32,
    }
    /// `info` of `union bpf_attr`.
    #[repr(C)]
    struct Query {
        descriptor: u32,
        length: u32,
        info: u64,
    }
    let mut info = Info::default();
    let mut query = Query {
        descriptor: descriptor.as_raw_fd().cast_unsigned(),
        length: size_of::<Info>() as u32,
        info: (&raw mut info).expose_provenance() as u64,
    };
    // SAFETY: the structure is a beginning of bpf_attr; `info` outlives the call, and has the length
    // that is said.
    unsafe { call(BPF_OBJ_GET_INFO_BY_FD, &raw mut query) }?;
    let Info { kind, key_size, value_size, max_entries, flags, .. } = info;
    // The kernel adds flags of its own.
    let is_same = flags & shape.flags == shape.flags
        && shape == MapShape { kind, key_size, value_size, max_entries, flags: shape.flags };
    if is_same { Ok(()) } else { Err(io::ErrorKind::InvalidInput.into()) }
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

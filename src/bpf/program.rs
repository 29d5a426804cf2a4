//! Maps and programs, by bpf(2).

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use crate::sys::bpf;
use crate::sys::sockopt;

/// Commands and constants of linux/bpf.h.
const BPF_MAP_CREATE: libc::c_int = 0;
#[cfg(test)]
const BPF_PROG_TEST_RUN: libc::c_int = 10;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const BPF_MAP_FREEZE: libc::c_int = 22;
const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_F_MMAPABLE: u32 = 1 << 10;
const BPF_PROG_TYPE_SOCKET_FILTER: u32 = 1;
const SO_ATTACH_BPF: libc::c_int = 50;

/// The variables of a program. Only the program writes them.
#[derive(Debug)]
pub struct Map(OwnedFd);

impl Map {
    /// Makes one of so many bytes, all 0.
    ///
    /// # Errors
    /// `EPERM` without CAP_BPF, `EINVAL` where the kernel has no such maps (Linux 5.5).
    pub(super) fn create(name: &CStr, size: usize) -> io::Result<Self> {
        /// The beginning of `union bpf_attr` for `BPF_MAP_CREATE`.
        #[repr(C)]
        #[derive(Default)]
        struct Create {
            kind: u32,
            key_size: u32,
            value_size: u32,
            max_entries: u32,
            flags: u32,
            inner: u32,
            node: u32,
            name: [u8; 16],
        }
        let mut create = Create {
            kind: BPF_MAP_TYPE_ARRAY,
            key_size: 4,
            value_size: size as u32,
            max_entries: 1,
            flags: BPF_F_MMAPABLE,
            name: bpf::short(name),
            ..Create::default()
        };
        // SAFETY: the structure is a beginning of bpf_attr. The kernel returns a new descriptor.
        let map = unsafe { OwnedFd::from_raw_fd(bpf::call(BPF_MAP_CREATE, &raw mut create)?) };
        let mut freeze = map.as_raw_fd().cast_unsigned();
        // SAFETY: as above. No process can write the map from here on.
        unsafe { bpf::call(BPF_MAP_FREEZE, &raw mut freeze) }?;
        Ok(Map(map))
    }

    /// The variables of a descriptor that another process has passed, which the caller does not trust.
    ///
    /// # Errors
    /// `EINVAL` for another kind of file, another kind of map, or another number of bytes; `EPERM`
    /// where an unprivileged process may not call bpf(2).
    pub(super) fn from_descriptor(descriptor: OwnedFd, size: usize) -> io::Result<Self> {
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
        // SAFETY: the structure is a beginning of bpf_attr; `info` outlives the call, and has the
        // length that is said.
        unsafe { bpf::call(BPF_OBJ_GET_INFO_BY_FD, &raw mut query) }?;
        let is_own = info.kind == BPF_MAP_TYPE_ARRAY
            && info.flags & BPF_F_MMAPABLE != 0
            && (info.max_entries, info.value_size as usize) == (1, size);
        if is_own { Ok(Map(descriptor)) } else { Err(io::ErrorKind::InvalidInput.into()) }
    }

    /// Calls a function with the variables, which are there for as long as it runs. A process that has
    /// no capability can do this. The memory counts as the process's own only meanwhile.
    ///
    /// # Errors
    /// Those of mmap(2): `EINVAL` for a descriptor that is no map, or of a smaller one.
    pub fn with<T, R>(&self, read: impl FnOnce(*const T) -> R) -> io::Result<R> {
        let size = size_of::<T>();
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start = unsafe {
            let (fd, flags) = (self.0.as_raw_fd(), libc::MAP_SHARED);
            libc::mmap(ptr::null_mut(), size, libc::PROT_READ, flags, fd, 0)
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let result = read(start.cast());
        // SAFETY: the mapping is this function's own, and nothing refers to it any more.
        unsafe { libc::munmap(start, size) };
        Ok(result)
    }
}

impl AsFd for Map {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A program in the kernel.
#[derive(Debug)]
pub struct Program(OwnedFd);

impl Program {
    /// The program of a descriptor that another process has passed.
    pub(super) fn from_descriptor(descriptor: OwnedFd) -> Self {
        Program(descriptor)
    }

    /// Loads a filter of sockets.
    ///
    /// # Errors
    /// `EPERM` without CAP_BPF; `EINVAL` or `EACCES` for what this kernel does not accept.
    pub(super) fn load_socket_filter(name: &CStr, instructions: &[u64]) -> io::Result<Self> {
        bpf::load_program(BPF_PROG_TYPE_SOCKET_FILTER, 0, name, instructions).map(Program)
    }

    /// Makes the program the filter of a socket, for as long as the socket is open.
    ///
    /// # Errors
    /// Those of setsockopt(2).
    pub fn filter(&self, socket: &impl AsFd) -> io::Result<()> {
        let program = self.0.as_raw_fd();
        sockopt::set_int(socket, libc::SOL_SOCKET, SO_ATTACH_BPF, program)?;
        sockopt::lock_filter(socket)
    }

    /// Runs the program with a packet that begins with its Ethernet header. Returns its result.
    ///
    /// # Errors
    /// Those of `BPF_PROG_TEST_RUN`: `EINVAL` for a packet that is shorter than its header.
    #[cfg(test)]
    pub(super) fn test_run(&self, packet: &[u8], segment: u32) -> io::Result<u32> {
        /// The beginning of `union bpf_attr` for `BPF_PROG_TEST_RUN`.
        #[repr(C)]
        #[derive(Default)]
        struct Run {
            program: u32,
            result: u32,
            input_size: u32,
            output_size: u32,
            input: u64,
            output: u64,
            repeat: u32,
            duration: u32,
            context_size: u32,
            context_output_size: u32,
            context: u64,
            context_output: u64,
        }
        // `gso_size` of `struct __sk_buff`; all else is 0.
        let mut context = [0u32; 48];
        context[44] = segment;
        let mut run = Run {
            program: self.0.as_raw_fd().cast_unsigned(),
            input_size: packet.len() as u32,
            input: packet.as_ptr().addr() as u64,
            repeat: 1,
            context_size: size_of_val(&context) as u32,
            context: context.as_ptr().addr() as u64,
            ..Run::default()
        };
        // SAFETY: the structure is a beginning of bpf_attr; packet and context outlive the call, and
        // the kernel reads as much of them as is said.
        unsafe { bpf::call(BPF_PROG_TEST_RUN, &raw mut run) }?;
        Ok(run.result)
    }
}

impl AsFd for Program {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

//! Maps and programs, by bpf(2).

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::AtomicU64;

use crate::sys::bpf;
use crate::sys::bpf::MapShape;
use crate::sys::sockopt;

/// Commands and constants of linux/bpf.h.
#[cfg(test)]
const BPF_PROG_TEST_RUN: libc::c_int = 10;
const BPF_MAP_FREEZE: libc::c_int = 22;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_F_MMAPABLE: u32 = 1 << 10;
const BPF_PROG_TYPE_SOCKET_FILTER: u32 = 1;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
const SO_ATTACH_BPF: libc::c_int = 50;

/// The variables of a program.
#[derive(Debug)]
pub struct Map(OwnedFd);

/// Who may write the variables of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Writer {
    /// The program alone.
    Program,
    /// A process that has the descriptor, too.
    Process,
}

impl Map {
    /// Makes one of so many bytes, all 0.
    ///
    /// # Errors
    /// `EPERM` without CAP_BPF, `EINVAL` where the kernel has no such maps (Linux 5.5).
    pub(super) fn create(name: &CStr, size: usize, writer: Writer) -> io::Result<Self> {
        let map = bpf::create_map(name, Self::shape(size))?;
        if writer == Writer::Program {
            let mut freeze = map.as_raw_fd().cast_unsigned();
            // SAFETY: as above. No process can write the map from here on.
            unsafe { bpf::call(BPF_MAP_FREEZE, &raw mut freeze) }?;
        }
        Ok(Map(map))
    }

    /// The variables of a descriptor that another process has passed, which the caller does not trust.
    ///
    /// # Errors
    /// `EINVAL` for another kind of file, another kind of map, or another number of bytes; `EPERM`
    /// where an unprivileged process may not call bpf(2).
    pub(super) fn from_descriptor(descriptor: OwnedFd, size: usize) -> io::Result<Self> {
        bpf::check_map(&descriptor, Self::shape(size))?;
        Ok(Map(descriptor))
    }

    fn shape(size: usize) -> MapShape {
        MapShape {
            kind: BPF_MAP_TYPE_ARRAY,
            key_size: 4,
            value_size: size as u32,
            max_entries: 1,
            flags: BPF_F_MMAPABLE,
        }
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

impl Map {
    /// Maps the variables, which begin with so many numbers of 64 bits that several processors write.
    ///
    /// # Errors
    /// As [`Map::with`]; `EPERM` if only the program may write them.
    pub fn numbers<const N: usize>(&self) -> io::Result<MappedNumbers<N>> {
        let size = N * size_of::<AtomicU64>();
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start = unsafe {
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            libc::mmap(ptr::null_mut(), size, protection, libc::MAP_SHARED, self.0.as_raw_fd(), 0)
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(MappedNumbers(start.cast()))
    }
}

/// Variables of a program, mapped.
#[derive(Debug)]
pub struct MappedNumbers<const N: usize>(*mut [AtomicU64; N]);

impl<const N: usize> std::ops::Deref for MappedNumbers<N> {
    type Target = [AtomicU64; N];

    fn deref(&self) -> &[AtomicU64; N] {
        // SAFETY: the mapping is of a BPF map, which cannot be made smaller, and stays until this is
        // dropped. All access to it is atomic.
        unsafe { &*self.0 }
    }
}

impl<const N: usize> Drop for MappedNumbers<N> {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own.
        unsafe { libc::munmap(self.0.cast(), N * size_of::<AtomicU64>()) };
    }
}

impl AsFd for Map {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Where an interface's packets pass a program: `enum bpf_attach_type` of linux/bpf.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hook {
    /// What arrives, before the host's stack has it: `BPF_TCX_INGRESS`.
    Ingress = 46,
    /// What is sent, also by the interface's macvlan children: `BPF_TCX_EGRESS`.
    Egress = 47,
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

    /// Loads a program for the packets that pass an interface.
    ///
    /// # Errors
    /// As [`Program::load_socket_filter`]; `EPERM` also without CAP_NET_ADMIN.
    pub(super) fn load_at(hook: Hook, name: &CStr, instructions: &[u64]) -> io::Result<Self> {
        bpf::load_program(BPF_PROG_TYPE_SCHED_CLS, hook as u32, name, instructions).map(Program)
    }

    /// Makes the program the filter of a socket, in place of the one that it has.
    ///
    /// # Errors
    /// Those of setsockopt(2).
    pub fn filter(&self, socket: &impl AsFd) -> io::Result<()> {
        let program = self.0.as_raw_fd();
        sockopt::set_int(socket, libc::SOL_SOCKET, SO_ATTACH_BPF, program)
    }

    /// Runs the program for each packet that passes this place of the interface of this index in the
    /// caller's network namespace, after the programs that are there already, for as long as the descriptor is
    /// open.
    ///
    /// # Errors
    /// `EINVAL` before Linux 6.6; `ERANGE` if 64 programs are there; `ENODEV` if the interface is gone.
    pub(super) fn attach(&self, hook: Hook, interface: u32) -> io::Result<OwnedFd> {
        /// `link_create` of `union bpf_attr`, with its `tcx`.
        #[repr(C)]
        #[derive(Default)]
        struct Create {
            program: u32,
            interface: u32,
            kind: u32,
            flags: u32,
            relative: u32,
            unused: u32,
            revision: u64,
        }
        let mut create = Create {
            program: self.0.as_raw_fd().cast_unsigned(),
            interface,
            kind: hook as u32,
            ..Create::default()
        };
        // SAFETY: the structure is a beginning of bpf_attr. The kernel returns a new descriptor.
        unsafe { Ok(OwnedFd::from_raw_fd(bpf::call(BPF_LINK_CREATE, &raw mut create)?)) }
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

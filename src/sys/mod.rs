//! The ground floor: system calls that no crate offers, and files of the kernel. Nothing here knows what
//! mcrun is.

#[cfg(test)]
pub(crate) mod classic_bpf;
pub(crate) mod fd_passing;
pub(crate) mod files;
pub mod ifreq;
pub(crate) mod inherited_fds;
pub mod process;
pub(crate) mod procfs;
pub mod sockopt;

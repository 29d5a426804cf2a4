//! The ground floor: system calls that no crate offers, kernel files, and what several modules need
//! of files and processes. Nothing here knows what mcrun is.

pub(crate) mod background_close;
pub(crate) mod bound_sockets;
pub(crate) mod bpf;
pub(crate) mod cgroup;
#[cfg(test)]
pub(crate) mod classic_bpf;
pub(crate) mod egress_filter;
pub(crate) mod event_wait;
pub(crate) mod fd_passing;
pub(crate) mod files;
pub mod ifreq;
pub(crate) mod inherited_fds;
pub(crate) mod journal;
pub(crate) mod mountinfo;
pub(crate) mod passed_fds;
pub mod process;
pub(crate) mod procfs;
pub mod program;
pub(crate) mod readable_fd;
pub mod sockopt;
pub(crate) mod spawn;
pub(crate) mod syslog;
pub(crate) mod toml_text;
pub(crate) mod trusted;
pub(crate) mod unix_socket;

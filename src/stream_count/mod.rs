//! The count of multicast streams: how many packets have arrived for a group from a source, when the
//! last one, and what an RTP receiver would have missed (RFC 3550).
//!
//! The program `bpf/count.bpf.c` counts in the kernel, and its table has the layout of [`Table`]. This
//! module reads the table. For its tests it has the same arithmetic in Rust. It makes no system call,
//! and time is an argument.

#[cfg(test)]
mod datagram;
mod summary;
mod table;

#[cfg(test)]
pub(crate) use crate::stream_count::datagram::{Datagram, Offload};
pub use crate::stream_count::summary::{RtpCount, StreamCount, of_interface};
pub use crate::stream_count::table::{LAYOUT, SIZE, Stream, Table, read};

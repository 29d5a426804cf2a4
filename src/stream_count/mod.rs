//! The count of multicast streams: how many packets have arrived for a group from a source, when the
//! last one, and what an RTP receiver would have missed (RFC 3550).
//!
//! The program `bpf/count.bpf.c` does the same in the kernel, and its table has the layout of
//! [`Table`]. This module counts what a relay carries, reads the program's table, and says what the
//! program has to count. It makes no system call, and time is an argument.

mod datagram;
mod summary;
mod table;

pub use crate::stream_count::datagram::{Datagram, Offload, Rtp};
pub use crate::stream_count::summary::{RtpCount, StreamCount, of_interface};
pub use crate::stream_count::table::{LAYOUT, SIZE, Stream, Table, read};

//! The count of what arrives at the container's links, by the program of [`crate::bpf::count`].
//!
//! The program is the filter of a packet socket on each link. It takes no packet, so that nothing is
//! queued. The sockets have fixed descriptors, so that the system call filter can forbid to send with
//! them. The kernel takes some 5 ms to load the program, so this is done when the container's start does
//! not wait any more: the proxy has the capabilities for that until then.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::time::{ClockId, clock_gettime};
use socket2::{Domain, Socket, Type};

use crate::bpf::{Map, count};
use crate::net::arp_announcement::link_address;
use crate::proxy::config::{COUNT_SOCKETS, InterfaceTask};
use crate::stream_count::{Stream, StreamCount, of_interface, read};

/// Packet sockets that are bound to nothing yet, and receive nothing: those of [`COUNT_SOCKETS`], for
/// the first links in the order of the task.
pub(crate) struct CountSockets {
    count: usize,
}

impl CountSockets {
    /// Opens sockets in the caller's namespace for so many links, at most as many as there are
    /// descriptors for them.
    ///
    /// # Errors
    /// `EPERM` without CAP_NET_RAW, `EAFNOSUPPORT` where the kernel has no packet sockets, `EBADF` for
    /// a number beyond the limit of the process.
    pub(crate) fn open(links: usize) -> io::Result<Self> {
        let count = links.min(COUNT_SOCKETS.len());
        for number in COUNT_SOCKETS.take(count) {
            // Protocol 0: nothing is received.
            let socket = Socket::new(Domain::PACKET, Type::DGRAM, None)?;
            // SAFETY: nobody owns the number yet, and nothing closes it for as long as the process
            // runs.
            if unsafe { libc::dup3(socket.as_raw_fd(), number, libc::O_CLOEXEC) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(CountSockets { count })
    }
}

/// What counts, for as long as the process runs.
pub(crate) struct StreamCounter {
    table: Map,
    /// Indexes of the links that are counted.
    links: Vec<u32>,
}

impl StreamCounter {
    /// Loads the program, and counts what arrives at these links from here on.
    ///
    /// # Errors
    /// Those of [`count::load`], setsockopt(2) and bind(2).
    pub(crate) fn start<'t>(
        sockets: &CountSockets,
        links: impl Iterator<Item = &'t InterfaceTask>,
    ) -> io::Result<Self> {
        let (program, table) = count::load()?;
        let mut counted = Vec::new();
        for (number, link) in COUNT_SOCKETS.take(sockets.count).zip(links) {
            if link.index == 0 {
                continue;
            }
            // SAFETY: the socket is open for as long as the process runs.
            let socket = unsafe { BorrowedFd::borrow_raw(number) };
            program.filter(&socket)?;
            let address = link_address(link.index, libc::ETH_P_IP as u16);
            // SAFETY: the address is as long as it says.
            let bound =
                unsafe { libc::bind(socket.as_raw_fd(), address.as_ptr().cast(), address.len()) };
            if bound < 0 {
                return Err(io::Error::last_os_error());
            }
            counted.push(link.index);
        }
        Ok(StreamCounter { table, links: counted })
    }

    /// The streams now.
    ///
    /// # Errors
    /// Those of mmap(2).
    pub(crate) fn read(&self) -> io::Result<StreamCounts<'_>> {
        // SAFETY: the map is of the program's table, and stays mapped meanwhile.
        let streams = self.table.with(|table| unsafe { read(table) })?;
        let time = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
        let now = time.tv_sec().cast_unsigned() * 1_000_000_000 + time.tv_nsec().cast_unsigned();
        Ok(StreamCounts { links: &self.links, streams, now })
    }
}

/// The streams at one moment.
pub(crate) struct StreamCounts<'c> {
    links: &'c [u32],
    streams: Vec<Stream>,
    /// CLOCK_MONOTONIC in nanoseconds.
    now: u64,
}

impl StreamCounts<'_> {
    /// The streams of the link of this index, in the order of group and source; `None` for a link that
    /// is not counted.
    pub(crate) fn of(&self, link: u32) -> Option<Vec<StreamCount>> {
        let is_counted = self.links.contains(&link);
        is_counted.then(|| of_interface(&self.streams, link, self.now))
    }
}

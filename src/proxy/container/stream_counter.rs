//! The count of what arrives at the container's links, by the program of [`crate::bpf::count`].
//!
//! The program is the filter of a packet socket on each link. It takes no packet, so that nothing is
//! queued. The sockets have fixed descriptors, so that the system call filter can forbid to send with
//! them. The kernel takes some 1.5 ms to load the program, so this is done when the container's start does
//! not wait any more: the proxy has the capabilities for that until then.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::net::if_::if_nametoindex;
use nix::time::{ClockId, clock_gettime};
use socket2::{Domain, SockRef, Socket, Type};

use crate::bpf::{Map, Program, count};
use crate::net::arp_announcement::{bound_link, link_address};
use crate::proxy::config::{COUNT_SOCKETS, InterfaceTask};
use crate::stream_count::{Stream, StreamCount, of_interface, read};
use crate::sys::sockopt;

/// What counts for the proxy that is replaced.
pub(crate) struct InheritedCounter {
    program: Program,
    table: Map,
    /// Each link's name and socket.
    sockets: Vec<(String, OwnedFd)>,
}

impl InheritedCounter {
    /// What [`StreamCounter::hand_over`] gave; `None` if it is something else.
    pub(crate) fn new(links: Vec<String>, descriptors: Vec<OwnedFd>) -> Option<Self> {
        let mut descriptors = descriptors.into_iter();
        let (table, program) = (descriptors.next()?, descriptors.next()?);
        let (program, table) = count::inherit(program, table).ok()?;
        let is_whole = descriptors.len() == links.len();
        let sockets = links.into_iter().zip(descriptors).collect();
        is_whole.then_some(InheritedCounter { program, table, sockets })
    }
}

/// Packet sockets as the descriptors of [`COUNT_SOCKETS`], for the first links in the order of the
/// task. Those that are not inherited are bound to nothing yet, and receive nothing.
pub(crate) struct CountSockets {
    /// For each link whether its socket counts already.
    count: Vec<bool>,
    inherited: Option<(Program, Map)>,
}

impl CountSockets {
    /// Opens sockets in the caller's namespace for links of these names, at most as many as there are
    /// descriptors for them.
    ///
    /// # Errors
    /// `EPERM` without CAP_NET_RAW, `EAFNOSUPPORT` where the kernel has no packet sockets, `EBADF` for
    /// a number beyond the limit of the process.
    pub(crate) fn open<'t>(
        links: impl Iterator<Item = &'t str>,
        inherited: Option<InheritedCounter>,
    ) -> io::Result<Self> {
        let (mut counter, mut sockets) = (None, Vec::new());
        if let Some(inherited) = inherited {
            sockets = inherited.sockets;
            counter = Some((inherited.program, inherited.table));
        }
        let mut count = Vec::new();
        for (number, name) in COUNT_SOCKETS.zip(links) {
            // A link that was made anew has another index.
            let own = sockets.iter().position(|(link, socket)| {
                let index = if_nametoindex(name).unwrap_or_default();
                link == name && index != 0 && bound_link(socket).is_ok_and(|bound| bound == index)
            });
            let socket = match own {
                Some(position) => sockets.swap_remove(position).1,
                // Protocol 0: nothing is received.
                None => Socket::new(Domain::PACKET, Type::DGRAM, None)?.into(),
            };
            // SAFETY: nobody owns the number yet, and nothing closes it for as long as the process
            // runs.
            if unsafe { libc::dup3(socket.as_raw_fd(), number, libc::O_CLOEXEC) } < 0 {
                return Err(io::Error::last_os_error());
            }
            count.push(own.is_some());
        }
        Ok(CountSockets { count, inherited: counter })
    }
}

/// What counts, for as long as the process runs.
pub(crate) struct StreamCounter {
    program: Program,
    table: Map,
    /// Index and name of each link that is counted, and the descriptor of its socket.
    links: Vec<(u32, String, RawFd)>,
}

impl StreamCounter {
    /// Loads the program if it is not inherited, and counts what arrives at these links from here on.
    ///
    /// # Errors
    /// Those of [`count::load`], setsockopt(2) and bind(2).
    pub(crate) fn start<'t>(
        sockets: CountSockets,
        links: impl Iterator<Item = &'t InterfaceTask>,
    ) -> io::Result<Self> {
        let (program, table) = match sockets.inherited {
            Some(inherited) => inherited,
            None => count::load()?,
        };
        let mut counted = Vec::new();
        for ((number, is_counting), link) in COUNT_SOCKETS.zip(sockets.count).zip(links) {
            if link.index == 0 {
                continue;
            }
            if !is_counting {
                // SAFETY: the socket is open for as long as the process runs.
                let socket = unsafe { BorrowedFd::borrow_raw(number) };
                program.filter(&socket)?;
                sockopt::lock_filter(socket)?;
                let address = link_address(link.index, libc::ETH_P_IP as u16);
                SockRef::from(&socket).bind(&address)?;
            }
            counted.push((link.index, link.name.clone(), number));
        }
        Ok(StreamCounter { program, table, links: counted })
    }

    /// What goes on to count for another process too: the names of the links; the table, the program
    /// and each link's socket.
    pub(crate) fn hand_over(&self) -> (Vec<&str>, Vec<BorrowedFd<'_>>) {
        let names = self.links.iter().map(|(_, name, _)| name.as_str());
        // SAFETY: the sockets are open for as long as the process runs.
        let socket = |(_, _, number): &_| unsafe { BorrowedFd::borrow_raw(*number) };
        let own = [self.table.as_fd(), self.program.as_fd()];
        (names.collect(), own.into_iter().chain(self.links.iter().map(socket)).collect())
    }

    /// The streams now.
    ///
    /// # Errors
    /// Those of mmap(2).
    pub(crate) fn read(&self) -> io::Result<StreamCounts> {
        // SAFETY: the map is of the program's table, and stays mapped meanwhile.
        let streams = self.table.with(|table| unsafe { read(table) })?;
        let time = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
        let now = time.tv_sec().cast_unsigned() * 1_000_000_000 + time.tv_nsec().cast_unsigned();
        let links = self.links.iter().map(|(index, _, _)| *index).collect();
        Ok(StreamCounts { links, streams, now })
    }
}

/// The streams at one moment.
pub(crate) struct StreamCounts {
    /// Indexes of the links that are counted.
    links: Vec<u32>,
    streams: Vec<Stream>,
    /// CLOCK_MONOTONIC in nanoseconds.
    now: u64,
}

impl StreamCounts {
    /// The streams of the link of this index, in the order of group and source; `None` for a link that
    /// is not counted.
    pub(crate) fn of(&self, link: u32) -> Option<Vec<StreamCount>> {
        let is_counted = self.links.contains(&link);
        is_counted.then(|| of_interface(&self.streams, link, self.now))
    }
}

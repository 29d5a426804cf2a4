//! The count of what arrives at the container's links, by the program of [`crate::bpf::count`].
//!
//! The program is the filter of a packet socket on each link. It takes no packet, so that nothing is
//! queued, and it is locked. The sockets have fixed descriptors, so that the system call filter can forbid to
//! send with them. The kernel takes some 1.5 ms to load the program, so this is done when the container's start does
//! not wait any more: the proxy has the capabilities for that until then.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::net::if_::if_nametoindex;
use nix::time::{ClockId, clock_gettime};
use socket2::{Domain, SockFilter, SockRef, Socket, Type};

use crate::bpf::{Map, Program, count};
use crate::net::arp_announcement::{bound_link, link_address};
use crate::proxy::config::{COUNT_SOCKETS, InterfaceTask};
use crate::stream_count::{Stream, StreamCount, of_interface, read};
use crate::sys::sockopt;

/// What counts for the proxy that is replaced.
pub(crate) struct InheritedCounter {
    table: Map,
    program: OwnedFd,
    /// Each link's name and socket.
    sockets: Vec<(String, OwnedFd)>,
}

impl InheritedCounter {
    /// What [`StreamCounter::hand_over`] gave; `None` if it is something else.
    pub(crate) fn new(links: Vec<String>, descriptors: Vec<OwnedFd>) -> Option<Self> {
        let mut descriptors = descriptors.into_iter();
        let (table, program) = (descriptors.next()?, descriptors.next()?);
        let table = count::inherit_table(table).ok()?;
        let is_whole = descriptors.len() == links.len();
        let sockets = links.into_iter().zip(descriptors).collect();
        is_whole.then_some(InheritedCounter { table, program, sockets })
    }
}

/// Packet sockets as the descriptors of [`COUNT_SOCKETS`], for the first links in the order of the
/// task that are [counted](is_counted). Those that are not inherited are bound to nothing yet, and receive
/// nothing.
pub(crate) struct CountSockets {
    /// For each link whether its socket counts already.
    count: Vec<bool>,
    table: Option<Map>,
    /// The program for links that are the container's own.
    program: Option<Program>,
}

/// Whether what arrives at a link is counted: what the link itself carries, or what the kernel relays.
pub(crate) fn is_counted(link: &InterfaceTask) -> bool {
    link.relay.as_ref().is_none_or(|relay| relay.in_kernel)
}

impl CountSockets {
    /// Opens sockets in the caller's namespace for these links, at most as many as there are descriptors
    /// for them.
    ///
    /// # Errors
    /// `EPERM` without CAP_NET_RAW, `EAFNOSUPPORT` where the kernel has no packet sockets, `EBADF` for
    /// a number beyond the limit of the process.
    pub(crate) fn open(
        links: &[InterfaceTask],
        inherited: Option<InheritedCounter>,
    ) -> io::Result<Self> {
        let (mut table, mut program, mut sockets) = (None, None, Vec::new());
        if let Some(inherited) = inherited {
            sockets = inherited.sockets;
            table = Some(inherited.table);
            // Otherwise it is the one for what is relayed.
            let is_own = |link: &&InterfaceTask| {
                link.relay.is_none() && sockets.iter().any(|(name, _)| *name == link.name)
            };
            program = links.iter().find(is_own).map(|_| count::inherit(inherited.program));
        }
        let mut count = Vec::new();
        for (number, link) in COUNT_SOCKETS.zip(links.iter().filter(|link| is_counted(link))) {
            // A link that was made anew has another index.
            let own = sockets.iter().position(|(name, socket)| {
                let index = if_nametoindex(link.name.as_str()).unwrap_or_default();
                let is_bound = || bound_link(socket).is_ok_and(|bound| bound == index);
                *name == link.name && index != 0 && is_bound()
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
        Ok(CountSockets { count, table, program })
    }

    /// Closes the sockets to all packets, where nothing can be counted.
    pub(crate) fn close(count: usize) {
        for number in COUNT_SOCKETS.take(count) {
            let nothing = SockFilter::new((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, 0);
            // SAFETY: the socket is open for as long as the process runs.
            let socket = unsafe { BorrowedFd::borrow_raw(number) };
            // One that counts already has a filter that takes nothing, which is locked.
            let _ = SockRef::from(&socket).attach_filter(&[nothing]);
            let _ = sockopt::lock_filter(socket);
        }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.count.len()
    }
}

/// What counts, for as long as the process runs.
pub(crate) struct StreamCounter {
    table: Map,
    /// The program of the first link.
    program: Program,
    /// Index and name of each link that is counted, and the descriptor of its socket. Index 0: the link is
    /// not there.
    links: Vec<(u32, String, RawFd)>,
}

impl StreamCounter {
    /// Loads the programs that are not inherited, and counts what arrives at the links of the task from
    /// here on.
    ///
    /// # Errors
    /// Those of [`count::load`], setsockopt(2) and bind(2).
    pub(crate) fn start<'t>(
        sockets: CountSockets,
        links: impl Iterator<Item = &'t InterfaceTask>,
    ) -> io::Result<Self> {
        let table = sockets.table.map_or_else(count::table, Ok)?;
        let (mut own, mut relayed) = (sockets.program, None);
        let mut counted = Vec::new();
        let links = links.filter(|link| is_counted(link));
        for ((number, is_counting), link) in COUNT_SOCKETS.zip(sockets.count).zip(links) {
            let program = match link.relay.is_none() {
                true => program(&mut own, &table, count::load)?,
                false => program(&mut relayed, &table, count::load_relayed)?,
            };
            if !is_counting {
                // SAFETY: the socket is open for as long as the process runs.
                let socket = unsafe { BorrowedFd::borrow_raw(number) };
                program.filter(&socket)?;
                sockopt::lock_filter(socket)?;
                if link.index != 0 {
                    bind(number, link.index)?;
                }
            }
            counted.push((link.index, link.name.clone(), number));
        }
        let program = own.or(relayed).ok_or(io::ErrorKind::NotFound)?;
        Ok(StreamCounter { program, table, links: counted })
    }

    /// The link of this name is there, and has this index.
    pub(crate) fn follow(&mut self, name: &str, index: u32) {
        let link = self.links.iter_mut().find(|(_, link, _)| link == name);
        if let Some((known, _, number)) = link
            && *known != index
        {
            // If this fails, the link is gone again.
            *known = if bind(*number, index).is_ok() { index } else { 0 };
        }
    }

    /// What goes on to count for another process too: the names of the links; the table, the program
    /// of the first link and each link's socket.
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
        (is_counted && link != 0).then(|| of_interface(&self.streams, link, self.now))
    }
}

/// The program, which is loaded with the first link that needs it.
fn program<'p>(
    program: &'p mut Option<Program>,
    table: &Map,
    load: impl FnOnce(&Map) -> io::Result<Program>,
) -> io::Result<&'p Program> {
    if program.is_none() {
        *program = Some(load(table)?);
    }
    program.as_ref().ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// Has a socket look at the packets of a link.
fn bind(number: RawFd, index: u32) -> io::Result<()> {
    // SAFETY: the socket is open for as long as the process runs.
    let socket = unsafe { BorrowedFd::borrow_raw(number) };
    SockRef::from(&socket).bind(&link_address(index, libc::ETH_P_IP as u16))
}

//! Keeping AF_XDP sockets away from the container's links.
//!
//! Such a socket needs CAP_NET_RAW to be opened, and sends frames past every hook
//! (`xsk_generic_xmit` in net/xdp/xsk.c). Each queue of a link takes one, and the links that mcrun
//! makes have one queue. So the proxy binds a socket of its own, which can neither send nor receive:
//! it has no ring for sending and no memory that it could read.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::ptr;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::notice::Notice;
use crate::sys::sockopt;

/// Time between two attempts while another socket is bound: that of the proxy which is replaced, or
/// one of the container.
const PAUSE: Duration = Duration::from_millis(20);
/// How long attempts are made. A proxy that is replaced has ended by then.
const PATIENCE: Duration = Duration::from_secs(5);

/// The sockets of a proxy that occupy links.
#[derive(Default)]
pub(crate) struct XdpGuards {
    /// Sockets without a link.
    spare: Vec<XdpSocket>,
    /// Held for as long as the rules.
    bound: Vec<XdpSocket>,
    /// Links that something else occupies.
    waiting: Vec<Waiting>,
    next_attempt: Option<Instant>,
    last_attempt: Option<Instant>,
}

struct Waiting {
    socket: XdpSocket,
    interface: String,
    index: u32,
}

impl XdpGuards {
    /// Opens so many sockets in the caller's namespace; none where the kernel has no AF_XDP.
    ///
    /// # Errors
    /// Those of socket(2) and of the options of AF_XDP.
    pub(crate) fn open(count: usize) -> io::Result<Self> {
        let mut guards = XdpGuards::default();
        for _ in 0..count {
            match XdpSocket::open() {
                Ok(socket) => guards.spare.push(socket),
                Err(e) if e.raw_os_error() == Some(libc::EAFNOSUPPORT) => break,
                Err(e) => return Err(e),
            }
        }
        Ok(guards)
    }

    /// Occupies a link, or waits until it is free.
    pub(crate) fn occupy(&mut self, interface: &str, index: u32, now: Instant) {
        let Some(socket) = self.spare.pop() else { return };
        self.waiting.push(Waiting { socket, interface: interface.to_owned(), index });
        self.last_attempt = Some(now + PATIENCE);
        // A link that does not take this socket takes none of the container either.
        let _ = self.handle_timeout(now);
    }

    /// When the next attempt is due.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.next_attempt
    }

    /// Makes an attempt where one is due. Returns what to tell of links that stay occupied.
    pub(crate) fn handle_timeout(&mut self, now: Instant) -> Vec<Notice> {
        if self.waiting.is_empty() || self.next_attempt.is_some_and(|at| at > now) {
            return Vec::new();
        }
        for waiting in std::mem::take(&mut self.waiting) {
            match waiting.socket.bind(waiting.index) {
                Ok(()) => self.bound.push(waiting.socket),
                Err(e) if e.raw_os_error() == Some(libc::EBUSY) => self.waiting.push(waiting),
                Err(_) => {}
            }
        }
        self.next_attempt = (!self.waiting.is_empty()).then(|| now + PAUSE);
        if self.last_attempt.is_none_or(|last| last > now) {
            return Vec::new();
        }
        self.next_attempt = None;
        let occupied = self.waiting.drain(..);
        occupied.map(|w| Notice::LinkNotGuarded { interface: w.interface }).collect()
    }
}

/// An AF_XDP socket that can neither send nor receive.
struct XdpSocket(OwnedFd);

impl XdpSocket {
    fn open() -> io::Result<Self> {
        let socket = Socket::new(Domain::from(libc::AF_XDP), Type::RAW, None)?;
        let memory = Page::map()?;
        let size = memory.size as u32;
        let registration = [
            &(memory.start.addr() as u64).to_ne_bytes()[..],
            &u64::from(size).to_ne_bytes(),
            // One piece of the least size, and no headroom.
            &LEAST_PIECE.to_ne_bytes(),
            &0u32.to_ne_bytes(),
            &0u32.to_ne_bytes(),
            &0u32.to_ne_bytes(),
        ]
        .concat();
        // The kernel holds the page from here on.
        sockopt::set_bytes(&socket, libc::SOL_XDP, libc::XDP_UMEM_REG, &registration)?;
        // Without these three no link takes the socket.
        for ring in [libc::XDP_UMEM_FILL_RING, libc::XDP_UMEM_COMPLETION_RING, libc::XDP_RX_RING] {
            sockopt::set_int(&socket, libc::SOL_XDP, ring, 1)?;
        }
        Ok(XdpSocket(socket.into()))
    }

    fn bind(&self, index: u32) -> io::Result<()> {
        // SAFETY: an all-zero sockaddr_xdp is valid.
        let mut address: libc::sockaddr_xdp = unsafe { std::mem::zeroed() };
        address.sxdp_family = libc::AF_XDP as u16;
        // Without it the kernel asks the driver first.
        address.sxdp_flags = libc::XDP_COPY;
        address.sxdp_ifindex = index;
        let length = size_of_val(&address) as libc::socklen_t;
        // SAFETY: the address is live and has the stated length.
        let result =
            unsafe { libc::bind(self.0.as_fd().as_raw_fd(), (&raw const address).cast(), length) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

/// `XDP_UMEM_MIN_CHUNK_SIZE` of net/xdp/xdp_umem.h.
const LEAST_PIECE: u32 = 2048;

/// A page of memory.
struct Page {
    start: *mut libc::c_void,
    size: usize,
}

impl Page {
    fn map() -> io::Result<Self> {
        // SAFETY: sysconf only reads; the size of a page is always known.
        let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start = unsafe { libc::mmap(ptr::null_mut(), size, protection, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Page { start, size })
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and nothing refers to it.
        unsafe { libc::munmap(self.start, self.size) };
    }
}

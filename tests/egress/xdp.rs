//! An AF_XDP socket that sends, as a process with CAP_NET_RAW can have it.

use std::io;
use std::os::fd::AsRawFd;
use std::ptr;

use mcrun::sys::sockopt;
use socket2::{Domain, Socket, Type};

const PAGE: usize = 4096;

/// Sends a frame from the first queue of the interface with this index.
pub(super) fn send(index: u32, frame: &[u8]) -> io::Result<()> {
    let socket = Socket::new(Domain::from(libc::AF_XDP), Type::RAW, None)?;
    let memory = map(-1, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, 0)?;
    // SAFETY: the page is live and longer than the frame.
    unsafe { ptr::copy_nonoverlapping(frame.as_ptr(), memory.cast(), frame.len()) };
    let size = PAGE as u64;
    let start = memory.addr() as u64;
    let piece = [&start.to_ne_bytes()[..], &size.to_ne_bytes(), &2048u32.to_ne_bytes(), &[0; 12]];
    sockopt::set_bytes(&socket, libc::SOL_XDP, libc::XDP_UMEM_REG, &piece.concat())?;
    for ring in [libc::XDP_UMEM_FILL_RING, libc::XDP_UMEM_COMPLETION_RING, libc::XDP_TX_RING] {
        sockopt::set_int(&socket, libc::SOL_XDP, ring, 16)?;
    }
    // SAFETY: an all-zero value of either type is valid.
    let (mut address, mut offsets): (libc::sockaddr_xdp, libc::xdp_mmap_offsets) =
        unsafe { std::mem::zeroed() };
    address.sxdp_family = libc::AF_XDP as u16;
    address.sxdp_flags = libc::XDP_COPY;
    address.sxdp_ifindex = index;
    let fd = socket.as_raw_fd();
    let length = size_of_val(&address) as libc::socklen_t;
    // SAFETY: the address is live and has the stated length.
    check(unsafe { libc::bind(fd, (&raw const address).cast(), length) })?;
    let mut length = size_of_val(&offsets) as libc::socklen_t;
    let to = (&raw mut offsets).cast();
    // SAFETY: the offsets are live and have the stated length.
    check(unsafe {
        libc::getsockopt(fd, libc::SOL_XDP, libc::XDP_MMAP_OFFSETS, to, &raw mut length)
    })?;
    let ring = map(fd, libc::MAP_SHARED, libc::XDP_PGOFF_TX_RING)?;
    let place = |offset: u64| ring.cast::<u8>().wrapping_add(offset as usize);
    let descriptor = libc::xdp_desc { addr: 0, len: frame.len() as u32, options: 0 };
    // SAFETY: both places are in the ring, which is mapped, and nobody else uses it yet.
    unsafe {
        place(offsets.tx.desc).cast::<libc::xdp_desc>().write(descriptor);
        place(offsets.tx.producer).cast::<u32>().write_volatile(1);
    }
    // SAFETY: no data is passed.
    let sent = unsafe { libc::sendto(fd, ptr::null(), 0, libc::MSG_DONTWAIT, ptr::null(), 0) };
    check(sent as i32)
}

/// A page, which stays mapped until the test program ends.
fn map(fd: i32, flags: i32, offset: libc::off_t) -> io::Result<*mut libc::c_void> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping at an address of the kernel's choice.
    let start = unsafe { libc::mmap(ptr::null_mut(), PAGE, protection, flags, fd, offset) };
    if start == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(start) }
}

fn check(result: i32) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

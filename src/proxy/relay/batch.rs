//! Many packets in one system call, received, changed and sent on in the same memory: `recvmmsg` and
//! `sendmmsg`.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr;

/// Packets in one call.
pub(super) const BATCH: usize = 64;
/// Room of one: the largest IPv4 packet, behind a `virtio_net_hdr` and a link header.
const SLOT: usize = 64 * 1024 + 64;

/// Buffers for one batch. A page of them takes memory once a packet has been in it: 256 KiB for
/// packets as they usually are.
pub(crate) struct Batch {
    data: Vec<u8>,
    received: [usize; BATCH],
    filled: usize,
    /// Where the packets to be sent are in `data`, and where they go.
    queued: Vec<Queued>,
}

#[derive(Clone, Copy)]
struct Queued {
    start: usize,
    length: usize,
    to: Ipv4Addr,
}

impl Batch {
    /// Empty; nothing of it is in memory yet.
    pub(crate) fn new() -> Self {
        Batch {
            // Zeroed memory comes from the kernel page by page as it is written to.
            data: vec![0; BATCH * SLOT],
            received: [0; BATCH],
            filled: 0,
            queued: Vec::new(),
        }
    }

    /// Takes what waits in a socket, at most [`BATCH`] packets, and never blocks. Returns how many.
    ///
    /// # Errors
    /// As recvmmsg(2): `WouldBlock` when nothing waits.
    pub(super) fn receive(&mut self, socket: impl AsFd) -> io::Result<usize> {
        self.filled = 0;
        self.queued.clear();
        // SAFETY: plain C structures, for which all zero is a value.
        let mut headers: [libc::mmsghdr; BATCH] = unsafe { std::mem::zeroed() };
        let mut vectors = [libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; BATCH];
        for ((slot, vector), header) in
            self.data.chunks_exact_mut(SLOT).zip(&mut vectors).zip(&mut headers)
        {
            *vector = libc::iovec { iov_base: slot.as_mut_ptr().cast(), iov_len: SLOT };
            header.msg_hdr.msg_iov = vector;
            header.msg_hdr.msg_iovlen = 1;
        }
        // SAFETY: the descriptor is borrowed; each header points to a vector, and each vector to a slot
        // of `data` with its length, all of which outlive the call.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_fd().as_raw_fd(),
                headers.as_mut_ptr(),
                BATCH as libc::c_uint,
                libc::MSG_DONTWAIT as _,
                ptr::null_mut(),
            )
        };
        let count = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
        self.filled = count.min(BATCH);
        for (length, header) in self.received.iter_mut().zip(&headers) {
            *length = (header.msg_len as usize).min(SLOT);
        }
        Ok(self.filled)
    }

    /// The bytes of a packet of the last [`Batch::receive`]; none behind the last.
    pub(super) fn slot(&mut self, position: usize) -> &mut [u8] {
        if position >= self.filled {
            return &mut [];
        }
        let start = position * SLOT;
        &mut self.data[start..start + self.received[position]]
    }

    /// Queues `length` bytes of a slot from `offset` on, to be sent to an address.
    pub(super) fn queue(&mut self, position: usize, offset: usize, length: usize, to: Ipv4Addr) {
        let within = position < BATCH && offset.saturating_add(length) <= SLOT;
        if within && self.queued.len() < BATCH {
            self.queued.push(Queued { start: position * SLOT + offset, length, to });
        }
    }

    /// Sends what is queued. What the socket refuses is handed to `refused` with the reason, and
    /// the rest goes on.
    pub(super) fn send(
        &mut self,
        socket: impl AsFd,
        mut refused: impl FnMut(&mut [u8], io::Error),
    ) {
        if self.queued.is_empty() {
            return;
        }
        let fd = socket.as_fd().as_raw_fd();
        // SAFETY: plain C structures, for which all zero is a value.
        let mut headers: [libc::mmsghdr; BATCH] = unsafe { std::mem::zeroed() };
        let mut vectors = [libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; BATCH];
        let mut names = [socket_address(Ipv4Addr::UNSPECIFIED); BATCH];
        let each = vectors.iter_mut().zip(&mut names).zip(&mut headers);
        for (queued, ((vector, name), header)) in self.queued.iter().zip(each) {
            let bytes = &mut self.data[queued.start..queued.start + queued.length];
            *vector = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
            *name = socket_address(queued.to);
            header.msg_hdr.msg_name = (&raw mut *name).cast();
            header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_in>() as libc::socklen_t;
            header.msg_hdr.msg_iov = vector;
            header.msg_hdr.msg_iovlen = 1;
        }
        let count = self.queued.len().min(BATCH);
        let mut sent = 0;
        while sent < count {
            // SAFETY: the descriptor is borrowed; each of the `count` headers points to a vector and
            // a name, and each vector to a part of `data`, all of which outlive the call.
            let result = unsafe {
                libc::sendmmsg(
                    fd,
                    headers.as_mut_ptr().add(sent),
                    (count - sent) as libc::c_uint,
                    libc::MSG_DONTWAIT as _,
                )
            };
            match usize::try_from(result) {
                Ok(0) => return,
                Ok(more) => sent += more,
                Err(_) => {
                    let error = io::Error::last_os_error();
                    if error.kind() != io::ErrorKind::Interrupted {
                        let Queued { start, length, .. } = self.queued[sent];
                        refused(&mut self.data[start..start + length], error);
                        sent += 1;
                    }
                }
            }
        }
    }
}

fn socket_address(address: Ipv4Addr) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: 0,
        sin_addr: libc::in_addr { s_addr: u32::from(address).to_be() },
        sin_zero: [0; 8],
    }
}

//! Batches of packets that are received by `recvmmsg`, changed in place, and sent from the same
//! memory by `sendmmsg`.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr;

/// Most packets of one system call.
pub(super) const BATCH: usize = 32;
/// Bytes for one packet: the largest IPv4 packet, behind a `virtio_net_hdr` and a link header.
const SLOT: usize = 64 * 1024 + 64;

/// Buffers for one batch. A page of them occupies memory once a packet was written to it: 128 KiB
/// in all for packets of the usual size.
pub(crate) struct Batch {
    /// The slots. No reference to the whole is ever made: `incoming` and `outgoing` point into it.
    data: Vec<u8>,
    incoming: Messages,
    filled: usize,
    outgoing: Messages,
    queued: usize,
}

impl Batch {
    /// An empty batch. None of its slots occupies memory yet.
    pub(crate) fn new() -> Self {
        let mut batch = Batch {
            // Zeroed memory comes from the kernel page by page as it is written to.
            data: vec![0; BATCH * SLOT],
            incoming: Messages::new(false),
            filled: 0,
            outgoing: Messages::new(true),
            queued: 0,
        };
        for position in 0..BATCH {
            let bytes = batch.part(position * SLOT, SLOT);
            batch.incoming.set_bytes(position, bytes);
        }
        batch
    }

    /// Receives the packets that are queued in a socket, at most [`BATCH`], without blocking.
    /// Returns their number.
    ///
    /// # Errors
    /// As recvmmsg(2): `WouldBlock` when nothing is queued.
    pub(super) fn receive(&mut self, socket: impl AsFd) -> io::Result<usize> {
        self.filled = 0;
        self.queued = 0;
        // SAFETY: the descriptor is borrowed; each header points to its vector, and each vector to
        // a slot of `data` with its length, all of which outlive the call. Nobody else has a
        // reference to any of them.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_fd().as_raw_fd(),
                self.incoming.headers.as_mut_ptr(),
                BATCH as libc::c_uint,
                libc::MSG_DONTWAIT as _,
                ptr::null_mut(),
            )
        };
        let count = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
        self.filled = count.min(BATCH);
        Ok(self.filled)
    }

    /// The room of one packet, for bytes that are no part of a batch. The packets of the last batch
    /// are gone.
    pub(super) fn scratch(&mut self) -> &mut [u8] {
        self.filled = 0;
        self.queued = 0;
        let bytes = self.part(0, SLOT);
        // SAFETY: a part of `data`, which is initialized, and borrowed as long as `self` is.
        unsafe { std::slice::from_raw_parts_mut(bytes.iov_base.cast(), bytes.iov_len) }
    }

    /// The bytes of packet `position` of the last [`Batch::receive`]; empty past the last packet.
    pub(super) fn slot(&mut self, position: usize) -> &mut [u8] {
        if position >= self.filled {
            return &mut [];
        }
        let length = (self.incoming.headers[position].msg_len as usize).min(SLOT);
        let bytes = self.part(position * SLOT, length);
        // SAFETY: a part of `data`, which is initialized, and borrowed as long as `self` is.
        unsafe { std::slice::from_raw_parts_mut(bytes.iov_base.cast(), bytes.iov_len) }
    }

    /// Queues `length` bytes of a slot from `offset` on, to be sent to an address.
    pub(super) fn queue(&mut self, position: usize, offset: usize, length: usize, to: Ipv4Addr) {
        let within = position < BATCH && offset.saturating_add(length) <= SLOT;
        if within && self.queued < BATCH {
            let bytes = self.part(position * SLOT + offset, length);
            self.outgoing.set_bytes(self.queued, bytes);
            self.outgoing.set_name(self.queued, socket_address(to));
            self.queued += 1;
        }
    }

    /// Sends the queued packets. `refused` gets each packet that the socket refuses, with the
    /// reason; the others are sent.
    pub(super) fn send(
        &mut self,
        socket: impl AsFd,
        mut refused: impl FnMut(&mut [u8], io::Error),
    ) {
        let fd = socket.as_fd().as_raw_fd();
        let mut sent = 0;
        while sent < self.queued {
            // SAFETY: the descriptor is borrowed; each of the headers from `sent` to `queued`,
            // which there are, points to its vector and name, and each vector to a part of `data`,
            // all of which outlive the call. Nobody else has a reference to any of them.
            let result = unsafe {
                libc::sendmmsg(
                    fd,
                    self.outgoing.headers.as_mut_ptr().add(sent),
                    (self.queued - sent) as libc::c_uint,
                    libc::MSG_DONTWAIT as _,
                )
            };
            match usize::try_from(result) {
                Ok(0) => return,
                Ok(more) => sent += more,
                Err(_) => {
                    let error = io::Error::last_os_error();
                    if error.kind() != io::ErrorKind::Interrupted {
                        let bytes = self.outgoing.bytes(sent);
                        // SAFETY: a part of `data`, which is initialized, and lent to nobody else.
                        let bytes = unsafe {
                            std::slice::from_raw_parts_mut(bytes.iov_base.cast(), bytes.iov_len)
                        };
                        refused(bytes, error);
                        sent += 1;
                    }
                }
            }
        }
    }

    /// `length` bytes of `data` from `start` on, which must be within it.
    fn part(&mut self, start: usize, length: usize) -> libc::iovec {
        debug_assert!(start + length <= BATCH * SLOT);
        // SAFETY: within `data`, as every caller has checked.
        let base = unsafe { self.data.as_mut_ptr().add(start) };
        libc::iovec { iov_base: base.cast(), iov_len: length }
    }
}

/// The arguments of recvmmsg(2) and sendmmsg(2) for a batch, built once: the kernel changes none of
/// the pointers.
struct Messages {
    /// Each points to its element of the others, so that no reference to these is made (see
    /// `Vec::as_mut_ptr`).
    headers: Vec<libc::mmsghdr>,
    vectors: Vec<libc::iovec>,
    names: Vec<libc::sockaddr_in>,
}

impl Messages {
    /// Messages without bytes yet; `named` messages have a destination address.
    fn new(named: bool) -> Self {
        // SAFETY: a plain C structure, for which all zero is a value.
        let header: libc::mmsghdr = unsafe { std::mem::zeroed() };
        let vector = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };
        let name = socket_address(Ipv4Addr::UNSPECIFIED);
        let mut headers = vec![header; BATCH];
        let mut vectors = vec![vector; BATCH];
        let mut names = vec![name; if named { BATCH } else { 0 }];
        for (position, message) in headers.iter_mut().enumerate() {
            let header = &mut message.msg_hdr;
            // SAFETY: there are as many vectors as headers.
            header.msg_iov = unsafe { vectors.as_mut_ptr().add(position) };
            header.msg_iovlen = 1;
            if named {
                // SAFETY: there are as many names as headers.
                header.msg_name = unsafe { names.as_mut_ptr().add(position) }.cast();
                header.msg_namelen = size_of::<libc::sockaddr_in>() as libc::socklen_t;
            }
        }
        Messages { headers, vectors, names }
    }

    /// The bytes of a message.
    fn bytes(&mut self, position: usize) -> libc::iovec {
        assert!(position < self.vectors.len());
        // SAFETY: within the vectors.
        unsafe { *self.vectors.as_mut_ptr().add(position) }
    }

    fn set_bytes(&mut self, position: usize, bytes: libc::iovec) {
        assert!(position < self.vectors.len());
        // SAFETY: within the vectors.
        unsafe { *self.vectors.as_mut_ptr().add(position) = bytes };
    }

    fn set_name(&mut self, position: usize, name: libc::sockaddr_in) {
        assert!(position < self.names.len());
        // SAFETY: within the names.
        unsafe { *self.names.as_mut_ptr().add(position) = name };
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

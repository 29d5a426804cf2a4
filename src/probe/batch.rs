//! Many datagrams in one system call: `recvmmsg` and `sendmmsg`.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd};
use std::ptr;
use std::time::Duration;

/// Datagrams in one call.
pub(super) const BATCH: usize = 64;
/// Bytes kept of a received datagram: headers are all that is looked at.
const KEPT: usize = 64;
/// Room for one `struct timespec` as control message, in the alignment of `cmsghdr`.
const CONTROL: usize = 8;

/// A datagram of a [`Receiver`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Datagram<'a> {
    /// Its first bytes.
    pub(super) start: &'a [u8],
    /// Its length on the wire.
    pub(super) length: usize,
    /// Who sent it; `None` for what is not an IP address.
    pub(super) source: Option<SocketAddr>,
    /// When the kernel took it in, since 1970 (`SO_TIMESTAMPNS`).
    pub(super) arrived: Option<Duration>,
}

/// Buffers for `recvmmsg`.
pub(super) struct Receiver {
    headers: Vec<libc::mmsghdr>,
    vectors: Vec<libc::iovec>,
    names: Vec<libc::sockaddr_storage>,
    control: Vec<[u64; CONTROL]>,
    data: Vec<[u8; KEPT]>,
    filled: usize,
}

impl Receiver {
    pub(super) fn new() -> Self {
        Receiver {
            // SAFETY: all of these are plain C structures, for which all zero is a value.
            headers: vec![unsafe { MaybeUninit::zeroed().assume_init() }; BATCH],
            vectors: vec![libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; BATCH],
            // SAFETY: as above.
            names: vec![unsafe { MaybeUninit::zeroed().assume_init() }; BATCH],
            control: vec![[0; CONTROL]; BATCH],
            data: vec![[0; KEPT]; BATCH],
            filled: 0,
        }
    }

    /// Takes what waits in `socket`, at most [`BATCH`] datagrams, and never blocks.
    ///
    /// # Errors
    /// As `recvmmsg`: `WouldBlock` when nothing waits.
    pub(super) fn receive(&mut self, socket: impl AsFd) -> io::Result<usize> {
        self.filled = 0;
        for index in 0..BATCH {
            self.vectors[index] =
                libc::iovec { iov_base: self.data[index].as_mut_ptr().cast(), iov_len: KEPT };
            let header = &mut self.headers[index].msg_hdr;
            header.msg_name = (&raw mut self.names[index]).cast();
            header.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            header.msg_iov = &raw mut self.vectors[index];
            header.msg_iovlen = 1;
            header.msg_control = self.control[index].as_mut_ptr().cast();
            header.msg_controllen = size_of::<[u64; CONTROL]>() as _;
            header.msg_flags = 0;
        }
        // SAFETY: `headers` has BATCH elements, and each points into vectors of this object
        // that live and stay in place until the call returns, with their true lengths.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_fd().as_raw_fd(),
                self.headers.as_mut_ptr(),
                BATCH as libc::c_uint,
                // TRUNC: the length told is the datagram's, not that of what was kept.
                libc::MSG_DONTWAIT | libc::MSG_TRUNC,
                ptr::null_mut(),
            )
        };
        self.filled = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
        Ok(self.filled)
    }

    /// The datagrams of the last call.
    pub(super) fn datagrams(&self) -> impl Iterator<Item = Datagram<'_>> {
        (0..self.filled.min(BATCH)).map(|index| {
            let header = &self.headers[index];
            let length = header.msg_len as usize;
            Datagram {
                start: &self.data[index][..length.min(KEPT)],
                length,
                source: address(&self.names[index]),
                arrived: timestamp(&header.msg_hdr),
            }
        })
    }
}

/// The address in what the kernel wrote; zeroes, as at the start, are none.
fn address(storage: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match i32::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: a sockaddr_storage is large and aligned enough for every address
            // family, and the family says that this is what it holds.
            let inner = unsafe { *(&raw const *storage).cast::<libc::sockaddr_in>() };
            let ip = u32::from_be(inner.sin_addr.s_addr).into();
            Some(SocketAddrV4::new(ip, u16::from_be(inner.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let inner = unsafe { *(&raw const *storage).cast::<libc::sockaddr_in6>() };
            let (ip, port) = (inner.sin6_addr.s6_addr.into(), u16::from_be(inner.sin6_port));
            Some(SocketAddrV6::new(ip, port, inner.sin6_flowinfo, inner.sin6_scope_id).into())
        }
        _ => None,
    }
}

/// The `SCM_TIMESTAMPNS` of a received message.
fn timestamp(header: &libc::msghdr) -> Option<Duration> {
    // SAFETY: `header` is as recvmmsg left it: its control buffer and length are valid, and
    // the CMSG macros stay within them.
    unsafe {
        let mut message = libc::CMSG_FIRSTHDR(header);
        while let Some(control) = message.as_ref() {
            // The type of `cmsg_len` differs between C libraries.
            let expected = libc::CMSG_LEN(size_of::<libc::timespec>() as u32);
            if control.cmsg_level == libc::SOL_SOCKET
                && control.cmsg_type == libc::SCM_TIMESTAMPNS
                && control.cmsg_len >= expected as _
            {
                let time: libc::timespec = ptr::read_unaligned(libc::CMSG_DATA(control).cast());
                let seconds = u64::try_from(time.tv_sec).ok()?;
                return Some(Duration::new(seconds, u32::try_from(time.tv_nsec).ok()?));
            }
            message = libc::CMSG_NXTHDR(header, control);
        }
    }
    None
}

/// Datagrams of one size for `sendmmsg` on a connected socket.
pub(super) struct Sender {
    headers: Vec<libc::mmsghdr>,
    vectors: Vec<libc::iovec>,
    data: Vec<u8>,
    size: usize,
}

impl Sender {
    /// `size` is that of each datagram, in bytes, not 0.
    pub(super) fn new(size: usize) -> Self {
        Sender {
            // SAFETY: a plain C structure, for which all zero is a value.
            headers: vec![unsafe { MaybeUninit::zeroed().assume_init() }; BATCH],
            vectors: vec![libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; BATCH],
            data: vec![0; size * BATCH],
            size,
        }
    }

    /// The datagrams, to be filled in.
    pub(super) fn datagrams(&mut self) -> impl Iterator<Item = &mut [u8]> {
        self.data.chunks_exact_mut(self.size)
    }

    /// Sends the datagrams from `first` up to but not including `end`, and tells how many the
    /// kernel took before the first it refused.
    ///
    /// # Errors
    /// As `sendmmsg`, when it took none.
    pub(super) fn send(
        &mut self,
        socket: impl AsFd,
        first: usize,
        end: usize,
    ) -> io::Result<usize> {
        let end = end.min(BATCH);
        for (index, datagram) in self.data.chunks_exact_mut(self.size).enumerate() {
            self.vectors[index] =
                libc::iovec { iov_base: datagram.as_mut_ptr().cast(), iov_len: self.size };
            let header = &mut self.headers[index].msg_hdr;
            header.msg_iov = &raw mut self.vectors[index];
            header.msg_iovlen = 1;
        }
        let headers = &mut self.headers[first.min(end)..end];
        // SAFETY: the headers point into vectors of this object that stay in place until the
        // call returns; names and control messages are null with length 0.
        let sent = unsafe {
            libc::sendmmsg(
                socket.as_fd().as_raw_fd(),
                headers.as_mut_ptr(),
                headers.len() as libc::c_uint,
                0,
            )
        };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }
}

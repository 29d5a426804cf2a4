//! NETLINK_NETFILTER: messages written and read by hand.
//!
//! The proxy sends a few dozen fixed messages and reads one kind. So a writer that appends
//! attributes to a buffer and an iterator over attributes are enough. Neither allocates for each
//! attribute.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{RecvFlags, recv};

use crate::sys::sockopt;

const NLMSG_HEADER: usize = 16;
/// `struct nfgenmsg`: family, version, resource id (big endian).
const NFGENMSG: usize = 4;
const NLMSG_ERROR: u16 = libc::NLMSG_ERROR as u16;
const NLMSG_DONE: u16 = libc::NLMSG_DONE as u16;
/// Attribute type bits that are not flags (`NLA_TYPE_MASK`).
const TYPE_MASK: u16 = 0x3fff;
const NESTED: u16 = 0x8000;

/// Bytes that fit the send buffer of every socket; netlink sends no datagram that does not.
const COMMON_LENGTH: usize = 64 * 1024;

/// Flag of a request that asks for an acknowledgement.
pub(crate) const ACK: u16 = libc::NLM_F_ACK as u16;
/// Flag of a request that creates an object.
pub(crate) const CREATE: u16 = libc::NLM_F_CREATE as u16;
/// Flag of a request that fails when the object exists.
pub(crate) const EXCL: u16 = libc::NLM_F_EXCL as u16;
/// Flag of a request that appends to a list.
pub(crate) const APPEND: u16 = libc::NLM_F_APPEND as u16;
/// Flag of a request for all objects of a kind.
pub(crate) const DUMP: u16 = libc::NLM_F_DUMP as u16;

/// Several netlink messages in one buffer.
#[derive(Default)]
pub(crate) struct Messages {
    bytes: Vec<u8>,
    sequence: u32,
}

impl Messages {
    /// Appends a message; `fill` writes its attributes. `kind` is subsystem << 8 | message.
    pub(crate) fn push(
        &mut self,
        kind: u16,
        flags: u16,
        family: u8,
        resource: u16,
        fill: impl FnOnce(&mut Attributes<'_>),
    ) {
        let start = self.bytes.len();
        self.sequence += 1;
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&(flags | libc::NLM_F_REQUEST as u16).to_ne_bytes());
        self.bytes.extend_from_slice(&self.sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&0u32.to_ne_bytes());
        self.bytes.extend_from_slice(&[family, libc::NFNETLINK_V0 as u8]);
        self.bytes.extend_from_slice(&resource.to_be_bytes());
        fill(&mut Attributes { bytes: &mut self.bytes });
        let length = (self.bytes.len() - start) as u32;
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    }
}

/// Writes attributes; every value is padded to 4 bytes.
pub(crate) struct Attributes<'a> {
    bytes: &'a mut Vec<u8>,
}

impl Attributes<'_> {
    /// An attribute with these bytes.
    pub(crate) fn raw(&mut self, kind: u16, value: &[u8]) {
        let length = (value.len() + 4) as u16;
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// A string with its final zero.
    pub(crate) fn text(&mut self, kind: u16, value: &str) {
        self.raw(kind, &[value.as_bytes(), &[0]].concat());
    }

    /// A number in network byte order, as all numbers of nf_tables are.
    pub(crate) fn u32(&mut self, kind: u16, value: u32) {
        self.raw(kind, &value.to_be_bytes());
    }

    /// A number in network byte order.
    pub(crate) fn u64(&mut self, kind: u16, value: u64) {
        self.raw(kind, &value.to_be_bytes());
    }

    /// A number in network byte order.
    pub(crate) fn u16(&mut self, kind: u16, value: u16) {
        self.raw(kind, &value.to_be_bytes());
    }

    /// A nested attribute.
    pub(crate) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Attributes<'_>)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        fill(&mut Attributes { bytes: self.bytes });
        let length = (self.bytes.len() - start) as u16;
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    }
}

/// A message received.
pub(crate) struct Message<'a> {
    /// Subsystem << 8 | message.
    pub(crate) kind: u16,
    /// The bytes behind the netlink header.
    pub(crate) payload: &'a [u8],
}

impl<'a> Message<'a> {
    /// The attributes behind the `nfgenmsg`.
    pub(crate) fn attributes(&self) -> AttributeIter<'a> {
        AttributeIter { rest: self.payload.get(NFGENMSG..).unwrap_or(&[]) }
    }
}

/// The messages of one datagram. A message whose length is wrong ends the iteration.
pub(crate) fn messages(datagram: &[u8]) -> impl Iterator<Item = Message<'_>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(rest.get(..4)?.try_into().ok()?) as usize;
        let kind = u16::from_ne_bytes(rest.get(4..6)?.try_into().ok()?);
        let payload = rest.get(NLMSG_HEADER..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some(Message { kind, payload })
    })
}

/// Attributes as type and value. An attribute whose length is wrong ends the iteration.
pub(crate) struct AttributeIter<'a> {
    rest: &'a [u8],
}

impl<'a> AttributeIter<'a> {
    /// Over attributes that begin at `bytes`.
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        AttributeIter { rest: bytes }
    }
}

impl<'a> Iterator for AttributeIter<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(u16::from_ne_bytes(self.rest.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(self.rest.get(2..4)?.try_into().ok()?) & TYPE_MASK;
        let value = self.rest.get(4..length)?;
        self.rest = self.rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, value))
    }
}

/// A NETLINK_NETFILTER socket. The kernel frees what the socket owns when it is closed.
pub(crate) struct NfSocket {
    socket: Socket,
}

impl NfSocket {
    /// Opens one in the caller's namespace.
    ///
    /// # Errors
    /// `EPROTONOSUPPORT` where the kernel has no netfilter netlink.
    pub(crate) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_non_blocking(true)?;
        Ok(NfSocket { socket })
    }

    /// Sends messages of which at least one asks for an acknowledgement, and reads the answers. The
    /// kernel handles the messages before sendto(2) returns, so that the answers are there.
    ///
    /// # Errors
    /// The first error that the kernel answers; `ENOMSG` when it does not answer.
    pub(crate) fn transact(&self, messages_out: &Messages) -> io::Result<()> {
        let length = messages_out.bytes.len();
        if length > COMMON_LENGTH {
            // The kernel grants twice that, its own bookkeeping included.
            let room = i32::try_from(length).unwrap_or(i32::MAX);
            sockopt::set_int(self, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, room)?;
        }
        self.socket.send(&messages_out.bytes, 0)?;
        let mut answered = false;
        let mut failed = None;
        let mut buffer = [0u8; 4096];
        while let Some(datagram) = self.receive(&mut buffer)? {
            for message in messages(datagram).filter(|m| m.kind == NLMSG_ERROR) {
                answered = true;
                let code = message.payload.get(..4).and_then(|b| b.try_into().ok());
                match code.map(i32::from_ne_bytes) {
                    Some(0) | None => {}
                    Some(code) => {
                        failed.get_or_insert(code.wrapping_neg());
                    }
                }
            }
        }
        match failed {
            Some(errno) => Err(io::Error::from_raw_os_error(errno)),
            None if answered => Ok(()),
            None => Err(io::Error::from_raw_os_error(libc::ENOMSG)),
        }
    }

    /// Sends one request for a dump, and hands over each message of the answer.
    ///
    /// # Errors
    /// The kernel's, such as `EOPNOTSUPP` without nf_tables.
    pub(crate) fn dump(
        &self,
        request: &Messages,
        mut take: impl FnMut(Message<'_>),
    ) -> io::Result<()> {
        /// The kernel fills a datagram up to this (`NLMSG_GOODSIZE`, and up to 32 KiB).
        const ROOM: usize = 32 << 10;
        self.socket.send(&request.bytes, 0)?;
        let mut buffer = vec![0; ROOM];
        while let Some(datagram) = self.receive(&mut buffer)? {
            for message in messages(datagram) {
                match message.kind {
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => {
                        let code = message.payload.get(..4).and_then(|b| b.try_into().ok());
                        let code =
                            code.map_or(libc::EPROTO, |b| i32::from_ne_bytes(b).wrapping_neg());
                        return Err(io::Error::from_raw_os_error(code));
                    }
                    _ => take(message),
                }
            }
        }
        Ok(())
    }

    /// Receives one datagram; `None` when there is none now.
    ///
    /// # Errors
    /// `ENOBUFS` when datagrams were lost since the last call.
    pub(crate) fn receive<'b>(&self, buffer: &'b mut [u8]) -> io::Result<Option<&'b [u8]>> {
        receive(self.socket.as_fd(), buffer)
    }
}

impl AsFd for NfSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Receives one datagram from any socket, without waiting; `None` when there is none now. A
/// datagram that is longer than the buffer is cut.
///
/// # Errors
/// Those of recv(2), except `EINTR`.
pub(crate) fn receive<'b>(
    fd: BorrowedFd<'_>,
    buffer: &'b mut [u8],
) -> io::Result<Option<&'b [u8]>> {
    match retry_on_intr(|| recv(fd, &mut *buffer, RecvFlags::DONTWAIT)) {
        Ok((length, _)) => Ok(Some(&buffer[..length])),
        Err(Errno::AGAIN) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back_with_padding_and_nests() {
        let mut out = Messages::default();
        out.push(0x0a00, ACK, 2, 7, |a| {
            a.text(1, "ab");
            a.nest(2, |a| a.u32(3, 0x0102_0304));
        });
        out.push(0x0a01, 0, 2, 0, |a| a.u16(9, 5));
        let all: Vec<_> = messages(&out.bytes).collect();
        assert_eq!(all.iter().map(|m| m.kind).collect::<Vec<_>>(), [0x0a00, 0x0a01]);
        let attributes: Vec<_> = all[0].attributes().collect();
        assert_eq!(attributes[0], (1, &b"ab\0"[..]));
        assert_eq!(attributes[1].0, 2);
        let inner: Vec<_> = AttributeIter::new(attributes[1].1).collect();
        assert_eq!(inner, [(3, &[1, 2, 3, 4][..])]);
        assert_eq!(all[1].attributes().next(), Some((9, &[0, 5][..])));
    }

    #[test]
    fn lying_lengths_end_the_walk() {
        assert_eq!(messages(&[255; 20]).count(), 0);
        assert_eq!(messages(&[0; 20]).count(), 0);
        assert_eq!(messages(&[1, 0]).count(), 0);
        assert_eq!(AttributeIter::new(&[3, 0, 1, 0, 9]).count(), 0);
        assert_eq!(AttributeIter::new(&[9, 0, 1, 0, 9]).count(), 0);
        assert_eq!(AttributeIter::new(&[5, 0, 1, 0, 9]).count(), 1);
    }
}

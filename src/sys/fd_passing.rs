//! File descriptors passed over a Unix socket (`SCM_RIGHTS`, unix(7)).

use std::io;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::cmsg_space;
use rustix::io::retry_on_intr;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// Most descriptors in one message (`SCM_MAX_FD`, include/net/scm.h).
pub(crate) const MAX_FDS: usize = 253;

/// Sends bytes in one message, with descriptors or without. Returns the number of bytes sent.
///
/// The receiver gets either every descriptor or none of them, and none without a byte: `bytes`
/// must not be empty on a stream socket. The descriptors stay open here.
///
/// # Errors
/// Those of sendmsg(2): `EINVAL` with more than [`MAX_FDS`] descriptors, `EPIPE` (without a
/// SIGPIPE) when the receiver has closed its end, `EAGAIN` when the socket is full and does not
/// block.
pub(crate) fn send_with_fds(
    socket: impl AsFd,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
) -> io::Result<usize> {
    let mut space = vec![MaybeUninit::uninit(); cmsg_space!(ScmRights(fds.len()))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let bytes = [IoSlice::new(bytes)];
    let sent = retry_on_intr(|| sendmsg(&socket, &bytes, &mut control, SendFlags::NOSIGNAL))?;
    Ok(sent)
}

/// Receives one message: the number of bytes in `buffer`, and at most `max_fds` descriptors in the
/// order in which they were sent. Further descriptors are closed. The descriptors are
/// close-on-exec.
///
/// No bytes and no descriptors: the sender has closed its end.
///
/// # Errors
/// Those of recvmsg(2): `EAGAIN` when nothing is there and the socket does not block, or when its
/// `SO_RCVTIMEO` is over; `ECONNRESET` when the sender has gone without reading what it was sent.
pub(crate) fn receive_with_fds(
    socket: impl AsFd,
    buffer: &mut [u8],
    max_fds: usize,
) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = vec![MaybeUninit::uninit(); cmsg_space!(ScmRights(max_fds))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [IoSliceMut::new(buffer)];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let message = retry_on_intr(|| recvmsg(&socket, &mut bytes, &mut control, flags))?;
    let mut fds = Vec::new();
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = part {
            fds.extend(rights);
        }
    }
    // Alignment leaves room for more descriptors than asked for, and the kernel fills the room.
    fds.truncate(max_fds);
    Ok((message.bytes, fds))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixDatagram, UnixStream};

    use nix::fcntl::{FcntlArg, FdFlag, fcntl};

    use super::*;

    fn inode(fd: impl AsFd) -> u64 {
        nix::sys::stat::fstat(fd).unwrap().st_ino
    }

    #[test]
    fn descriptors_arrive_in_order_and_close_on_exec() {
        let (a, b) = UnixStream::pair().unwrap();
        let (reader, writer) = nix::unistd::pipe().unwrap();
        let sent = [a.as_fd(), reader.as_fd(), b.as_fd(), writer.as_fd()];
        assert_eq!(send_with_fds(&a, b"xy", &sent).unwrap(), 2);
        let mut buffer = [0; 8];
        let (length, received) = receive_with_fds(&b, &mut buffer, MAX_FDS).unwrap();
        assert_eq!(&buffer[..length], b"xy");
        assert_eq!(
            received.iter().map(inode).collect::<Vec<_>>(),
            sent.iter().map(inode).collect::<Vec<_>>()
        );
        for fd in &received {
            let flags = FdFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFD).unwrap());
            assert!(flags.contains(FdFlag::FD_CLOEXEC));
        }
    }

    #[test]
    fn descriptors_beyond_the_limit_are_closed() {
        let (a, b) = UnixDatagram::pair().unwrap();
        let (reader, writer) = nix::unistd::pipe().unwrap();
        send_with_fds(&a, b"x", &[b.as_fd(), writer.as_fd(), writer.as_fd()]).unwrap();
        drop(writer);
        let (length, received) = receive_with_fds(&b, &mut [0; 1], 1).unwrap();
        assert_eq!((length, received.len()), (1, 1));
        // End of file: no writer is left.
        assert_eq!(nix::unistd::read(&reader, &mut [0; 1]).unwrap(), 0);
    }

    #[test]
    fn the_end_is_no_bytes_and_no_descriptors() {
        let (a, b) = UnixStream::pair().unwrap();
        assert_eq!(send_with_fds(&a, b"x", &[]).unwrap(), 1);
        drop(a);
        let (length, received) = receive_with_fds(&b, &mut [0; 8], 1).unwrap();
        assert_eq!((length, received.len()), (1, 0));
        let (length, received) = receive_with_fds(&b, &mut [0; 8], 1).unwrap();
        assert_eq!((length, received.len()), (0, 0));
        let error = send_with_fds(&b, b"x", &[]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EPIPE));
    }

    #[test]
    fn more_descriptors_than_one_message_carries_are_refused_whole() {
        let (a, b) = UnixStream::pair().unwrap();
        let fds = vec![a.as_fd(); MAX_FDS + 1];
        assert_eq!(send_with_fds(&a, b"x", &fds).unwrap_err().raw_os_error(), Some(libc::EINVAL));
        send_with_fds(&a, b"x", &fds[1..]).unwrap();
        let (_, received) = receive_with_fds(&b, &mut [0; 8], MAX_FDS).unwrap();
        assert_eq!(received.len(), MAX_FDS);
    }
}

//! The messages between a shim and its client, on a pair of connected sockets.
//!
//! Both ends learn of the other's death by end of file, whatever killed it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::sys::fd_passing::{receive_with_fds, send_with_fds};

/// Longest message in bytes; longer texts are cut by the sender.
const MAX_MESSAGE: usize = 16 * 1024;

/// A message of the client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum ClientRequest {
    /// Send this signal to the container's init.
    Signal(i32),
    /// End the container at once.
    End,
}

/// A message of the shim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum ShimEvent {
    /// The container's terminal: its master comes with the message.
    Console,
    /// The command runs.
    Started,
    /// The container ended and is cleaned up.
    Ended {
        /// As a shell has it: the code, or 128 + signal.
        status: i32,
        /// What could not be cleaned up.
        warning: Option<String>,
    },
    /// The container did not start; nothing is left of it.
    Failed {
        /// 125, 126, 127, or 128 + the signal that interrupted the start.
        status: i32,
        /// The reason, one line; empty for an interruption.
        message: String,
    },
}

/// One end.
#[derive(Debug)]
pub(super) struct Connection(OwnedFd);

impl Connection {
    /// Two connected ends.
    pub(super) fn pair() -> io::Result<(Connection, Connection)> {
        let (a, b) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        Ok((Connection(a), Connection(b)))
    }

    /// For poll.
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Sends a message, with a descriptor or without. The peer's death is reported as an error
    /// (and as end of file on the next [`Connection::receive`]).
    pub(super) fn send<T: Serialize>(
        &self,
        message: &T,
        fd: Option<BorrowedFd<'_>>,
    ) -> io::Result<()> {
        let bytes = serde_json::to_vec(message)?;
        if bytes.len() > MAX_MESSAGE {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        send_with_fds(&self.0, &bytes, fd.as_slice()).map(drop)
    }

    /// Waits for a message; `None` when the peer is gone.
    pub(super) fn receive<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Option<OwnedFd>)>> {
        let mut buffer = vec![0; MAX_MESSAGE];
        let (length, mut fds) = match receive_with_fds(&self.0, &mut buffer, 1) {
            Err(error) if error.raw_os_error() == Some(libc::ECONNRESET) => return Ok(None),
            result => result?,
        };
        if length == 0 {
            return Ok(None);
        }
        Ok(Some((serde_json::from_slice(&buffer[..length])?, fds.pop())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_its_descriptor_and_the_end_arrive() {
        let (a, b) = Connection::pair().unwrap();
        let (reader, writer) = nix::unistd::pipe().unwrap();
        a.send(&ShimEvent::Console, Some(writer.as_fd())).unwrap();
        drop(writer);
        let (event, fd) = b.receive::<ShimEvent>().unwrap().unwrap();
        assert_eq!(event, ShimEvent::Console);
        nix::unistd::write(fd.unwrap(), b"x").unwrap();
        assert_eq!(nix::unistd::read(&reader, &mut [0; 4]).unwrap(), 1);

        a.send(&ShimEvent::Started, None).unwrap();
        drop(a);
        assert!(matches!(b.receive::<ShimEvent>().unwrap(), Some((ShimEvent::Started, None))));
        assert!(b.receive::<ShimEvent>().unwrap().is_none());
        assert!(b.send(&ClientRequest::End, None).is_err());
    }
}

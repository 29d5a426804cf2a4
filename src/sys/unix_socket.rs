//! Connections to servers of this host that may be stuck.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};

/// The wait for a place in the queue of a server. One with a full queue, some thousands, takes none.
const QUEUE_TIMEOUT: Duration = Duration::from_millis(100);

/// Connects to a server, as `UnixStream::connect`, which waits without end where the server's queue of
/// connections is full.
///
/// # Errors
/// Those of connect(2): `WouldBlock` where the queue is full.
pub(crate) fn connect(path: impl AsRef<Path>) -> io::Result<UnixStream> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // It also ends a wait for a place in the queue (`unix_stream_connect` in net/unix/af_unix.c).
    socket.set_write_timeout(Some(QUEUE_TIMEOUT))?;
    socket.connect(&SockAddr::unix(path)?)?;
    socket.set_write_timeout(None)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let stuck = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        stuck.bind(&SockAddr::unix(&path).unwrap()).unwrap();
        // A queue of one.
        stuck.listen(0).unwrap();
        let first = connect(&path).unwrap();
        assert_eq!(first.write_timeout().unwrap(), None);
        assert_eq!(connect(&path).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        stuck.accept().unwrap();
        connect(&path).unwrap();
    }
}

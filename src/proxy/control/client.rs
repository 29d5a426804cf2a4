//! Asking proxies for their status.

use std::fs::File;
use std::io;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::net::netns::NetNs;
use crate::proxy::ProxyStatus;
use crate::sys::fd_passing::receive_with_fds;

/// A proxy answers from memory; one that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(2);
/// Bytes of an answer that are read; a thousand groups of 64 sources stay far below.
const MAX_ANSWER: u64 = 64 << 20;

/// Asks the proxies whose sockets are in these directories, all of them before the first answer is
/// waited for. The answers come in the order of the directories.
pub fn query_all(dirs: &[impl AsRef<Path>]) -> Vec<io::Result<ProxyStatus>> {
    let asked: Vec<_> = dirs.iter().map(|dir| ask(dir.as_ref(), "status\n")).collect();
    asked.into_iter().map(|stream| answer(stream?)).collect()
}

/// Makes the proxy of this directory ask its container for all memberships at once.
///
/// # Errors
/// When it cannot be reached or does not answer.
pub fn requery(dir: &Path) -> io::Result<()> {
    let mut answer = Vec::new();
    ask(dir, "requery\n")?.take(MAX_ANSWER).read_to_end(&mut answer).map(drop)
}

/// Makes the proxy of this directory carry on with the relays of the one that it follows.
///
/// # Errors
/// When it cannot be reached or does not answer.
pub fn request_takeover(dir: &Path) -> io::Result<()> {
    let mut answer = Vec::new();
    ask(dir, "takeover\n")?.take(MAX_ANSWER).read_to_end(&mut answer).map(drop)
}

/// Asks the proxy of this directory for its container's network namespace, which nobody else may be
/// able to reach when the container's processes have ended.
///
/// # Errors
/// When it cannot be reached or does not answer.
pub fn namespace(dir: &Path) -> io::Result<NetNs> {
    let stream = ask(dir, "namespace\n")?;
    let (_, mut fds) = receive_with_fds(&stream, &mut [0], 1)?;
    NetNs::try_from(fds.pop().ok_or(io::ErrorKind::UnexpectedEof)?)
}

fn ask(dir: &Path, request: &str) -> io::Result<UnixStream> {
    // Through a descriptor: a socket's path has 107 bytes at most (unix(7)), a directory's 4096.
    let dir =
        File::options().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY).open(dir)?;
    let mut stream =
        UnixStream::connect(format!("/proc/self/fd/{}/control.sock", dir.as_raw_fd()))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(request.as_bytes())?;
    Ok(stream)
}

fn answer(stream: UnixStream) -> io::Result<ProxyStatus> {
    let mut text = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

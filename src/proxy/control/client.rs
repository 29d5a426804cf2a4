//! The clients' side of the control socket.
//!
//! Each call asks in version 1 of the protocol. A proxy that was launched by an earlier mcrun and
//! does not know version 1 is asked again, in the format before it.

use std::fs;
use std::fs::File;
use std::io;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;

use crate::net::netns::NetNs;
use crate::proxy::control::event::TimedEvent;
use crate::proxy::control::protocol::{
    AnswerError, ControlRequest, EmptyPayload, NamespacePayload, StatusPayload, parse_answer,
};
use crate::proxy::control::status::ProxyStatus;
use crate::proxy::process::container_dir::{CONTROL_SOCKET, SUCCESSOR_SOCKET};
use crate::sys::fd_passing::receive_with_fds;
use crate::sys::unix_socket::connect;

/// A proxy answers from memory; one that takes longer is stuck.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// What remains of that for a proxy whose turn comes late, because others are stuck. Its answer should
/// be there already.
const LATE_TIMEOUT: Duration = Duration::from_millis(500);
/// Bytes of an answer that are read; a thousand groups of 64 sources stay far below.
pub(crate) const MAX_ANSWER: u64 = 64 << 20;
/// Longest event in bytes: one with a source list of some 4000 addresses.
pub(crate) const MAX_EVENT: u64 = 64 << 10;

/// Asks the proxies whose sockets are in these directories for their status. All of them are asked
/// before the first answer is waited for, so that one that is stuck costs 2 s, and each further one half
/// a second. The answers come in the order of the directories.
pub fn query_all(dirs: &[impl AsRef<Path>]) -> Vec<io::Result<ProxyStatus>> {
    ask_all(dirs)()
}

/// As [`query_all`]. The call of what is returned waits for the answers: until then there is time for
/// something else.
pub(crate) fn ask_all<D: AsRef<Path>>(
    dirs: &[D],
) -> impl FnOnce() -> Vec<io::Result<ProxyStatus>> + use<'_, D> {
    let line = ControlRequest::Status.to_line();
    let asked: Vec<_> = dirs.iter().map(|dir| send(dir.as_ref(), &line)).collect();
    move || answers(asked, dirs)
}

fn answers(
    asked: Vec<io::Result<UnixStream>>,
    dirs: &[impl AsRef<Path>],
) -> Vec<io::Result<ProxyStatus>> {
    let deadline = Instant::now() + ANSWER_TIMEOUT;
    let answers = asked.into_iter().zip(dirs).map(|(stream, dir)| {
        let deadline = deadline.max(Instant::now() + LATE_TIMEOUT);
        match parse_answer::<StatusPayload<ProxyStatus>>(&receive_until(deadline, &stream?)?) {
            Ok(payload) => Ok(payload.status),
            Err(AnswerError::NotVersioned) => ask_by_word(dir.as_ref(), ControlRequest::Status),
            Err(error) => Err(io::Error::other(error)),
        }
    });
    answers.collect()
}

/// Makes the proxy of this directory query its container for all memberships.
///
/// # Errors
/// When the proxy cannot be reached, does not answer within 2 s or refuses.
pub fn requery(dir: &Path) -> io::Result<()> {
    command(dir, ControlRequest::Requery)
}

/// Makes the proxy of this directory take over the relays of the proxy that it replaces.
///
/// # Errors
/// As [`requery`].
pub fn request_takeover(dir: &Path) -> io::Result<()> {
    command(dir, ControlRequest::Takeover)
}

/// Asks the proxy of this directory for its container's network namespace. When the container's
/// processes have ended there may be no other way to it.
///
/// # Errors
/// As [`requery`].
pub fn namespace(dir: &Path) -> io::Result<NetNs> {
    let ask = |line: &str| {
        let stream = send(dir, line)?;
        let mut begin = [0; 1024];
        let (length, mut descriptors) = receive_with_fds(&stream, &mut begin, 1)?;
        let answer = [&begin[..length], &receive(stream)?].concat();
        Ok::<_, io::Error>((answer, descriptors.pop()))
    };
    let request = ControlRequest::Namespace;
    let (answer, mut descriptor) = ask(&request.to_line())?;
    if descriptor.is_none() {
        let word = match parse_answer::<NamespacePayload>(&answer) {
            Err(AnswerError::NotVersioned) => request.to_word_line(),
            Err(error) => return Err(io::Error::other(error)),
            Ok(_) => None,
        };
        if let Some(line) = word {
            descriptor = ask(&line)?.1;
        }
    }
    NetNs::try_from(descriptor.ok_or(io::ErrorKind::UnexpectedEof)?)
}

/// Whether the proxy answers that is to replace the one of this directory: it serves, and its
/// socket does not have its place yet.
pub fn successor_answers(dir: &Path) -> bool {
    let line = ControlRequest::Status.to_line();
    let answer = send_to(dir, SUCCESSOR_SOCKET, &line).and_then(receive);
    answer.is_ok_and(|answer| parse_answer::<StatusPayload<ProxyStatus>>(&answer).is_ok())
}

/// Puts the socket of a proxy that replaces another into its place. It is no error if it is there
/// already.
///
/// # Errors
/// Those of rename(2).
pub fn place_successor_socket(dir: &Path) -> io::Result<()> {
    match fs::rename(dir.join(SUCCESSOR_SOCKET), dir.join(CONTROL_SOCKET)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Whether a proxy that is to replace another has left its socket beside the other's.
pub fn has_successor_socket(dir: &Path) -> bool {
    dir.join(SUCCESSOR_SOCKET).symlink_metadata().is_ok()
}

/// Subscribes to the proxy of this directory. The status is that at which the events begin.
///
/// # Errors
/// As [`requery`]; a proxy from before version 1 of the protocol has no events.
pub fn subscribe(dir: &Path) -> io::Result<(ProxyStatus, Subscription)> {
    let mut stream = BufReader::new(open_subscription(dir)?);
    let mut answer = Vec::new();
    stream.by_ref().take(MAX_ANSWER).read_until(b'\n', &mut answer)?;
    let status = parse_subscription(&answer)?;
    stream.get_ref().set_read_timeout(None)?;
    Ok((status, Subscription { stream, line: Vec::new() }))
}

/// Asks the proxy of this directory for a subscription, and reads nothing yet: the first line is for
/// [`parse_subscription`], each line after it is an event.
///
/// # Errors
/// When the proxy cannot be reached.
pub(crate) fn open_subscription(dir: &Path) -> io::Result<UnixStream> {
    send(dir, &ControlRequest::Subscribe.to_line())
}

/// The status at which the events of a subscription begin.
///
/// # Errors
/// When the proxy has refused, or is from before version 1 of the protocol.
pub(crate) fn parse_subscription(answer: &[u8]) -> io::Result<ProxyStatus> {
    let payload: StatusPayload<ProxyStatus> = parse_answer(answer).map_err(io::Error::other)?;
    Ok(payload.status)
}

/// The events of one proxy. Dropping it ends the subscription.
#[derive(Debug)]
pub struct Subscription {
    stream: BufReader<UnixStream>,
    /// The beginning of an event whose end has not arrived.
    line: Vec<u8>,
}

impl Subscription {
    /// How long [`next_event`](Self::next_event) waits; `None`, the default: until there is an
    /// event.
    ///
    /// # Errors
    /// `InvalidInput` for a duration of zero.
    pub fn set_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.stream.get_ref().set_read_timeout(timeout)
    }

    /// Waits for the next event; `None` when the proxy has ended or has closed the connection.
    ///
    /// # Errors
    /// `WouldBlock` when the timeout is over; `InvalidData` for a line that is no event.
    pub fn next_event(&mut self) -> io::Result<Option<TimedEvent>> {
        let room = MAX_EVENT.saturating_sub(self.line.len() as u64);
        self.stream.by_ref().take(room).read_until(b'\n', &mut self.line)?;
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            return Ok(None);
        }
        Ok(Some(serde_json::from_slice(&line)?))
    }
}

/// Readable when there may be an event. One event may have been read together with the one
/// before it: call [`next_event`](Subscription::next_event) with a timeout until it has none.
impl AsFd for Subscription {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.get_ref().as_fd()
    }
}

fn command(dir: &Path, request: ControlRequest) -> io::Result<()> {
    match parse_answer::<EmptyPayload>(&receive(send(dir, &request.to_line())?)?) {
        Ok(EmptyPayload {}) => Ok(()),
        Err(AnswerError::NotVersioned) => {
            ask_by_word::<EmptyPayload>(dir, request).map(|EmptyPayload {}| ())
        }
        Err(error) => Err(io::Error::other(error)),
    }
}

/// Asks in the format before version 1, in which an answer is the payload alone.
fn ask_by_word<P: DeserializeOwned>(dir: &Path, request: ControlRequest) -> io::Result<P> {
    let line = request.to_word_line().ok_or(io::ErrorKind::Unsupported)?;
    Ok(serde_json::from_slice(&receive(send(dir, &line)?)?)?)
}

fn send(dir: &Path, line: &str) -> io::Result<UnixStream> {
    send_to(dir, CONTROL_SOCKET, line)
}

fn send_to(dir: &Path, socket: &str, line: &str) -> io::Result<UnixStream> {
    // By way of a descriptor: a socket's path has 107 bytes at most (unix(7)), a directory's 4096.
    let dir =
        File::options().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY).open(dir)?;
    let mut stream = connect(format!("/proc/self/fd/{}/{socket}", dir.as_raw_fd()))?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
    stream.write_all(line.as_bytes())?;
    Ok(stream)
}

fn receive(stream: UnixStream) -> io::Result<Vec<u8>> {
    receive_until(Instant::now() + ANSWER_TIMEOUT, &stream)
}

/// The whole answer, however slowly its parts come.
fn receive_until(deadline: Instant, stream: &UnixStream) -> io::Result<Vec<u8>> {
    let (mut answer, mut part) = (Vec::new(), vec![0; 64 << 10]);
    let mut limited = stream.take(MAX_ANSWER);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match limited.read(&mut part) {
            Ok(0) => return Ok(answer),
            Ok(length) => answer.extend_from_slice(&part[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests;

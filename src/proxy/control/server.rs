//! The control socket: one request line, one JSON answer, and the end of the connection.

use std::io;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use nix::sys::socket::{SockFlag, accept4};

use crate::sys::fd_passing::send_with_fds;

/// Clients at a time; one more is turned away.
const MAX_CLIENTS: usize = 8;
/// Longest request line, end of line included.
const MAX_REQUEST: usize = 64;
/// A client has so long in all.
const PATIENCE: Duration = Duration::from_secs(5);

/// The clients being served.
pub(crate) struct Control {
    listener: UnixListener,
    clients: Vec<Client>,
    next_id: u32,
}

struct Client {
    id: u32,
    stream: UnixStream,
    request: Vec<u8>,
    /// The answer, and how much of it is written.
    answer: Option<(Vec<u8>, usize)>,
    deadline: Instant,
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request {
    /// The status, as JSON.
    Status,
    /// A query for all memberships of the container; answered by an empty object. A proxy that
    /// follows another relays from then on at the latest.
    Requery,
    /// The relays of the proxy that this one follows, which ends; answered by an empty object.
    TakeOver,
    /// The relays, to carry on with them: one byte with their sockets, and what else they leave, as JSON.
    HandOver,
    /// A descriptor of the container's network namespace, to delete its links by when its
    /// processes have ended and there is no other way to it.
    Namespace,
}

/// How it goes on with a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// When more of its request is there.
    Read,
    /// With [`Control::answer`].
    Answer(Request),
    /// When there is room for the answer.
    Write,
    /// Not at all: the connection is closed.
    Closed,
}

impl Control {
    /// Serves a listening, non-blocking socket.
    pub(crate) fn new(listener: UnixListener) -> Self {
        Control { listener, clients: Vec::new(), next_id: 0 }
    }

    /// Accepts one client, and gives its id and descriptor to wait on.
    pub(crate) fn accept(&mut self, now: Instant) -> Option<(u32, impl AsFd + '_)> {
        // One system call: the sandbox has no other to make it non-blocking.
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let fd = accept4(self.listener.as_raw_fd(), flags).ok()?;
        // SAFETY: the call has just returned this descriptor, which nobody else knows.
        let stream = UnixStream::from(unsafe { OwnedFd::from_raw_fd(fd) });
        if self.clients.len() >= MAX_CLIENTS {
            return None;
        }
        self.next_id = self.next_id.wrapping_add(1);
        self.clients.push(Client {
            id: self.next_id,
            stream,
            request: Vec::new(),
            answer: None,
            deadline: now + PATIENCE,
        });
        self.clients.last().map(|c| (c.id, &c.stream))
    }

    /// Goes on with a client whose descriptor is ready.
    pub(crate) fn serve(&mut self, id: u32) -> Next {
        self.with(id, Client::serve)
    }

    /// Answers a client.
    pub(crate) fn answer(&mut self, id: u32, answer: Vec<u8>) -> Next {
        self.with(id, |client| {
            client.answer = Some((answer, 0));
            client.write()
        })
    }

    /// Answers a client with descriptors (`SCM_RIGHTS`, unix(7)), one byte to carry them, and `more`
    /// behind it. `None`: it has got none of them.
    pub(crate) fn hand_over(
        &mut self,
        id: u32,
        descriptors: &[BorrowedFd<'_>],
        more: Vec<u8>,
    ) -> Option<Next> {
        let mut sent = false;
        let next = self.with(id, |client| {
            // A client that has gone, or whose buffer is full before it got a byte, gets none.
            sent = send_with_fds(&client.stream, b"n", descriptors).is_ok();
            if !sent {
                return Next::Closed;
            }
            client.answer = Some((more, 0));
            client.write()
        });
        sent.then_some(next)
    }

    fn with(&mut self, id: u32, go_on: impl FnOnce(&mut Client) -> Next) -> Next {
        let Some(at) = self.clients.iter().position(|c| c.id == id) else { return Next::Closed };
        let next = go_on(&mut self.clients[at]);
        if next == Next::Closed {
            self.clients.swap_remove(at);
        }
        next
    }

    /// The descriptor of a client.
    pub(crate) fn stream(&self, id: u32) -> Option<&UnixStream> {
        self.clients.iter().find(|c| c.id == id).map(|c| &c.stream)
    }

    /// When the first client's time is over.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.clients.iter().map(|c| c.deadline).min()
    }

    /// Closes the connections whose time is over.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.clients.retain(|c| c.deadline > now);
    }
}

impl Client {
    fn serve(&mut self) -> Next {
        if self.answer.is_some() {
            return self.write();
        }
        let mut buffer = [0; MAX_REQUEST];
        match self.stream.read(&mut buffer) {
            Ok(0) => return Next::Closed,
            Ok(n) => self.request.extend_from_slice(&buffer[..n]),
            Err(e) => return retry(&e, Next::Read),
        }
        let Some(end) = self.request.iter().position(|b| *b == b'\n') else {
            return if self.request.len() < MAX_REQUEST { Next::Read } else { Next::Closed };
        };
        match &self.request[..end] {
            b"status" => Next::Answer(Request::Status),
            b"requery" => Next::Answer(Request::Requery),
            b"takeover" => Next::Answer(Request::TakeOver),
            b"handover" => Next::Answer(Request::HandOver),
            b"namespace" => Next::Answer(Request::Namespace),
            line => {
                let line: String = String::from_utf8_lossy(line).chars().take(32).collect();
                let text = format!(
                    "unknown request {line:?}; there are status, requery, namespace, takeover and \
                     handover"
                );
                let answer = serde_json::json!({ "error": text }).to_string();
                self.answer = Some((answer.into_bytes(), 0));
                self.write()
            }
        }
    }

    fn write(&mut self) -> Next {
        let Some((answer, written)) = &mut self.answer else { return Next::Closed };
        while *written < answer.len() {
            match self.stream.write(&answer[*written..]) {
                Ok(0) => return Next::Closed,
                Ok(n) => *written += n,
                Err(e) => return retry(&e, Next::Write),
            }
        }
        Next::Closed
    }
}

fn retry(error: &io::Error, next: Next) -> Next {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => next,
        _ => Next::Closed,
    }
}

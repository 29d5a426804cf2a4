//! The proxy's side of the control socket: clients, their requests, and what is sent to them.
//!
//! The caller waits for the clients' descriptors, edge-triggered and for both directions: a call
//! reads or writes until the socket says `EAGAIN`.

use std::io;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use nix::sys::socket::{SockFlag, accept4};

use crate::proxy::control::event::{Event, TimedEvent};
use crate::proxy::control::protocol::{
    ALIVE_QUESTION, ControlRequest, ErrorCode, Format, HoldQuestion, Received, error_answer,
    parse_request,
};
use crate::proxy::control::send_queue::SendQueue;
use crate::sys::fd_passing::send_with_fds;

/// Clients at a time, without subscribers. The connection of one more is closed.
const MAX_CLIENTS: usize = 8;
/// Subscribers at a time.
pub(crate) const MAX_SUBSCRIBERS: usize = 4;
/// Time from the connection of a client to the end of its answer, and from the loss of an event to
/// the end of the last line.
const CLIENT_TIME_LIMIT: Duration = Duration::from_secs(5);
/// Bytes of events that wait for one subscriber: some 400 events without source lists.
const MAX_QUEUED: usize = 64 * 1024;
/// Bytes of a request that are read at once.
const READ_SIZE: usize = 256;

/// The clients of the control socket.
pub(crate) struct ControlServer {
    listener: UnixListener,
    clients: Vec<Client>,
    next_id: u32,
}

struct Client {
    id: u32,
    stream: UnixStream,
    phase: Phase,
    queue: SendQueue,
    /// When the connection is closed; `None` for a subscriber.
    deadline: Option<Instant>,
}

/// How far a client is.
enum Phase {
    /// Its request is not complete.
    Requesting(Vec<u8>),
    /// The caller has its request.
    Waiting,
    /// The queue is sent, then the connection is closed.
    Answered,
    /// Events are sent until the client closes the connection.
    Subscribed,
    /// A keeper: it gets descriptors, and may ask for the status, until it closes the connection.
    /// Its last question that the caller has not taken.
    Holding(Option<HoldQuestion>),
}

/// Whether a connection stays.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Connection {
    Open,
    Closed,
}

impl ControlServer {
    /// Serves a listening, non-blocking socket.
    pub(crate) fn new(listener: UnixListener) -> Self {
        ControlServer { listener, clients: Vec::new(), next_id: 0 }
    }

    /// Accepts one client, and returns its id and the descriptor to wait for. `None`: there are
    /// too many clients, and this one is closed.
    ///
    /// # Errors
    /// Those of accept(2). When descriptors or memory are short, the client stays in the queue, and
    /// the listening socket stays readable.
    pub(crate) fn accept(&mut self, now: Instant) -> io::Result<Option<(u32, BorrowedFd<'_>)>> {
        // One system call: the sandbox allows no other that makes a socket non-blocking.
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let fd = accept4(self.listener.as_raw_fd(), flags)?;
        // SAFETY: the call has just returned this descriptor, and nothing else owns it.
        let stream = UnixStream::from(unsafe { OwnedFd::from_raw_fd(fd) });
        Ok(self.add(stream, now))
    }

    /// The listening socket.
    pub(crate) fn listener(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    fn add(&mut self, stream: UnixStream, now: Instant) -> Option<(u32, BorrowedFd<'_>)> {
        let lasting = self.clients.iter().filter(|client| client.deadline.is_none()).count();
        if self.clients.len() - lasting >= MAX_CLIENTS {
            return None;
        }
        self.next_id = self.next_id.wrapping_add(1);
        self.clients.push(Client {
            id: self.next_id,
            stream,
            phase: Phase::Requesting(Vec::new()),
            queue: SendQueue::default(),
            deadline: Some(now + CLIENT_TIME_LIMIT),
        });
        self.clients.last().map(|client| (client.id, client.stream.as_fd()))
    }

    /// Reads from and writes to a client whose descriptor is ready. Returns its request when that
    /// is complete: it is to be answered with [`answer`](Self::answer),
    /// [`answer_with_descriptors`](Self::answer_with_descriptors) or
    /// [`subscribe`](Self::subscribe).
    pub(crate) fn handle_ready(&mut self, id: u32) -> Option<(ControlRequest, Format)> {
        let mut request = None;
        self.with(id, |client| match client.phase {
            Phase::Requesting(_) => client.receive_request(&mut request),
            Phase::Waiting => Connection::Open,
            Phase::Answered => client.send(),
            Phase::Holding(_) => match client.receive_questions() {
                Connection::Open => client.send(),
                Connection::Closed => Connection::Closed,
            },
            Phase::Subscribed => match client.expect_silence() {
                Connection::Open => client.send(),
                Connection::Closed => Connection::Closed,
            },
        });
        request
    }

    /// Answers a client, and closes the connection when the answer is sent.
    pub(crate) fn answer(&mut self, id: u32, answer: Vec<u8>) {
        self.with(id, |client| client.answer(answer));
    }

    /// Answers a client, with descriptors that come with the first byte of the answer
    /// (`SCM_RIGHTS`, unix(7)). `false`: the client got none of them, and the connection is closed.
    pub(crate) fn answer_with_descriptors(
        &mut self,
        id: u32,
        mut answer: Vec<u8>,
        descriptors: &[BorrowedFd<'_>],
    ) -> bool {
        let mut are_sent = false;
        self.with(id, |client| {
            // A client that has closed its end, or whose buffer is full, gets no descriptor.
            let Ok(sent) = send_with_fds(&client.stream, &answer, descriptors) else {
                return Connection::Closed;
            };
            are_sent = true;
            client.answer(answer.split_off(sent))
        });
        are_sent
    }

    /// Makes a client a subscriber, which is sent this answer and then each event.
    pub(crate) fn subscribe(&mut self, id: u32, answer: Vec<u8>) {
        if self.subscribers().count() >= MAX_SUBSCRIBERS {
            let message = format!("{MAX_SUBSCRIBERS} clients have subscribed, which is the limit");
            return self.answer(id, error_answer(ErrorCode::TooManySubscribers, &message));
        }
        self.with(id, |client| {
            client.phase = Phase::Subscribed;
            client.deadline = None;
            client.queue = SendQueue::new(answer, MAX_QUEUED);
            client.send()
        });
    }

    /// Makes a client the keeper, in place of an earlier one. [`push`](Self::push) sends to it.
    pub(crate) fn hold(&mut self, id: u32) {
        self.clients.retain(|client| !matches!(client.phase, Phase::Holding(_)));
        self.with(id, |client| {
            client.phase = Phase::Holding(None);
            client.deadline = None;
            Connection::Open
        });
    }

    /// The keeper, if there is one.
    pub(crate) fn keeper(&self) -> Option<u32> {
        let keeper =
            self.clients.iter().find(|client| matches!(client.phase, Phase::Holding(_)))?;
        Some(keeper.id)
    }

    /// Takes what the keeper has asked.
    pub(crate) fn take_question(&mut self) -> Option<HoldQuestion> {
        self.clients.iter_mut().find_map(|client| match &mut client.phase {
            Phase::Holding(question) => question.take(),
            _ => None,
        })
    }

    /// Sends a line to the keeper, with descriptors. `false`: the keeper has not read what was sent
    /// before, or has gone.
    pub(crate) fn push(&mut self, mut line: Vec<u8>, descriptors: &[BorrowedFd<'_>]) -> bool {
        let Some(id) = self.keeper() else { return false };
        let mut is_sent = false;
        self.with(id, |client| {
            if !client.queue.unsent().is_empty() {
                return Connection::Open;
            }
            match send_with_fds(&client.stream, &line, descriptors) {
                Ok(sent) => {
                    is_sent = true;
                    client.queue = SendQueue::new(line.split_off(sent), 0);
                    client.send()
                }
                // Too many descriptors are on their way.
                Err(error) if error.raw_os_error() == Some(libc::ETOOMANYREFS) => Connection::Open,
                Err(error) => after(&error),
            }
        });
        is_sent
    }

    /// Whether an event would be sent to anybody.
    pub(crate) fn has_subscribers(&self) -> bool {
        self.subscribers().next().is_some()
    }

    /// Sends an event to all subscribers. A subscriber whose queue is full loses what waits there,
    /// is told how many events that are, and is dropped.
    pub(crate) fn publish(&mut self, now: Instant, event: &TimedEvent) {
        let line = event_line(event);
        self.clients.retain_mut(|client| {
            if !matches!(client.phase, Phase::Subscribed) {
                return true;
            }
            if !client.queue.push_event(&line) {
                let events = client.queue.drop_unsent_lines() + 1;
                let lost = TimedEvent { time_ms: event.time_ms, event: Event::Lost { events } };
                client.queue.push_last(&event_line(&lost));
                client.phase = Phase::Answered;
                client.deadline = Some(now + CLIENT_TIME_LIMIT);
            }
            client.send() == Connection::Open
        });
    }

    /// When the time of the first client is over.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.clients.iter().filter_map(|client| client.deadline).min()
    }

    /// Closes the connections whose time is over.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.clients.retain(|client| client.deadline.is_none_or(|deadline| deadline > now));
    }

    fn subscribers(&self) -> impl Iterator<Item = &Client> {
        self.clients.iter().filter(|client| matches!(client.phase, Phase::Subscribed))
    }

    fn with(&mut self, id: u32, act: impl FnOnce(&mut Client) -> Connection) {
        let Some(at) = self.clients.iter().position(|client| client.id == id) else { return };
        if act(&mut self.clients[at]) == Connection::Closed {
            self.clients.swap_remove(at);
        }
    }
}

impl Client {
    fn receive_request(&mut self, request: &mut Option<(ControlRequest, Format)>) -> Connection {
        let Phase::Requesting(received) = &mut self.phase else { return Connection::Open };
        loop {
            let mut buffer = [0; READ_SIZE];
            match self.stream.read(&mut buffer) {
                Ok(0) => return Connection::Closed,
                Ok(n) => received.extend_from_slice(&buffer[..n]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return after(&error),
            }
            match parse_request(received) {
                Received::Incomplete => {}
                Received::TooLong => return Connection::Closed,
                Received::Request(what, format) => {
                    *request = Some((what, format));
                    self.phase = Phase::Waiting;
                    return Connection::Open;
                }
                Received::Refused(answer) => return self.answer(answer),
            }
        }
    }

    fn answer(&mut self, answer: Vec<u8>) -> Connection {
        self.phase = Phase::Answered;
        self.queue = SendQueue::new(answer, 0);
        self.send()
    }

    /// Sends what waits; a client that has its whole answer is closed.
    fn send(&mut self) -> Connection {
        while !self.queue.unsent().is_empty() {
            match self.stream.write(self.queue.unsent()) {
                Ok(0) => return Connection::Closed,
                Ok(n) => self.queue.advance(n),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return after(&error),
            }
        }
        match self.phase {
            Phase::Answered => Connection::Closed,
            _ => Connection::Open,
        }
    }

    /// Reads what a keeper asks. Every line is a question; one for the status answers all.
    fn receive_questions(&mut self) -> Connection {
        let Phase::Holding(question) = &mut self.phase else { return Connection::Open };
        loop {
            let mut buffer = [0; READ_SIZE];
            match self.stream.read(&mut buffer) {
                Ok(0) => return Connection::Closed,
                Ok(n) if buffer[..n] == *ALIVE_QUESTION.as_bytes() => {
                    question.get_or_insert(HoldQuestion::Alive);
                }
                Ok(n) if buffer[..n].contains(&b'\n') => *question = Some(HoldQuestion::Status),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return after(&error),
            }
        }
    }

    /// A subscriber has nothing to say: with a byte, or at its end, it is closed.
    fn expect_silence(&mut self) -> Connection {
        loop {
            match self.stream.read(&mut [0]) {
                Ok(_) => return Connection::Closed,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return after(&error),
            }
        }
    }
}

/// What an error of read(2) or write(2) means for the connection.
fn after(error: &io::Error) -> Connection {
    match error.kind() {
        io::ErrorKind::WouldBlock => Connection::Open,
        _ => Connection::Closed,
    }
}

fn event_line(event: &TimedEvent) -> Vec<u8> {
    // Strings, numbers and lists, which JSON takes without an error.
    let mut line = serde_json::to_vec(event).unwrap_or_default();
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests;

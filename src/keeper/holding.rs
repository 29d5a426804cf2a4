//! A proxy of one container, and what is held for it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;
use std::time::Instant;

use tokio::io::unix::AsyncFd;

use crate::proxy::{EndWatch, HeldKind, HoldEvent, HoldStream};
use crate::sys::event_wait::EventWait;
use crate::sys::process::ProcessRef;
use crate::sys::readable_fd::readable_fd;

/// Questions that a proxy may leave unanswered.
const MAX_UNANSWERED: u32 = 2;

/// So many times in a row a proxy is not asked that waits for events.
const MOST_NOT_ASKED: u32 = 29;

/// A proxy, and what is held for it.
pub(super) struct Holding {
    pub(super) process: ProcessRef,
    /// A pidfd, readable when the proxy has ended; none of one that had ended before.
    end: Option<AsyncFd<OwnedFd>>,
    pub(super) stream: AsyncFd<HoldStream>,
    /// The connection has ended, or the proxy does not know `hold`.
    pub(super) is_closed: bool,
    pub(super) has_ended: bool,
    pub(super) since: Instant,
    unanswered: u32,
    /// `None`: it is asked each time.
    wait: Option<EventWait>,
    not_asked: u32,
}

impl Holding {
    /// Connects to the proxy of this directory of a container.
    ///
    /// # Errors
    /// The proxy has ended or does not listen; `EMFILE`.
    pub(super) fn open(process: ProcessRef, dir: &Path) -> io::Result<Self> {
        Ok(Holding {
            process,
            stream: readable_fd(HoldStream::open(dir)?)?,
            end: Some(readable_fd(process.open()?.into())?),
            is_closed: false,
            has_ended: false,
            since: Instant::now(),
            unanswered: 0,
            wait: EventWait::open(process).ok(),
            not_asked: 0,
        })
    }

    /// What an earlier keeper held for a proxy, whose connection has ended.
    ///
    /// # Errors
    /// `EMFILE`.
    pub(super) fn restored(process: ProcessRef, stream: HoldStream) -> io::Result<Self> {
        let end = process.open().and_then(|end| readable_fd(end.into())).ok();
        Ok(Holding {
            process,
            has_ended: end.is_none(),
            end,
            stream: readable_fd(stream)?,
            is_closed: true,
            since: Instant::now(),
            unanswered: 0,
            wait: EventWait::open(process).ok(),
            not_asked: 0,
        })
    }

    /// Whether everything is held that must outlive the proxy.
    pub(super) fn is_complete(&self) -> bool {
        self.stream.get_ref().is_complete()
    }

    /// Receives what the proxy has sent. `false`: it is of a version that cannot be held.
    pub(super) fn receive(&mut self) -> bool {
        loop {
            match self.stream.get_mut().receive() {
                Ok(HoldEvent::Lines) => self.unanswered = 0,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    clear(&self.stream);
                    return true;
                }
                Ok(HoldEvent::Refused) => {
                    self.is_closed = true;
                    return false;
                }
                Ok(HoldEvent::Closed) | Err(_) => {
                    self.is_closed = true;
                    return true;
                }
            }
        }
    }

    /// Asks the proxy whether it answers: its status follows. `false`: it has not answered twice.
    /// A proxy that waits for events would answer, and is seldom woken for that. A relay's counts go
    /// on without a word of the proxy, so it is asked each time.
    pub(super) fn ask(&mut self) -> bool {
        let relays = !self.stream.get_ref().held(HeldKind::Relay).is_empty();
        let may_rest = !relays && self.unanswered == 0 && self.not_asked < MOST_NOT_ASKED;
        if may_rest && self.wait.as_ref().is_some_and(EventWait::is_waiting) {
            self.not_asked += 1;
            return true;
        }
        self.not_asked = 0;
        if self.unanswered >= MAX_UNANSWERED {
            return false;
        }
        self.unanswered += 1;
        // A proxy whose buffer is full has not answered either.
        let _ = self.stream.get_mut().ask();
        true
    }
}

/// A container's end.
pub(super) struct End(pub(super) EndWatch);

impl AsFd for End {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for End {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

/// Waits until one of the proxies ends that have not ended.
pub(super) async fn ended(holdings: &[Holding]) -> usize {
    std::future::poll_fn(|cx| {
        let ready = |holding: &&(usize, &Holding)| {
            let end = holding.1.end.as_ref();
            !holding.1.has_ended && end.is_some_and(|end| end.poll_read_ready(cx).is_ready())
        };
        let all: Vec<_> = holdings.iter().enumerate().collect();
        match all.iter().find(ready) {
            Some((position, _)) => std::task::Poll::Ready(*position),
            None => std::task::Poll::Pending,
        }
    })
    .await
}

/// Waits until a descriptor is readable, and leaves it so.
pub(super) async fn readable<T: AsRawFd>(descriptor: Option<&AsyncFd<T>>) {
    match descriptor {
        Some(descriptor) => _ = descriptor.readable().await,
        None => std::future::pending().await,
    }
}

/// Nothing waits to be read any more.
fn clear(stream: &AsyncFd<HoldStream>) {
    let now = std::task::Waker::noop();
    let mut context = std::task::Context::from_waker(now);
    if let std::task::Poll::Ready(Ok(mut guard)) = stream.poll_read_ready(&mut context) {
        guard.clear_ready();
    }
}

//! One container: what is held for its proxies, and when they are replaced.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};

use crate::keeper::fd_store::{FdStore, Stored};
use crate::keeper::{Options, blocking, log, readable_fd};
use crate::oci::ContainerId;
use crate::proxy::{EndWatch, HoldEvent, HoldStream, StandIn, requery};
use crate::service::{Revived, remove_stopped, revive};
use crate::state::{Attached, AttachmentRecord, Store};
use crate::sys::process::ProcessRef;

/// The rules outlive the container by this time: its kernel still reports leaves. The proxy waits as
/// long (`DRAIN_TIME`).
const DRAIN_TIME: Duration = Duration::from_millis(150);
/// Time after which a proxy that could not be reached is tried again.
const RETRY: Duration = Duration::from_millis(200);
/// The first and the longest wait before a successor in a crash loop.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LAST_BACKOFF: Duration = Duration::from_secs(30);
/// Questions that a proxy may leave unanswered.
const MAX_UNANSWERED: u32 = 2;

/// What a task is told.
pub(super) enum Command {
    /// The record or the directory has changed.
    Changed,
    /// This proxy was replaced, and has ended.
    Release(ProcessRef, oneshot::Sender<()>),
}

/// A proxy, and what is held for it.
struct Holding {
    process: ProcessRef,
    /// A pidfd, readable when the proxy has ended; none of one that had ended before.
    end: Option<AsyncFd<OwnedFd>>,
    stream: AsyncFd<HoldStream>,
    /// The connection has ended, or the proxy does not know `hold`.
    is_closed: bool,
    has_ended: bool,
    since: Instant,
    unanswered: u32,
}

impl Holding {
    fn is_complete(&self) -> bool {
        self.stream.get_ref().is_complete()
    }
}

struct End(EndWatch);

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

/// One container.
pub(super) struct Kept {
    id: ContainerId,
    store: Store,
    options: Options,
    commands: mpsc::UnboundedReceiver<Command>,
    /// In the order of their start. All except the last were replaced, or are dead.
    holdings: Vec<Holding>,
    fd_store: FdStore,
    /// What the service manager has, by proxy.
    stored: Vec<Stored>,
    /// `None`: not known yet, or it cannot be watched.
    container_end: Option<AsyncFd<End>>,
    /// Wait before the next successor.
    backoff: Duration,
    /// The dead proxy whose successor waits.
    waiting_for: Option<ProcessRef>,
    /// When to look again.
    again_at: Option<Instant>,
}

/// Why a task wakes up.
enum Wake {
    Command(Option<Command>),
    Readable,
    Ended(usize),
    Other,
    Ask,
}

impl Kept {
    pub(super) fn new(
        id: ContainerId,
        store: Store,
        options: Options,
        commands: mpsc::UnboundedReceiver<Command>,
        fd_store: FdStore,
    ) -> Self {
        Kept {
            id,
            store,
            options,
            commands,
            holdings: Vec::new(),
            fd_store,
            stored: Vec::new(),
            container_end: None,
            backoff: Duration::ZERO,
            waiting_for: None,
            again_at: None,
        }
    }

    /// Holds what an earlier keeper held for a proxy. One that lives is asked for everything anew.
    pub(super) fn restore(&mut self, process: ProcessRef, stream: HoldStream) {
        self.stored.push(Stored::new(self.fd_store.clone(), self.id.clone(), process));
        let end = process.open().and_then(|end| readable_fd(end.into())).ok();
        if let Ok(stream) = readable_fd(stream) {
            self.holdings.push(Holding {
                process,
                has_ended: end.is_none(),
                end,
                stream,
                is_closed: true,
                since: Instant::now(),
                unanswered: 0,
            });
        }
    }

    /// Makes the service manager have what is held, and nothing else.
    fn update_store(&mut self) {
        let Kept { holdings, stored, fd_store, id, .. } = self;
        stored.retain_mut(|stored| {
            let is_held = holdings.iter().any(|holding| holding.process == stored.process);
            if !is_held {
                stored.remove();
            }
            is_held
        });
        let Some(last) = holdings.last().filter(|h| h.is_complete() && !h.is_closed) else {
            return;
        };
        let position = stored.iter().position(|stored| stored.process == last.process);
        let position = position.unwrap_or_else(|| {
            stored.push(Stored::new(fd_store.clone(), id.clone(), last.process));
            stored.len() - 1
        });
        stored[position].update(last.stream.get_ref());
    }

    /// Keeps until the container has no directory any more.
    pub(super) async fn run(mut self) {
        let mut ask = tokio::time::interval(self.options.watchdog);
        ask.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut is_known = false;
        while is_known || self.look().await {
            is_known = false;
            self.update_store();
            match self.wait(&mut ask).await {
                Wake::Command(None) => return,
                Wake::Command(Some(Command::Release(proxy, done))) => {
                    self.holdings.retain(|h| h.process != proxy || proxy.is_alive());
                    self.update_store();
                    // Who asked may have given up.
                    let _ = done.send(());
                }
                Wake::Command(Some(Command::Changed)) | Wake::Other => {}
                Wake::Readable => {
                    self.receive();
                    self.release_replaced().await;
                    // A question and its answer, and a status, say nothing of the record.
                    is_known = self.holdings.last().is_some_and(|holding| !holding.is_closed);
                }
                Wake::Ended(position) => self.holdings[position].has_ended = true,
                Wake::Ask => {
                    self.ask();
                    is_known = true;
                }
            }
        }
        self.holdings.clear();
        self.update_store();
    }

    async fn wait(&mut self, ask: &mut tokio::time::Interval) -> Wake {
        let Kept { commands, holdings, container_end, again_at, .. } = self;
        let again = again_at.map(tokio::time::Instant::from_std);
        let holdings = &*holdings;
        let last = holdings.last().filter(|holding| !holding.is_closed);
        tokio::select! {
            biased;
            command = commands.recv() => Wake::Command(command),
            position = ended(holdings) => Wake::Ended(position),
            () = readable(last.map(|holding| &holding.stream)) => Wake::Readable,
            () = readable(container_end.as_ref()) => Wake::Other,
            () = sleep_until(again), if again.is_some() => { *again_at = None; Wake::Other }
            _ = ask.tick(), if last.is_some() => Wake::Ask,
        }
    }

    /// Receives what the last proxy has sent.
    fn receive(&mut self) {
        let Some(holding) = self.holdings.last_mut() else { return };
        loop {
            match holding.stream.get_mut().receive() {
                Ok(HoldEvent::Lines) => holding.unanswered = 0,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    return clear(&holding.stream);
                }
                Ok(HoldEvent::Refused) => {
                    log(self.id.as_str(), "the proxy cannot be held; run mcrun reload");
                    holding.is_closed = true;
                    return;
                }
                Ok(HoldEvent::Closed) | Err(_) => {
                    holding.is_closed = true;
                    return;
                }
            }
        }
    }

    /// Asks the proxy whether it answers. One that has not answered twice is killed: its death costs
    /// nothing.
    fn ask(&mut self) {
        let Some(holding) = self.holdings.last_mut().filter(|h| !h.has_ended) else { return };
        if holding.unanswered >= MAX_UNANSWERED {
            log(self.id.as_str(), &format!("proxy {} does not answer", holding.process.pid));
            // If this fails, the process has ended.
            let _ = holding.process.open().and_then(|process| process.signal(libc::SIGKILL));
            return;
        }
        holding.unanswered += 1;
        // A proxy whose buffer is full has not answered either.
        let _ = holding.stream.get_mut().ask();
    }

    /// Does what follows from the record, the proxies and the container as they are now; `false`:
    /// there is nothing to keep any more.
    async fn look(&mut self) -> bool {
        let record = match self.store.read(&self.id) {
            Ok(record) => record.and_then(AttachmentRecord::into_attached),
            // What cannot be read may be replaced by something that can.
            Err(_) => None,
        };
        let Some(attached) = record else { return self.store.container_dir(&self.id).is_dir() };
        if !attached.container.is_alive() {
            return self.end_if_without_proxy(&attached).await;
        }
        if self.container_end.is_none() {
            let watch = EndWatch::open(&attached.container.lifetime).ok();
            self.container_end = watch.and_then(|watch| readable_fd(End(watch)).ok());
        }
        let Some(proxy) = attached.proxy else {
            self.holdings.retain(|holding| !holding.has_ended);
            return true;
        };
        if !proxy.is_alive() {
            self.settle(proxy).await;
            return true;
        }
        // Until the replacement is complete, the control socket is the old proxy's.
        if attached.replaced.is_some() {
            return true;
        }
        if self.holdings.last().is_none_or(|h| h.process != proxy || h.is_closed) {
            self.hold(proxy);
        }
        self.release_replaced().await;
        true
    }

    /// Connects to a proxy.
    fn hold(&mut self, process: ProcessRef) {
        if self.again_at.is_some() {
            return;
        }
        let known = self.holdings.last().is_some_and(|h| h.process == process && h.is_closed);
        let stream = HoldStream::open(&self.store.container_dir(&self.id));
        let holding = (|| -> std::io::Result<Holding> {
            Ok(Holding {
                process,
                end: Some(readable_fd(process.open()?.into())?),
                stream: readable_fd(stream?)?,
                is_closed: false,
                has_ended: false,
                since: Instant::now(),
                unanswered: 0,
            })
        })();
        match holding {
            Ok(holding) if !known => self.holdings.push(holding),
            // The connection was closed: what was held stays until everything has come again.
            Ok(holding) => {
                self.again_at = Some(Instant::now() + RETRY);
                self.holdings.push(holding);
            }
            Err(_) => self.again_at = Some(Instant::now() + RETRY),
        }
    }

    /// Lets go of what dead proxies have left once a living one has handed over everything.
    async fn release_replaced(&mut self) {
        if !self.holdings.last().is_some_and(|h| h.is_complete() && !h.has_ended) {
            return;
        }
        let last = self.holdings.len() - 1;
        let proxy = self.holdings[last].process;
        let mut position = 0;
        let before = self.holdings.len();
        self.holdings.retain(|holding| {
            position += 1;
            position > last || !(holding.has_ended || holding.process == proxy)
        });
        if self.holdings.len() < before {
            // While the old rules were there, the container's reports may have gone to nobody.
            let dir = self.store.container_dir(&self.id);
            let _ = blocking(move || requery(&dir)).await;
        }
    }

    /// The proxy of the record is dead: starts a successor, unless that is to wait.
    async fn settle(&mut self, proxy: ProcessRef) {
        for holding in &mut self.holdings {
            holding.has_ended |= holding.process == proxy;
        }
        if self.again_at.is_some() {
            return;
        }
        let lived =
            self.holdings.iter().rev().find(|h| h.process == proxy).map(|h| h.since.elapsed());
        let is_stable = lived.is_some_and(|lived| lived >= self.options.stable_after);
        if is_stable {
            self.backoff = Duration::ZERO;
        }
        // The last complete one has everything. One that has died before it was complete has not.
        if let Some(last) = self.holdings.iter().rposition(Holding::is_complete) {
            let mut position = 0;
            self.holdings.retain(|holding| {
                position += 1;
                position == last + 1 || !holding.has_ended
            });
        }
        if !self.backoff.is_zero() && self.waiting_for != Some(proxy) {
            self.waiting_for = Some(proxy);
            self.again_at = Some(Instant::now() + self.backoff);
            let text = format!("proxy {} has died; a successor in {:?}", proxy.pid, self.backoff);
            return log(self.id.as_str(), &text);
        }
        self.waiting_for = None;
        self.backoff = (self.backoff * 2).clamp(FIRST_BACKOFF, LAST_BACKOFF);
        let held = self.holdings.iter().rev().find(|holding| holding.is_complete());
        let stand_in = held.and_then(|holding| StandIn::of(holding.stream.get_ref()).ok());
        let (id, store, users) = (self.id.clone(), self.store.clone(), self.options.users.clone());
        let revived = blocking(move || {
            // The range may have changed. While mcrun.toml cannot be understood, the last one that
            // was read stays in force.
            let users = users.current();
            revive(&id, &store, users, |dir| stand_in.and_then(|plan| plan.listen(dir).ok()))
        });
        match revived.await {
            Ok(Ok(Revived::Replaced)) => {
                log(self.id.as_str(), &format!("proxy {} has died and was replaced", proxy.pid));
                self.again_at = None;
            }
            Ok(Ok(Revived::Unchanged | Revived::Ended)) => {}
            Ok(Err(error)) => log(self.id.as_str(), &error.to_string()),
            Err(error) => log(self.id.as_str(), &error.to_string()),
        }
        // The record says what there is now.
        self.again_at = Some(Instant::now());
    }

    /// The container has ended. Its proxy ends by itself; a dead one leaves that to the keeper.
    async fn end_if_without_proxy(&mut self, attached: &Attached) -> bool {
        self.container_end = None;
        if attached.proxy.is_some_and(ProcessRef::is_alive) {
            self.again_at = Some(Instant::now() + RETRY);
            return self.store.container_dir(&self.id).is_dir();
        }
        self.holdings.iter_mut().for_each(|holding| holding.stream.get_mut().release_joins());
        self.stored.iter().for_each(Stored::remove_joins);
        tokio::time::sleep(DRAIN_TIME).await;
        self.holdings.clear();
        self.update_store();
        let (id, store) = (self.id.clone(), self.store.clone());
        if let Ok(Err(error)) = blocking(move || remove_stopped(&id, None, &store)).await {
            log(self.id.as_str(), &error.to_string());
        }
        false
    }
}

/// Waits until one of the proxies ends that have not ended.
async fn ended(holdings: &[Holding]) -> usize {
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
async fn readable<T: AsRawFd>(descriptor: Option<&AsyncFd<T>>) {
    match descriptor {
        Some(descriptor) => _ = descriptor.readable().await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(at: Option<tokio::time::Instant>) {
    if let Some(at) = at {
        tokio::time::sleep_until(at).await;
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

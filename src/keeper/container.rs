//! One container: what is held for its proxies, and when they are replaced.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};

use crate::keeper::fd_store::{FdStore, Stored};
use crate::keeper::fence::{Board, BoardEntry};
use crate::keeper::holding::{End, Holding, ended, readable};
use crate::keeper::links::{ChangedLinks, Dependence};
use crate::keeper::repair::Repair;
use crate::keeper::{Options, blocking, log};
use crate::oci::ContainerId;
use crate::proxy::{EndWatch, HoldStream, JoinedOn, StandIn, requery};
use crate::service::{Revived, remove_stopped, revive};
use crate::state::{Attached, AttachmentRecord, Store};
use crate::sys::process::ProcessRef;
use crate::sys::readable_fd::readable_fd;

/// The rules outlive the container by this time: its kernel still reports leaves. The proxy waits as
/// long (`DRAIN_TIME`).
const DRAIN_TIME: Duration = Duration::from_millis(150);
/// Time after which a proxy that could not be reached is tried again.
const RETRY: Duration = Duration::from_millis(200);
/// Time after which a replacement that is not complete is looked at: its program may have died.
const REPLACEMENT: Duration = Duration::from_secs(1);
/// How long the answer may take that a replaced proxy was let go of: until its successor is held. Who asks
/// waits a second (`keeper_socket::ANSWER_TIMEOUT`).
const SUCCESSOR: Duration = Duration::from_millis(500);
/// The first and the longest wait before a successor in a crash loop.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LAST_BACKOFF: Duration = Duration::from_secs(30);

/// What a task is told.
pub(super) enum Command {
    /// The record or the directory has changed.
    Changed,
    /// Links of the host have changed.
    LinksChanged(Arc<ChangedLinks>),
    /// This proxy was replaced, and has ended.
    Release(ProcessRef, oneshot::Sender<()>),
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
    /// What the proxies have joined.
    board_entry: BoardEntry,
    /// `None`: not known yet, or it cannot be watched.
    container_end: Option<AsyncFd<End>>,
    /// Wait before the next successor.
    backoff: Duration,
    /// The dead proxy whose successor waits.
    waiting_for: Option<ProcessRef>,
    /// Since when the record says that a proxy is being replaced.
    replaced_since: Option<Instant>,
    /// When to look again.
    again_at: Option<Instant>,
    /// Replaced proxies that are let go of as soon as their successor is held, who waits for that, and
    /// until when.
    releases: Vec<(ProcessRef, oneshot::Sender<()>, Instant)>,
    /// What its links depend on.
    dependence: Dependence,
    /// Where its groups are joined.
    joined_on: Vec<JoinedOn>,
    repair: Repair,
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
        board: Option<Board>,
    ) -> Self {
        Kept {
            store,
            options,
            commands,
            holdings: Vec::new(),
            fd_store,
            stored: Vec::new(),
            board_entry: BoardEntry::new(id.clone(), board),
            id,
            container_end: None,
            backoff: Duration::ZERO,
            waiting_for: None,
            replaced_since: None,
            again_at: None,
            releases: Vec::new(),
            dependence: Dependence::default(),
            joined_on: Vec::new(),
            repair: Repair::default(),
        }
    }

    /// Holds what an earlier keeper held for a proxy. One that lives is asked for everything anew.
    pub(super) fn restore(&mut self, process: ProcessRef, stream: HoldStream) {
        self.stored.push(Stored::new(self.fd_store.clone(), self.id.clone(), process));
        if let Ok(holding) = Holding::restored(process, stream) {
            self.holdings.push(holding);
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
            self.board_entry.update(&self.holdings);
            match self.wait(&mut ask).await {
                Wake::Command(None) => return,
                Wake::Command(Some(Command::Release(proxy, done))) => {
                    self.begin_release(proxy, done);
                }
                Wake::Command(Some(Command::LinksChanged(changed))) => {
                    is_known = !self.links_changed(&changed);
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
                    self.board_entry.doubt();
                    is_known = true;
                }
            }
            self.answer_releases();
        }
        self.holdings.clear();
        self.update_store();
    }

    async fn wait(&mut self, ask: &mut tokio::time::Interval) -> Wake {
        let Kept { commands, holdings, container_end, again_at, releases, repair, .. } = self;
        let again = again_at.map(tokio::time::Instant::from_std);
        let release = releases.iter().map(|(_, _, until)| *until).min();
        let release = release.map(tokio::time::Instant::from_std);
        let holdings = &*holdings;
        let last = holdings.last().filter(|holding| !holding.is_closed);
        tokio::select! {
            biased;
            command = commands.recv() => Wake::Command(command),
            position = ended(holdings) => Wake::Ended(position),
            () = readable(last.map(|holding| &holding.stream)) => Wake::Readable,
            () = readable(container_end.as_ref()) => Wake::Other,
            () = repair.wait() => Wake::Other,
            () = sleep_until(again), if again.is_some() => { *again_at = None; Wake::Other }
            () = sleep_until(release), if release.is_some() => Wake::Other,
            _ = ask.tick(), if last.is_some() => Wake::Ask,
        }
    }

    /// Lets go of what a proxy has left that was replaced and has ended, as soon as its successor is held:
    /// one that dies before that, or is killed because it hangs, costs nothing either.
    fn begin_release(&mut self, proxy: ProcessRef, done: oneshot::Sender<()>) {
        let record = self.store.read(&self.id).ok().flatten();
        let record = record.and_then(AttachmentRecord::into_attached);
        let successor = record.and_then(|attached| attached.proxy).filter(|next| *next != proxy);
        let Some(successor) = successor else { return self.release(proxy, done) };
        for holding in &mut self.holdings {
            holding.has_ended |= holding.process == proxy && !proxy.is_alive();
        }
        let is_held = self.holdings.last().is_some_and(|holding| holding.process == successor);
        if !is_held && successor.is_alive() {
            // The control socket is the successor's by now. If this fails, the record leads to it.
            let opened = Holding::open(successor, &self.store.container_dir(&self.id));
            self.holdings.extend(opened);
        }
        self.releases.push((proxy, done, Instant::now() + SUCCESSOR));
    }

    /// Answers who waits until replaced proxies are let go of, or has waited long enough. What is held
    /// stays held until a successor has handed over everything.
    fn answer_releases(&mut self) {
        let now = Instant::now();
        let is_held =
            |proxy: ProcessRef| self.holdings.iter().any(|holding| holding.process == proxy);
        let waits =
            |(proxy, _, until): &mut (ProcessRef, _, Instant)| !is_held(*proxy) || *until <= now;
        for (_, done, _) in self.releases.extract_if(.., waits) {
            // Who asked may have given up.
            let _ = done.send(());
        }
    }

    /// Lets go of what a proxy has left that was replaced by none, and has ended.
    fn release(&mut self, proxy: ProcessRef, done: oneshot::Sender<()>) {
        self.holdings.retain(|holding| holding.process != proxy || proxy.is_alive());
        self.update_store();
        // Who asked may have given up.
        let _ = done.send(());
    }

    /// Receives what the last proxy has sent.
    fn receive(&mut self) {
        let Some(holding) = self.holdings.last_mut() else { return };
        if !holding.receive() {
            log(self.id.as_str(), "the proxy cannot be held; run mcrun reload");
        }
    }

    /// Asks the last proxy whether it answers. One that does not is killed: its death costs nothing.
    fn ask(&mut self) {
        let Some(holding) = self.holdings.last_mut().filter(|h| !h.has_ended) else { return };
        if !holding.ask() {
            log(self.id.as_str(), &format!("proxy {} does not answer", holding.process.pid));
            // If this fails, the process has ended.
            let _ = holding.process.open().and_then(|process| process.signal(libc::SIGKILL));
        }
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
        self.board_entry.set_interfaces(&attached);
        if !attached.container.is_alive() {
            return self.end_if_without_proxy(&attached).await;
        }
        if self.container_end.is_none() {
            let watch = EndWatch::open(&attached.container.lifetime).ok();
            self.container_end = watch.and_then(|watch| readable_fd(End(watch)).ok());
        }
        self.dependence = Dependence::of(&attached);
        self.joined_on = joined_on(&attached);
        if self.repair.is_due(Instant::now()) {
            self.repair.start(&self.id, &self.store);
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
            self.finish_replacement().await;
            return true;
        }
        if self.replaced_since.take().is_some() {
            // The replacement is done: its successor is held now, not when it would have been late.
            self.again_at = None;
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
        let holding = Holding::open(process, &self.store.container_dir(&self.id));
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

    /// Finishes a replacement if the program that has begun it does not. A program that lives has the
    /// lock of the container until it is done.
    async fn finish_replacement(&mut self) {
        let since = *self.replaced_since.get_or_insert_with(Instant::now);
        if since.elapsed() < REPLACEMENT {
            self.again_at = Some(since + REPLACEMENT);
            return;
        }
        self.replaced_since = None;
        self.again_at = Some(match self.revive(None).await {
            Ok(_) => Instant::now(),
            Err(error) => {
                log(self.id.as_str(), &error);
                Instant::now() + RETRY
            }
        });
    }

    /// Whether there may be something to do now that these links have changed.
    fn links_changed(&mut self, changed: &ChangedLinks) -> bool {
        // The kernel has forgotten what was joined there. A socket that is closed when the interface
        // is there again with its index would leave what others have joined since
        // (`ip_mc_drop_socket` in net/ipv4/igmp.c). A proxy that lives does this itself.
        if self.dependence.has_lost_upstream(changed) {
            let dead = self.holdings.iter_mut().filter(|holding| !holding.process.is_alive());
            dead.for_each(|holding| holding.stream.get_mut().release_joins());
        }
        let is_touched = self.dependence.is_touched_by(changed);
        if is_touched {
            self.repair.request();
            // A successor that could not start without the link may start now.
            self.backoff = Duration::ZERO;
            self.again_at = None;
        }
        is_touched
    }

    /// Calls the attachment service, and answers its requests meanwhile. What is held for the
    /// `dead` proxy stays held: its successor has not handed over anything yet.
    async fn revive(&mut self, dead: Option<ProcessRef>) -> Result<Revived, String> {
        let held = self.holdings.iter().rev().find(|holding| holding.is_complete());
        let held = held.filter(|_| dead.is_some());
        let stand_in = held
            .and_then(|holding| StandIn::of(holding.stream.get_ref(), self.joined_on.clone()).ok());
        let (id, store, users) = (self.id.clone(), self.store.clone(), self.options.users.clone());
        let mut revived = std::pin::pin!(blocking(move || {
            // The range may have changed. While mcrun.toml cannot be understood, the last one that
            // was read stays in force.
            let users = users.current();
            revive(&id, &store, users, |dir| stand_in.and_then(|plan| plan.listen(dir).ok()))
        }));
        loop {
            tokio::select! {
                result = &mut revived => return match result {
                    Ok(Ok(revived)) => Ok(revived),
                    Ok(Err(error)) => Err(error.to_string()),
                    Err(error) => Err(error.to_string()),
                },
                Some(command) = self.commands.recv() => match command {
                    // Its successor is held when the record is looked at again.
                    Command::Release(_, done) => _ = done.send(()),
                    // Whoever calls looks at the record again.
                    Command::Changed => {}
                    Command::LinksChanged(changed) => _ = self.links_changed(&changed),
                },
            }
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
        match self.revive(Some(proxy)).await {
            Ok(Revived::Replaced) => {
                log(self.id.as_str(), &format!("proxy {} has died and was replaced", proxy.pid));
            }
            Ok(Revived::Unchanged | Revived::Ended) => {}
            Err(error) => log(self.id.as_str(), &error),
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
        self.holdings.iter_mut().for_each(|holding| holding.stream.get_mut().keep_rules_only());
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

/// Where the interfaces of a record have joined their groups.
fn joined_on(attached: &Attached) -> Vec<JoinedOn> {
    let joined = attached.interfaces.iter().filter(|interface| interface.upstream_index != 0);
    joined
        .map(|interface| JoinedOn {
            interface: interface.name.to_string(),
            upstream: interface.attachment.upstream().to_string(),
            index: interface.upstream_index,
        })
        .collect()
}

async fn sleep_until(at: Option<tokio::time::Instant>) {
    if let Some(at) = at {
        tokio::time::sleep_until(at).await;
    }
}

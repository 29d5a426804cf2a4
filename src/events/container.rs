//! The events of one container.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use crate::events::host_groups::{ContainerGroups, HostGroups};
use crate::events::{AttachmentChange, HostEvent, Occurrence};
use crate::lookup::engine_name;
use crate::oci::ContainerId;
use crate::proxy::{
    Event, MAX_ANSWER, MAX_EVENT, ProxyStatus, PublishedGroups, PublishedState, TimedEvent,
    open_subscription, parse_subscription,
};
use crate::state::{Attached, AttachedInterface, AttachmentRecord, Store};
use crate::sys::process::ProcessRef;

/// Time after which a proxy that could not be reached is tried again, the first time and at most.
const FIRST_RETRY: Duration = Duration::from_millis(20);
const LAST_RETRY: Duration = Duration::from_secs(5);

/// Time within which a line that waits in a connection is read: the next turn of the runtime.
const WAITING: Duration = Duration::from_millis(1);
/// Longest time for which one who waits for what a proxy has told holds up all else.
const CATCHING_UP: Duration = Duration::from_millis(200);

/// The receiver of the events is closed.
struct Closed;

/// A container whose events are followed.
pub(super) struct Followed {
    id: ContainerId,
    store: Store,
    events: mpsc::Sender<HostEvent>,
    /// The record or the directory has changed.
    changes: mpsc::Receiver<()>,
    /// Somebody waits for what the proxy has told; see [`Followed::catch_up`].
    questions: mpsc::Receiver<mpsc::Sender<Infallible>>,
    name: String,
    interfaces: Vec<String>,
    /// The parent of each interface that takes frames by their Ethernet address.
    parents: BTreeMap<String, String>,
    host_groups: Arc<HostGroups>,
    /// The proxy that was followed last.
    proxy: Option<ProcessRef>,
    /// Whether its death was told.
    has_died: bool,
    /// Whether it was told that the proxy cannot be followed.
    is_refused: bool,
    deaths: u32,
    groups: BTreeMap<String, PublishedGroups>,
    state: PublishedState,
}

impl Followed {
    pub(super) fn new(
        id: ContainerId,
        store: Store,
        events: mpsc::Sender<HostEvent>,
        (changes, questions): (mpsc::Receiver<()>, mpsc::Receiver<mpsc::Sender<Infallible>>),
        host_groups: Arc<HostGroups>,
    ) -> Self {
        Followed {
            name: id.to_string(),
            id,
            store,
            events,
            changes,
            questions,
            interfaces: Vec::new(),
            parents: BTreeMap::new(),
            host_groups,
            proxy: None,
            has_died: false,
            is_refused: false,
            deaths: 0,
            groups: BTreeMap::new(),
            state: PublishedState::default(),
        }
    }

    /// Follows the container until its directory has gone or nobody wants its events. With `begun`
    /// what is attached and joined already is not told; it is dropped when the following has begun.
    pub(super) async fn run(mut self, begun: Option<mpsc::Sender<Infallible>>) {
        // `Closed`: there is nobody to tell.
        let _ = self.follow(begun).await;
        self.host_groups.remove(&self.id);
    }

    async fn follow(&mut self, mut begun: Option<mpsc::Sender<Infallible>>) -> Result<(), Closed> {
        let mut tells = begun.is_none();
        let mut retry = FIRST_RETRY;
        loop {
            let Some(attached) = self.read() else {
                if !self.store.container_dir(&self.id).is_dir() {
                    return self.compare_interfaces(None, tells).await;
                }
                // The first attachment is an event, though the directory was there before.
                tells = true;
                drop(begun.take());
                self.changed().await?;
                continue;
            };
            self.compare_interfaces(Some(&attached), tells).await?;
            let Some(proxy) = attached.proxy else {
                tells = true;
                drop(begun.take());
                self.changed().await?;
                continue;
            };
            if proxy.is_alive() {
                self.note_proxy(proxy, attached.proxy_deaths).await?;
                let lines = self.subscribe(tells, attached.replaced.is_none()).await?;
                tells = true;
                drop(begun.take());
                if let Some(lines) = lines {
                    retry = FIRST_RETRY;
                    self.forward(lines).await?;
                }
            } else if attached.container.is_alive() && !self.has_died {
                self.has_died = true;
                let pid = proxy.pid;
                self.tell(AttachmentChange::ProxyDied { pid }).await?;
            }
            drop(begun.take());
            // A directory that is being removed and a proxy that is being replaced are looked at
            // again when they change, and in time if nothing tells of it.
            let _ = tokio::time::timeout(retry, self.changed()).await;
            retry = (retry * 2).min(LAST_RETRY);
            if self.events.is_closed() {
                return Err(Closed);
            }
        }
    }

    fn read(&self) -> Option<Attached> {
        // A record that cannot be read is the business of `mcrun ps`.
        let record = self.store.read(&self.id).ok().flatten();
        record.and_then(AttachmentRecord::into_attached)
    }

    async fn changed(&mut self) -> Result<(), Closed> {
        loop {
            tokio::select! {
                change = self.changes.recv() => return change.ok_or(Closed),
                // There is no proxy that could have told anything.
                Some(_) = self.questions.recv() => {}
                () = self.events.closed() => return Err(Closed),
            }
        }
    }

    /// Tells of interfaces that have come and gone. `None`: all have gone.
    async fn compare_interfaces(
        &mut self,
        attached: Option<&Attached>,
        tells: bool,
    ) -> Result<(), Closed> {
        let interfaces =
            attached.map(|attached| attached.interfaces.as_slice()).unwrap_or_default();
        if let Some(Attached { container, .. }) = attached {
            // It may have been renamed.
            let name = engine_name(container.id.as_str(), container.bundle.as_deref());
            self.name = name.unwrap_or_else(|| container.name.clone());
        }
        let links = interfaces.iter().filter(|i| !i.attachment.driver.is_relayed());
        let parent =
            |i: &AttachedInterface| (i.name.clone(), i.attachment.parent_link().to_string());
        self.parents = links.map(parent).collect();
        let new: Vec<_> = interfaces.iter().map(|interface| interface.name.clone()).collect();
        let old = std::mem::replace(&mut self.interfaces, new.clone());
        if !tells {
            return Ok(());
        }
        for interface in old.iter().filter(|name| !new.contains(name)) {
            // What its proxy has not told any more.
            let mut groups = self.groups.remove(interface).unwrap_or_default();
            for event in groups.update(interface, Vec::new()) {
                self.tell_of(event).await?;
            }
            self.tell(AttachmentChange::Detached { interface: interface.clone() }).await?;
        }
        self.share_groups();
        for interface in interfaces.iter().filter(|interface| !old.contains(&interface.name)) {
            self.tell(attachment(interface)).await?;
        }
        Ok(())
    }

    /// Tells of a proxy that is not the one of before. `deaths` is that of the record: a keeper may
    /// have replaced a dead proxy before anybody else has noticed.
    async fn note_proxy(&mut self, proxy: ProcessRef, deaths: u32) -> Result<(), Closed> {
        let before = self.proxy.replace(proxy).filter(|before| *before != proxy);
        let has_died = std::mem::replace(&mut self.deaths, deaths) != deaths;
        let was_told = std::mem::take(&mut self.has_died);
        let Some(before) = before else { return Ok(()) };
        if has_died && !was_told {
            self.tell(AttachmentChange::ProxyDied { pid: before.pid }).await?;
        }
        let (pid, before) = (proxy.pid, before.pid);
        self.tell(AttachmentChange::ProxyReplaced { pid, before }).await
    }

    /// Subscribes to the proxy, and tells what its status has that was not told yet, if `tells`.
    /// `None`: the proxy cannot be reached, or does not know events.
    /// `is_settled`: the control socket is that of the proxy that the record names.
    async fn subscribe(&mut self, tells: bool, is_settled: bool) -> Result<Option<Lines>, Closed> {
        let (status, lines) = match Lines::open(&self.store.container_dir(&self.id)).await {
            Ok(opened) => opened,
            Err(error) => {
                // Any other error is that of a proxy which has just ended. While a proxy is replaced,
                // the control socket may be that of a stand-in.
                let is_refused =
                    matches!(error.kind(), io::ErrorKind::Other | io::ErrorKind::TimedOut);
                if is_settled && is_refused && !std::mem::replace(&mut self.is_refused, true) {
                    let error = error.to_string();
                    self.tell(AttachmentChange::NotFollowed { error }).await?;
                }
                return Ok(None);
            }
        };
        self.is_refused = false;
        let mut events = Vec::new();
        for interface in &status.interfaces {
            let known = self.groups.entry(interface.interface.clone()).or_default();
            events.extend(known.update(&interface.interface, interface.groups.clone()));
        }
        events.extend(self.state.update_from(&status));
        self.share_groups();
        if tells {
            for event in events {
                self.tell_of(event).await?;
            }
        }
        Ok(Some(lines))
    }

    /// Forwards the events of a proxy until the connection ends.
    async fn forward(&mut self, mut lines: Lines) -> Result<(), Closed> {
        loop {
            tokio::select! {
                line = lines.next() => match line {
                    Ok(Some(event)) => self.pass_on(event).await?,
                    Ok(None) | Err(_) => return Ok(()),
                },
                Some(_waits) = self.questions.recv() => self.catch_up(&mut lines).await?,
                change = self.changes.recv() => {
                    change.ok_or(Closed)?;
                    if let Some(attached) = self.read() {
                        self.compare_interfaces(Some(&attached), true).await?;
                    }
                }
                () = self.events.closed() => return Err(Closed),
            }
        }
    }

    async fn pass_on(&mut self, TimedEvent { time_ms, event }: TimedEvent) -> Result<(), Closed> {
        self.note(&event);
        let event = HostEvent {
            time_ms,
            container: self.id.to_string(),
            name: self.name.clone(),
            what: Occurrence::Proxy(event),
        };
        self.events.send(event).await.map_err(|_| Closed)
    }

    /// Forwards what waits in the connection, but no endless flow of events. Its end is found again
    /// by the next read.
    async fn catch_up(&mut self, lines: &mut Lines) -> Result<(), Closed> {
        let until = Instant::now() + CATCHING_UP;
        while let Ok(Ok(Some(event))) = tokio::time::timeout(WAITING, lines.next()).await {
            self.pass_on(event).await?;
            if Instant::now() >= until {
                break;
            }
        }
        Ok(())
    }

    /// Remembers what an event tells, for the comparison with the status of the next connection.
    fn note(&mut self, event: &Event) {
        match event {
            Event::Joined(m) | Event::Denied(m) | Event::Limited(m) | Event::Failed(m) => {
                self.groups.entry(m.interface.clone()).or_default().note(event);
                let is_joined = matches!(event, Event::Joined(_));
                self.host_groups.note(&self.id, &m.interface, m.group, is_joined);
            }
            Event::Left { interface, group } => {
                if let Some(groups) = self.groups.get_mut(interface) {
                    groups.note(event);
                }
                self.host_groups.note(&self.id, interface, *group, false);
                self.state.note(event);
            }
            Event::Querier { .. }
            | Event::QuerierGone { .. }
            | Event::MldQuerier { .. }
            | Event::MldQuerierGone { .. }
            | Event::StreamStarted { .. }
            | Event::StreamStopped { .. }
            | Event::Alarm(_)
            | Event::AlarmCleared(_) => self.state.note(event),
            Event::Notice(_) | Event::Lost { .. } => {}
        }
    }

    /// Shows what is joined beside what other containers have joined.
    fn share_groups(&self) {
        let joined = self.groups.iter();
        let joined =
            joined.map(|(interface, groups)| (interface.clone(), groups.joined().collect()));
        let groups = ContainerGroups {
            name: self.name.clone(),
            parents: self.parents.clone(),
            joined: joined.collect(),
        };
        self.host_groups.set(&self.id, groups);
    }

    async fn tell(&self, change: AttachmentChange) -> Result<(), Closed> {
        self.send(Occurrence::Attachment(change)).await
    }

    async fn tell_of(&self, event: Event) -> Result<(), Closed> {
        self.send(Occurrence::Proxy(event)).await
    }

    async fn send(&self, what: Occurrence) -> Result<(), Closed> {
        let event = HostEvent::now(self.id.as_str(), &self.name, what);
        self.events.send(event).await.map_err(|_| Closed)
    }
}

fn attachment(interface: &AttachedInterface) -> AttachmentChange {
    let AttachedInterface { name, mac, attachment, .. } = interface;
    AttachmentChange::Attached {
        interface: name.clone(),
        parent: attachment.parent_link().to_string(),
        driver: attachment.driver.name().to_owned(),
        mac: *mac,
        addresses: attachment.ip.addresses().iter().map(ToString::to_string).collect(),
    }
}

/// The lines of one subscription.
struct Lines {
    stream: BufReader<UnixStream>,
    /// The beginning of a line whose end has not arrived.
    line: Vec<u8>,
}

impl Lines {
    /// Subscribes, and reads the status at which the events begin.
    async fn open(dir: &std::path::Path) -> io::Result<(ProxyStatus, Self)> {
        let stream = open_subscription(dir)?;
        stream.set_nonblocking(true)?;
        let stream = BufReader::new(UnixStream::from_std(stream)?);
        let mut lines = Lines { stream, line: Vec::new() };
        let answer = tokio::time::timeout(LAST_RETRY, lines.read_line(MAX_ANSWER));
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, "the proxy does not answer");
        let answer = answer.await.map_err(late)??;
        if answer.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok((parse_subscription(&answer)?, lines))
    }

    /// The next event; `None` at the end. Events that this version does not know are left out.
    async fn next(&mut self) -> io::Result<Option<TimedEvent>> {
        loop {
            let line = self.read_line(MAX_EVENT).await?;
            if line.is_empty() {
                return Ok(None);
            }
            if let Ok(event) = serde_json::from_slice(&line) {
                return Ok(Some(event));
            }
        }
    }

    /// Reads up to a line end. When the caller stops waiting, what has arrived stays for the next
    /// call.
    async fn read_line(&mut self, limit: u64) -> io::Result<Vec<u8>> {
        let room = limit.saturating_sub(self.line.len() as u64);
        (&mut self.stream).take(room).read_until(b'\n', &mut self.line).await?;
        match self.line.last() {
            Some(b'\n') | None => Ok(std::mem::take(&mut self.line)),
            // Longer than a proxy writes, or the proxy has died in the middle of a line.
            Some(_) => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

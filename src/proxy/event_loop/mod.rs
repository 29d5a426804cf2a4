//! The event loop: the only clock of the proxy. It waits for events and timers, and calls all other
//! parts.

mod announcing;
mod answering;
mod clients;
mod confirming;
mod counting;
mod event_source;
mod family;
mod firewall;
mod handover;
mod holding;
mod idle_memory;
mod inheritance;
mod intercepted;
mod interface;
mod lan_notices;
mod mld_queries;
mod notifications;
mod pause;
mod proxied;
mod queue_watch;
mod relay_links;
mod relaying;
mod resources;
mod speakers;
mod status;
mod stream_watch;
mod streams;
mod upstream_changes;
mod upstreams;

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::igmp::Igmp;
use crate::mld::Mld;
use crate::net::link_monitor::Family;
use crate::net::nfnetlink::NfSocket;
use crate::notice::Notice;
use crate::primitives::token_bucket::TokenBucket;
use crate::proxy::container::stream_counter::{CountSockets, StreamCounter};
use crate::proxy::container::xdp_guard::XdpGuards;
use crate::proxy::control::changes::{PublishedGroups, PublishedState};
use crate::proxy::control::server::ControlServer;
use crate::proxy::event_loop::announcing::AddressAnnouncer;
use crate::proxy::event_loop::answering::deliver_query;
pub(crate) use crate::proxy::event_loop::counting::predecessors_counter;
use crate::proxy::event_loop::event_source::EventSource;
pub(crate) use crate::proxy::event_loop::family::AllMembershipFiles;
use crate::proxy::event_loop::family::MembershipsOf;
pub(crate) use crate::proxy::event_loop::handover::Predecessor;
use crate::proxy::event_loop::holding::Holding;
use crate::proxy::event_loop::idle_memory::IdleMemory;
use crate::proxy::event_loop::inheritance::InheritedStatus;
pub(crate) use crate::proxy::event_loop::inheritance::predecessors_status;
use crate::proxy::event_loop::interface::Interface;
pub(crate) use crate::proxy::event_loop::interface::{InterfaceSockets, RelaySockets};
use crate::proxy::event_loop::notifications::NotificationPace;
use crate::proxy::event_loop::pause::Pause;
use crate::proxy::event_loop::queue_watch::QueueWatch;
pub(crate) use crate::proxy::event_loop::resources::{
    Container, DropCounters, Interception, Resources, Role,
};
use crate::proxy::event_loop::speakers::RelayBatches;
use crate::proxy::event_loop::speakers::Speaker;
use crate::proxy::event_loop::stream_watch::StreamWatch;
pub(crate) use crate::proxy::event_loop::upstreams::{MldLimits, MldUpstream, Upstream, Upstreams};
use crate::proxy::process::container_dir::ContainerDir;
use crate::proxy::process::log::Log;
use crate::proxy::process::user::ProxyUser;
use crate::proxy::relay::Batch;

/// Datagrams that are read from one socket before the other descriptors are served.
const DATAGRAMS_PER_TURN: usize = 64;
/// Events of one epoll_wait(2).
const MAX_EVENTS: usize = 16;
/// Bytes for one packet, or one page of a file of the kernel. A longer packet is truncated and ignored.
/// The allocator takes so many from the kernel for themselves (`M_MMAP_THRESHOLD` of mallopt(3)), and
/// then a page of them has no memory until it is used: most proxies use one page.
const BUFFER_SIZE: usize = 256 * 1024;
/// How long the rules stay after the container has ended. Its sockets are closed by then, and its
/// kernel still reports the leaves: within three timer ticks, and once more within the interval
/// that `link::plan` sets (`REPORT_INTERVAL_MS`). Such a leave, from the container's own MAC
/// address, would prune a group that another host on the same switch port receives.
const DRAIN_TIME: Duration = Duration::from_millis(150);

/// IGMP packets of the container that are read at once: a thousand groups in version 2, whose
/// kernel sends two packets for each.
const REPORT_BURST: u32 = 2048;
/// Time after which one more is read.
const REPORT_INTERVAL: Duration = Duration::from_millis(2);
/// Time for which none is read after too many have come.
const REPORT_PAUSE: Duration = Duration::from_millis(200);
/// Time for which no query of the LAN is read after too many have arrived.
const QUERY_PAUSE: Duration = Duration::from_millis(500);

/// A running proxy.
pub(crate) struct Proxy {
    user: ProxyUser,
    container_dir: ContainerDir,
    log: Log,
    /// What the proxy before this one knew.
    inherited: Option<InheritedStatus>,
    event_loop: EventLoop,
}

/// Everything that is closed at once when the container has ended.
struct EventLoop {
    epoll: Epoll,
    phase: Phase,
    container: Container,
    interception: Option<Interception>,
    interfaces: Vec<Interface>,
    upstreams: Upstreams,
    control: ControlServer,
    /// While no client can be accepted, the control socket is not watched.
    accept_pause: Pause,
    holding: Holding,
    notification_pace: NotificationPace,
    /// The container's IGMP packets that are read.
    reports: TokenBucket,
    /// While the container sends too many, they are not read, and the kernel drops what does not
    /// fit.
    report_pause: Pause,
    /// The groups of each interface as the subscribers know them; empty without subscribers.
    published: Vec<PublishedGroups>,
    /// The queriers and alarms as the subscribers know them.
    published_state: PublishedState,
    /// When queriers and alarms are looked at again; `None` without subscribers.
    state_due: Option<Instant>,
    announcer: AddressAnnouncer,
    /// `None`: nothing is counted.
    counter: Option<StreamCounter>,
    streams: StreamWatch,
    queues: QueueWatch,
    relay_batches: RelayBatches,
    memory: IdleMemory,
    /// What was found wrong at the start.
    start_notices: Vec<Notice>,
    /// Scratch space for one datagram.
    buffer: Vec<u8>,
}

/// What the proxy does for the container.
enum Phase {
    /// Another proxy still relays. This one does all else, and relays after the takeover. `None`:
    /// the other proxy cannot be reached, or did not hand over its relays.
    WaitingForPredecessor(Option<Predecessor>),
    /// It does everything.
    Serving,
    /// The container has ended. Nothing is joined, and the rules stay until the time is over.
    Draining { until: Instant, _rules: Option<(NfSocket, XdpGuards)> },
}

impl Proxy {
    /// A proxy that is ready to run.
    ///
    /// # Errors
    /// Those of epoll_create(2) and epoll_ctl(2).
    pub(crate) fn new(resources: Resources, now: Instant) -> io::Result<Self> {
        let Resources { container_dir, mut log, container, interception, interfaces, .. } =
            resources;
        let Resources { user, upstreams, announcer, role, listener, notices, inherited, .. } =
            resources;
        let notifies_leaves = container.link_monitor.reports_memberships();
        let mut interfaces: Vec<_> = interfaces
            .into_iter()
            .map(|(task, sockets)| Interface::new(task, sockets, notifies_leaves, now))
            .collect();
        for interface in &mut interfaces {
            let index = interface.task.index;
            if index != 0 {
                interface.turn_relays(index)?;
            }
            let (name, upstream) = (&interface.task.name, &interface.task.upstream);
            let (interface_name, upstream) = (name.clone(), upstream.clone());
            log.notice(
                now,
                match interface.is_proxied() {
                    true => Notice::InterfaceServed { interface: interface_name, upstream },
                    false => Notice::InterfaceObserved { interface: interface_name, upstream },
                },
            );
            if interface.task.remade {
                let interface = interface.task.name.clone();
                log.notice(now, Notice::InterfaceRemade { interface });
            }
        }
        for notice in &notices {
            log.notice(now, notice.clone());
        }
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        watch(&epoll, &listener, EventSource::ControlListener)?;
        let relay_batches = RelayBatches {
            ipv4: has_relay::<Igmp>(&mut interfaces).then(Batch::in_file),
            ipv6: has_relay::<Mld>(&mut interfaces).then(Batch::in_file),
        };
        let mut event_loop = EventLoop {
            epoll,
            phase: Phase::WaitingForPredecessor(None),
            container,
            interception,
            interfaces,
            upstreams,
            control: ControlServer::new(listener),
            accept_pause: Pause::default(),
            holding: Holding::default(),
            notification_pace: NotificationPace::new(now),
            reports: TokenBucket::new(REPORT_BURST, REPORT_INTERVAL, now),
            report_pause: Pause::default(),
            published: Vec::new(),
            published_state: PublishedState::default(),
            state_due: None,
            announcer: AddressAnnouncer::new(announcer),
            counter: None,
            streams: StreamWatch::default(),
            queues: QueueWatch::default(),
            relay_batches,
            memory: IdleMemory::default(),
            start_notices: notices,
            buffer: vec![0; BUFFER_SIZE],
        };
        event_loop.watch_all()?;
        match role {
            Role::First => event_loop.start_relaying()?,
            Role::Successor(predecessor) => {
                event_loop.phase = Phase::WaitingForPredecessor(predecessor);
            }
        }
        Ok(Proxy { user, container_dir, log, inherited, event_loop })
    }

    /// The only directory that the proxy may still change when it is confined.
    pub(crate) fn container_dir(&self) -> &ContainerDir {
        &self.container_dir
    }

    /// Writes a notice to the log.
    pub(crate) fn log(&mut self, now: Instant, notice: Notice) {
        self.log.notice(now, notice);
    }

    /// Joins the groups that the container has joined before this proxy was started, after another
    /// proxy has ended or while it is about to. The container's own reports correct what is joined.
    pub(crate) fn join_existing_memberships(&mut self, now: Instant) {
        let EventLoop { container, interfaces, upstreams, streams, .. } = &mut self.event_loop;
        let inherited = self.inherited.take();
        let (igmp, mld) = (existing::<Igmp>(container), existing::<Mld>(container));
        for interface in interfaces {
            interface.join_existing::<Igmp>(now, &igmp, inherited.as_ref());
            interface.join_existing::<Mld>(now, &mld, inherited.as_ref());
            if let Some(status) = &inherited {
                interface.inherit(now, status);
                interface.inherit_streams(now, status, streams);
                if interface.were_reports_filtered(status) {
                    interface.set_reports_filtered(true);
                    upstreams.inherit_filtered_reports(interface.task.upstream_index);
                }
            }
            interface.process_router_output(now, upstreams, &mut self.log);
            if let Some(status) = &inherited {
                interface.inherit_relayed::<Igmp>(status);
                interface.inherit_relayed::<Mld>(status);
            }
        }
    }

    /// Counts what arrives at the links from here on, if that is asked for and the kernel lets it.
    pub(crate) fn start_counting(&mut self, now: Instant) {
        let EventLoop { container, interfaces, counter, start_notices, .. } = &mut self.event_loop;
        let Some(sockets) = container.count_sockets.take() else { return };
        let count = sockets.len();
        if count == 0 {
            return;
        }
        match StreamCounter::start(sockets, interfaces.iter().map(|interface| &interface.task)) {
            Ok(started) => *counter = Some(started),
            Err(error) => {
                CountSockets::close(count);
                let notice = Notice::NotCounted { error: error.to_string() };
                self.log.notice(now, notice.clone());
                start_notices.push(notice);
            }
        }
    }

    /// Has the kernel relay what it can, where that is asked for.
    pub(crate) fn start_kernel_relays(&mut self, now: Instant) {
        self.event_loop.load_kernel_relays(now, &mut self.log);
    }

    /// Whether BPF programs are to be attached to interfaces of the host.
    pub(crate) fn relays_in_kernel(&self) -> bool {
        let relays = self.event_loop.interfaces.iter().filter_map(|i| i.task.relay.as_ref());
        relays.into_iter().any(|relay| relay.in_kernel)
    }

    /// Serves until the container has ended, and then removes its directory.
    pub(crate) fn run(self) {
        let Proxy { user: _user, container_dir, mut log, mut event_loop, .. } = self;
        let end = event_loop.run(&mut log);
        // Its sockets hold the container's network namespace, and memberships of the host.
        drop(event_loop);
        let now = Instant::now();
        if let Err(e) = end {
            log.notice(now, Notice::EventLoopFailed { error: e.to_string() });
        }
        if let Err(e) = container_dir.remove() {
            log.notice(now, Notice::StateNotRemoved { error: e.to_string() });
        }
    }
}

fn has_relay<P: Speaker>(interfaces: &mut [Interface]) -> bool {
    interfaces.iter_mut().any(|interface| interface.relay::<P>().is_some())
}

/// What the container's kernel has joined. If the files cannot be read, the container's reports to the
/// first query show all groups.
fn existing<P: Speaker>(container: &Container) -> MembershipsOf<P> {
    let files = P::membership_files(&container.membership_files);
    files.and_then(|files| files.memberships_with_lists().ok()).unwrap_or_default()
}

/// Adds a descriptor to the epoll instance: an event comes when it is readable.
fn watch(epoll: &Epoll, descriptor: impl AsFd, source: EventSource) -> io::Result<()> {
    Ok(epoll.add(descriptor, EpollEvent::new(EpollFlags::EPOLLIN, source.to_data()))?)
}

impl EventLoop {
    /// Watches all descriptors except the control socket and those of the relays.
    fn watch_all(&self) -> io::Result<()> {
        let EventLoop { epoll, container, interception, upstreams, .. } = self;
        watch(epoll, &container.end_watch, EventSource::EndWatch)?;
        watch(epoll, &container.link_monitor, EventSource::LinkMonitor)?;
        for (position, upstream) in (0..).zip(&upstreams.list) {
            watch(epoll, &upstream.query_socket, EventSource::QuerySocket(position))?;
            watch(epoll, &upstream.link_watch, EventSource::UpstreamLink(position))?;
            if let Some(mld) = &upstream.mld {
                watch(epoll, &mld.query_socket, EventSource::MldQuerySocket(position))?;
            }
        }
        if let Some(Interception { nflog: Some(nflog), .. }) = interception {
            watch(epoll, nflog, EventSource::Nflog)?;
        }
        Ok(())
    }

    fn run(&mut self, log: &mut Log) -> io::Result<()> {
        self.container.membership_files.igmp.show_all_lists();
        if let Some(files) = &self.container.membership_files.mld {
            files.show_all_lists();
        }
        self.request_link_states()?;
        for position in (0..).take(self.upstreams.list.len()) {
            // From here on a carrier that goes and comes is noticed.
            self.upstreams.list[position as usize].link_watch.has_news();
            self.handle_upstream_change(Instant::now(), position, log);
        }
        self.check_upstream_addresses(log);
        // What the beginning uses: the first joins in IPv6 come with the interface's addresses.
        self.memory.note_use(Instant::now());
        loop {
            let now = Instant::now();
            if self.handle_timeout(now, log) {
                return Ok(());
            }
            let mut events = [EpollEvent::empty(); MAX_EVENTS];
            let count = match self.epoll.wait(&mut events, self.timeout()) {
                Ok(count) => count,
                Err(nix::errno::Errno::EINTR) => continue,
                Err(e) => return Err(e.into()),
            };
            let events = events.get(..count).unwrap_or(&[]);
            let now = Instant::now();
            self.confirm_memberships(now);
            let keeper = self.control.keeper().map(EventSource::Client);
            let is_work = |event: &EpollEvent| EventSource::from_data(event.data()) != keeper;
            if events.iter().any(is_work) || self.work_due(now).is_some_and(|at| at <= now) {
                self.holding.note_work();
                self.note_state(now);
            }
            for event in events {
                match EventSource::from_data(event.data()) {
                    Some(EventSource::EndWatch) if self.container.end_watch.has_ended() => {
                        self.drain(now, log)?;
                    }
                    // Another file was removed beside the namespace's.
                    Some(EventSource::EndWatch) => {}
                    Some(EventSource::Nflog) => self.receive_intercepted(now, log),
                    Some(EventSource::LinkMonitor) => {
                        self.handle_notifications(now, log);
                        self.check_relay_links(now, log);
                        self.end_announcing(now);
                    }
                    Some(EventSource::ControlListener) => self.accept_client(now, log),
                    Some(EventSource::QuerySocket(position)) => {
                        self.receive_queries(now, position, log);
                    }
                    Some(EventSource::QueryTap(position)) => self.receive_tapped(now, position),
                    Some(EventSource::MldQuerySocket(position)) => {
                        self.receive_mld_queries(now, position, log);
                    }
                    Some(EventSource::UpstreamLink(position)) => {
                        self.handle_upstream_change(now, position, log);
                    }
                    Some(EventSource::Client(id)) => self.serve_client(now, id, log),
                    Some(EventSource::Relay { interface, family, socket }) => match family {
                        Family::Ipv4 => self.relay::<Igmp>(now, interface, socket, log),
                        Family::Ipv6 => self.relay::<Mld>(now, interface, socket, log),
                    },
                    None => {}
                }
            }
        }
    }

    /// Requests the state of each interface. This is not part of the setup, because the kernel
    /// answers only while it changes no link, and the service waits for the setup.
    fn request_link_states(&self) -> io::Result<()> {
        for interface in &self.interfaces {
            match interface.task.index {
                // An interface that does not exist yet, or was created just now, is found by its
                // name.
                0 => self.container.link_monitor.request_all_link_states()?,
                index => self.container.link_monitor.request_link_state(index)?,
            }
        }
        Ok(())
    }

    /// Warns of upstreams without an IPv4 address.
    fn check_upstream_addresses(&mut self, log: &mut Log) {
        let now = Instant::now();
        for upstream in &self.upstreams.list {
            if !upstream.query_socket.is_numbered() {
                let upstream = upstream.query_socket.name().to_owned();
                let notice = Notice::UpstreamWithoutAddress { upstream };
                log.notice(now, notice.clone());
                self.start_notices.push(notice);
            }
        }
    }

    /// Does what is due. Tells whether the event loop ends.
    fn handle_timeout(&mut self, now: Instant, log: &mut Log) -> bool {
        self.confirm_memberships(now);
        self.end_pauses(now);
        self.handle_firewall(now, log);
        for interface in &mut self.interfaces {
            let receive_filter_socket = self.container.receive_filter_socket.as_ref();
            if interface.handle_timeout(now, &self.upstreams, receive_filter_socket) {
                self.holding.note_relays(now);
            }
            interface.process_router_output(now, &self.upstreams, log);
            interface.prepare_spare_join(&self.upstreams);
        }
        self.check_relay_links(now, log);
        self.control.handle_timeout(now);
        self.update_keeper(now, log);
        self.publish_changes(now, log);
        self.announcer.handle_timeout(now);
        self.memory.handle_timeout(now);
        if let Some(interception) = &mut self.interception {
            for notice in interception.guards.handle_timeout(now) {
                log.notice(now, notice.clone());
                self.start_notices.push(notice);
            }
        }
        matches!(self.phase, Phase::Draining { until, .. } if until <= now)
    }

    /// Watches again what was not watched for a while, where it is time to.
    fn end_pauses(&mut self, now: Instant) {
        let EventLoop { epoll, control, accept_pause, upstreams, .. } = self;
        accept_pause.end_if_due(epoll, control.listener(), EventSource::ControlListener, now);
        for (position, upstream) in (0..).zip(&mut upstreams.list) {
            let source = EventSource::QuerySocket(position);
            upstream.query_pause.end_if_due(epoll, &upstream.query_socket, source, now);
            if let Some(tap) = &upstream.firewall.tap {
                upstream.tap_pause.end_if_due(epoll, tap, EventSource::QueryTap(position), now);
            }
            if let Some(mld) = &mut upstream.mld {
                let source = EventSource::MldQuerySocket(position);
                mld.query_pause.end_if_due(epoll, &mld.query_socket, source, now);
            }
            upstream.handle_timeout(now);
        }
        self.resume_notifications(now);
        if let Some(Interception { nflog: Some(nflog), .. }) = &self.interception
            && self.report_pause.end_if_due(&self.epoll, nflog, EventSource::Nflog, now)
        {
            // The kernel does not tell of what it has dropped.
            self.requery(now);
        }
    }

    /// Time until something is due, rounded up to what epoll_wait(2) can wait for.
    fn timeout(&self) -> EpollTimeout {
        let now = Instant::now();
        let (state, memory) = (self.state_due, self.memory.poll_timeout());
        let Some(at) = [self.work_due(now), state, memory].into_iter().flatten().min() else {
            return EpollTimeout::NONE;
        };
        let left = at.saturating_duration_since(now) + Duration::from_micros(999);
        EpollTimeout::try_from(left).unwrap_or(EpollTimeout::MAX)
    }

    /// When something is due by which the status may change.
    fn work_due(&self, now: Instant) -> Option<Instant> {
        let drained = match self.phase {
            Phase::Draining { until, .. } => Some(until),
            Phase::WaitingForPredecessor(_) | Phase::Serving => None,
        };
        let interfaces = self.interfaces.iter().map(Interface::poll_timeout);
        let upstreams = self.upstreams.list.iter().map(Upstream::poll_timeout);
        let firewalls = self.upstreams.list.iter().map(|u| u.firewall.poll_timeout(now));
        let others = [
            self.control.poll_timeout(),
            self.announcer.poll_timeout(),
            self.accept_pause.poll_timeout(),
            self.notification_pace.poll_timeout(),
            self.interception.as_ref().and_then(|i| i.guards.poll_timeout()),
            self.report_pause.poll_timeout(),
            self.holding.poll_timeout(),
            drained,
        ];
        interfaces.chain(upstreams).chain(firewalls).chain(others).flatten().min()
    }

    /// The container has ended: leaves all groups, and keeps the rules so that none of its last
    /// reports reaches the LAN.
    fn drain(&mut self, now: Instant, log: &mut Log) -> io::Result<()> {
        self.epoll.delete(&self.container.end_watch)?;
        log.notice(now, Notice::ContainerEnded {});
        for interface in &mut self.interfaces {
            interface.handle_removal(now, &self.upstreams);
        }
        self.upstreams.list.clear();
        let interception = self.interception.take();
        let intercepts = interception.as_ref().is_some_and(|i| i.nflog.is_some());
        let rules = interception.map(|interception| (interception.rules, interception.guards));
        let until = if intercepts { now + DRAIN_TIME } else { now };
        self.phase = Phase::Draining { until, _rules: rules };
        Ok(())
    }

    /// Receives queries of the LAN, at a limited rate.
    fn receive_queries(&mut self, now: Instant, position: u32, log: &mut Log) {
        let Some(upstream) = self.upstreams.list.get_mut(position as usize) else { return };
        for _ in 0..DATAGRAMS_PER_TURN {
            if !upstream.takes_query(now) {
                let (socket, pause) = (&upstream.query_socket, &mut upstream.query_pause);
                if pause.begin(&self.epoll, socket, now, QUERY_PAUSE) {
                    let upstream = socket.name().to_owned();
                    log.notice(now, Notice::QueriesIgnored { upstream });
                }
                return;
            }
            match upstream.query_socket.receive(&mut self.buffer) {
                Ok(Some((source, query))) => {
                    upstream.firewall.heard_by_host(now, source, &query);
                    upstream.handle_query(now, &query);
                    deliver_query(now, upstream, &mut self.interfaces, source, &query);
                }
                // A packet that is no valid query.
                Ok(None) => {}
                // None is waiting, or the interface is down: another event follows.
                Err(_) => return,
            }
        }
    }
}

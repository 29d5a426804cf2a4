//! The event loop: the only clock, and the only place where everything meets.

mod clients;
mod handover;
mod interface;
mod lan_notices;
mod membership_events;
mod notifications;

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::attachment::IgmpMode;
use crate::net::arp_announcement::Announcer;
use crate::net::link_monitor::LinkMonitor;
use crate::net::netns::NetNs;
use crate::net::nfnetlink::NfSocket;
use crate::notice::Notice;
use crate::proxy::config::ProxyTask;
use crate::proxy::container::interception::NflogSocket;
use crate::proxy::container::membership_files::MembershipFiles;
use crate::proxy::container::receive_filter::ReceiveFilterSocket;
use crate::proxy::container::rtnl_barrier::RtnlBarrier;
use crate::proxy::control::server::ControlServer;
pub(crate) use crate::proxy::event_loop::handover::Predecessor;
use crate::proxy::event_loop::interface::Interface;
use crate::proxy::event_loop::membership_events::PublishedGroups;
use crate::proxy::lan::early_report::Reporter;
use crate::proxy::lan::joins::LimitFiles;
use crate::proxy::lan::query_socket::LanSocket;
use crate::proxy::process::container_dir::ContainerDir;
use crate::proxy::process::log::Log;
use crate::proxy::relay::{Batch, Relay};
use crate::proxy::setup::Parts;

/// Datagrams of one socket before the others have their turn.
const TURN: usize = 64;
/// Events of one wait.
const EVENTS: usize = 16;
/// One NFLOG datagram, one notification or one packet; beyond it a datagram is cut and ignored.
const BUFFER: usize = 16 * 1024;
/// How long the rules outlive the container. Its sockets are closed by then, and its kernel has yet to
/// say so: a first time within three ticks and once more within
/// [`crate::link::plan::REPORT_INTERVAL_MS`]. On the LAN that leave, from a MAC of its own, would
/// prune a group that a neighbour on the same switch port wants.
const GRACE: Duration = Duration::from_millis(150);
/// Groups whose age is remembered on interfaces that are only observed.
const MAX_OBSERVED: usize = 4096;

/// What an event is about: the epoll data of its descriptor.
mod token {
    pub(super) const CONTAINER: u64 = 0;
    pub(super) const PACKETS: u64 = 1;
    pub(super) const LINKS: u64 = 2;
    pub(super) const LISTENER: u64 = 3;
    /// And the position of the LAN socket.
    pub(super) const LAN: u64 = 1 << 16;
    /// And the position of the interface << 20, and what of its relay it is.
    pub(super) const RELAY: u64 = 1 << 48;
    pub(super) const RECEIVER: u64 = 0;
    pub(super) const TAP: u64 = 1;
    /// And the port of the container that answers come to.
    pub(super) const ANSWERS: u64 = 1 << 16;
    /// And the id of the client.
    pub(super) const CLIENT: u64 = 1 << 32;
}

/// A running proxy.
pub(crate) struct Driver {
    home: ContainerDir,
    log: Log,
    loop_: Loop,
}

/// All that is closed at once when the container ends.
struct Loop {
    config: ProxyTask,
    epoll: Epoll,
    container: OwnedFd,
    namespace: NetNs,
    /// The container has ended, and the rules stay until then.
    ending: Option<Instant>,
    /// Closing it takes the interception away.
    _rules: Option<NfSocket>,
    packets: Option<NflogSocket>,
    interfaces: Vec<Interface>,
    link_monitor: LinkMonitor,
    lan: Vec<LanSocket>,
    reporters: Vec<Reporter>,
    barrier: RtnlBarrier,
    limits: LimitFiles,
    control: ControlServer,
    /// The groups of each interface as the subscribers know them; empty without subscribers.
    published: Vec<PublishedGroups>,
    membership_files: MembershipFiles,
    receive_filter_socket: Option<ReceiveFilterSocket>,
    /// Until the LAN has been told of all addresses, and a moment longer.
    announcer: Option<Announcer>,
    announcer_ends: Option<Instant>,
    /// Some interface is not served.
    observing: bool,
    /// Another proxy relays still.
    takes_over: bool,
    predecessor: Option<Predecessor>,
    /// Packets on their way through a relay; made when there is one.
    batch: Option<Batch>,
    /// When a group was first seen on an interface that is only observed.
    seen: BTreeMap<(u32, Ipv4Addr), Instant>,
    /// What was wrong at the start.
    notices: Vec<Notice>,
    degraded: bool,
    buffer: Vec<u8>,
}

impl Driver {
    /// Ready to run.
    ///
    /// # Errors
    /// That of epoll_create(2) or epoll_ctl(2).
    pub(crate) fn new(parts: Parts, now: Instant) -> io::Result<Self> {
        let Parts { config, container, namespace, home, mut log, inside, lan, mut relays, .. } =
            parts;
        let Parts { reporters, announcer, barrier, limits, predecessor, listener, notices, .. } =
            parts;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let watch = |fd: std::os::fd::BorrowedFd<'_>, token| {
            epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, token))
        };
        watch(container.as_fd(), token::CONTAINER)?;
        watch(inside.link_monitor.as_fd(), token::LINKS)?;
        watch(listener.as_fd(), token::LISTENER)?;
        for (position, socket) in lan.iter().enumerate() {
            watch(socket.as_fd(), token::LAN + position as u64)?;
        }
        let (rules, packets, mut injectors, mut taps) = match inside.interception {
            Some(i) => (Some(i.rules), Some(i.packets), i.injectors, i.relays),
            None => (None, None, Vec::new(), Vec::new()),
        };
        if let Some(packets) = &packets {
            watch(packets.as_fd(), token::PACKETS)?;
        }
        let mut interfaces = Vec::new();
        for interface in &config.interfaces {
            let injector = take(&mut injectors, &interface.name);
            let host = take(&mut relays, &interface.name);
            let relay = host
                .zip(take(&mut taps, &interface.name))
                .and_then(|(host, container)| Relay::new(interface, host, container, now));
            let (name, upstream) = (interface.name.clone(), interface.upstream.clone());
            log.notice(
                now,
                match injector {
                    Some(_) => Notice::InterfaceServed { interface: name, upstream },
                    None => Notice::InterfaceObserved { interface: name, upstream },
                },
            );
            let hears_leaves = inside.link_monitor.reports_memberships();
            interfaces.push(Interface::new(interface.clone(), injector, relay, hears_leaves, now));
        }
        for interface in &mut interfaces {
            let index = interface.config.index;
            if let Some(relay) = interface.relay().filter(|_| index != 0) {
                relay.set_interface(index)?;
            }
        }
        for notice in &notices {
            log.notice(now, notice.clone());
        }
        let observing = interfaces.iter_mut().any(|i| i.router().is_none());
        let degraded =
            packets.is_none() && config.interfaces.iter().any(|i| i.igmp == IgmpMode::Proxy);
        let takes_over = config.takes_over;
        let batch = interfaces.iter_mut().any(|i| i.relay().is_some()).then(Batch::new);
        let mut loop_ = Loop {
            takes_over,
            predecessor,
            batch,
            config,
            epoll,
            container,
            namespace,
            ending: None,
            _rules: rules,
            packets,
            interfaces,
            link_monitor: inside.link_monitor,
            lan,
            reporters,
            barrier,
            limits,
            control: ControlServer::new(listener),
            published: Vec::new(),
            membership_files: inside.membership_files,
            receive_filter_socket: inside.receive_filter_socket,
            announcer,
            announcer_ends: None,
            observing,
            seen: BTreeMap::new(),
            notices,
            degraded,
            buffer: vec![0; BUFFER],
        };
        if !loop_.takes_over {
            loop_.begin_relaying()?;
        }
        Ok(Driver { home, log, loop_ })
    }

    /// What it may still touch in the file system.
    pub(crate) fn home(&self) -> &ContainerDir {
        &self.home
    }

    /// Writes a notice to the log.
    pub(crate) fn log(&mut self, now: Instant, notice: Notice) {
        self.log.notice(now, notice);
    }

    /// Joins what the container has joined before this proxy was there: another one has ended,
    /// or is about to. The container's own reports correct it.
    pub(crate) fn join_existing_memberships(&mut self, now: Instant) {
        let Loop { membership_files, interfaces, limits, reporters, .. } = &mut self.loop_;
        // Without it the container's answer to the first query tells all.
        let groups = membership_files.memberships().unwrap_or_default();
        for interface in interfaces {
            for ((index, group), observed) in &groups {
                if *index == interface.config.index
                    && let Some(router) = interface.router()
                {
                    router.handle_membership(now, *group, &observed.widest_filter(*group));
                }
            }
            interface.pump(now, limits, reporters, &mut self.log);
        }
    }

    /// Serves until the container has ended, and removes what is left of it.
    pub(crate) fn run(self) {
        let Driver { home, mut log, mut loop_ } = self;
        let end = loop_.run(&mut log);
        // The sockets hold the container's namespace, and the host's memberships.
        drop(loop_);
        let now = Instant::now();
        if let Err(e) = end {
            log.notice(now, Notice::EventLoopFailed { error: e.to_string() });
        }
        if let Err(e) = home.remove() {
            log.notice(now, Notice::StateNotRemoved { error: e.to_string() });
        }
    }
}

/// What is kept under this name.
fn take<T>(list: &mut Vec<(String, T)>, name: &str) -> Option<T> {
    let position = list.iter().position(|(known, _)| known == name)?;
    Some(list.swap_remove(position).1)
}

impl Loop {
    fn run(&mut self, log: &mut Log) -> io::Result<()> {
        self.look_around(log)?;
        loop {
            let now = Instant::now();
            for interface in &mut self.interfaces {
                interface.handle_timeout(now, &self.limits, self.receive_filter_socket.as_ref());
                interface.pump(now, &self.limits, &self.reporters, log);
                interface.stock(&self.limits);
            }
            self.control.handle_timeout(now);
            self.publish_changes(now, log);
            if self.announcer_ends.take_if(|at| *at <= now).is_some() {
                self.announcer = None;
            }
            if self.ending.is_some_and(|at| at <= now) {
                return Ok(());
            }
            let mut events = [EpollEvent::empty(); EVENTS];
            let count = match self.epoll.wait(&mut events, self.timeout()) {
                Ok(count) => count,
                Err(nix::errno::Errno::EINTR) => continue,
                Err(e) => return Err(e.into()),
            };
            let events = events.get(..count).unwrap_or(&[]);
            let now = Instant::now();
            for event in events {
                match event.data() {
                    token::CONTAINER => self.end(now, log)?,
                    token::PACKETS => self.hear_container(now),
                    token::LINKS => {
                        self.hear_links(now, log);
                        self.end_announcing(now);
                    }
                    token::LISTENER => self.accept_client(now),
                    relay if relay >= token::RELAY => self.relay(now, relay),
                    client if client >= token::CLIENT => {
                        self.serve_client(now, (client - token::CLIENT) as u32, log);
                    }
                    lan => self.hear_lan(now, (lan - token::LAN) as usize),
                }
            }
        }
    }

    /// Asks for what the kernel tells while it changes no link: nobody waits for the proxy any more.
    fn look_around(&mut self, log: &mut Log) -> io::Result<()> {
        // One that is yet to come, and one that has come by now, is told with all others.
        for interface in &self.interfaces {
            match interface.config.index {
                0 => self.link_monitor.request_all_link_states()?,
                index => self.link_monitor.request_link_state(index)?,
            }
        }
        let now = Instant::now();
        for socket in self.lan.iter().filter(|socket| !socket.is_numbered()) {
            let notice = Notice::UpstreamWithoutAddress { upstream: socket.name().to_owned() };
            log.notice(now, notice.clone());
            self.notices.push(notice);
        }
        Ok(())
    }

    /// Relays from now on.
    fn begin_relaying(&mut self) -> io::Result<()> {
        self.takes_over = false;
        for (position, interface) in self.interfaces.iter_mut().enumerate() {
            let Some(relay) = interface.relay() else { continue };
            let base = token::RELAY + ((position as u64) << 20);
            let fixed = [(token::RECEIVER, relay.receiver()), (token::TAP, relay.capture())];
            let answering =
                relay.answering().map(|(port, socket)| (token::ANSWERS + u64::from(port), socket));
            for (what, fd) in fixed.into_iter().chain(answering) {
                self.epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, base + what))?;
            }
        }
        Ok(())
    }

    fn relay(&mut self, now: Instant, token: u64) {
        let Loop { interfaces, batch: Some(batch), epoll, buffer, .. } = self else { return };
        let position = (token & (token::RELAY - 1)) >> 20;
        let interface = interfaces.get_mut(position as usize);
        let Some(relay) = interface.and_then(Interface::relay) else { return };
        match token & ((1 << 20) - 1) {
            token::RECEIVER => relay.receive(now, batch),
            token::TAP => {
                let base = token::RELAY + (position << 20) + token::ANSWERS;
                relay.send(now, batch, &mut |socket, port| {
                    let event = EpollEvent::new(EpollFlags::EPOLLIN, base + u64::from(port));
                    // Without it answers do not arrive, and the packet is sent all the same.
                    let _ = epoll.add(socket, event);
                });
            }
            answers => relay.answer(now, (answers & 0xffff) as u16, buffer),
        }
    }

    /// The container has ended: nothing is wanted for it any more, and nothing of it may reach the
    /// LAN.
    fn end(&mut self, now: Instant, log: &mut Log) -> io::Result<()> {
        self.epoll.delete(&self.container)?;
        log.notice(now, Notice::ContainerEnded {});
        self.lan.clear();
        for interface in &mut self.interfaces {
            interface.gone(now);
        }
        let intercepting = self.packets.take().is_some();
        self.ending = Some(if intercepting { now + GRACE } else { now });
        Ok(())
    }

    /// How long nothing is to be done; rounded up, so that what is due is due.
    fn timeout(&self) -> EpollTimeout {
        let interfaces = self.interfaces.iter().map(Interface::poll_timeout);
        let others = [self.control.poll_timeout(), self.announcer_ends, self.ending];
        let Some(at) = interfaces.chain(others).flatten().min() else {
            return EpollTimeout::NONE;
        };
        let left = at.saturating_duration_since(Instant::now()) + Duration::from_micros(999);
        EpollTimeout::try_from(left).unwrap_or(EpollTimeout::MAX)
    }

    fn hear_container(&mut self, now: Instant) {
        let Some(packets) = &self.packets else { return };
        for _ in 0..TURN {
            let interfaces = &mut self.interfaces;
            let result = packets.receive(&mut self.buffer, |packet| {
                let to = interfaces.iter_mut().find(|i| i.config.index == packet.interface);
                if let Some(router) = to.and_then(Interface::router) {
                    router.handle_packet(now, packet.bytes);
                }
            });
            match result {
                Ok(true) => {}
                Ok(false) => return,
                // Messages were lost: the container says it all again.
                Err(_) => {
                    self.requery(now);
                    return;
                }
            }
        }
    }

    fn hear_lan(&mut self, now: Instant, position: usize) {
        let Some(socket) = self.lan.get(position) else { return };
        for _ in 0..TURN {
            match socket.receive(&mut self.buffer) {
                Ok(Some((source, query))) => {
                    let index = socket.index;
                    for reporter in self.reporters.iter_mut().filter(|r| r.index() == index) {
                        reporter.hear(now, &query);
                    }
                    let of_it =
                        self.interfaces.iter_mut().filter(|i| i.config.upstream_index == index);
                    for interface in of_it {
                        if let Some(router) = interface.router() {
                            router.handle_lan_query(now, source, &query);
                        }
                    }
                }
                Ok(None) => {}
                // Nothing now, or the interface is down: the next event tells.
                Err(_) => return,
            }
        }
    }

    fn requery(&mut self, now: Instant) {
        for router in self.interfaces.iter_mut().filter_map(Interface::router) {
            router.requery(now);
        }
    }
}

//! The receiver: a socket for each group, and the clock.

use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant, SystemTime};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use socket2::{Domain, Protocol, Socket, Type};

use crate::net::route_query::RouteQuery;
use crate::probe::arrival::Arrival;
use crate::probe::batch::{BATCH, Receiver};
use crate::probe::report::{Ended, GroupReport, IntervalLine, PerGroup, ReceiveResult};
use crate::probe::signals::Signals;
use crate::probe::stats::GroupStats;
use crate::probe::units::{Destination, LossLimit};
use crate::probe::{ProbeError, route_hint};
use crate::sys::sockopt;

/// Receive buffer asked for: half a second at 94000 packets/s of MTU size, as the kernel
/// accounts them.
const RECEIVE_BUFFER: usize = 64 << 20;
/// Batches taken from one socket before the others have their turn.
const BATCHES: usize = 16;

/// What to receive, and until when.
#[derive(Debug, Clone)]
pub struct ReceiveOptions {
    /// The groups; not empty, each once.
    pub destinations: Vec<Destination>,
    /// Join each group from these sources only; from any when empty.
    pub sources: Vec<IpAddr>,
    /// End after this long.
    pub duration: Option<Duration>,
    /// End when each group has had so many packets.
    pub count: Option<u64>,
    /// End when no group had a packet for this long.
    pub timeout: Option<Duration>,
    /// Tell what came each time this is over.
    pub interval: Option<Duration>,
    /// Clock of the RTP timestamps in Hz; `None`: by payload type.
    pub clock_rate: Option<u32>,
    /// What is promised.
    pub limits: Thresholds,
}

/// What a measurement must keep.
#[derive(Debug, Clone, Copy, Default)]
pub struct Thresholds {
    /// No gap of any group is longer.
    pub max_gap: Option<Duration>,
    /// No group loses more.
    pub max_loss: Option<LossLimit>,
}

impl Thresholds {
    /// What `groups` broke, a sentence each.
    fn broken(&self, groups: &[PerGroup<GroupReport>]) -> Vec<String> {
        let mut broken = Vec::new();
        for group in groups {
            let (to, report) = (group.name(), &group.report);
            if let (Some(limit), Some(gap)) = (self.max_gap, report.longest_gap)
                && gap > limit
            {
                broken.push(format!("{to}: a gap of {gap:.3?}, --max-gap is {limit:?}"));
            }
            let Some(limit) = self.max_loss.filter(|_| report.packets > 0) else { continue };
            match (report.lost, report.expected) {
                (Some(lost), Some(expected)) if !limit.is_broken(lost, expected) => {}
                (Some(lost), Some(expected)) => broken.push(format!(
                    "{to}: {lost} of {expected} packets lost, --max-loss is {limit}"
                )),
                _ => broken.push(format!(
                    "{to}: loss unknown, for this is not RTP; --max-loss is {limit}"
                )),
            }
        }
        broken
    }
}

/// Joins, receives until the options or a signal say it is enough, and leaves.
///
/// `on_joined` is called once, when all groups are joined, with the interface of each. `on_interval`
/// is called once per interval; an error of its ends the measurement as a signal does: nobody
/// listens any more.
///
/// # Errors
/// When a group cannot be joined. That nothing came is not an error but a result.
pub fn receive(
    options: &ReceiveOptions,
    on_joined: impl FnOnce(&[Joined]),
    mut on_interval: impl FnMut(IntervalLine) -> io::Result<()>,
) -> Result<ReceiveResult, ProbeError> {
    let mut session = Session::open(options)?;
    on_joined(&joined(options));
    let mut receiver = Receiver::new();
    let mut next_interval = options.interval;
    let (ended, until) = loop {
        let wake = session.deadline(options).map(|(time, _)| time);
        let wake = wake.into_iter().chain(next_interval).min();
        let signalled = session.wait(&mut receiver, wake, options.duration)?;
        let now = session.start.elapsed();
        if options
            .count
            .is_some_and(|count| session.groups.iter().all(|g| g.stats.packets() >= count))
        {
            // Nothing more was waited for: the measurement ended with that packet.
            let last = session.groups.iter().filter_map(|g| g.stats.last_arrival()).max();
            break (Ended::Count, last.unwrap_or(now));
        }
        if signalled {
            break (Ended::Signal, now);
        }
        if let Some((deadline, why)) = session.deadline(options)
            && now >= deadline
        {
            break (why, deadline);
        }
        if let (Some(at), Some(interval)) = (next_interval, options.interval)
            && now >= at
        {
            if on_interval(session.interval(now)).is_err() {
                break (Ended::Signal, now);
            }
            // After a stall the ticks that were missed are not made up for.
            let next = at + interval;
            next_interval = Some(if next > now { next } else { now + interval });
        }
    };
    session.drain(&mut receiver, until);
    Ok(session.result(options, ended, until))
}

/// A group that is joined, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    /// The group and the port.
    pub destination: Destination,
    /// Name of the interface; `None` if it is gone again.
    pub interface: Option<String>,
}

fn joined(options: &ReceiveOptions) -> Vec<Joined> {
    let routes = RouteQuery::open().ok();
    let interface_of = |destination: Destination| {
        let index = match destination.ifindex {
            0 => routes.as_ref()?.interface_towards(destination.group).ok()??,
            index => index,
        };
        let name = nix::net::if_::if_indextoname(index).ok()?;
        Some(name.to_string_lossy().into_owned())
    };
    let each = options.destinations.iter();
    each.map(|&destination| {
        let interface = interface_of(destination);
        Joined { destination, interface }
    })
    .collect()
}

struct Session {
    start: Instant,
    epoll: Epoll,
    signals: Signals,
    groups: Vec<Group>,
}

struct Group {
    destination: Destination,
    socket: Socket,
    stats: GroupStats,
}

/// What epoll tells of the signals; the groups have their index.
const SIGNALS: u64 = u64::MAX;

impl Session {
    fn open(options: &ReceiveOptions) -> Result<Self, ProbeError> {
        let setup = || ProbeError::new("cannot set up the receiver");
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(io::Error::from);
        let epoll = epoll.map_err(setup())?;
        let signals = Signals::block().map_err(io::Error::from).map_err(setup())?;
        let watch = EpollEvent::new(EpollFlags::EPOLLIN, SIGNALS);
        epoll.add(&signals, watch).map_err(io::Error::from).map_err(setup())?;
        let mut sockets = Vec::new();
        for (&destination, index) in options.destinations.iter().zip(0..) {
            let socket = open_socket(destination)
                .map_err(ProbeError::new(format!("cannot open a socket for {destination}")))?;
            let watch = EpollEvent::new(EpollFlags::EPOLLIN, index);
            epoll.add(&socket, watch).map_err(io::Error::from).map_err(setup())?;
            sockets.push((destination, socket));
        }
        // All sockets are open before the first join: no join waits for another's set-up.
        let start = Instant::now();
        let mut groups = Vec::new();
        for (destination, socket) in sockets {
            let joined = start.elapsed();
            join(&socket, destination, options)?;
            let stats = GroupStats::new(joined, options.clock_rate);
            groups.push(Group { destination, socket, stats });
        }
        Ok(Session { start, epoll, signals, groups })
    }

    /// When the measurement ends if no packet comes, and why.
    fn deadline(&self, options: &ReceiveOptions) -> Option<(Duration, Ended)> {
        let heard = self.groups.iter().filter_map(|g| g.stats.last_arrival()).max();
        let silence = options.timeout.map(|t| (heard.unwrap_or_default() + t, Ended::Timeout));
        let over = options.duration.map(|d| (d, Ended::Duration));
        over.into_iter().chain(silence).min_by_key(|(time, _)| *time)
    }

    /// Waits until `wake` for packets and counts those that arrived by `until`; returns whether a
    /// signal came.
    fn wait(
        &mut self,
        receiver: &mut Receiver,
        wake: Option<Duration>,
        until: Option<Duration>,
    ) -> Result<bool, ProbeError> {
        let timeout = match wake {
            None => EpollTimeout::NONE,
            Some(wake) => {
                let left = wake.saturating_sub(self.start.elapsed());
                // Rounded up: a millisecond late rather than a busy loop before.
                let ms = left.as_nanos().div_ceil(1_000_000);
                EpollTimeout::from(u16::try_from(ms).unwrap_or(u16::MAX))
            }
        };
        let mut events = [EpollEvent::empty(); 64];
        let ready = match self.epoll.wait(&mut events, timeout) {
            Ok(ready) => ready,
            Err(nix::errno::Errno::EINTR) => 0,
            Err(error) => return Err(ProbeError::new("cannot wait for packets")(error.into())),
        };
        let mut signalled = false;
        for event in &events[..ready] {
            match usize::try_from(event.data()).ok().and_then(|index| self.groups.get_mut(index)) {
                Some(group) => group.take(receiver, self.start, until),
                None => signalled |= self.signals.came(),
            }
        }
        Ok(signalled)
    }

    /// Counts what still waits and had arrived by `until`.
    fn drain(&mut self, receiver: &mut Receiver, until: Duration) {
        for group in &mut self.groups {
            group.take(receiver, self.start, Some(until));
        }
    }

    fn interval(&mut self, now: Duration) -> IntervalLine {
        let of = |g: &mut Group| g.destination.of(g.stats.interval(now));
        IntervalLine { elapsed: now, groups: self.groups.iter_mut().map(of).collect() }
    }

    fn result(&self, options: &ReceiveOptions, ended: Ended, until: Duration) -> ReceiveResult {
        let of = |g: &Group| {
            let dropped = sockopt::dropped(&g.socket).unwrap_or(0);
            g.destination.of(g.stats.report(until, dropped.into()))
        };
        let groups: Vec<_> = self.groups.iter().map(of).collect();
        let mut broken = Vec::new();
        for silent in groups.iter().filter(|g| g.report.packets == 0) {
            broken.push(format!("{}: nothing came", silent.name()));
        }
        if ended == Ended::Timeout && broken.is_empty() {
            let timeout = options.timeout.unwrap_or_default();
            broken.push(format!("nothing more came for {timeout:?}"));
        }
        broken.extend(options.limits.broken(&groups));
        ReceiveResult {
            elapsed: until,
            ended,
            broken,
            packets: groups.iter().map(|g| g.report.packets).sum(),
            lost: groups.iter().filter_map(|g| g.report.lost).reduce(|a, b| a + b),
            longest_gap: groups.iter().filter_map(|g| g.report.longest_gap).max(),
            groups,
        }
    }
}

impl Group {
    /// Counts the packets that wait, those that arrived by `until` only.
    fn take(&mut self, receiver: &mut Receiver, start: Instant, until: Option<Duration>) {
        for _ in 0..BATCHES {
            // An error is an empty queue or one the socket will tell again.
            let Ok(taken) = receiver.receive(&self.socket) else { return };
            let (now, wall) = (start.elapsed(), SystemTime::now());
            let since_epoch = wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            for datagram in receiver.datagrams() {
                let Some(source) = datagram.source else { continue };
                // The kernel stamps by the wall clock, which may be set; its age may not.
                let age =
                    datagram.arrived.map_or(Duration::ZERO, |t| since_epoch.saturating_sub(t));
                let at = now.saturating_sub(age);
                if until.is_none_or(|until| at <= until) {
                    let (start, length) = (datagram.start, datagram.length);
                    self.stats.packet(Arrival { at, source, start, length });
                }
            }
            if taken < BATCH {
                return;
            }
        }
    }
}

impl Destination {
    pub(super) fn of<T>(self, report: T) -> PerGroup<T> {
        PerGroup { group: self.group, port: self.port, report }
    }
}

/// A socket that hears what it joins and nothing else.
fn open_socket(destination: Destination) -> io::Result<Socket> {
    let domain = Domain::for_address(destination.address());
    let socket = Socket::new(domain, Type::DGRAM.nonblocking().cloexec(), Some(Protocol::UDP))?;
    // Several receivers of one group live on one host.
    socket.set_reuse_address(true)?;
    sockopt::grow_receive_buffer(&socket, RECEIVE_BUFFER)?;
    sockopt::set_int(&socket, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1)?;
    // By default a socket hears what any other socket of the host has joined.
    match destination.group {
        IpAddr::V4(_) => {
            sockopt::set_int(&socket, libc::IPPROTO_IP, libc::IP_MULTICAST_ALL, 0)?;
        }
        IpAddr::V6(_) => {
            sockopt::set_int(&socket, libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_ALL, 0)?;
        }
    }
    socket.bind(&destination.address().into())?;
    Ok(socket)
}

fn join(
    socket: &Socket,
    destination: Destination,
    options: &ReceiveOptions,
) -> Result<(), ProbeError> {
    let Destination { group, ifindex, .. } = destination;
    if options.sources.is_empty() {
        return sockopt::join_group(socket, ifindex, group).map_err(|error| {
            let hint = route_hint(&error, ifindex);
            ProbeError::new(format!("cannot join {group}{hint}"))(error)
        });
    }
    for &source in &options.sources {
        sockopt::join_source_group(socket, ifindex, group, source).map_err(|error| {
            let hint = match error.raw_os_error() {
                Some(libc::ENOBUFS) if group.is_ipv6() => {
                    ": net.ipv6.mld_max_msf limits the sources of a group"
                }
                Some(libc::ENOBUFS) => ": net.ipv4.igmp_max_msf limits the sources of a group",
                _ => route_hint(&error, ifindex),
            };
            ProbeError::new(format!("cannot join {group} from {source}{hint}"))(error)
        })?;
    }
    Ok(())
}

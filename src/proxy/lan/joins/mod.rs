//! Memberships on the LAN: those of plain UDP sockets in the host's namespace.
//!
//! The kernel merges them with those of every other socket of the host, reports the result as one
//! host, and ends them when the process ends, however it ends. The sockets never receive
//! anything: they are bound to no port, and IP_MULTICAST_ALL is off.

mod plan;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit};
use socket2::{Domain, Socket, Type};

use crate::multicast::{Address, FilterMode, SourceFilter};
use crate::net::sysctl::{Sysctls, number};
use crate::proxy::lan::joins::plan::{
    LimitNames, Limits, Memberships, SocketId, Step, limit_names,
};
use crate::sys::sockopt;

/// A failed join is tried again after this long, then after twice as long, and so on.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);
/// Descriptors that are left to others, however many groups a container joins.
const RESERVED_DESCRIPTORS: RawFd = 16;

/// The limits of the host's kernel for one address family. They may be raised while a proxy runs. So
/// they are read again when one of them refuses a join, and when there is time.
#[derive(Debug)]
pub(crate) struct LimitFiles<A = Ipv4Addr> {
    memberships: Option<File>,
    sources: Option<File>,
    /// As they were read last.
    known: Cell<Limits>,
    family: PhantomData<A>,
}

impl<A: Address> LimitFiles<A> {
    /// Opens the sysctls of the host. Where that fails, the kernel's defaults are assumed.
    pub(crate) fn open(host: &Sysctls) -> Self {
        let (memberships, sources) = match A::UNSPECIFIED.into() {
            IpAddr::V4(_) => (Some("ipv4/igmp_max_memberships"), "ipv4/igmp_max_msf"),
            IpAddr::V6(_) => (None, "ipv6/mld_max_msf"),
        };
        let files = LimitFiles {
            memberships: memberships.and_then(|name| host.open(name, false).ok()),
            sources: host.open(sources, false).ok(),
            known: Cell::new(Limits::of_kernel::<A>()),
            family: PhantomData,
        };
        files.read();
        files
    }

    fn known(&self) -> Limits {
        self.known.get()
    }

    fn read(&self) -> Limits {
        let default = Limits::of_kernel::<A>();
        let value = |file: &Option<File>| usize::try_from(number(file.as_ref()?)?).ok();
        let limits = Limits {
            memberships: value(&self.memberships).unwrap_or(default.memberships),
            sources: value(&self.sources).unwrap_or(default.sources),
        };
        self.known.set(limits);
        limits
    }
}

/// The sockets that hold the memberships of one interface of the container on its upstream.
///
/// Two interfaces of the same upstream have sockets of their own: the kernel merges them.
#[derive(Debug)]
pub(crate) struct JoinSockets<A> {
    upstream: u32,
    memberships: Memberships<A>,
    sockets: BTreeMap<SocketId, JoinSocket>,
    /// For the next joins that need a socket: opening one takes longer than joining. More than one
    /// only while sockets are shared.
    spares: Vec<JoinSocket>,
    /// Whether a keeper has descriptors of the sockets. Their memberships then do not end with this
    /// process: each is left explicitly, and empty sockets are used again, so that the keeper does
    /// not gather more and more of them.
    is_shared: bool,
    /// Whether the spare socket is there and the limits were read since the last change.
    is_prepared: bool,
    /// Descriptors from this number on are left to the clients of the control socket.
    descriptor_limit: RawFd,
    failures: BTreeMap<A, Failure<A>>,
}

#[derive(Debug)]
struct JoinSocket {
    socket: Socket,
    /// Whether the keeper has a descriptor of the socket.
    is_held: bool,
}

#[derive(Debug)]
struct Failure<A> {
    wanted: SourceFilter<A>,
    reason: String,
    retry: Instant,
    pause: Duration,
}

impl<A: Address> JoinSockets<A> {
    /// Sockets that will join on the host's interface of this index. None is open yet.
    pub(crate) fn new(upstream: u32) -> Self {
        JoinSockets {
            upstream,
            memberships: Memberships::default(),
            sockets: BTreeMap::new(),
            spares: Vec::new(),
            is_shared: false,
            is_prepared: false,
            descriptor_limit: descriptor_limit(),
            failures: BTreeMap::new(),
        }
    }

    /// Changes the source filter of `group` on the upstream to `wanted`; `INCLUDE({})` leaves.
    ///
    /// # Errors
    /// The reason for people, if it is not that of the last attempt. The filter is kept and tried
    /// again.
    pub(crate) fn set_filter(
        &mut self,
        now: Instant,
        group: A,
        wanted: SourceFilter<A>,
        limits: &LimitFiles<A>,
    ) -> Result<(), String> {
        self.is_prepared = false;
        let known = limits.known();
        let result = self.try_set(group, &wanted, known).or_else(|reason| match limits.read() {
            changed if changed != known => self.try_set(group, &wanted, changed),
            _ => Err(reason),
        });
        match result {
            Ok(()) => {
                self.failures.remove(&group);
                Ok(())
            }
            Err(reason) => {
                let earlier = self.failures.get(&group);
                let is_known = earlier.is_some_and(|failure| failure.reason == reason);
                let pause = earlier
                    .map_or(FIRST_RETRY, |failure| failure.pause.saturating_mul(2).min(LAST_RETRY));
                let failure = Failure { wanted, reason: reason.clone(), retry: now + pause, pause };
                self.failures.insert(group, failure);
                if is_known { Ok(()) } else { Err(reason) }
            }
        }
    }

    /// Joins a group that no socket has joined, if a single step is enough. `around` gets the
    /// call that joins, and does at once what depends on its result. Where the step fails, or
    /// several would be needed, nothing changes. [`set_filter`](Self::set_filter) is to follow in
    /// any case.
    pub(crate) fn join_ahead(
        &mut self,
        group: A,
        wanted: &SourceFilter<A>,
        limits: &LimitFiles<A>,
        around: impl FnOnce(&mut dyn FnMut() -> io::Result<()>) -> io::Result<()>,
    ) {
        let Some(id) = self.memberships.plan_single_join(group, wanted, limits.known()) else {
            return;
        };
        let step = Step::Join(id, wanted.clone());
        if around(&mut || self.perform(group, &step)).is_ok() {
            self.memberships.apply(group, &step);
            self.is_prepared = false;
        }
    }

    /// When to call [`retry`](Self::retry); `None`: nothing has failed.
    pub(crate) fn poll_retry(&self) -> Option<Instant> {
        self.failures.values().map(|failure| failure.retry).min()
    }

    /// Tries again what is due.
    pub(crate) fn retry(&mut self, now: Instant, limits: &LimitFiles<A>) {
        let due: Vec<_> = self
            .failures
            .iter()
            .filter(|(_, failure)| failure.retry <= now)
            .map(|(&group, failure)| (group, failure.wanted.clone()))
            .collect();
        for (group, wanted) in due {
            // A new reason shows in the status.
            let _ = self.set_filter(now, group, wanted, limits);
        }
    }

    /// The group is not wanted any more, and no socket has joined it.
    pub(crate) fn forget_failure(&mut self, group: A) {
        self.failures.remove(&group);
    }

    /// The groups that are not joined as wanted. They are not tried again here.
    pub(crate) fn take_failures(&mut self) -> impl Iterator<Item = A> {
        std::mem::take(&mut self.failures).into_keys()
    }

    /// Why the group is not joined as wanted.
    pub(crate) fn failure(&self, group: A) -> Option<&str> {
        self.failures.get(&group).map(|failure| failure.reason.as_str())
    }

    /// Whether any socket has joined the group.
    pub(crate) fn is_joined(&self, group: A) -> bool {
        self.memberships.is_joined(group)
    }

    /// Opens a spare socket and reads the limits for the next join; to be called when there is
    /// time.
    pub(crate) fn prepare(&mut self, limits: &LimitFiles<A>) {
        if self.is_prepared {
            return;
        }
        self.is_prepared = true;
        limits.read();
        if self.spares.is_empty() {
            // Without it the join opens one.
            self.spares.extend(open_socket::<A>(self.descriptor_limit).ok());
        }
    }

    /// Leaves everything.
    pub(crate) fn clear(&mut self) {
        // The limit cannot be looked up in the sandbox.
        let descriptor_limit = self.descriptor_limit;
        let mut cleared = JoinSockets { descriptor_limit, ..JoinSockets::new(self.upstream) };
        if self.is_shared {
            for (group, step) in self.memberships.leave_all() {
                // If this fails, the membership lasts until the keeper closes the socket.
                let _ = self.perform(group, &step);
            }
            let sockets = std::mem::take(&mut self.sockets).into_values();
            cleared.spares = sockets.chain(std::mem::take(&mut self.spares)).collect();
            cleared.is_shared = true;
        }
        *self = cleared;
    }

    /// Leaves everything, and joins on the host's interface of this index from now on.
    pub(crate) fn turn_to(&mut self, upstream: u32) {
        self.clear();
        self.upstream = upstream;
    }

    /// The sockets that the keeper does not have, spare ones included.
    pub(crate) fn not_held(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let all = self.sockets.values().chain(&self.spares);
        all.filter(|socket| !socket.is_held).map(|socket| socket.socket.as_fd())
    }

    /// The keeper has descriptors of all sockets from now on.
    pub(crate) fn set_held(&mut self) {
        self.is_shared = true;
        self.all_mut().for_each(|socket| socket.is_held = true);
    }

    /// There is no keeper, or another one.
    pub(crate) fn set_not_held(&mut self) {
        self.all_mut().for_each(|socket| socket.is_held = false);
        self.spares.truncate(1);
    }

    fn all_mut(&mut self) -> impl Iterator<Item = &mut JoinSocket> {
        self.sockets.values_mut().chain(&mut self.spares)
    }

    fn try_set(
        &mut self,
        group: A,
        wanted: &SourceFilter<A>,
        limits: Limits,
    ) -> Result<(), String> {
        // Each round either ends or marks one more socket as full.
        for _ in 0..=plan::MAX_SOCKETS {
            let steps = self.memberships.plan(group, wanted, limits).map_err(|e| e.to_string())?;
            let mut again = false;
            for step in steps {
                match self.perform(group, &step) {
                    Ok(()) => {
                        if self.memberships.apply(group, &step)
                            && let Step::Leave(id) = step
                            && let Some(socket) = self.sockets.remove(&id)
                        {
                            // The socket has no membership any more.
                            if self.spares.is_empty() || self.is_shared {
                                self.spares.push(socket);
                            }
                        }
                    }
                    Err(error) => {
                        let Step::Join(id, _) = step else {
                            return Err(describe::<A>(&error));
                        };
                        // ENOMEM: `ipv6_sock_mc_join` in net/ipv6/mcast.c.
                        let full =
                            matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::ENOMEM));
                        if !(full && self.memberships.mark_full(id)) {
                            return Err(describe::<A>(&error));
                        }
                        again = true;
                        break;
                    }
                }
            }
            if !again {
                return Ok(());
            }
        }
        let sysctl = limit_names::<A>().memberships;
        Err(format!("no socket takes another group; raise {sysctl} on the host"))
    }

    fn perform(&mut self, group: A, step: &Step<A>) -> io::Result<()> {
        match step {
            Step::Join(id, filter) => {
                if let Some(JoinSocket { socket, .. }) = self.sockets.get(id) {
                    return join(socket, self.upstream, group, filter);
                }
                let socket = match self.spares.pop() {
                    Some(spare) => spare,
                    None => open_socket::<A>(self.descriptor_limit)?,
                };
                join(&socket.socket, self.upstream, group, filter)?;
                self.sockets.insert(*id, socket);
                Ok(())
            }
            Step::Change(id, filter) => {
                set_source_filter(self.socket(*id)?, self.upstream, group, filter)
            }
            Step::Leave(id) => {
                match sockopt::leave_group(self.socket(*id)?, self.upstream, group) {
                    // The interface has gone, and the membership with it.
                    Err(e)
                        if matches!(e.raw_os_error(), Some(libc::ENODEV | libc::EADDRNOTAVAIL)) =>
                    {
                        Ok(())
                    }
                    other => other,
                }
            }
        }
    }

    fn socket(&self, id: SocketId) -> io::Result<&Socket> {
        let socket = self.sockets.get(&id).map(|socket| &socket.socket);
        socket.ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))
    }
}

fn set_source_filter<A: Address>(
    socket: &Socket,
    upstream: u32,
    group: A,
    filter: &SourceFilter<A>,
) -> io::Result<()> {
    let sources = filter.sources.iter().copied();
    match filter.mode {
        FilterMode::Include => sockopt::include_sources(socket, upstream, group, sources),
        FilterMode::Exclude => sockopt::exclude_sources(socket, upstream, group, sources),
    }
}

/// A first join that at no moment receives more than `filter`.
///
/// INCLUDE begins with one source, and the other sources are added in place. EXCLUDE of nothing is
/// the plain join. For EXCLUDE of a list the kernel has no single call. A plain join would join
/// all sources first, so the membership begins as INCLUDE of an address that sends nothing,
/// and is changed in place at once. The kernel reports some timer ticks after a change, and
/// reports the state of that moment: usually TO_EX of the list is all that the LAN sees.
fn join<A: Address>(
    socket: &Socket,
    upstream: u32,
    group: A,
    filter: &SourceFilter<A>,
) -> io::Result<()> {
    let first = match (filter.mode, filter.sources.first()) {
        (FilterMode::Exclude, None) => return sockopt::join_group(socket, upstream, group),
        (FilterMode::Exclude, Some(_)) => A::DOCUMENTATION,
        (FilterMode::Include, Some(&source)) => source,
        (FilterMode::Include, None) => return Ok(()),
    };
    sockopt::join_source_group(socket, upstream, group, first)?;
    if filter.mode == FilterMode::Include && filter.sources.len() == 1 {
        return Ok(());
    }
    let result = set_source_filter(socket, upstream, group, filter);
    if result.is_err() {
        // No half of a join stays.
        let _ = sockopt::leave_group(socket, upstream, group);
    }
    result
}

/// The first descriptor number that no socket for joins may have.
fn descriptor_limit() -> RawFd {
    let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((u64::MAX, u64::MAX));
    RawFd::try_from(soft).unwrap_or(RawFd::MAX).saturating_sub(RESERVED_DESCRIPTORS)
}

/// Opens a socket for joins. Its number is below `descriptor_limit`.
fn open_socket<A: Address>(descriptor_limit: RawFd) -> io::Result<JoinSocket> {
    let socket = match A::UNSPECIFIED.into() {
        IpAddr::V4(_) => {
            let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
            socket.set_multicast_all_v4(false)?;
            socket
        }
        IpAddr::V6(_) => {
            let socket = Socket::new(Domain::IPV6, Type::DGRAM, None)?;
            sockopt::set_int(&socket, libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_ALL, 0)?;
            socket
        }
    };
    // The kernel gives the lowest number that is free.
    if socket.as_raw_fd() >= descriptor_limit {
        return Err(io::Error::from_raw_os_error(libc::EMFILE));
    }
    // The kernel makes it its smallest.
    socket.set_recv_buffer_size(0)?;
    Ok(JoinSocket { socket, is_held: false })
}

fn describe<A: Address>(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENOBUFS | libc::ENOMEM) => {
            let LimitNames { memberships, sources } = limit_names::<A>();
            format!(
                "the host's kernel has no room for it; see {memberships}, {sources} and \
                 net.core.optmem_max"
            )
        }
        Some(libc::ENODEV) => "the upstream interface is gone".into(),
        Some(libc::EMFILE | libc::ENFILE) => "no file descriptor is left for its socket".into(),
        Some(errno) => nix::errno::Errno::from_raw(errno).desc().to_lowercase(),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;

    /// Joins, changes and leaves on loopback, with real sockets.
    fn memberships_follow_the_filter<A: Address>(family: &str) {
        let lo = nix::net::if_::if_nametoindex("lo").unwrap();
        let limits = LimitFiles::open(&Sysctls::default());
        let now = Instant::now();
        let mut sockets = JoinSockets::<A>::new(lo);
        sockets.prepare(&limits);
        let group = A::from_number(A::PTP_PRIMARY[0].to_number() + 7);
        let source = |n: u128| A::from_number(A::DOCUMENTATION.to_number() + n);
        for wanted in [
            SourceFilter::include([source(1)]),
            SourceFilter::include([source(1), source(2)]),
            SourceFilter::exclude([source(3)]),
            SourceFilter::any(),
        ] {
            assert_eq!(sockets.set_filter(now, group, wanted, &limits), Ok(()), "{family}");
            assert!(sockets.is_joined(group));
        }
        assert_eq!(sockets.set_filter(now, group, SourceFilter::none(), &limits), Ok(()));
        assert!(!sockets.is_joined(group) && sockets.sockets.is_empty());

        // A first EXCLUDE with a list takes two calls.
        let list = SourceFilter::exclude([source(1)]);
        assert_eq!(sockets.set_filter(now, group, list, &limits), Ok(()), "{family}");
        assert_eq!(sockets.poll_retry(), None);

        let mut gone = JoinSockets::<A>::new(0x7fff_fff0);
        let reason = gone.set_filter(now, group, SourceFilter::any(), &limits).unwrap_err();
        assert_eq!(reason, "the upstream interface is gone");
        assert_eq!(gone.failure(group), Some(reason.as_str()));
        assert_eq!(gone.poll_retry(), Some(now + FIRST_RETRY));
        let again = gone.set_filter(now, group, SourceFilter::any(), &limits);
        assert_eq!(again, Ok(()), "a known reason is not told again");
        assert_eq!(gone.poll_retry(), Some(now + FIRST_RETRY * 2));
    }

    #[test]
    fn sockets_join_groups_of_both_families() {
        memberships_follow_the_filter::<Ipv4Addr>("IPv4");
        memberships_follow_the_filter::<Ipv6Addr>("IPv6");
    }

    /// What the kernel shows of an IPv6 group: whether it is joined, and its sources, each with whether
    /// it is included.
    fn shown(interface: &str, group: Ipv6Addr) -> (bool, Vec<(Ipv6Addr, bool)>) {
        let read = |file| std::fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap();
        let address = |text: &str| {
            Ipv6Addr::from_bits(u128::from_str_radix(&text[text.len() - 32..], 16).unwrap())
        };
        let (groups, sources) = (read("igmp6"), read("mcfilter6"));
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let is_own = |words: &Vec<String>| words[1] == interface && address(&words[2]) == group;
        let joined = groups.lines().map(words).any(|words| is_own(&words));
        let listed = sources.lines().skip(1).map(words).filter(is_own);
        let listed = listed.map(|words| (address(&words[3]), words[4] != "0")).collect();
        (joined, listed)
    }

    #[test]
    fn the_kernel_has_the_ipv6_filters_that_are_wanted() {
        let veth = crate::proxy::lan::veth::Veth::new();
        veth.run(|| {
            let index = nix::net::if_::if_nametoindex("lan-a").unwrap();
            let (limits, now) = (LimitFiles::open(&Sysctls::default()), Instant::now());
            let mut sockets = JoinSockets::<Ipv6Addr>::new(index);
            let group: Ipv6Addr = "ff05::101".parse().unwrap();
            let source = |n: u16| Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, n);
            let mut set = |filter: &SourceFilter<Ipv6Addr>| {
                assert_eq!(sockets.set_filter(now, group, filter.clone(), &limits), Ok(()));
            };
            let many = SourceFilter::include((1..=100).map(source));
            for filter in [
                SourceFilter::any(),
                SourceFilter::exclude([source(1), source(2)]),
                SourceFilter::include([source(3)]),
                // More than a socket takes (net.ipv6.mld_max_msf).
                many,
                SourceFilter::include([source(4), source(5)]),
            ] {
                set(&filter);
                let includes = filter.mode == FilterMode::Include;
                let listed = filter.sources.iter().map(|source| (*source, includes));
                let (joined, mut shown) = shown("lan-a", group);
                shown.sort_unstable();
                assert_eq!((joined, shown), (true, listed.collect()), "{filter:?}");
            }
            set(&SourceFilter::none());
            assert_eq!(shown("lan-a", group), (false, vec![]));
        });
    }
}

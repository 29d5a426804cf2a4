//! Sockets in a container that change what they receive by every call there is.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use mcrun::multicast::{FilterMode, SourceFilter};
use mcrun::net::netns::NetNs;
use mcrun::sys::sockopt;
use socket2::{Domain, Socket, Type};

use super::facts::{has_joined, source_filters};
use super::family::{Family, SourceCounts};
use super::{Container, Lab};

/// The interface in the container.
const CHILD: &str = "mc0";

/// A UDP socket that lives in a container's network namespace, as one of a process in it does.
#[derive(Debug)]
pub struct Member {
    socket: Socket,
    index: u32,
}

/// A change of what one socket receives of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change<A = Ipv4Addr> {
    /// From any source (MCAST_JOIN_GROUP).
    Join,
    /// MCAST_LEAVE_GROUP.
    Leave,
    /// MCAST_JOIN_SOURCE_GROUP.
    JoinSource(A),
    /// MCAST_LEAVE_SOURCE_GROUP.
    LeaveSource(A),
    /// IP_BLOCK_SOURCE, or MCAST_BLOCK_SOURCE of IPv6.
    Block(A),
    /// IP_UNBLOCK_SOURCE, or MCAST_UNBLOCK_SOURCE of IPv6.
    Unblock(A),
    /// MCAST_MSFILTER.
    Set(SourceFilter<A>),
}

/// Replaces the source filter of a group that the socket has joined.
pub fn set_source_filter<A: Family>(
    socket: &Socket,
    index: u32,
    group: A,
    filter: &SourceFilter<A>,
) -> io::Result<()> {
    let sources = filter.sources.iter().copied();
    match filter.mode {
        FilterMode::Include => sockopt::include_sources(socket, index, group, sources),
        FilterMode::Exclude => sockopt::exclude_sources(socket, index, group, sources),
    }
}

impl Container {
    /// Its network namespace.
    pub fn namespace(&self) -> NetNs {
        NetNs::of_pid(self.pid).expect("the container runs")
    }

    /// A socket of IPv4 that has joined nothing.
    pub fn member(&self) -> Member {
        self.member_of::<Ipv4Addr>()
    }

    /// A socket of a family that has joined nothing.
    pub fn member_of<A: Family>(&self) -> Member {
        let open = || -> io::Result<Member> {
            let socket = Socket::new(A::DOMAIN, Type::DGRAM, None)?;
            Ok(Member { socket, index: nix::net::if_::if_nametoindex(CHILD)? })
        };
        self.namespace().run(open).expect("entered").expect("socket")
    }
}

impl Member {
    /// Makes the change; what the kernel says of it.
    pub fn try_change<A: Family>(&self, group: A, change: &Change<A>) -> io::Result<()> {
        let (socket, index) = (&self.socket, self.index);
        match change {
            Change::Join => sockopt::join_group(socket, index, group),
            Change::Leave => sockopt::leave_group(socket, index, group),
            Change::JoinSource(s) => sockopt::join_source_group(socket, index, group, *s),
            Change::LeaveSource(s) => sockopt::leave_source_group(socket, index, group, *s),
            Change::Block(s) => A::block(socket, index, group, *s, true),
            Change::Unblock(s) => A::block(socket, index, group, *s, false),
            Change::Set(filter) => set_source_filter(socket, index, group, filter),
        }
    }

    /// Makes the change, which the kernel must accept.
    pub fn change<A: Family>(&self, group: A, change: &Change<A>) {
        self.try_change(group, change).unwrap_or_else(|e| panic!("{change:?} of {group}: {e}"));
    }
}

/// What a kernel receives of a group, read from its list of sources alone where it tells: a
/// source excluded by all `excluding` sockets that exclude and included by none is not received.
fn merged<A: Family>(lists: Option<SourceCounts<A>>, excluding: u32) -> SourceFilter<A> {
    let lists = lists.unwrap_or_default();
    if excluding > 0 {
        let out = lists.iter().filter(|(_, (inc, exc))| *inc == 0 && *exc == excluding);
        SourceFilter::exclude(out.map(|(source, _)| *source))
    } else {
        SourceFilter::include(
            lists.iter().filter(|(_, (inc, _))| *inc > 0).map(|(source, _)| *source),
        )
    }
}

impl Lab {
    /// Makes the host's kernel show all source lists for as long as the socket lives: it begins with
    /// the first interface whose newest group has a list, and loopback comes first.
    pub fn show_all_lists(&self) -> Socket {
        let (group, source) = (Ipv4Addr::new(224, 0, 0, 1), Ipv4Addr::new(192, 0, 2, 1));
        self.show_lists_behind(Domain::IPV4, group, source)
    }

    /// The same for IPv6.
    pub fn show_all_lists_of_ipv6(&self) -> Socket {
        let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
        self.show_lists_behind(Domain::IPV6, group, Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0))
    }

    fn show_lists_behind<A: Into<IpAddr>>(&self, domain: Domain, group: A, source: A) -> Socket {
        const LOOPBACK: u32 = 1;
        self.run_in("host", || {
            let socket = Socket::new(domain, Type::DGRAM, None).expect("socket");
            sockopt::join_source_group(&socket, LOOPBACK, group, source).expect("joined");
            socket
        })
    }

    /// What the container's kernel has joined of a group while this many of its sockets exclude.
    pub fn wanted<A: Family>(
        &self,
        container: &Container,
        group: A,
        excluding: u32,
    ) -> Option<SourceFilter<A>> {
        let joined = has_joined(container.pid, group);
        let text = fs::read_to_string(format!("/proc/{}/net/{}", container.pid, A::SOURCES_FILE));
        let mut filters = source_filters::<A>(&text.expect("the file of sources"));
        joined.then(|| merged(filters.remove(&group), excluding))
    }

    /// What the host's kernel has joined of a group for a single container.
    pub fn upstream<A: Family>(&self, group: A) -> Option<SourceFilter<A>> {
        let lists = self.host_sources::<A>().remove(&group);
        self.host_groups::<A>().contains(&group).then(|| joined_by_one(lists))
    }
}

/// What the host's kernel has joined of a group that a single socket has joined, from its list of
/// sources.
pub fn joined_by_one<A: Family>(lists: Option<SourceCounts<A>>) -> SourceFilter<A> {
    let including = lists.as_ref().is_some_and(|l| l.values().all(|(_, exc)| *exc == 0));
    merged(lists, u32::from(!including))
}

/// What all sockets of a container together receive (RFC 9776 §3.2, RFC 9777 §4.2).
pub fn union<A: Family>(filters: &[Option<SourceFilter<A>>]) -> Option<SourceFilter<A>> {
    let of = |mode| filters.iter().flatten().filter(move |f| f.mode == mode);
    let included: std::collections::BTreeSet<A> =
        of(FilterMode::Include).flat_map(|f| f.sources.iter().copied()).collect();
    let mut excluding = of(FilterMode::Exclude);
    let Some(first) = excluding.next() else {
        return (!included.is_empty()).then(|| SourceFilter::include(included));
    };
    let mut excluded = first.sources.clone();
    for filter in excluding {
        excluded.retain(|source| filter.sources.contains(source));
    }
    excluded.retain(|source| !included.contains(source));
    Some(SourceFilter::exclude(excluded))
}

/// What a socket receives after a change, given what it received before.
pub fn after<A: Family>(
    before: Option<SourceFilter<A>>,
    change: &Change<A>,
) -> Option<SourceFilter<A>> {
    let mut now = before.clone().unwrap_or_else(SourceFilter::none);
    match change {
        Change::Join => now = SourceFilter::any(),
        Change::Leave => now = SourceFilter::none(),
        Change::JoinSource(s) | Change::Block(s) => _ = now.sources.insert(*s),
        Change::LeaveSource(s) | Change::Unblock(s) => _ = now.sources.remove(s),
        Change::Set(filter) => now = filter.clone(),
    }
    (!now.is_none()).then_some(now)
}

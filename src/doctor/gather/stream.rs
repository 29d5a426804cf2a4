//! Facts of the groups of one container.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use crate::doctor::facts::{Arrivals, Fact, Membership, ParentFacts, StreamFacts, StreamInterface};
use crate::doctor::gather::inside::Snapshot;
use crate::doctor::gather::wire;
use crate::multicast::{Address, SourceFilter};
use crate::net::messages::{get_links, read_link};
use crate::net::netlink::RouteSocket;
use crate::proxy::MembershipFiles;
use crate::service::running_namespace;
use crate::state::RecordedContainer;

/// Groups that are looked at if none is named.
const MAX_GROUPS: usize = 16;

/// What is known of a container beforehand.
#[derive(Debug, Clone)]
pub(crate) struct ContainerUse {
    pub(crate) container: RecordedContainer,
    /// State of the proxy, as `mcrun ps` has it.
    pub(crate) proxy: &'static str,
    /// Those that are attached.
    pub(crate) interfaces: Vec<InterfaceUse>,
    /// The only group to look at.
    pub(crate) group: Option<Ipv4Addr>,
}

/// An interface that is attached.
#[derive(Debug, Clone)]
pub(crate) struct InterfaceUse {
    pub(crate) name: String,
    pub(crate) upstream: String,
    pub(crate) is_relay: bool,
    /// Whether a proxy joins for it.
    pub(crate) is_proxied: bool,
    /// What the proxy says of each group.
    pub(crate) memberships: BTreeMap<Ipv4Addr, Membership>,
}

/// What is seen inside of a container for some time.
#[derive(Debug)]
pub(crate) struct Inside {
    /// Of each group by the name of the interface.
    joined: BTreeMap<Ipv4Addr, BTreeMap<String, SourceFilter>>,
    /// What arrives at each attached interface.
    arriving: BTreeMap<String, Fact<BTreeMap<Ipv4Addr, Arrivals>>>,
    before: Snapshot,
    after: Snapshot,
}

/// Looks into a container's network namespace. The calling thread is in that one meanwhile.
pub(crate) fn inside(used: &ContainerUse, time: Duration) -> Fact<Inside> {
    let namespace = running_namespace(&used.container).map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => "run it as root".to_owned(),
        _ => format!("its network namespace cannot be opened: {error}"),
    })?;
    namespace.run(|| look(used, time)).flatten().map_err(|error| error.to_string())
}

/// Counters of the host at one moment.
#[derive(Debug)]
pub(crate) struct HostCounters(Snapshot);

const RP_FILTERED: &str = "TcpExt.IPReversePathFilter";

impl HostCounters {
    /// Those of now.
    ///
    /// # Errors
    /// Those of open(2) and read(2).
    pub(crate) fn now() -> io::Result<Self> {
        Snapshot::take().map(HostCounters)
    }

    /// Packets that rp_filter has dropped since.
    pub(crate) fn rp_filtered_since(&self) -> u64 {
        Snapshot::take().map_or(0, |now| now.grown(&self.0, RP_FILTERED))
    }
}

/// What [`inside`] sees, in the container's namespace.
fn look(used: &ContainerUse, time: Duration) -> io::Result<Inside> {
    let links = RouteSocket::open()?
        .dump(get_links())
        .map_err(|error| io::Error::other(error.to_string()))?;
    let links: Vec<_> = links.into_iter().filter_map(read_link).collect();
    let name_of =
        |index: u32| links.iter().find(|link| link.index == index).map(|l| l.name.clone());
    let mut joined: BTreeMap<Ipv4Addr, BTreeMap<String, SourceFilter>> = BTreeMap::new();
    for ((index, group), membership) in MembershipFiles::<Ipv4Addr>::open()?.memberships()? {
        if let Some(name) = name_of(index).filter(|_| group.needs_report()) {
            joined.entry(group).or_default().insert(name, membership.filter);
        }
    }
    let before = Snapshot::take()?;
    let until = Instant::now() + time;
    let indexes: Vec<_> = used
        .interfaces
        .iter()
        .map(|interface| {
            let link = links.iter().find(|link| link.name == interface.name);
            (interface.name.clone(), link.filter(|link| link.up).map(|link| link.index))
        })
        .collect();
    // A thread that is started here is in this namespace too.
    let arriving = thread::scope(|scope| {
        let each = indexes.into_iter().map(|(name, index)| {
            let listening =
                index.map(|index| scope.spawn(move || wire::listen(index, None, &[], until)));
            (name, listening)
        });
        let each: Vec<_> = each.collect();
        let heard = each.into_iter().map(|(name, listening)| {
            let heard = match listening.map(thread::ScopedJoinHandle::join) {
                None => Err("there is no such interface, or it is down".to_owned()),
                Some(Ok(Ok(heard))) => Ok(heard.groups),
                Some(Ok(Err(error))) => Err(error.to_string()),
                Some(Err(_)) => Err("it was not listened".to_owned()),
            };
            (name, heard)
        });
        heard.collect()
    });
    let after = Snapshot::take()?;
    Ok(Inside { joined, arriving, before, after })
}

/// The facts of each group that is to be looked at.
pub(crate) fn streams(
    used: &ContainerUse,
    inside: Fact<Inside>,
    parents: &[ParentFacts],
    on_host: &Fact<BTreeSet<(u32, Ipv4Addr)>>,
    host_rp_filtered: u64,
    time: Duration,
) -> Vec<StreamFacts> {
    let known = used.interfaces.iter().flat_map(|interface| interface.memberships.keys());
    let mut groups: BTreeSet<_> = known.copied().collect();
    if let Ok(inside) = &inside {
        groups.extend(inside.joined.keys());
    }
    let groups: Vec<_> = match used.group {
        Some(group) => vec![group],
        None => groups.into_iter().take(MAX_GROUPS).collect(),
    };
    let interface = |interface: &InterfaceUse, group: Ipv4Addr| {
        let parent = parents.iter().find(|parent| parent.name == interface.upstream);
        let unknown = || Err("it was not looked at".to_owned());
        let index = parent.and_then(|parent| parent.link.as_ref()).map(|link| link.index);
        StreamInterface {
            name: interface.name.clone(),
            upstream: interface.upstream.clone(),
            is_relay: interface.is_relay,
            is_proxied: interface.is_proxied,
            membership: interface.memberships.get(&group).cloned(),
            on_host: on_host
                .clone()
                .map(|joined| index.is_some_and(|index| joined.contains(&(index, group)))),
            wire: parent.map_or_else(unknown, |parent| {
                parent
                    .wire
                    .as_ref()
                    .map(|wire| wire.groups.get(&group).cloned())
                    .map_err(Clone::clone)
            }),
            inside: match &inside {
                Ok(inside) => match inside.arriving.get(&interface.name) {
                    Some(Ok(groups)) => Ok(groups.get(&group).cloned()),
                    Some(Err(why)) => Err(why.clone()),
                    None => unknown(),
                },
                Err(why) => Err(why.clone()),
            },
        }
    };
    let (reads, rp_filtered) = inside.as_ref().map_or((0, 0), |inside| {
        let grown = |name| inside.after.grown(&inside.before, name);
        (grown("Udp.InDatagrams"), grown(RP_FILTERED))
    });
    let interfaces = |group| used.interfaces.iter().map(|i| interface(i, group)).collect();
    let mut streams: Vec<_> = groups
        .into_iter()
        .map(|group| StreamFacts {
            container: used.container.name.clone(),
            group,
            proxy: used.proxy,
            time,
            joined: inside
                .as_ref()
                .map(|inside| inside.joined.get(&group).cloned().unwrap_or_default())
                .map_err(Clone::clone),
            interfaces: interfaces(group),
            host_rp_filtered,
            sockets: Err("they were not read".into()),
            reads,
            rp_filtered,
        })
        .collect();
    let sockets = inside.map(|Inside { before, after, .. }| after.sockets_since(&before));
    for stream in &mut streams {
        stream.sockets.clone_from(&sockets);
    }
    streams
}

//! What is told of containers at one moment, put together for the metrics.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::cli::containers;
use crate::cli::containers::Container;
use crate::cli::memberships::{Arrived, memberships};
use crate::cli::metrics::totals::{Counts, Totals};
use crate::cli::parents;
use crate::cli::queriers::Heard;
use crate::notice::Severity;
use crate::proxy::{GroupMembership, InterfaceStatus, MembershipStatus};
use crate::service::keeper_socket;
use crate::state::{AttachedInterface, Store};

/// What all metrics are made from.
pub(super) struct Gathered {
    pub(super) containers: Vec<Container>,
    /// Records that cannot be read.
    pub(super) unreadable: Vec<containers::Unreadable>,
    /// Whether a keeper runs.
    pub(super) keeper: bool,
    /// Since 1970.
    pub(super) now: Duration,
    /// How long the gathering took.
    pub(super) took: Duration,
}

impl Gathered {
    /// Reads the records, and asks the proxies.
    ///
    /// # Errors
    /// When the state directory cannot be read.
    pub(super) fn gather(store: &Store) -> anyhow::Result<Self> {
        let begin = Instant::now();
        let (containers, unreadable) = containers::all(store)?;
        Ok(Gathered {
            containers,
            unreadable,
            keeper: keeper_socket::is_served(),
            now: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
            took: begin.elapsed(),
        })
    }
}

/// The same, with names and numbers as the metrics have them.
pub(super) struct Snapshot<'g> {
    pub(super) gathered: &'g Gathered,
    pub(super) containers: Vec<ContainerView<'g>>,
    pub(super) interfaces: Vec<InterfaceView<'g>>,
    pub(super) groups: Vec<GroupView<'g>>,
    /// Groups that have no place in `groups`.
    pub(super) omitted: usize,
    pub(super) upstreams: Vec<UpstreamView<'g>>,
}

/// A container.
pub(super) struct ContainerView<'g> {
    /// What it is called; no two containers have the same label.
    pub(super) label: String,
    pub(super) container: &'g Container,
    /// Whether its proxy answers; `None`: it has none, as asked for.
    pub(super) is_proxy_up: Option<bool>,
    /// Codes and severities of what stands.
    pub(super) notices: BTreeSet<(String, Severity)>,
}

/// An interface of a container.
pub(super) struct InterfaceView<'g> {
    pub(super) container: String,
    pub(super) record: &'g AttachedInterface,
    /// What the proxy tells of it.
    pub(super) status: Option<&'g InterfaceStatus>,
}

/// A group on an interface.
pub(super) struct GroupView<'g> {
    pub(super) container: String,
    pub(super) interface: &'g str,
    pub(super) parent: &'g str,
    pub(super) group: String,
    pub(super) entry: &'g GroupMembership,
    /// `None`: nothing is counted.
    pub(super) arrived: Option<Arrival>,
}

/// What has arrived for a group from the sources that the container wants.
pub(super) struct Arrival {
    pub(super) counts: Counts,
    /// How long ago the last packet came, in milliseconds; `None`: none has come.
    pub(super) last_packet_ms: Option<u64>,
    /// Whether most of it is RTP.
    pub(super) is_rtp: bool,
}

/// An interface of the host where proxies join.
pub(super) struct UpstreamView<'g> {
    pub(super) name: &'g str,
    /// Interfaces of containers.
    pub(super) users: usize,
    /// What is known there of the LAN's queriers, in each protocol that a proxy listens for.
    pub(super) queriers: Vec<Heard<'g>>,
}

impl<'g> Snapshot<'g> {
    /// With at most so many groups: those that come first by container, interface and address. What has
    /// arrived for them goes on from `totals`.
    pub(super) fn new(gathered: &'g Gathered, max_groups: usize, totals: &mut Totals) -> Self {
        let all = &gathered.containers;
        let labels = labels(all);
        let containers: Vec<_> =
            all.iter().zip(&labels).map(|(c, label)| ContainerView::new(c, label)).collect();
        let interfaces = all.iter().zip(&labels).flat_map(|(container, label)| {
            container.record.interfaces.iter().map(|record| InterfaceView {
                container: label.clone(),
                record,
                status: container.entry(&record.name),
            })
        });
        let label_of: BTreeMap<_, _> = all.iter().zip(&labels).map(|(c, l)| (c.id(), l)).collect();
        let groups = memberships(all).take(max_groups).map(|(container, interface, entry)| {
            let label = label_of.get(container.id());
            GroupView {
                container: label.map_or_else(String::new, ToString::to_string),
                interface: &interface.interface,
                parent: &interface.parent,
                group: entry.group.to_string(),
                entry,
                arrived: Arrived::of(container, interface, entry).map(|arrived| Arrival {
                    counts: totals.of(container, interface, entry, &arrived),
                    last_packet_ms: arrived.wanted.map(|wanted| wanted.last_packet_ms),
                    is_rtp: arrived.wanted.is_some_and(|wanted| wanted.rtp.is_some()),
                }),
            }
        });
        let groups = groups.collect();
        totals.end_round();
        Snapshot {
            gathered,
            containers,
            interfaces: interfaces.collect(),
            groups,
            omitted: memberships(all).count().saturating_sub(max_groups),
            upstreams: upstreams(all),
        }
    }
}

/// The name of each container. Where several have the same, which containers of different engines
/// may, the id follows.
fn labels(containers: &[Container]) -> Vec<String> {
    let mut users: BTreeMap<&str, usize> = BTreeMap::new();
    for container in containers {
        *users.entry(&container.record.container.name).or_default() += 1;
    }
    let mut taken = BTreeSet::new();
    let label = |container: &Container| {
        let record = &container.record.container;
        let mut label = record.name.clone();
        if users.get(record.name.as_str()) > Some(&1) {
            label = format!("{label}@{}", container.short_id());
        }
        // A container may be called as another one with its id.
        while !taken.insert(label.clone()) {
            label = format!("{label}@{}", record.id);
        }
        label
    };
    containers.iter().map(label).collect()
}

impl<'g> ContainerView<'g> {
    fn new(container: &'g Container, label: &str) -> Self {
        let notices = container.notices();
        ContainerView {
            label: label.to_owned(),
            container,
            is_proxy_up: match (&container.status, container.record.proxy) {
                (Some(_), _) => Some(true),
                (None, Some(_)) => Some(false),
                (None, None) => None,
            },
            notices: notices.iter().map(|n| (n.code().to_owned(), n.severity())).collect(),
        }
    }

    /// Groups of this status; `None`: the proxy does not tell.
    pub(super) fn memberships(&self, status: MembershipStatus) -> Option<usize> {
        let groups = self.container.status.as_ref()?.interfaces.iter().flat_map(|i| &i.groups);
        Some(groups.filter(|entry| entry.status == status).count())
    }
}

/// Each once, by name.
fn upstreams(containers: &[Container]) -> Vec<UpstreamView<'_>> {
    let mut users: BTreeMap<&str, usize> = BTreeMap::new();
    for interface in containers.iter().flat_map(|c| &c.record.interfaces) {
        *users.entry(interface.attachment.upstream().as_str()).or_default() += 1;
    }
    let view = |(name, users)| UpstreamView {
        name,
        users,
        queriers: parents::all_listening(name, containers).collect(),
    };
    users.into_iter().map(view).collect()
}

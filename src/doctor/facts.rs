//! What is known of a host, of its parents and of its containers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use ipnet::Ipv4Net;

use crate::multicast::SourceFilter;
use crate::net::messages::Link;
use crate::notice::Notice;
use crate::primitives::MacAddr;
use crate::proxy::{MembershipStatus, QuerierStatus};
use crate::setup::SetupTarget;
use crate::survey::Limit;

/// A fact, or why it cannot be known.
pub(crate) type Fact<T> = Result<T, String>;

/// The host.
#[derive(Debug, Clone)]
pub(crate) struct HostFacts {
    /// Of the kernel, such as `6.12.9-amd64`.
    pub(crate) release: String,
    /// Names of capabilities that mcrun needs and this process lacks.
    pub(crate) lacking: Vec<&'static str>,
    /// Whether the effective user is root.
    pub(crate) is_root: bool,
    /// What the kernel has.
    pub(crate) features: Vec<(Feature, Fact<bool>)>,
    /// `net.ipv4.igmp_max_memberships`.
    pub(crate) max_memberships: Option<u32>,
    /// `net.ipv4.igmp_max_msf`.
    pub(crate) max_sources: Option<u32>,
    /// Engines that are installed.
    pub(crate) engines: Vec<EngineFacts>,
    /// Whether a keeper runs.
    pub(crate) keeper: Fact<bool>,
    /// What mcrun knows of containers.
    pub(crate) state: Fact<StateFacts>,
    /// Refusals of the last hour, oldest first, as `mcrun events` shows them.
    pub(crate) refusals: Fact<Vec<String>>,
    /// Attachments that hooks have refused in the last hour, oldest first.
    pub(crate) refused_attachments: Fact<Vec<RefusedAttachment>>,
}

/// An attachment that a hook has refused.
#[derive(Debug, Clone)]
pub(crate) struct RefusedAttachment {
    /// Seconds since then.
    pub(crate) age_s: u64,
    /// The container's id.
    pub(crate) container: String,
    /// The hook's error.
    pub(crate) reason: String,
}

/// A test stream that was sent through the switch.
#[derive(Debug, Clone)]
pub(crate) struct TestStream {
    /// The interface that it was sent from.
    pub(crate) from: String,
    /// The group that was joined.
    pub(crate) group: Ipv4Addr,
    /// The group that was not.
    pub(crate) other: Ipv4Addr,
    /// Packets that were sent to each.
    pub(crate) sent: u32,
    /// Packets of each that arrived.
    pub(crate) arrived: [u32; 2],
}

/// What mcrun needs of a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Feature {
    /// Notifications of joins (Linux 6.14).
    JoinNotifications,
    /// nf_tables with owned tables (Linux 5.12).
    Tables,
    /// nfnetlink_log.
    Log,
    /// Links of the kind macvlan.
    Macvlan,
    /// Links of the kind ipvlan.
    Ipvlan,
    /// The BPF program that counts what arrives (Linux 5.12).
    Counting,
    /// Programs at the ingress of an interface (tcx).
    Relaying,
}

/// An engine that is installed.
#[derive(Debug, Clone)]
pub(crate) struct EngineFacts {
    pub(crate) target: SetupTarget,
    /// As it is called.
    pub(crate) name: &'static str,
    /// Whether `mcrun setup` is done.
    pub(crate) is_set_up: Fact<bool>,
    /// Whether its containers cannot be attached without that.
    pub(crate) needs_setup: bool,
}

/// What mcrun knows of containers.
#[derive(Debug, Clone, Default)]
pub(crate) struct StateFacts {
    /// Those that run.
    pub(crate) containers: Vec<ContainerFacts>,
    /// Records of containers that have ended, or of programs that were killed: ids.
    pub(crate) stale: Vec<String>,
    /// Records that cannot be read: id, and why.
    pub(crate) unreadable: Vec<(String, String)>,
}

/// An attached container.
#[derive(Debug, Clone, Default)]
pub(crate) struct ContainerFacts {
    pub(crate) name: String,
    /// State of the proxy, as `mcrun ps` has it.
    pub(crate) proxy: &'static str,
    /// Whether another program file than the installed one runs.
    pub(crate) is_outdated: bool,
    /// Whether the program that changed the attachment last was killed.
    pub(crate) is_unfinished: bool,
    /// Proxies that have died and were replaced.
    pub(crate) deaths: u32,
    /// Groups that are not joined although the container wants them: interface, group, and status with
    /// its reason.
    pub(crate) refused: Vec<(String, String, String)>,
}

/// An interface of the host that containers are attached to, or may be.
#[derive(Debug, Clone)]
pub(crate) struct ParentFacts {
    pub(crate) name: String,
    /// None: there is no such interface.
    pub(crate) link: Option<Link>,
    /// Name of the bridge, bond or team whose port it is.
    pub(crate) port_of: Option<String>,
    pub(crate) limits: Vec<Limit>,
    /// Its ports or members: name, MTU, and whether each has a carrier.
    pub(crate) members: Vec<(String, u32, bool)>,
    /// Mode of a bond, such as `active-backup`.
    pub(crate) bond_mode: Option<String>,
    /// Of a bridge: whether it snoops, and whether it asks.
    pub(crate) bridge: Option<(bool, bool)>,
    pub(crate) is_promiscuous: bool,
    /// The stricter of `all` and the interface.
    pub(crate) rp_filter: Option<u32>,
    /// The interface by which the host would answer the querier; none if there is no route.
    pub(crate) route_to_querier: Option<String>,
    /// Interfaces of containers, and how many of those are relayed to.
    pub(crate) users: usize,
    pub(crate) relays: usize,
    pub(crate) queriers: Queriers,
    /// None: no proxy speaks MLD there.
    pub(crate) mld: Option<MldFacts>,
    /// What proxies say is wrong with it.
    pub(crate) notices: Vec<Notice>,
    /// Whether the host's rules let IGMP in, as far as a packet to itself tells.
    pub(crate) lets_in: Fact<bool>,
    /// The same of what the host sends.
    pub(crate) lets_out: Fact<bool>,
    /// What was heard on the wire.
    pub(crate) wire: Fact<Wire>,
}

/// What proxies know of the queriers of a LAN.
#[derive(Debug, Clone, Default)]
pub(crate) struct Queriers {
    pub(crate) elected: Option<QuerierStatus>,
    pub(crate) rival: Option<QuerierStatus>,
    /// Seconds for which was listened; none if no proxy listens.
    pub(crate) listening_s: Option<u64>,
    /// Seconds without a query after which there is no querier; none if no proxy listens.
    pub(crate) timeout_s: Option<u64>,
}

/// The MLD of a LAN on which proxies speak it.
#[derive(Debug, Clone)]
pub(crate) struct MldFacts {
    pub(crate) queriers: Queriers,
    /// Whether a container has joined a group of IPv6 beyond link scope.
    pub(crate) is_wanted: bool,
    /// Whether the host's rules let queries in and reports out, as of IGMP.
    pub(crate) lets_in: Fact<bool>,
    pub(crate) lets_out: Fact<bool>,
}

/// What was heard on an interface for some time.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wire {
    pub(crate) time: Duration,
    /// Queriers that have asked, of IGMP and of MLD: address and version.
    pub(crate) queriers: Vec<(IpAddr, u8)>,
    /// What has arrived for each group.
    pub(crate) groups: BTreeMap<Ipv4Addr, Arrivals>,
    /// Packets of each group that nobody on this host has joined.
    pub(crate) foreign: BTreeMap<Ipv4Addr, u64>,
    /// Addresses of this host or its containers that another station has.
    pub(crate) duplicates: Vec<Duplicate>,
    /// How many addresses were asked for.
    pub(crate) asked: usize,
}

/// An address that another station has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Duplicate {
    pub(crate) address: Ipv4Addr,
    /// Whose it should be: a container, or the host.
    pub(crate) owner: String,
    /// Of the other station.
    pub(crate) mac: MacAddr,
}

/// An address, its owner, and the MAC addresses that may have it.
#[derive(Debug, Clone)]
pub(crate) struct OwnAddress {
    pub(crate) address: Ipv4Net,
    pub(crate) owner: String,
    pub(crate) macs: Vec<MacAddr>,
}

/// What has arrived for a group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Arrivals {
    pub(crate) packets: u64,
    /// Some of the sources, and some of the ports.
    pub(crate) sources: BTreeSet<Ipv4Addr>,
    pub(crate) ports: BTreeSet<u16>,
}

/// A group, as a container's proxy has it.
#[derive(Debug, Clone)]
pub(crate) struct Membership {
    pub(crate) status: MembershipStatus,
    pub(crate) reason: Option<String>,
    pub(crate) filter: SourceFilter,
}

/// A socket of UDP in a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct UdpSocket {
    pub(crate) address: Ipv4Addr,
    pub(crate) port: u16,
    /// Bytes that are not read yet, as the kernel counts them.
    pub(crate) waiting: u64,
    /// Packets that it has dropped since it was opened, and since the first look.
    pub(crate) dropped_before: u64,
    pub(crate) dropped: u64,
}

/// A group, and a container that is to receive it.
#[derive(Debug, Clone)]
pub(crate) struct StreamFacts {
    /// The container's name.
    pub(crate) container: String,
    pub(crate) group: Ipv4Addr,
    /// State of the proxy, as `mcrun ps` has it.
    pub(crate) proxy: &'static str,
    /// For how long was looked.
    pub(crate) time: Duration,
    /// What the container's kernel has joined, by the name of the interface.
    pub(crate) joined: Fact<BTreeMap<String, SourceFilter>>,
    /// Those that are attached.
    pub(crate) interfaces: Vec<StreamInterface>,
    /// Packets that rp_filter of the host has dropped meanwhile.
    pub(crate) host_rp_filtered: u64,
    /// All sockets of UDP of the container.
    pub(crate) sockets: Fact<Vec<UdpSocket>>,
    /// Datagrams that programs of the container have read meanwhile, and packets that its rp_filter
    /// has dropped.
    pub(crate) reads: u64,
    pub(crate) rp_filtered: u64,
}

impl StreamFacts {
    /// Name of the first interface that is attached.
    pub(crate) fn first_interface(&self) -> &str {
        self.interfaces.first().map_or("mc0", |interface| &interface.name)
    }
}

/// One interface of the container, as far as the group is concerned.
#[derive(Debug, Clone)]
pub(crate) struct StreamInterface {
    pub(crate) name: String,
    /// The interface of the host where it is joined.
    pub(crate) upstream: String,
    pub(crate) is_relay: bool,
    /// Whether a proxy joins for the container.
    pub(crate) is_proxied: bool,
    /// What the proxy says.
    pub(crate) membership: Option<Membership>,
    /// Whether the host's kernel has joined it.
    pub(crate) on_host: Fact<bool>,
    /// What arrives on the upstream interface, and in the container; none: nothing.
    pub(crate) wire: Fact<Option<Arrivals>>,
    pub(crate) inside: Fact<Option<Arrivals>>,
}

//! Notices: everything that a proxy tells people, as values.
//!
//! A notice has a stable code, a severity and fields. Its text is made here, where the notice is
//! shown: in the log, by `mcrun ps`, `groups` and `inspect`, and by subscribers of the control
//! socket. `docs/notices.md` lists all notices; a test below keeps that page in step.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::multicast::Address;

/// How much a notice matters (RFC 5424 §6.2.1). The numbers are those of syslog.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The proxy cannot go on.
    Error = 3,
    /// Something does not work, or not as asked.
    Warning = 4,
    /// A change that is worth a line of the log.
    Info = 6,
}

/// Something that people are told. As JSON an object: `code`, `severity`, `text`, and the fields
/// of the variant.
///
/// Codes and fields are a contract: a field may be added, none is renamed or removed. A code or an
/// object that this version does not know becomes [`Notice::Unknown`], so that programs of
/// different versions understand each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self", tag = "code", rename_all = "kebab-case")]
pub enum Notice {
    /// A join was denied by a rule of the policy.
    JoinDenied {
        /// Interface in the container.
        interface: String,
        /// Group of the join.
        group: IpAddr,
        /// The rule as the attachment or mcrun.toml has it: `deny=239.1.0.0/16`.
        rule: String,
    },
    /// The relay does not carry what the container sends to a group.
    SendDenied {
        /// Interface in the container.
        interface: String,
        /// Destination of the packets.
        group: IpAddr,
        /// The rule that denies it: `deny=239.1.0.0/16`.
        rule: String,
    },
    /// A join waits until the container leaves another group.
    JoinLimited {
        /// Interface in the container.
        interface: String,
        /// Group of the join.
        group: IpAddr,
        /// The limit that is reached: `max-groups=256`.
        limit: String,
    },
    /// A source list was cut to the limit.
    SourcesLimited {
        /// Interface in the container.
        interface: String,
        /// Group of the source list.
        group: IpAddr,
        /// The limit: `max-sources=64`.
        limit: String,
    },
    /// A join from any source in the range of source-specific multicast, joined as a host's kernel
    /// joins it.
    AnySourceJoin {
        /// Interface in the container.
        interface: String,
        /// Group of the join.
        group: IpAddr,
    },
    /// Such a join where `ssm-strict` is set and channels of the group are joined, which stay (RFC
    /// 4604 §2.2.1).
    AnySourceJoinIgnored {
        /// Interface in the container.
        interface: String,
        /// Group of the join.
        group: IpAddr,
    },
    /// The container changes its memberships so often that changes wait. The newest state of each
    /// group is carried out.
    ChangesDelayed {
        /// Interface in the container.
        interface: String,
    },
    /// More queries arrive from the LAN than a querier sends. Some are not read.
    QueriesIgnored {
        /// Interface of the host.
        upstream: String,
    },
    /// The proxy has no descriptor for a client of its control socket. The client waits.
    DescriptorsShort {
        /// Error of accept(2).
        error: String,
    },
    /// The proxy's control group is not the one of mcrun, or lacks limits or the filter of what
    /// proxies send.
    ControlGroupIncomplete {
        /// What is missing.
        error: String,
    },
    /// The host's kernel refused a join on the LAN.
    JoinFailed {
        /// Interface in the container.
        interface: String,
        /// Interface of the host that was to join.
        upstream: String,
        /// Group of the join.
        group: IpAddr,
        /// What the kernel, or a limit of the kernel, says.
        error: String,
    },
    /// The relay cannot receive a group that is joined on the LAN.
    ReceptionFailed {
        /// Interface in the container.
        interface: String,
        /// The group.
        group: IpAddr,
        /// Error of setsockopt(2).
        error: String,
    },
    /// The relay cannot use an interface that has appeared in the container.
    RelayFailed {
        /// Interface in the container.
        interface: String,
        /// Error of the system call.
        error: String,
    },
    /// A query could not be injected into the container.
    QueryFailed {
        /// Interface in the container.
        interface: String,
        /// Error of sendto(2).
        error: String,
    },
    /// No general query was received for the other-querier-present interval (RFC 9776 §8.5).
    NoQuerier {
        /// Interface in the container.
        interface: String,
        /// Interface of the host where queries are awaited.
        upstream: String,
        /// Length of that interval in seconds.
        silent_s: u64,
    },
    /// No general query of MLD was received for that interval (RFC 9777 §9.5), and a group of IPv6 is
    /// joined that reaches beyond the link.
    NoMldQuerier {
        /// Interface in the container.
        interface: String,
        /// Interface of the host where queries are awaited.
        upstream: String,
        /// Length of that interval in seconds.
        silent_s: u64,
    },
    /// The queries of the LAN reach the containers and not the host.
    QueriesFiltered {
        /// Interface of the host.
        upstream: String,
        /// Address of the querier.
        querier: IpAddr,
    },
    /// The host's firewall drops IGMP that arrives, where data is relayed.
    ArrivalsFiltered {
        /// Interface of the host.
        upstream: String,
    },
    /// The host's firewall drops the reports that the host sends.
    ReportsFiltered {
        /// Interface of the host.
        upstream: String,
    },
    /// The LAN's querier speaks a version without source lists, and groups are joined with one.
    QuerierWithoutSourceLists {
        /// Interface in the container.
        interface: String,
        /// Interface of the host where the querier is heard.
        upstream: String,
        /// Address of the querier.
        querier: IpAddr,
        /// Version of IGMP (1, 2) or MLD (1) that the querier speaks.
        querier_version: u8,
        /// The groups that are joined with a source list; at least one.
        groups: Vec<IpAddr>,
    },
    /// The upstream interface has no IPv4 address to report from.
    UpstreamWithoutAddress {
        /// Interface of the host.
        upstream: String,
    },
    /// The upstream interface does not exist any more. What was joined there is joined again when an
    /// interface of its name comes.
    UpstreamGone {
        /// Interface of the host.
        upstream: String,
    },
    /// The upstream interface is down or has no carrier.
    UpstreamDown {
        /// Interface of the host.
        upstream: String,
    },
    /// The upstream interface is a port of a bridge, bond or team.
    UpstreamBridged {
        /// Interface of the host.
        upstream: String,
        /// The bridge, bond or team.
        bridge: String,
    },
    /// An interface of the upstream's name is there, and the proxy cannot use it.
    UpstreamNotFollowed {
        /// Interface of the host.
        upstream: String,
        /// Error of the system call.
        error: String,
    },
    /// The upstream interface is there again, and its groups are joined.
    UpstreamBack {
        /// Interface of the host.
        upstream: String,
    },
    /// The container has no interface of the name that is to be served, yet or any more.
    InterfaceAwaited {
        /// Interface in the container.
        interface: String,
    },
    /// An interface that was made for the container, or is to be, is not there.
    InterfaceWaiting {
        /// Interface in the container.
        interface: String,
        /// What keeps it from being made.
        reason: String,
    },
    /// The process that prolongs the lease of an interface's address has died.
    LeaseUnattended {
        /// Interface in the container.
        interface: String,
    },
    /// An interface has no address: its lease has ended, and no server has given another one.
    NoLease {
        /// Interface in the container.
        interface: String,
        /// Its LAN.
        parent: String,
    },
    /// The address that the interface would make from a router's prefix is another station's.
    DuplicateAddress {
        /// Interface in the container.
        interface: String,
        /// The address.
        address: Ipv6Addr,
        /// Its LAN.
        parent: String,
        /// MAC address of the other station.
        station: String,
    },
    /// An interface of the container was made anew. Programs that have joined on the old one do not
    /// know of it: a membership belongs to the interface's index.
    InterfaceRemade {
        /// Interface in the container.
        interface: String,
    },
    /// The container's interface is a port of the bridge that the relay is to serve as the LAN.
    RelayOnOwnBridge {
        /// Interface in the container.
        interface: String,
        /// The bridge.
        upstream: String,
    },
    /// A join that names no interface does not go by the interface that is relayed to.
    MulticastRouteElsewhere {
        /// Interface in the container that is relayed to.
        interface: String,
    },
    /// IGMP is not intercepted: the proxy is degraded.
    IgmpNotIntercepted {
        /// What the kernel answered to the nf_tables rules.
        error: String,
    },
    /// Something in the container has a socket that sends past the rules.
    LinkNotGuarded {
        /// Interface in the container.
        interface: String,
    },
    /// What the container sends is not limited, and IGMP of its packet sockets is not intercepted.
    FramesNotIntercepted {
        /// What the kernel answered to the netdev rules.
        error: String,
    },
    /// The proxy serves an interface: it is the IGMP router of the container there.
    InterfaceServed {
        /// Interface in the container.
        interface: String,
        /// Interface of the host where the proxy joins.
        upstream: String,
    },
    /// The proxy observes an interface: the container's kernel speaks IGMP itself.
    InterfaceObserved {
        /// Interface in the container.
        interface: String,
        /// Interface of the host behind it.
        upstream: String,
    },
    /// An interface was deleted, or moved out of the container.
    InterfaceGone {
        /// Interface in the container.
        interface: String,
    },
    /// The kernel has no landlock.
    NoLandlock {},
    /// What arrives is not counted, as it is asked for.
    NotCounted {
        /// Error of the system call.
        error: String,
    },
    /// A relay is to carry IPv6, and the container's interface has no address of IPv6.
    RelayWithoutIpv6 {
        /// Name in the container.
        interface: String,
    },
    /// The proxy passes every packet of a relay on, because the kernel cannot.
    RelayNotInKernel {
        /// Name in the container.
        interface: String,
        /// Why.
        reason: String,
    },
    /// The proxy could not give up its privileges; it ends.
    NotConfined {
        /// Error of the system call.
        error: String,
    },
    /// A keeper has all that must outlive the proxy.
    KeeperHolds {},
    /// The keeper has ended: if the proxy dies now, its memberships and rules end with it.
    KeeperGone {},
    /// Lines of the log were left out, to keep a container from filling the log.
    LogLinesSuppressed {
        /// How many.
        count: u32,
    },
    /// The container's process has ended; the proxy ends too.
    ContainerEnded {},
    /// The proxy cannot wait for events; it ends.
    EventLoopFailed {
        /// Error of epoll_wait(2).
        error: String,
    },
    /// The container's directory in the state directory could not be removed.
    StateNotRemoved {
        /// Error of unlink(2) or flock(2).
        error: String,
    },
    /// An address of an attachment is in no subnet of the parent.
    AddressOutsideSubnet {
        /// Interface in the container.
        interface: String,
        /// Its parent.
        parent: String,
        /// The address, with its prefix length.
        address: String,
        /// A subnet of the parent.
        subnet: String,
    },
    /// An interface without an IPv4 address has sent: with the address of another interface.
    ForeignSource {
        /// Interface in the container.
        interface: String,
        /// Address of the other interface.
        address: Ipv4Addr,
    },
    /// Who asks the container at the address of another interface is answered by this one.
    AnswersElsewhere {
        /// Interface in the container by which the answers leave.
        interface: String,
        /// Address of the other interface.
        address: Ipv4Addr,
        /// Network whose hosts get no answer.
        network: String,
    },
    /// The parent is a bridge that leads to no LAN.
    ParentWithoutLan {
        /// Interface in the container.
        interface: String,
        /// The bridge.
        parent: String,
    },
    /// A rule without a prefix length names an address that looks like a range.
    RuleForOneAddress {
        /// Interface in the container.
        interface: String,
        /// The rule: `allow=239.1.0.0`.
        rule: String,
        /// The range that may be meant: `239.1.0.0/16`.
        range: String,
    },
    /// Another group that is joined on the parent has the same Ethernet address (RFC 1112 §6.4).
    SharedMac {
        /// Interface in the container.
        interface: String,
        /// Its parent.
        parent: String,
        /// The group that the container has joined there.
        group: IpAddr,
        /// The address: `01:00:5e:01:01:01`.
        mac: String,
        /// The other groups; at least one.
        others: Vec<IpAddr>,
        /// Names of containers that have joined those, at most eight.
        containers: Vec<String>,
    },
    /// A group that arrived steadily does not arrive any more.
    StreamStopped {
        /// Interface in the container.
        interface: String,
        /// The group.
        group: IpAddr,
        /// Seconds since the last packet.
        silent_s: u64,
    },
    /// A group that arrived steadily at two interfaces of the container, as the two legs of SMPTE ST
    /// 2022-7, arrives at one of them alone.
    LegDiffers {
        /// Interface in the container at which it does not arrive.
        interface: String,
        /// Interface in the container at which it arrives.
        other: String,
        /// The group.
        group: IpAddr,
        /// Whether the container has the group still joined at `interface`.
        joined: bool,
        /// Seconds since the last packet, or since the leave.
        silent_s: u64,
    },
    /// The kernel loses frames between the parent and the container, because a queue is full.
    QueueLoss {
        /// Interface in the container.
        interface: String,
        /// Its parent.
        parent: String,
        /// Frames a second when it was last seen, 1 at the least.
        lost_per_s: u64,
    },
    /// A notice of a proxy of another version.
    #[serde(skip)]
    Unknown {
        /// Its code.
        code: String,
        /// Its severity.
        severity: Severity,
        /// Its text.
        text: String,
        /// Its other fields.
        fields: Map<String, Value>,
    },
}

impl Notice {
    /// Stable name, in kebab-case.
    pub fn code(&self) -> &str {
        match self {
            Notice::JoinDenied { .. } => "join-denied",
            Notice::SendDenied { .. } => "send-denied",
            Notice::JoinLimited { .. } => "join-limited",
            Notice::SourcesLimited { .. } => "sources-limited",
            Notice::AnySourceJoin { .. } => "any-source-join",
            Notice::AnySourceJoinIgnored { .. } => "any-source-join-ignored",
            Notice::ChangesDelayed { .. } => "changes-delayed",
            Notice::QueriesIgnored { .. } => "queries-ignored",
            Notice::DescriptorsShort { .. } => "descriptors-short",
            Notice::ControlGroupIncomplete { .. } => "control-group-incomplete",
            Notice::JoinFailed { .. } => "join-failed",
            Notice::ReceptionFailed { .. } => "reception-failed",
            Notice::RelayFailed { .. } => "relay-failed",
            Notice::QueryFailed { .. } => "query-failed",
            Notice::NoQuerier { .. } => "no-querier",
            Notice::NoMldQuerier { .. } => "no-mld-querier",
            Notice::QueriesFiltered { .. } => "queries-filtered",
            Notice::ArrivalsFiltered { .. } => "arrivals-filtered",
            Notice::ReportsFiltered { .. } => "reports-filtered",
            Notice::QuerierWithoutSourceLists { .. } => "querier-without-source-lists",
            Notice::UpstreamWithoutAddress { .. } => "upstream-without-address",
            Notice::UpstreamGone { .. } => "upstream-gone",
            Notice::UpstreamDown { .. } => "upstream-down",
            Notice::UpstreamBridged { .. } => "upstream-bridged",
            Notice::UpstreamNotFollowed { .. } => "upstream-not-followed",
            Notice::UpstreamBack { .. } => "upstream-back",
            Notice::InterfaceAwaited { .. } => "interface-awaited",
            Notice::InterfaceWaiting { .. } => "interface-waiting",
            Notice::LeaseUnattended { .. } => "lease-unattended",
            Notice::NoLease { .. } => "no-lease",
            Notice::DuplicateAddress { .. } => "duplicate-address",
            Notice::InterfaceRemade { .. } => "interface-remade",
            Notice::RelayOnOwnBridge { .. } => "relay-on-own-bridge",
            Notice::MulticastRouteElsewhere { .. } => "multicast-route-elsewhere",
            Notice::IgmpNotIntercepted { .. } => "igmp-not-intercepted",
            Notice::LinkNotGuarded { .. } => "link-not-guarded",
            Notice::FramesNotIntercepted { .. } => "frames-not-intercepted",
            Notice::InterfaceServed { .. } => "interface-served",
            Notice::InterfaceObserved { .. } => "interface-observed",
            Notice::InterfaceGone { .. } => "interface-gone",
            Notice::NoLandlock {} => "no-landlock",
            Notice::NotCounted { .. } => "not-counted",
            Notice::RelayWithoutIpv6 { .. } => "relay-without-ipv6",
            Notice::RelayNotInKernel { .. } => "relay-not-in-kernel",
            Notice::NotConfined { .. } => "not-confined",
            Notice::KeeperHolds {} => "keeper-holds",
            Notice::KeeperGone {} => "keeper-gone",
            Notice::LogLinesSuppressed { .. } => "log-lines-suppressed",
            Notice::ContainerEnded {} => "container-ended",
            Notice::EventLoopFailed { .. } => "event-loop-failed",
            Notice::StateNotRemoved { .. } => "state-not-removed",
            Notice::AddressOutsideSubnet { .. } => "address-outside-subnet",
            Notice::ForeignSource { .. } => "foreign-source",
            Notice::AnswersElsewhere { .. } => "answers-elsewhere",
            Notice::ParentWithoutLan { .. } => "parent-without-lan",
            Notice::RuleForOneAddress { .. } => "rule-for-one-address",
            Notice::SharedMac { .. } => "shared-mac",
            Notice::StreamStopped { .. } => "stream-stopped",
            Notice::LegDiffers { .. } => "leg-differs",
            Notice::QueueLoss { .. } => "queue-loss",
            Notice::Unknown { code, .. } => code,
        }
    }

    /// How much it matters.
    pub fn severity(&self) -> Severity {
        match self {
            Notice::EventLoopFailed { .. } | Notice::NotConfined { .. } => Severity::Error,
            Notice::JoinDenied { .. }
            | Notice::SendDenied { .. }
            | Notice::JoinLimited { .. }
            | Notice::SourcesLimited { .. }
            | Notice::AnySourceJoinIgnored { .. }
            | Notice::ChangesDelayed { .. }
            | Notice::QueriesIgnored { .. }
            | Notice::DescriptorsShort { .. }
            | Notice::JoinFailed { .. }
            | Notice::ReceptionFailed { .. }
            | Notice::RelayFailed { .. }
            | Notice::QueryFailed { .. }
            | Notice::NoQuerier { .. }
            | Notice::NoMldQuerier { .. }
            | Notice::QueriesFiltered { .. }
            | Notice::ArrivalsFiltered { .. }
            | Notice::ReportsFiltered { .. }
            | Notice::QuerierWithoutSourceLists { .. }
            | Notice::UpstreamWithoutAddress { .. }
            | Notice::UpstreamGone { .. }
            | Notice::UpstreamDown { .. }
            | Notice::UpstreamBridged { .. }
            | Notice::UpstreamNotFollowed { .. }
            | Notice::InterfaceWaiting { .. }
            | Notice::LeaseUnattended { .. }
            | Notice::NoLease { .. }
            | Notice::DuplicateAddress { .. }
            | Notice::InterfaceAwaited { .. }
            | Notice::RelayOnOwnBridge { .. }
            | Notice::RelayWithoutIpv6 { .. }
            | Notice::MulticastRouteElsewhere { .. }
            | Notice::IgmpNotIntercepted { .. }
            | Notice::LinkNotGuarded { .. }
            | Notice::FramesNotIntercepted { .. }
            | Notice::LogLinesSuppressed { .. }
            | Notice::KeeperGone {}
            | Notice::AddressOutsideSubnet { .. }
            | Notice::ForeignSource { .. }
            | Notice::AnswersElsewhere { .. }
            | Notice::ParentWithoutLan { .. }
            | Notice::RuleForOneAddress { .. }
            | Notice::SharedMac { .. }
            | Notice::StreamStopped { .. }
            | Notice::LegDiffers { .. }
            | Notice::QueueLoss { .. }
            | Notice::StateNotRemoved { .. } => Severity::Warning,
            Notice::AnySourceJoin { .. }
            | Notice::UpstreamBack { .. }
            | Notice::InterfaceRemade { .. }
            | Notice::InterfaceServed { .. }
            | Notice::InterfaceObserved { .. }
            | Notice::InterfaceGone { .. }
            | Notice::NoLandlock {}
            | Notice::NotCounted { .. }
            | Notice::RelayNotInKernel { .. }
            | Notice::ControlGroupIncomplete { .. }
            | Notice::KeeperHolds {}
            | Notice::ContainerEnded {} => Severity::Info,
            Notice::Unknown { severity, .. } => *severity,
        }
    }

    /// The text of a warning of a proxy from before notices had codes.
    pub fn from_text(text: String) -> Self {
        Notice::Unknown {
            code: "untyped".into(),
            severity: Severity::Warning,
            text,
            fields: Map::new(),
        }
    }
}

/// One line, without its end.
impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Notice::JoinDenied { interface, group, rule } => {
                write!(f, "{interface}: {group}: join denied ({rule})")
            }
            Notice::JoinLimited { interface, group, limit } => {
                write!(f, "{interface}: {group}: not joined ({limit})")
            }
            Notice::SourcesLimited { interface, group, limit } => {
                write!(f, "{interface}: {group}: sources left out ({limit})")
            }
            Notice::AnySourceJoin { interface, group } => write!(
                f,
                "{interface}: {group} is joined from any source; in {} a join should name its \
                 sources, and routers may not answer this one",
                source_specific_range(group)
            ),
            Notice::AnySourceJoinIgnored { interface, group } => write!(
                f,
                "{interface}: {group}: join from any source ignored (ssm-strict=true); the sources \
                 that joins in {} name stay joined",
                source_specific_range(group)
            ),
            Notice::ChangesDelayed { interface } => write!(
                f,
                "{interface}: the container joins and leaves so often that changes are delayed; the \
                 newest state of each group is carried out"
            ),
            Notice::QueriesIgnored { upstream } => write!(
                f,
                "{upstream}: more IGMP queries arrive than a querier sends; some are ignored"
            ),
            Notice::DescriptorsShort { error } => {
                write!(f, "a client of the control socket has to wait: {error}")
            }
            Notice::ControlGroupIncomplete { error } => {
                write!(f, "the proxy's control group is not as it should be: {error}")
            }
            Notice::JoinFailed { interface, upstream, group, error } => {
                write!(f, "{interface}: cannot join {group} on {upstream}: {error}")
            }
            Notice::SendDenied { interface, group, rule } => {
                write!(f, "{interface}: {group}: not sent to the LAN ({rule})")
            }
            Notice::ReceptionFailed { interface, group, error } => {
                write!(f, "{interface}: cannot receive {group} for the container: {error}")
            }
            Notice::RelayFailed { interface, error } => {
                write!(f, "{interface}: cannot relay to this interface: {error}")
            }
            Notice::QueryFailed { interface, error } => {
                write!(f, "{interface}: cannot send a query to the container: {error}")
            }
            Notice::NoQuerier { interface, upstream, silent_s } => write!(
                f,
                "{interface}: no IGMP querier on {upstream} for {silent_s} s: snooping switches \
                 forget what is joined; enable one on the LAN, or let IGMP in if a firewall drops it"
            ),
            Notice::NoMldQuerier { interface, upstream, silent_s } => write!(
                f,
                "{interface}: no MLD querier on {upstream} for {silent_s} s: switches with MLD snooping \
                 forget what is joined; enable one on the LAN, or turn MLD snooping off"
            ),
            Notice::QueriesFiltered { upstream, querier } => write!(
                f,
                "{upstream}: the host's firewall or rp_filter drops the queries of {querier}: mcrun \
                 answers for the containers, nobody for programs of the host; let IGMP in, such as by \
                 iptables -I INPUT -p igmp -j ACCEPT"
            ),
            Notice::ArrivalsFiltered { upstream } => write!(
                f,
                "{upstream}: the host's firewall drops IGMP that arrives, and may drop what is relayed: \
                 mcrun reports every 5 s what is joined; let IGMP and the streams in, such as by \
                 iptables -I INPUT -p igmp -j ACCEPT"
            ),
            Notice::ReportsFiltered { upstream } => write!(
                f,
                "{upstream}: the host's firewall drops the IGMP that the host sends: switches do not \
                 learn what is joined; let IGMP out, such as by iptables -I OUTPUT -p igmp -j ACCEPT"
            ),
            Notice::QuerierWithoutSourceLists {
                interface,
                upstream,
                querier,
                querier_version,
                groups,
            } => write!(
                f,
                "{interface}: the querier {querier} on {upstream} speaks {}v{querier_version}, which \
                 has no source lists: the LAN forwards {} from any source",
                membership_protocol(querier),
                FirstAndCount(groups)
            ),
            Notice::UpstreamWithoutAddress { upstream } => write!(
                f,
                "{upstream} has no IPv4 address: the host's IGMP reports come from 0.0.0.0, which \
                 some switches ignore; give {upstream} an address of any kind"
            ),
            Notice::UpstreamGone { upstream } => write!(
                f,
                "{upstream} is gone: nothing is joined or relayed until an interface of this name \
                 comes"
            ),
            Notice::UpstreamDown { upstream } => {
                write!(f, "{upstream} is down or has no carrier: nothing arrives until it is up")
            }
            Notice::UpstreamBridged { upstream, bridge } => write!(
                f,
                "{upstream} is a port of {bridge} now, which takes what arrives there: name {bridge} as \
                 the parent"
            ),
            Notice::UpstreamNotFollowed { upstream, error } => write!(
                f,
                "{upstream} has come again, and this proxy cannot use it ({error}): run mcrun reload"
            ),
            Notice::UpstreamBack { upstream } => {
                write!(f, "{upstream} has come again, and its groups are joined")
            }
            Notice::InterfaceAwaited { interface } => {
                write!(f, "the container has no interface {interface}; it is served when it comes")
            }
            Notice::InterfaceWaiting { interface, reason } => write!(
                f,
                "{interface} waits: {reason}; mcrun keep makes it when its parent is there, or mcrun \
                 reload does"
            ),
            Notice::LeaseUnattended { interface } => write!(
                f,
                "{interface}: nobody prolongs the lease of its address; mcrun reload starts the process \
                 that does"
            ),
            Notice::NoLease { interface, parent } => write!(
                f,
                "{interface} has no address: its lease has ended, and no server on {parent} has given \
                 another one"
            ),
            Notice::DuplicateAddress { interface, address, parent, station } => write!(
                f,
                "{interface}: {address}, which follows from a router's prefix, is in use on {parent}, by \
                 {station}; the container does without it as long as that lasts; give it another mac="
            ),
            Notice::InterfaceRemade { interface } => write!(
                f,
                "{interface} was made anew: programs that had joined there are to join again"
            ),
            Notice::RelayOnOwnBridge { interface, upstream } => write!(
                f,
                "{interface} is on {upstream} already: what the container sends is not relayed, \
                 because everybody there would hear it twice; name a LAN interface"
            ),
            Notice::MulticastRouteElsewhere { interface } => write!(
                f,
                "a join that names no interface does not go by {interface}: the program is to name \
                 it, or the container needs the route 224.0.0.0/4 dev {interface}"
            ),
            Notice::IgmpNotIntercepted { error } => write!(
                f,
                "IGMP is not intercepted, the container speaks it natively: this kernel does not \
                 take the nf_tables rules ({error}); they need nf_tables with owned tables (Linux \
                 5.12) and nfnetlink_log"
            ),
            Notice::LinkNotGuarded { interface } => write!(
                f,
                "{interface}: a process of the container has an AF_XDP socket there, which sends past \
                 the rules; end that process, then run `mcrun reload`"
            ),
            Notice::FramesNotIntercepted { error } => write!(
                f,
                "what the container sends is not limited, and its packet sockets can send IGMP: this \
                 kernel does not take netdev egress rules ({error}); they need Linux 5.16"
            ),
            Notice::InterfaceServed { interface, upstream } => {
                write!(f, "serving {interface} on {upstream}")
            }
            Notice::InterfaceObserved { interface, upstream } => {
                write!(f, "observing {interface} on {upstream}")
            }
            Notice::InterfaceGone { interface } => write!(f, "{interface} is gone"),
            Notice::NoLandlock {} => {
                f.write_str("this kernel has no landlock; confined by user and seccomp alone")
            }
            Notice::RelayWithoutIpv6 { interface } => write!(
                f,
                "{interface} has no address of IPv6, so that no multicast of IPv6 is relayed: the \
                 engine has switched IPv6 off there; give the container a network with IPv6"
            ),
            Notice::RelayNotInKernel { interface, reason } => write!(
                f,
                "the proxy relays to {interface}, and not the kernel, which takes a fraction of the \
                 processor time: {reason}"
            ),
            Notice::NotCounted { error } => write!(
                f,
                "what arrives is not counted: this kernel does not take the BPF program ({error}); \
                 it needs Linux 5.12, and that neither a sysctl nor a lockdown forbids it"
            ),
            Notice::NotConfined { error } => write!(f, "the proxy ends: {error}"),
            Notice::KeeperHolds {} => f.write_str(
                "a keeper holds memberships and rules: the proxy may die without a loss",
            ),
            Notice::KeeperGone {} => f.write_str(
                "the keeper has ended: if the proxy dies, its memberships and rules end with it",
            ),
            Notice::LogLinesSuppressed { count } => write!(f, "{count} lines left out"),
            Notice::ContainerEnded {} => f.write_str("the container has ended"),
            Notice::EventLoopFailed { error } => write!(f, "cannot wait for events: {error}"),
            Notice::StateNotRemoved { error } => write!(
                f,
                "cannot remove the container's state directory: {error}; `mcrun gc` removes it"
            ),
            Notice::AddressOutsideSubnet { interface, parent, address, subnet } => write!(
                f,
                "{interface}: ip={address} is outside of {subnet}, the subnet of {parent}: hosts \
                 there do not answer it without a route"
            ),
            Notice::ForeignSource { interface, address } => write!(
                f,
                "{interface} has no IPv4 address, and the container sends there with its address \
                 {address} of another interface, which nobody on the LAN can answer: give it an \
                 ip="
            ),
            Notice::AnswersElsewhere { interface, address, network } => write!(
                f,
                "{interface}: no host of {network} gets an answer from {address}, as of a published \
                 port, since it leaves by {interface}: run mcrun reload"
            ),
            Notice::ParentWithoutLan { interface, parent } => write!(
                f,
                "{interface}: parent={parent} is a bridge that leads to no LAN, such as a container \
                 engine's; name the interface that is on the LAN"
            ),
            Notice::RuleForOneAddress { interface, rule, range } => write!(
                f,
                "{interface}: {rule} covers this one address; write {range} if the range is meant"
            ),
            Notice::SharedMac { interface, parent, group, others, containers, .. } => write!(
                f,
                "{interface}: {group} has the Ethernet address of {}, joined on {parent} by {}: each \
                 gets the frames of both; choose groups that differ in the last 23 bits",
                FirstAndCount(others),
                FirstAndCount(containers)
            ),
            Notice::StreamStopped { interface, group, silent_s } => write!(
                f,
                "{interface}: {group} has stopped: nothing has arrived for {silent_s} s, steadily \
                 before; mcrun doctor tells where it may be lost"
            ),
            Notice::LegDiffers { interface, other, group, joined: true, silent_s } => write!(
                f,
                "{interface}: nothing has arrived for {group} for {silent_s} s, and at {other} it \
                 arrives: one leg of the two is left"
            ),
            Notice::LegDiffers { interface, other, group, joined: false, silent_s } => write!(
                f,
                "{interface}: {group} was left {silent_s} s ago, and at {other} it arrives: one leg of \
                 the two is left"
            ),
            Notice::QueueLoss { interface, parent, lost_per_s } => write!(
                f,
                "{interface}: a queue between {parent} and the container is full, {lost_per_s} frames a \
                 second are lost: raise bcqueuelen= of all containers on {parent}, or \
                 net.core.netdev_max_backlog"
            ),
            Notice::Unknown { text, .. } => f.write_str(text),
        }
    }
}

impl Serialize for Notice {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Known<'a> {
            #[serde(flatten, serialize_with = "Notice::serialize")]
            code_and_fields: &'a Notice,
            severity: Severity,
            text: String,
        }
        #[derive(Serialize)]
        struct Foreign<'a> {
            code: &'a str,
            #[serde(flatten)]
            fields: &'a Map<String, Value>,
            severity: Severity,
            text: &'a str,
        }
        match self {
            Notice::Unknown { code, severity, text, fields } => {
                Foreign { code, fields, severity: *severity, text }.serialize(serializer)
            }
            known => {
                let (severity, text) = (known.severity(), known.to_string());
                Known { code_and_fields: known, severity, text }.serialize(serializer)
            }
        }
    }
}

impl<'de> Deserialize<'de> for Notice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Foreign {
            code: String,
            severity: Severity,
            text: String,
            #[serde(flatten)]
            fields: Map<String, Value>,
        }
        let object = Value::deserialize(deserializer)?;
        if let Ok(notice) = Notice::deserialize(&object) {
            return Ok(notice);
        }
        let Foreign { code, severity, text, fields } =
            serde_json::from_value(object).map_err(D::Error::custom)?;
        Ok(Notice::Unknown { code, severity, text, fields })
    }
}

/// The groups of source-specific multicast in the family of a group (RFC 4607 §1).
fn source_specific_range(group: &IpAddr) -> &'static str {
    match group {
        IpAddr::V4(_) => Ipv4Addr::SSM_RANGE,
        IpAddr::V6(_) => Ipv6Addr::SSM_RANGE,
    }
}

/// The protocol that a querier of this address speaks.
pub(crate) fn membership_protocol(querier: &IpAddr) -> &'static str {
    match querier {
        IpAddr::V4(_) => "IGMP",
        IpAddr::V6(_) => "MLD",
    }
}

/// `232.1.1.1`, or `232.1.1.1 and 2 more`.
struct FirstAndCount<'a, T>(&'a [T]);

impl<T: fmt::Display> fmt::Display for FirstAndCount<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [] => f.write_str("none"),
            [only] => only.fmt(f),
            [first, others @ ..] => write!(f, "{first} and {} more", others.len()),
        }
    }
}

#[cfg(test)]
mod tests;

//! The nf_tables rules in the container's namespace: they intercept its IGMP and MLD, drop data that
//! the policy does not allow, and limit what leaves its interfaces.
//!
//! The tables have the *owner* flag (Linux 5.12): they belong to the proxy's netlink socket, and
//! nobody else can change them. The kernel removes them when the socket is closed, however the
//! proxy ends. The container then speaks IGMP natively. As nft(8) shows them, for each proxied
//! interface:
//!
//! ```text
//! table ip mcrun { flags owner
//!   chain output { type filter hook output priority -1000
//!     ip protocol igmp oif IF meta mark . ip ttl != MARK . 0 counter log group GROUP drop }
//!   chain input  { type filter hook input priority -1000
//!     ip protocol igmp iif IF meta mark . ip ttl != MARK . 0 counter drop
//!     # Where the link is one of the LAN that is joined on, instead of `drop`:
//!       goto queries }
//!   chain queries { ...see the module queries... }
//!   # Where data is relayed, so that data that also arrives by the link is not delivered twice:
//!     meta mark != MARK @nh,128,8 >= 224 ip protocol udp iif IF jump native-IF
//!   chain native-IF {
//!     # Where the kernel relays: its packets have the MAC address of the interface.
//!     meta pkttype host return
//!     rt nexthop exists return    # sent by the container itself and looped back
//!     ip daddr @link-local-IF counter drop
//!     ip daddr 224.0.0.0/24 return
//!     counter drop }
//!   # Where the policy has rules:
//!   chain data   { type filter hook prerouting priority -1000
//!     iif IF @nh,128,8 >= 224 ip protocol != igmp ip daddr vmap @groups-IF }
//!   map groups-IF { type ipv4_addr : verdict; flags interval
//!     RANGE : drop, RANGE : jump sources-IF-0, ... }
//!   chain sources-IF-0 { ip saddr @sources-IF-0 counter drop }
//! }
//! table ip6 mcrun { flags owner
//!   ...see the module mld...
//! }
//! table netdev mcrun { flags owner
//!   ...see the module egress...
//! }
//! ```
//!
//! Every packet of the container passes these rules, so the cheapest comparison that excludes most
//! packets comes first: the protocol byte before the interface, and in the relay's rule the mark
//! before the rest.
//!
//! `MARK` is random for each container. The rules cannot test for "no mark", because the kernel's
//! own IGMPv3 reports carry one (`igmpv3_newpack` keeps the MTU there). The mark must not be
//! guessable, because a process with CAP_NET_RAW may set marks since Linux 5.17. Such a process can
//! read the mark of an injected query too (SO_RCVMARK), so that the mark alone is not enough: what
//! is injected has TTL 0. A packet with TTL 0 does not leave the namespace.
//!
//! A policy costs each packet one look-up in a balanced tree, or two where it restricts sources,
//! however long its lists are. Without a policy there is no chain for data. During a takeover both
//! proxies have their tables, and a packet has to pass both: data that both policies allow arrives
//! without a gap, and data that only one of them allows is dropped until the old tables are gone.

mod egress;
pub(crate) mod host_fence;
mod mld;
mod nftables;
mod queries;
pub(crate) mod shim;

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::multicast::{Address, AddressRange, DataFilter, DroppedSources};
use crate::net::nfnetlink::NfSocket;
pub(crate) use crate::proxy::container::rules::egress::Egress;
use crate::proxy::container::rules::egress::add_egress_rules;
use crate::proxy::container::rules::mld::{add_mld_data_rules, add_mld_interception};
use crate::proxy::container::rules::nftables::{Base, Operator, Set, SetKey, Tables, Verdict};
use crate::proxy::container::rules::queries::{HeardQuery, QUERIES, add_queries};

const FAMILY_IPV4: u8 = libc::NFPROTO_IPV4 as u8;
const FAMILY_IPV6: u8 = libc::NFPROTO_IPV6 as u8;
const FAMILY_NETDEV: u8 = libc::NFPROTO_NETDEV as u8;

const IGMP: u8 = libc::IPPROTO_IGMP as u8;
const UDP: u8 = libc::IPPROTO_UDP as u8;
/// Fields of an IPv4 header (RFC 791 §3.1).
const IP_TTL: u32 = 8;
const IP_PROTOCOL: u32 = 9;
const IP_SOURCE: u32 = 12;
const IP_DESTINATION: u32 = 16;
/// First octet of the lowest multicast address. The rules compare it only.
const MULTICAST: u8 = 224;

/// Name of the chain for data.
const DATA: &str = "data";

const META_IIF: u32 = libc::NFT_META_IIF as u32;
const META_OIF: u32 = libc::NFT_META_OIF as u32;
const META_IIFNAME: u32 = libc::NFT_META_IIFNAME as u32;
const META_OIFNAME: u32 = libc::NFT_META_OIFNAME as u32;
const META_MARK: u32 = libc::NFT_META_MARK as u32;
const META_PKTTYPE: u32 = libc::NFT_META_PKTTYPE as u32;
/// linux/if_packet.h
const PACKET_HOST: u8 = 0;

/// An interface in the container that has rules.
pub(crate) struct RuledInterface<'a> {
    /// Name in the container.
    pub(crate) name: &'a str,
    /// Index in the container; 0: the interface does not exist yet.
    pub(crate) index: u32,
    /// Whether its IGMP is intercepted. If not, the next four have no effect.
    pub(crate) intercepted: bool,
    /// Whether its MLD is intercepted too.
    pub(crate) mld: bool,
    /// Whether queries that arrive there are logged.
    pub(crate) hears_queries: bool,
    /// The data of IPv4 that it may not receive.
    pub(crate) data_filter: DataFilter,
    /// The data of IPv6 that it may not receive, where its MLD is intercepted.
    pub(crate) data_filter_v6: DataFilter<Ipv6Addr>,
    /// Where its data is relayed: the groups of 224.0.0.0/24 that are relayed, ascending.
    pub(crate) relayed: Option<Vec<AddressRange>>,
    /// The same of ff02::/16, where its MLD is intercepted too.
    pub(crate) relayed_v6: Vec<AddressRange<Ipv6Addr>>,
    /// Whether the kernel relays: its packets have the interface's own MAC address.
    pub(crate) relayed_by_kernel: bool,
    /// What it may send; `None`: everything except IGMP that is intercepted.
    pub(crate) egress: Option<Egress>,
}

/// How IGMP and MLD are intercepted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Intercept {
    /// Mark of injected packets.
    pub(crate) mark: u32,
    /// NFLOG group that gets the container's IGMP and MLD.
    pub(crate) group: u16,
}

impl RuledInterface<'_> {
    /// Whether none of its MLD leaves, as none of its IGMP does.
    fn intercepts_mld(&self) -> bool {
        self.intercepted && self.mld
    }

    /// Adds the condition that a packet arrives by this interface, or leaves by it.
    fn add_match(&self, rule: &mut nftables::Rule<'_, '_>, direction: Direction) {
        let (index, name) = match direction {
            Direction::Input => (META_IIF, META_IIFNAME),
            Direction::Output => (META_OIF, META_OIFNAME),
        };
        if self.relayed.is_none() {
            rule.meta(index, Operator::Equal, &self.index.to_ne_bytes());
            return;
        }
        // A relayed interface may be deleted and created again, with another index.
        let mut padded = [0; libc::IFNAMSIZ];
        for (to, from) in padded.iter_mut().zip(self.name.bytes()) {
            *to = from;
        }
        rule.meta(name, Operator::Equal, &padded);
    }
}

#[derive(Clone, Copy)]
enum Direction {
    Input,
    Output,
}

/// Which of the rules are installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hooks {
    /// All.
    All,
    /// Those for frames are left out: they need Linux 5.16.
    WithoutFrames,
}

/// Installs the rules, in one batch. Without those for IGMP the proxy cannot serve the container.
///
/// `intercept` is needed where the IGMP of an interface is intercepted.
///
/// # Errors
/// Those of nf_tables; then nothing is installed. `EEXIST` or `EPERM` when the container has a
/// table of this name.
pub(crate) fn install(
    socket: &NfSocket,
    name: &str,
    interfaces: &[RuledInterface<'_>],
    intercept: Option<Intercept>,
    hooks: Hooks,
) -> io::Result<()> {
    let mut tables = Tables::new(name);
    if let Some(intercept) = intercept {
        tables.add_table(FAMILY_IPV4);
        let intercepted: Vec<_> = interfaces.iter().filter(|i| i.intercepted).collect();
        add_interception(&mut tables, &intercepted, intercept);
        add_data_rules(&mut tables, &intercepted, intercept.mark);
        let of_ipv6: Vec<_> = intercepted.into_iter().filter(|i| i.mld).collect();
        if !of_ipv6.is_empty() {
            tables.add_table(FAMILY_IPV6);
            add_mld_interception(&mut tables, &of_ipv6, intercept);
            add_mld_data_rules(&mut tables, &of_ipv6, intercept.mark);
        }
    }
    if hooks == Hooks::All {
        tables.add_table(FAMILY_NETDEV);
        // A device that does not exist yet cannot be named.
        for interface in interfaces.iter().filter(|interface| interface.index != 0) {
            add_egress_rules(&mut tables, interface);
        }
    }
    socket.transact(&tables.finish())
}

/// Limits what interfaces send that no proxy serves. The rules go with the container's namespace,
/// and whoever has CAP_NET_ADMIN in it can remove them.
///
/// # Errors
/// Those of nf_tables; then nothing is installed.
pub(crate) fn install_unowned(interfaces: &[RuledInterface<'_>]) -> io::Result<()> {
    /// Not the name of a proxy's table, which another attachment of the container may have.
    const NAME: &str = "mcrun-frames";
    let mut tables = Tables::new(NAME);
    tables.extend_table(FAMILY_NETDEV);
    for interface in interfaces {
        add_egress_rules(&mut tables, interface);
    }
    NfSocket::open()?.transact(&tables.finish())
}

/// Adds the rules for IGMP output and input.
fn add_interception(
    tables: &mut Tables<'_>,
    interfaces: &[&RuledInterface<'_>],
    intercept: Intercept,
) {
    add_chains(
        tables,
        interfaces,
        intercept,
        &HeardQuery::OF_IGMP,
        |rule, interface, direction| {
            rule.payload(Base::Network, IP_PROTOCOL, Operator::Equal, &[IGMP]);
            interface.add_match(rule, direction);
            rule.mark_or_bytes_differ(intercept.mark, IP_TTL, &[0]);
        },
    );
}

/// Adds a chain for output, whose rules log and drop what `matches` says, and a chain for input, whose
/// rules drop it, or have it heard where it is a query.
fn add_chains(
    tables: &mut Tables<'_>,
    interfaces: &[&RuledInterface<'_>],
    Intercept { group, .. }: Intercept,
    query: &HeardQuery,
    matches: impl Fn(&mut nftables::Rule<'_, '_>, &RuledInterface<'_>, Direction),
) {
    let chains = [
        ("output", libc::NF_INET_LOCAL_OUT, Direction::Output),
        ("input", libc::NF_INET_LOCAL_IN, Direction::Input),
    ];
    if interfaces.iter().any(|interface| interface.hears_queries) {
        add_queries(tables, group, query);
    }
    for (chain, hook, direction) in chains {
        tables.add_base_chain(chain, hook as u32, None);
        for interface in interfaces {
            let is_input = matches!(direction, Direction::Input);
            let verdict = match is_input && interface.hears_queries {
                true => Verdict::Goto(QUERIES.to_owned()),
                false => Verdict::Drop,
            };
            tables.add_rule(chain, |rule| {
                matches(rule, interface, direction);
                rule.counter();
                if !is_input {
                    rule.log(group);
                }
                rule.verdict(&verdict);
            });
        }
    }
}

/// Adds the rules for data, for the interfaces that have a policy or a relay.
///
/// They are at prerouting, so that a dropped packet costs no route look-up and no conntrack entry,
/// and is not forwarded. They do not apply to IGMP, whose queries have the group as their
/// destination.
fn add_data_rules(table: &mut Tables<'_>, interfaces: &[&RuledInterface<'_>], mark: u32) {
    let restricted = |interface: &&&RuledInterface<'_>| !interface.data_filter.is_empty();
    if interfaces.iter().any(|interface| interface.relayed.is_some() || restricted(&interface)) {
        table.add_base_chain(DATA, libc::NF_INET_PRE_ROUTING as u32, None);
    }
    for interface in interfaces {
        if let Some(link_local) = &interface.relayed {
            add_native_data_rules(table, interface, link_local, mark);
        }
    }
    for interface in interfaces.iter().filter(restricted) {
        let map = add_group_map(table, interface.name, &interface.data_filter, IP_SOURCE);
        table.add_rule(DATA, |rule| {
            interface.add_match(rule, Direction::Input);
            rule.payload(Base::Network, IP_DESTINATION, Operator::AtLeast, &[MULTICAST]);
            rule.payload(Base::Network, IP_PROTOCOL, Operator::NotEqual, &[IGMP]);
            rule.verdict_of_address::<Ipv4Addr>(IP_DESTINATION, &map);
        });
    }
}

/// Adds the map from groups to what becomes of their data, with the chains that it sends packets to.
/// `source` is the offset of the source in the network header.
fn add_group_map<A: Address + SetKey>(
    table: &mut Tables<'_>,
    interface: &str,
    filter: &DataFilter<A>,
    source: u32,
) -> Set {
    let lists = format!("sources-{interface}");
    for (position, sources) in filter.source_lists.iter().enumerate() {
        let name = format!("{lists}-{position}");
        let set = table.add_set(name.clone(), sources);
        table.add_chain(&name);
        table.add_rule(&name, |rule| {
            rule.address_in::<A>(source, &set);
            rule.counter();
            rule.verdict(&Verdict::Drop);
        });
    }
    let verdict = |dropped| match dropped {
        DroppedSources::All => Verdict::Drop,
        DroppedSources::List(position) => Verdict::Jump(format!("{lists}-{position}")),
    };
    let groups = filter.groups.iter();
    let groups: Vec<_> =
        groups.map(|(range, dropped)| (range.clone(), verdict(*dropped))).collect();
    table.add_map(format!("groups-{interface}"), &groups)
}

/// What the rules about relayed data need to know of an address family.
trait RelayedData: Address + SetKey {
    /// Offset of the destination in the network header.
    const DESTINATION: u32;
    /// What the addresses of link scope begin with.
    const LINK_SCOPE_BEGINS: &'static [u8];

    /// Adds the condition that a packet is UDP to a group.
    fn add_match(rule: &mut nftables::Rule<'_, '_>);
}

impl RelayedData for Ipv4Addr {
    const DESTINATION: u32 = IP_DESTINATION;
    const LINK_SCOPE_BEGINS: &'static [u8] = &[MULTICAST, 0, 0];

    fn add_match(rule: &mut nftables::Rule<'_, '_>) {
        rule.payload(Base::Network, IP_DESTINATION, Operator::AtLeast, &[MULTICAST]);
        rule.payload(Base::Network, IP_PROTOCOL, Operator::Equal, &[UDP]);
    }
}

/// Drops data of relayed groups that arrives by the link itself. It comes from a container on the
/// same bridge, whose relay, or the host, sends it to the LAN too, so that this container's relay
/// receives it.
fn add_native_data_rules<A: RelayedData>(
    table: &mut Tables<'_>,
    interface: &RuledInterface<'_>,
    link_local: &[AddressRange<A>],
    mark: u32,
) {
    let chain = format!("native-{}", interface.name);
    table.add_chain(&chain);
    if interface.relayed_by_kernel {
        table.add_rule(&chain, |rule| {
            rule.meta(META_PKTTYPE, Operator::Equal, &[PACKET_HOST]);
            rule.verdict(&Verdict::Return);
        });
    }
    table.add_rule(&chain, |rule| {
        rule.has_route(A::UNSPECIFIED.into());
        rule.verdict(&Verdict::Return);
    });
    if !link_local.is_empty() {
        let set = table.add_set(format!("link-local-{}", interface.name), link_local);
        table.add_rule(&chain, |rule| {
            rule.address_in::<A>(A::DESTINATION, &set);
            rule.counter();
            rule.verdict(&Verdict::Drop);
        });
    }
    table.add_rule(&chain, |rule| {
        rule.payload(Base::Network, A::DESTINATION, Operator::Equal, A::LINK_SCOPE_BEGINS);
        rule.verdict(&Verdict::Return);
    });
    table.add_rule(&chain, |rule| {
        rule.counter();
        rule.verdict(&Verdict::Drop);
    });
    table.add_rule(DATA, |rule| {
        // Most multicast of a relayed interface is injected by the relay.
        rule.meta(META_MARK, Operator::NotEqual, &mark.to_ne_bytes());
        A::add_match(rule);
        interface.add_match(rule, Direction::Input);
        rule.verdict(&Verdict::Jump(chain));
    });
}

#[cfg(test)]
mod tests;

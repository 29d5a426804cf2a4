//! The rules for MLD: the table of IPv6.
//!
//! ```text
//! table ip6 mcrun { flags owner
//!   set mld { type icmpv6_type; elements = { 130, 131, 132, 143 } }
//!   chain output { type filter hook output priority -1000
//!     meta l4proto ipv6-icmp oif IF icmpv6 type @mld \
//!       meta mark . @nh,192,16 != MARK . 0xff01 counter log group GROUP drop }
//!   chain input  { type filter hook input priority -1000
//!     ...the same with iif IF and without `log`; or, instead of `drop`:
//!       goto queries }
//!   chain queries { ...see the module queries... }
//!   # Where the policy has rules, or data is relayed:
//!   set mld-data { ...as mld... }
//!   chain data   { type filter hook prerouting priority -1000
//!     # Where data is relayed: puts the group of an injected packet in place (see the relay's module
//!     # `family`).
//!     meta mark MARK iif IF ip6 nexthdr ipv6-opts ip6 daddr ff01::1 @nh,336,16 0x1e10 \
//!       ip6 daddr set @nh,352,128
//!     @nh,192,8 != 0xff accept
//!     @nh,192,16 & 0xff0e == 0xff00 accept    # never leaves its host
//!     meta l4proto ipv6-icmp icmpv6 type @mld-data accept
//!     # Where data is relayed, as in the table of IPv4:
//!     meta mark != MARK meta l4proto udp iif IF jump native-IF
//!     iif IF ip6 daddr vmap @groups-IF }
//!   map groups-IF { type ipv6_addr : verdict; flags interval ...as in the table of IPv4... }
//! }
//! ```
//!
//! An MLD message stands behind an extension header with the Router Alert option, and a sender may put
//! others in between. The kernel finds the message behind all of them (`ipv6_find_hdr` in
//! net/ipv6/exthdrs_core.c), as whoever receives it does. The first fragment of one is found too,
//! without which the others are nothing.
//!
//! The rest of ICMPv6 passes: neighbour discovery and the advertisements of routers.
//!
//! What the proxy injects has its mark, and a destination of interface-local scope: no such packet
//! leaves the namespace (`ip6_finish_output2` in net/ipv6/ip6_output.c), and none that has come from
//! the LAN is received (`ip6_rcv_core` in net/ipv6/ip6_input.c). So a process that knows the mark
//! gets nothing out either.

use std::net::Ipv6Addr;

use crate::proxy::container::injection::{
    ALL_NODES_OF_THE_INTERFACE, DESTINATION_OPTIONS, GROUP_AT, GROUP_OPTION_LENGTH,
    GROUP_OPTION_TYPE, OPTION_AT,
};
use crate::proxy::container::rules::nftables::{Base, Icmpv6Type, Operator, Rule, Tables, Verdict};
use crate::proxy::container::rules::queries::HeardQuery;
use crate::proxy::container::rules::{
    DATA, Direction, Intercept, META_MARK, RelayedData, RuledInterface, UDP, add_chains,
    add_group_map, add_native_data_rules,
};

/// Query, report and done of MLDv1 (RFC 2710 §3.1), and the report of MLDv2 (RFC 9777 §5).
pub(super) const MLD: [Icmpv6Type; 4] =
    [Icmpv6Type(130), Icmpv6Type(131), Icmpv6Type(132), Icmpv6Type(143)];

const META_L4PROTO: u32 = libc::NFT_META_L4PROTO as u32;
const ICMPV6: u8 = libc::IPPROTO_ICMPV6 as u8;
/// Offset of the next header in an IPv6 header (RFC 8200 §3).
const IPV6_NEXT_HEADER: u32 = 6;
/// Offset of the destination in an IPv6 header (RFC 8200 §3).
const IPV6_DESTINATION: u32 = 24;
/// Offset of the source.
const IPV6_SOURCE: u32 = 8;
/// First octet of every group.
const MULTICAST: u8 = 0xff;
/// The bits of a scope of which one at least is set where it is wider than the interface (RFC 4291
/// §2.7).
const SCOPES_BEYOND_HOST: u8 = 0x0e;
impl RelayedData for Ipv6Addr {
    const DESTINATION: u32 = IPV6_DESTINATION;
    const LINK_SCOPE_BEGINS: &'static [u8] = &[MULTICAST, 2];

    /// What is no group has been accepted by then.
    fn add_match(rule: &mut Rule<'_, '_>) {
        rule.meta(META_L4PROTO, Operator::Equal, &[UDP]);
    }
}

/// Name of the set of MLD's types.
const TYPES: &str = "mld";
/// First bytes of the groups of interface-local scope (RFC 4291 §2.7).
const INTERFACE_LOCAL: [u8; 2] = [0xff, 0x01];

/// Adds the rules for MLD output and input to the table of IPv6.
pub(super) fn add_mld_interception(
    tables: &mut Tables<'_>,
    interfaces: &[&RuledInterface<'_>],
    intercept: Intercept,
) {
    let types = tables.add_set_of(TYPES.to_owned(), &MLD);
    add_chains(tables, interfaces, intercept, &HeardQuery::OF_MLD, |rule, interface, direction| {
        rule.meta(META_L4PROTO, Operator::Equal, &[ICMPV6]);
        interface.add_match(rule, direction);
        rule.in_set::<Icmpv6Type>(Base::Transport, 0, &types);
        rule.mark_or_bytes_differ(intercept.mark, IPV6_DESTINATION, &INTERFACE_LOCAL);
    });
}

/// Adds the rules for data of IPv6, for the interfaces that have a policy or a relay: what the rules of
/// IPv4 are, for all packets except MLD and those of interface-local scope, which have not come from the
/// LAN.
pub(super) fn add_mld_data_rules(
    tables: &mut Tables<'_>,
    interfaces: &[&RuledInterface<'_>],
    mark: u32,
) {
    let restricted = interfaces.iter().filter(|interface| !interface.data_filter_v6.is_empty());
    let restricted: Vec<_> = restricted.collect();
    let relayed = interfaces.iter().filter(|interface| interface.relayed.is_some());
    let relayed: Vec<_> = relayed.collect();
    if restricted.is_empty() && relayed.is_empty() {
        return;
    }
    tables.add_base_chain(DATA, libc::NF_INET_PRE_ROUTING as u32, None);
    for interface in &relayed {
        tables.add_rule(DATA, |rule| {
            rule.meta(META_MARK, Operator::Equal, &mark.to_ne_bytes());
            interface.add_match(rule, Direction::Input);
            let next = [DESTINATION_OPTIONS];
            rule.payload(Base::Network, IPV6_NEXT_HEADER, Operator::Equal, &next);
            let injected = ALL_NODES_OF_THE_INTERFACE.octets();
            rule.payload(Base::Network, IPV6_DESTINATION, Operator::Equal, &injected);
            let option = [GROUP_OPTION_TYPE, GROUP_OPTION_LENGTH];
            rule.payload(Base::Network, OPTION_AT as u32, Operator::Equal, &option);
            rule.copy_address(GROUP_AT as u32, IPV6_DESTINATION);
        });
    }
    let types = tables.add_set_of(format!("{TYPES}-{DATA}"), &MLD);
    tables.add_rule(DATA, |rule| {
        rule.payload(Base::Network, IPV6_DESTINATION, Operator::NotEqual, &[MULTICAST]);
        rule.verdict(&Verdict::Accept);
    });
    tables.add_rule(DATA, |rule| {
        let (mask, scope) = (&[0xff, SCOPES_BEYOND_HOST], &[MULTICAST, 0]);
        rule.masked(Base::Network, IPV6_DESTINATION, mask, Operator::Equal, scope);
        rule.verdict(&Verdict::Accept);
    });
    tables.add_rule(DATA, |rule| {
        rule.meta(META_L4PROTO, Operator::Equal, &[ICMPV6]);
        rule.in_set::<Icmpv6Type>(Base::Transport, 0, &types);
        rule.verdict(&Verdict::Accept);
    });
    for interface in relayed {
        add_native_data_rules(tables, interface, &interface.relayed_v6, mark);
    }
    for interface in restricted {
        let map = add_group_map(tables, interface.name, &interface.data_filter_v6, IPV6_SOURCE);
        tables.add_rule(DATA, |rule| {
            interface.add_match(rule, Direction::Input);
            rule.verdict_of_address::<Ipv6Addr>(IPV6_DESTINATION, &map);
        });
    }
}

#[cfg(test)]
mod tests;

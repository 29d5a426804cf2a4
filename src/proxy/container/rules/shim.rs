//! The rules of the host's own leg on a parent, its shim (see [`crate::service::add_shim`]). The table
//! has the name of the link, and is there before it. As nft(8) shows it:
//!
//! ```text
//! table inet mcshim-eth1 {
//!   chain input { type filter hook prerouting priority -1000
//!     # The LAN's multicast and broadcast, which the host receives by the parent.
//!     iifname SHIM meta pkttype != host fib saddr . iif oif missing counter drop }
//!   chain output { type filter hook output priority -1000
//!     # The switch port sees one IGMP host: the parent.
//!     oifname SHIM meta nfproto ipv4 ip protocol igmp counter drop
//!     oifname SHIM meta nfproto ipv6 meta l4proto icmpv6 icmpv6 type TYPE counter drop }
//! }
//! ```
//!
//! The frames that macvlan hands to the shim are those of the LAN and those of its siblings. Routes lead
//! through the shim to containers only, so the route back tells them apart.

use std::io;

use crate::net::nfnetlink::NfSocket;
use crate::net::nft_tables;
use crate::proxy::container::rules::nftables::{Base, Operator, Rule, Tables, Verdict};
use crate::proxy::container::rules::{
    IGMP, IP_PROTOCOL, META_IIFNAME, META_OIFNAME, META_PKTTYPE, PACKET_HOST,
};

const FAMILY_INET: u8 = libc::NFPROTO_INET as u8;
const META_NFPROTO: u32 = libc::NFT_META_NFPROTO as u32;
const META_L4PROTO: u32 = libc::NFT_META_L4PROTO as u32;
const ICMPV6: u8 = libc::IPPROTO_ICMPV6 as u8;
/// A host's messages of MLD (RFC 2710 §3.1, RFC 3810 §5.2).
const MLD: [u8; 3] = [131, 132, 143];
/// Bytes of an interface's name in a rule (`IFNAMSIZ`).
const NAME_LENGTH: usize = 16;

/// Puts the rules of a shim into the caller's network namespace, in place of those that it has.
///
/// # Errors
/// Those of nf_tables, such as `ENOENT` where the kernel has no `fib` expression.
pub(crate) fn add_shim_rules(link: &str) -> io::Result<()> {
    let mut tables = Tables::new(link);
    // What is removed has to be there.
    tables.extend_table(FAMILY_INET);
    tables.remove_table(FAMILY_INET);
    tables.extend_table(FAMILY_INET);
    let drop_if = |tables: &mut Tables<'_>, chain, conditions: &dyn Fn(&mut Rule<'_, '_>)| {
        tables.add_rule(chain, |rule| {
            conditions(rule);
            rule.counter();
            rule.verdict(&Verdict::Drop);
        });
    };
    let mut name = [0; NAME_LENGTH];
    let length = link.len().min(NAME_LENGTH - 1);
    name[..length].copy_from_slice(&link.as_bytes()[..length]);
    tables.add_base_chain("input", libc::NF_INET_PRE_ROUTING as u32, None);
    drop_if(&mut tables, "input", &|rule| {
        rule.meta(META_IIFNAME, Operator::Equal, &name);
        rule.meta(META_PKTTYPE, Operator::NotEqual, &[PACKET_HOST]);
        rule.has_no_way_back();
    });
    tables.add_base_chain("output", libc::NF_INET_LOCAL_OUT as u32, None);
    drop_if(&mut tables, "output", &|rule| {
        rule.meta(META_OIFNAME, Operator::Equal, &name);
        rule.meta(META_NFPROTO, Operator::Equal, &[libc::NFPROTO_IPV4 as u8]);
        rule.payload(Base::Network, IP_PROTOCOL, Operator::Equal, &[IGMP]);
    });
    for kind in MLD {
        drop_if(&mut tables, "output", &|rule| {
            rule.meta(META_OIFNAME, Operator::Equal, &name);
            rule.meta(META_NFPROTO, Operator::Equal, &[libc::NFPROTO_IPV6 as u8]);
            rule.meta(META_L4PROTO, Operator::Equal, &[ICMPV6]);
            rule.payload(Base::Transport, 0, Operator::Equal, &[kind]);
        });
    }
    NfSocket::open()?.transact(&tables.finish())
}

/// Removes the rules of a shim from the caller's network namespace. Returns whether there were any.
///
/// # Errors
/// Those of nf_tables.
pub(crate) fn remove_shim_rules(link: &str) -> io::Result<bool> {
    if !shim_rules(link)?.iter().any(|name| name == link) {
        return Ok(false);
    }
    let mut tables = Tables::new(link);
    tables.remove_table(FAMILY_INET);
    match NfSocket::open()?.transact(&tables.finish()) {
        Err(error) if error.raw_os_error() != Some(libc::ENOENT) => Err(error),
        _ => Ok(true),
    }
}

/// Names of the shims that have rules in the caller's network namespace and whose names begin so.
///
/// # Errors
/// The kernel's. A kernel without nf_tables has none.
pub(crate) fn shim_rules(beginning: &str) -> io::Result<Vec<String>> {
    match nft_tables::named(beginning) {
        Ok(tables) => {
            let tables = tables.into_iter().filter(|table| table.family == "inet");
            Ok(tables.map(|table| table.name).collect())
        }
        Err(error) if error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

//! The queries of the LAN as the container's own link hears them: before the host's firewall, which
//! does not stand there.
//!
//! ```text
//!   chain queries {
//!     @th,0,8 0x11 @ll,0,24 0x01005e limit rate 64/second burst 128 packets log group GROUP
//!     drop }
//! ```
//!
//! In the table of IPv6 the first two comparisons are `@th,0,8 0x82 @ll,0,16 0x3333`.
//!
//! Only a frame to a group counts. One to the container's own address never comes to the host, and
//! says nothing of the host's firewall. What the container sends itself is dropped at the output
//! hook, and what its kernel would loop back has no link header (`dev_loopback_xmit` in
//! net/core/dev.c, `nft_payload_eval` in net/netfilter/nft_payload.c): no process of the container
//! makes the proxy believe in a query. One with CAP_NET_ADMIN can move frames between its
//! interfaces: it gets no more than reports of what the container has joined, at the rate that the
//! proxy sends them.
//!
//! A packet that is neither IGMP nor MLD is never compared here.

use crate::proxy::container::rules::nftables::{Base, Operator, Tables, Verdict};

/// Name of the chain.
pub(super) const QUERIES: &str = "queries";

/// What a query of a family begins with.
pub(super) struct HeardQuery {
    /// Its type.
    kind: u8,
    /// First bytes of the MAC addresses of groups.
    mac: &'static [u8],
}

impl HeardQuery {
    /// RFC 9776 §4, RFC 1112 §6.4.
    pub(super) const OF_IGMP: Self = HeardQuery { kind: 0x11, mac: &[0x01, 0x00, 0x5e] };
    /// RFC 9777 §5, RFC 2464 §7.
    pub(super) const OF_MLD: Self = HeardQuery { kind: 130, mac: &[0x33, 0x33] };
}

/// Queries that are logged in a second, and at once: any station of the LAN can send them, and they
/// share the socket's buffer with the container's own reports.
const PER_SECOND: u32 = 64;
const BURST: u32 = 128;

/// Adds the chain, which drops all, and logs queries to the NFLOG socket of this group.
pub(super) fn add_queries(tables: &mut Tables<'_>, group: u16, query: &HeardQuery) {
    tables.add_chain(QUERIES);
    tables.add_rule(QUERIES, |rule| {
        rule.payload(Base::Transport, 0, Operator::Equal, &[query.kind]);
        rule.payload(Base::Link, 0, Operator::Equal, query.mac);
        rule.at_most(PER_SECOND, BURST);
        rule.log(group);
    });
    tables.add_rule(QUERIES, |rule| rule.verdict(&Verdict::Drop));
}

//! Interception: nf_tables rules in the container's namespace that belong to one socket.
//!
//! The tables carry the *owner* flag (Linux 5.12): nobody else can change them, and they go
//! when the socket is closed, however the proxy ends; then the container speaks IGMP natively.
//! In the words of nft(8), for each interface served:
//!
//! ```text
//! table ip mcrun { flags owner
//!   chain output { type filter hook output priority -1000
//!     oif IF ip protocol igmp meta mark != MARK counter log group GROUP drop }
//!   chain input  { type filter hook input priority -1000
//!     iif IF ip protocol igmp meta mark != MARK counter drop }
//! }
//! table netdev mcrun { flags owner
//!   chain egress-IF { type filter hook egress device IF priority -1000
//!     ...the same for frames of a packet socket, also behind one VLAN tag... }
//! }
//! ```
//!
//! `MARK` is random for each proxy. It cannot be "mark is zero": the kernel's own IGMPv3
//! reports carry a mark (`igmpv3_newpack` keeps the MTU there), and a process with CAP_NET_RAW may set one since
//! Linux 5.17, so that it must not be guessable either.

use std::io;

use super::nfnetlink::{ACK, APPEND, Attributes, CREATE, EXCL, Messages, NfSocket};

const SUBSYSTEM: u16 = (libc::NFNL_SUBSYS_NFTABLES as u16) << 8;
const NEW_TABLE: u16 = SUBSYSTEM | libc::NFT_MSG_NEWTABLE as u16;
const NEW_CHAIN: u16 = SUBSYSTEM | libc::NFT_MSG_NEWCHAIN as u16;
const NEW_RULE: u16 = SUBSYSTEM | libc::NFT_MSG_NEWRULE as u16;
const BATCH_BEGIN: u16 = libc::NFNL_MSG_BATCH_BEGIN as u16;
const BATCH_END: u16 = libc::NFNL_MSG_BATCH_END as u16;

const FAMILY_IPV4: u8 = libc::NFPROTO_IPV4 as u8;
const FAMILY_NETDEV: u8 = libc::NFPROTO_NETDEV as u8;

/// Before any chain of the container's own (conntrack's first hook is at -400).
const PRIORITY: i32 = -1000;
const TABLE_F_OWNER: u32 = 0x2;
const HOOK_EGRESS: u32 = 1;
const IGMP: u8 = libc::IPPROTO_IGMP as u8;
/// The protocol field of an IPv4 header (RFC 791 §3.1).
const IP_PROTOCOL: u32 = 9;
const ETHERTYPE: u32 = 12;
const ETH_HEADER: u32 = 14;
const VLAN_TAG: u32 = 4;

/// Attribute types of linux/netfilter/nf_tables.h, `NFTA_*` there.
mod nfta {
    pub(super) const TABLE_NAME: u16 = 1;
    pub(super) const TABLE_FLAGS: u16 = 2;
    pub(super) const CHAIN_TABLE: u16 = 1;
    pub(super) const CHAIN_NAME: u16 = 3;
    pub(super) const CHAIN_HOOK: u16 = 4;
    pub(super) const CHAIN_POLICY: u16 = 5;
    pub(super) const CHAIN_TYPE: u16 = 7;
    pub(super) const RULE_TABLE: u16 = 1;
    pub(super) const RULE_CHAIN: u16 = 2;
    pub(super) const RULE_EXPRESSIONS: u16 = 4;
    pub(super) const EXPR_NAME: u16 = 1;
    pub(super) const EXPR_DATA: u16 = 2;
    pub(super) const CMP_SREG: u16 = 1;
    pub(super) const CMP_OP: u16 = 2;
    pub(super) const CMP_DATA: u16 = 3;
    pub(super) const DATA_VALUE: u16 = 1;
    pub(super) const DATA_VERDICT: u16 = 2;
    pub(super) const META_DREG: u16 = 1;
    pub(super) const META_KEY: u16 = 2;
    pub(super) const PAYLOAD_DREG: u16 = 1;
    pub(super) const PAYLOAD_BASE: u16 = 2;
    pub(super) const PAYLOAD_OFFSET: u16 = 3;
    pub(super) const PAYLOAD_LEN: u16 = 4;
    pub(super) const LOG_GROUP: u16 = 1;
    pub(super) const IMMEDIATE_DREG: u16 = 1;
    pub(super) const IMMEDIATE_DATA: u16 = 2;
    pub(super) const VERDICT_CODE: u16 = 1;
    pub(super) const HOOK_HOOKNUM: u16 = 1;
    pub(super) const HOOK_PRIORITY: u16 = 2;
    pub(super) const HOOK_DEV: u16 = 3;
    pub(super) const LIST_ELEM: u16 = 1;
}

/// An interface in the container to be intercepted.
pub(crate) struct Target<'a> {
    /// Its name.
    pub(crate) name: &'a str,
    /// Its index.
    pub(crate) index: u32,
}

/// Installs the output and input rules: what must be there for the proxy to serve at all.
///
/// # Errors
/// The kernel's; all or nothing is installed. `EEXIST` when the container has a table of this
/// name.
pub(crate) fn intercept(
    socket: &NfSocket,
    table: &str,
    targets: &[Target<'_>],
    mark: u32,
    group: u16,
) -> io::Result<()> {
    let mut batch = Messages::default();
    begin(&mut batch, table, FAMILY_IPV4);
    for (chain, hook) in [("output", libc::NF_INET_LOCAL_OUT), ("input", libc::NF_INET_LOCAL_IN)] {
        add_chain(&mut batch, FAMILY_IPV4, table, chain, hook as u32, None);
    }
    for target in targets {
        let index = target.index.to_ne_bytes();
        add_rule(&mut batch, FAMILY_IPV4, table, "output", |rule| {
            rule.meta(libc::NFT_META_OIF as u32, Operator::Equal, &index);
            rule.payload(Base::Network, IP_PROTOCOL, &[IGMP]);
            rule.meta(libc::NFT_META_MARK as u32, Operator::NotEqual, &mark.to_ne_bytes());
            rule.counter();
            rule.log(group);
            rule.drop();
        });
        add_rule(&mut batch, FAMILY_IPV4, table, "input", |rule| {
            rule.meta(libc::NFT_META_IIF as u32, Operator::Equal, &index);
            rule.payload(Base::Network, IP_PROTOCOL, &[IGMP]);
            rule.meta(libc::NFT_META_MARK as u32, Operator::NotEqual, &mark.to_ne_bytes());
            rule.counter();
            rule.drop();
        });
    }
    end(&mut batch);
    socket.transact(&batch)
}

/// Installs the egress rules (Linux 5.16), which also stop packet sockets.
///
/// The frame itself is judged and not what its sender says of it (`skb->protocol` comes from
/// `sll_protocol`); the rule on the network header is for frames so short that the kernel does
/// not know where their link header ends.
///
/// # Errors
/// The kernel's; all or nothing is installed.
pub(crate) fn intercept_frames(
    socket: &NfSocket,
    table: &str,
    targets: &[Target<'_>],
    mark: u32,
) -> io::Result<()> {
    let ipv4 = (libc::ETH_P_IP as u16).to_be_bytes();
    let mut batch = Messages::default();
    begin(&mut batch, table, FAMILY_NETDEV);
    for target in targets {
        let chain = format!("egress-{}", target.index);
        add_chain(&mut batch, FAMILY_NETDEV, table, &chain, HOOK_EGRESS, Some(target.name));
        let mut rule = |matches: &dyn Fn(&mut Rule<'_, '_>)| {
            add_rule(&mut batch, FAMILY_NETDEV, table, &chain, |rule| {
                matches(rule);
                rule.meta(libc::NFT_META_MARK as u32, Operator::NotEqual, &mark.to_ne_bytes());
                rule.counter();
                rule.drop();
            });
        };
        rule(&|r| {
            r.payload(Base::Link, ETHERTYPE, &ipv4);
            r.payload(Base::Link, ETH_HEADER + IP_PROTOCOL, &[IGMP]);
        });
        for tag in [libc::ETH_P_8021Q, libc::ETH_P_8021AD] {
            rule(&|r| {
                r.payload(Base::Link, ETHERTYPE, &(tag as u16).to_be_bytes());
                r.payload(Base::Link, ETHERTYPE + VLAN_TAG, &ipv4);
                r.payload(Base::Link, ETH_HEADER + VLAN_TAG + IP_PROTOCOL, &[IGMP]);
            });
        }
        rule(&|r| {
            r.meta(libc::NFT_META_PROTOCOL as u32, Operator::Equal, &ipv4);
            r.payload(Base::Network, IP_PROTOCOL, &[IGMP]);
        });
    }
    end(&mut batch);
    socket.transact(&batch)
}

fn begin(batch: &mut Messages, table: &str, family: u8) {
    batch.push(BATCH_BEGIN, 0, libc::AF_UNSPEC as u8, libc::NFNL_SUBSYS_NFTABLES as u16, |_| {});
    batch.push(NEW_TABLE, CREATE | EXCL | ACK, family, 0, |a| {
        a.text(nfta::TABLE_NAME, table);
        a.u32(nfta::TABLE_FLAGS, TABLE_F_OWNER);
    });
}

fn end(batch: &mut Messages) {
    batch.push(BATCH_END, 0, libc::AF_UNSPEC as u8, libc::NFNL_SUBSYS_NFTABLES as u16, |_| {});
}

fn add_chain(
    batch: &mut Messages,
    family: u8,
    table: &str,
    chain: &str,
    hook: u32,
    device: Option<&str>,
) {
    batch.push(NEW_CHAIN, CREATE | EXCL | ACK, family, 0, |a| {
        a.text(nfta::CHAIN_TABLE, table);
        a.text(nfta::CHAIN_NAME, chain);
        a.nest(nfta::CHAIN_HOOK, |a| {
            a.u32(nfta::HOOK_HOOKNUM, hook);
            a.u32(nfta::HOOK_PRIORITY, PRIORITY.cast_unsigned());
            if let Some(device) = device {
                a.text(nfta::HOOK_DEV, device);
            }
        });
        a.u32(nfta::CHAIN_POLICY, libc::NF_ACCEPT as u32);
        a.text(nfta::CHAIN_TYPE, "filter");
    });
}

fn add_rule(
    batch: &mut Messages,
    family: u8,
    table: &str,
    chain: &str,
    fill: impl FnOnce(&mut Rule<'_, '_>),
) {
    batch.push(NEW_RULE, CREATE | APPEND | ACK, family, 0, |a| {
        a.text(nfta::RULE_TABLE, table);
        a.text(nfta::RULE_CHAIN, chain);
        a.nest(nfta::RULE_EXPRESSIONS, |a| fill(&mut Rule { list: a }));
    });
}

/// How a register is compared (`enum nft_cmp_ops`).
#[derive(Clone, Copy)]
enum Operator {
    Equal = 0,
    NotEqual = 1,
}

/// Where a payload offset counts from (`enum nft_payload_bases`).
#[derive(Clone, Copy)]
enum Base {
    Link = 0,
    Network = 1,
}

/// Writes the expressions of a rule; all of them use register 1.
struct Rule<'r, 'a> {
    list: &'r mut Attributes<'a>,
}

impl Rule<'_, '_> {
    fn expression(&mut self, name: &str, fill: impl FnOnce(&mut Attributes<'_>)) {
        self.list.nest(nfta::LIST_ELEM, |a| {
            a.text(nfta::EXPR_NAME, name);
            a.nest(nfta::EXPR_DATA, fill);
        });
    }

    fn compare(&mut self, operator: Operator, value: &[u8]) {
        self.expression("cmp", |a| {
            a.u32(nfta::CMP_SREG, libc::NFT_REG_1 as u32);
            a.u32(nfta::CMP_OP, operator as u32);
            a.nest(nfta::CMP_DATA, |a| a.raw(nfta::DATA_VALUE, value));
        });
    }

    /// Goes on when a property of the packet compares so with `value`.
    fn meta(&mut self, key: u32, operator: Operator, value: &[u8]) {
        self.expression("meta", |a| {
            a.u32(nfta::META_DREG, libc::NFT_REG_1 as u32);
            a.u32(nfta::META_KEY, key);
        });
        self.compare(operator, value);
    }

    /// Goes on when the packet has these bytes there.
    fn payload(&mut self, base: Base, offset: u32, value: &[u8]) {
        self.expression("payload", |a| {
            a.u32(nfta::PAYLOAD_DREG, libc::NFT_REG_1 as u32);
            a.u32(nfta::PAYLOAD_BASE, base as u32);
            a.u32(nfta::PAYLOAD_OFFSET, offset);
            a.u32(nfta::PAYLOAD_LEN, value.len() as u32);
        });
        self.compare(Operator::Equal, value);
    }

    fn counter(&mut self) {
        self.expression("counter", |_| {});
    }

    /// Hands a copy to the NFLOG socket of the group.
    fn log(&mut self, group: u16) {
        self.expression("log", |a| a.u16(nfta::LOG_GROUP, group));
    }

    fn drop(&mut self) {
        self.expression("immediate", |a| {
            a.u32(nfta::IMMEDIATE_DREG, libc::NFT_REG_VERDICT as u32);
            a.nest(nfta::IMMEDIATE_DATA, |a| {
                a.nest(nfta::DATA_VERDICT, |a| {
                    a.u32(nfta::VERDICT_CODE, libc::NF_DROP as u32);
                });
            });
        });
    }
}

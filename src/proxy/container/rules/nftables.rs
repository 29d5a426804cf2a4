//! nf_tables as messages: tables, chains, sets and the expressions of rules.

use std::net::Ipv4Addr;

use crate::multicast::AddressRange;
use crate::net::nfnetlink::{ACK, APPEND, Attributes, CREATE, EXCL, Messages};

const SUBSYSTEM: u16 = (libc::NFNL_SUBSYS_NFTABLES as u16) << 8;
const NEW_TABLE: u16 = SUBSYSTEM | libc::NFT_MSG_NEWTABLE as u16;
const NEW_CHAIN: u16 = SUBSYSTEM | libc::NFT_MSG_NEWCHAIN as u16;
const NEW_RULE: u16 = SUBSYSTEM | libc::NFT_MSG_NEWRULE as u16;
const NEW_SET: u16 = SUBSYSTEM | libc::NFT_MSG_NEWSET as u16;
const NEW_ELEMENTS: u16 = SUBSYSTEM | libc::NFT_MSG_NEWSETELEM as u16;
const BATCH_BEGIN: u16 = libc::NFNL_MSG_BATCH_BEGIN as u16;
const BATCH_END: u16 = libc::NFNL_MSG_BATCH_END as u16;

/// Before any chain of the container's own (conntrack's first hook is at -400).
const PRIORITY: i32 = -1000;
const TABLE_F_OWNER: u32 = 0x2;
const SET_INTERVAL: u32 = libc::NFT_SET_INTERVAL as u32;
const SET_MAP: u32 = libc::NFT_SET_MAP as u32;
const INTERVAL_END: u32 = libc::NFT_SET_ELEM_INTERVAL_END as u32;
/// nft(8)'s number for IPv4 addresses: the kernel keeps it, and `nft list` shows them as such.
const TYPE_IPV4_ADDRESS: u32 = 7;
/// `NFT_DATA_VERDICT` of linux/netfilter/nf_tables.h.
const DATA_TYPE_VERDICT: u32 = 0xffff_ff00;
/// Ranges of one message: the list of a message's elements is an attribute, at most 64 KiB long.
const RANGES_PER_MESSAGE: usize = 256;
/// `enum nft_rt_keys`.
const RT_NEXTHOP4: u32 = 1;

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
    pub(super) const SET_TABLE: u16 = 1;
    pub(super) const SET_NAME: u16 = 2;
    pub(super) const SET_FLAGS: u16 = 3;
    pub(super) const SET_KEY_TYPE: u16 = 4;
    pub(super) const SET_KEY_LEN: u16 = 5;
    pub(super) const SET_DATA_TYPE: u16 = 6;
    pub(super) const SET_DATA_LEN: u16 = 7;
    pub(super) const SET_ID: u16 = 10;
    pub(super) const ELEM_LIST_TABLE: u16 = 1;
    pub(super) const ELEM_LIST_SET: u16 = 2;
    pub(super) const ELEM_LIST_ELEMENTS: u16 = 3;
    pub(super) const ELEM_LIST_SET_ID: u16 = 4;
    pub(super) const ELEM_KEY: u16 = 1;
    pub(super) const ELEM_DATA: u16 = 2;
    pub(super) const ELEM_FLAGS: u16 = 3;
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
    pub(super) const RT_DREG: u16 = 1;
    pub(super) const RT_KEY: u16 = 2;
    pub(super) const PAYLOAD_BASE: u16 = 2;
    pub(super) const PAYLOAD_OFFSET: u16 = 3;
    pub(super) const PAYLOAD_LEN: u16 = 4;
    pub(super) const LOOKUP_SET: u16 = 1;
    pub(super) const LOOKUP_SREG: u16 = 2;
    pub(super) const LOOKUP_DREG: u16 = 3;
    pub(super) const LOOKUP_SET_ID: u16 = 4;
    pub(super) const LOG_GROUP: u16 = 1;
    pub(super) const IMMEDIATE_DREG: u16 = 1;
    pub(super) const IMMEDIATE_DATA: u16 = 2;
    pub(super) const VERDICT_CODE: u16 = 1;
    pub(super) const VERDICT_CHAIN: u16 = 2;
    pub(super) const HOOK_HOOKNUM: u16 = 1;
    pub(super) const HOOK_PRIORITY: u16 = 2;
    pub(super) const HOOK_DEV: u16 = 3;
    pub(super) const LIST_ELEM: u16 = 1;
}

/// A table under construction: a batch that the kernel takes whole or not at all.
pub(super) struct Table<'t> {
    batch: Messages,
    name: &'t str,
    family: u8,
    sets: u32,
}

/// A set of the table.
pub(super) struct Set {
    name: String,
    /// Number within the batch: the name is not to be found before the batch is done.
    id: u32,
}

/// What becomes of a packet.
#[derive(Debug, Clone)]
pub(super) enum Verdict {
    /// It is dropped.
    Drop,
    /// It is judged by this chain, and if that lets it pass, by the rules that follow.
    Jump(String),
    /// This chain has nothing more to say of it.
    Return,
}

impl<'t> Table<'t> {
    /// An owned table that does not exist yet.
    ///
    /// Its message alone asks for an acknowledgement: errors are told in any case, and a
    /// thousand acknowledgements would not fit the socket.
    pub(super) fn new(family: u8, name: &'t str) -> Self {
        let mut batch = Messages::default();
        bound(&mut batch, BATCH_BEGIN);
        batch.push(NEW_TABLE, CREATE | EXCL | ACK, family, 0, |a| {
            a.text(nfta::TABLE_NAME, name);
            a.u32(nfta::TABLE_FLAGS, TABLE_F_OWNER);
        });
        Table { batch, name, family, sets: 0 }
    }

    /// The whole batch.
    pub(super) fn finish(mut self) -> Messages {
        bound(&mut self.batch, BATCH_END);
        self.batch
    }

    /// A chain that a hook calls, of one device where the family wants one.
    pub(super) fn add_base_chain(&mut self, chain: &str, hook: u32, device: Option<&str>) {
        self.add(NEW_CHAIN, EXCL, |table, a| {
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

    /// A chain that rules jump to.
    pub(super) fn add_chain(&mut self, chain: &str) {
        self.add(NEW_CHAIN, EXCL, |table, a| {
            a.text(nfta::CHAIN_TABLE, table);
            a.text(nfta::CHAIN_NAME, chain);
        });
    }

    /// A rule at the end of a chain.
    pub(super) fn add_rule(&mut self, chain: &str, fill: impl FnOnce(&mut Rule<'_, '_>)) {
        self.add(NEW_RULE, APPEND, |table, a| {
            a.text(nfta::RULE_TABLE, table);
            a.text(nfta::RULE_CHAIN, chain);
            a.nest(nfta::RULE_EXPRESSIONS, |a| fill(&mut Rule { list: a }));
        });
    }

    /// A set of IPv4 addresses: ascending ranges without overlap.
    pub(super) fn add_set(&mut self, name: String, ranges: &[AddressRange]) -> Set {
        self.new_set(name, ranges, |range| (range, None))
    }

    /// A map from IPv4 addresses to verdicts: ascending ranges without overlap.
    pub(super) fn add_map(&mut self, name: String, ranges: &[(AddressRange, Verdict)]) -> Set {
        self.new_set(name, ranges, |(range, verdict)| (range, Some(verdict)))
    }

    fn new_set<E>(
        &mut self,
        name: String,
        elements: &[E],
        parts: impl Fn(&E) -> (&AddressRange, Option<&Verdict>),
    ) -> Set {
        const ADDRESS: u32 = size_of::<Ipv4Addr>() as u32;
        self.sets += 1;
        let set = Set { name, id: self.sets };
        let is_map = elements.first().is_some_and(|element| parts(element).1.is_some());
        self.add(NEW_SET, EXCL, |table, a| {
            a.text(nfta::SET_TABLE, table);
            a.text(nfta::SET_NAME, &set.name);
            a.u32(nfta::SET_FLAGS, SET_INTERVAL | if is_map { SET_MAP } else { 0 });
            a.u32(nfta::SET_KEY_TYPE, TYPE_IPV4_ADDRESS);
            a.u32(nfta::SET_KEY_LEN, ADDRESS);
            if is_map {
                a.u32(nfta::SET_DATA_TYPE, DATA_TYPE_VERDICT);
                a.u32(nfta::SET_DATA_LEN, 0);
            }
            a.u32(nfta::SET_ID, set.id);
        });
        for chunk in elements.chunks(RANGES_PER_MESSAGE) {
            self.add(NEW_ELEMENTS, 0, |table, a| {
                a.text(nfta::ELEM_LIST_TABLE, table);
                a.text(nfta::ELEM_LIST_SET, &set.name);
                a.u32(nfta::ELEM_LIST_SET_ID, set.id);
                a.nest(nfta::ELEM_LIST_ELEMENTS, |a| {
                    for (range, verdict) in chunk.iter().map(&parts) {
                        add_range(a, range, verdict);
                    }
                });
            });
        }
        set
    }

    fn add(&mut self, kind: u16, flags: u16, fill: impl FnOnce(&str, &mut Attributes<'_>)) {
        let name = self.name;
        self.batch.push(kind, CREATE | flags, self.family, 0, |a| fill(name, a));
    }
}

fn bound(batch: &mut Messages, kind: u16) {
    batch.push(kind, 0, libc::AF_UNSPEC as u8, libc::NFNL_SUBSYS_NFTABLES as u16, |_| {});
}

/// A range is its first address, and the first behind it as an end; one that reaches the last
/// address of all has none.
fn add_range(list: &mut Attributes<'_>, range: &AddressRange, verdict: Option<&Verdict>) {
    list.nest(nfta::LIST_ELEM, |a| {
        a.nest(nfta::ELEM_KEY, |a| a.raw(nfta::DATA_VALUE, &range.start().octets()));
        if let Some(verdict) = verdict {
            a.nest(nfta::ELEM_DATA, |a| add_verdict(a, verdict));
        }
    });
    if let Some(behind) = u32::from(*range.end()).checked_add(1) {
        list.nest(nfta::LIST_ELEM, |a| {
            a.nest(nfta::ELEM_KEY, |a| a.raw(nfta::DATA_VALUE, &behind.to_be_bytes()));
            a.u32(nfta::ELEM_FLAGS, INTERVAL_END);
        });
    }
}

fn add_verdict(data: &mut Attributes<'_>, verdict: &Verdict) {
    data.nest(nfta::DATA_VERDICT, |a| match verdict {
        Verdict::Drop => a.u32(nfta::VERDICT_CODE, libc::NF_DROP as u32),
        Verdict::Jump(chain) => {
            a.u32(nfta::VERDICT_CODE, libc::NFT_JUMP.cast_unsigned());
            a.text(nfta::VERDICT_CHAIN, chain);
        }
        Verdict::Return => a.u32(nfta::VERDICT_CODE, libc::NFT_RETURN.cast_unsigned()),
    });
}

/// How a register is compared (`enum nft_cmp_ops`).
#[derive(Clone, Copy)]
pub(super) enum Operator {
    Equal = 0,
    NotEqual = 1,
    AtLeast = 5,
}

/// Where a payload offset counts from (`enum nft_payload_bases`).
#[derive(Clone, Copy)]
pub(super) enum Base {
    Link = 0,
    Network = 1,
}

/// Writes the expressions of a rule; all of them use register 1.
pub(super) struct Rule<'r, 'a> {
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

    fn load(&mut self, base: Base, offset: u32, length: usize) {
        self.expression("payload", |a| {
            a.u32(nfta::PAYLOAD_DREG, libc::NFT_REG_1 as u32);
            a.u32(nfta::PAYLOAD_BASE, base as u32);
            a.u32(nfta::PAYLOAD_OFFSET, offset);
            a.u32(nfta::PAYLOAD_LEN, length as u32);
        });
    }

    fn look_up(&mut self, set: &Set, fill: impl FnOnce(&mut Attributes<'_>)) {
        self.expression("lookup", |a| {
            a.text(nfta::LOOKUP_SET, &set.name);
            a.u32(nfta::LOOKUP_SREG, libc::NFT_REG_1 as u32);
            a.u32(nfta::LOOKUP_SET_ID, set.id);
            fill(a);
        });
    }

    /// Goes on when a property of the packet compares so with `value`.
    pub(super) fn meta(&mut self, key: u32, operator: Operator, value: &[u8]) {
        self.expression("meta", |a| {
            a.u32(nfta::META_DREG, libc::NFT_REG_1 as u32);
            a.u32(nfta::META_KEY, key);
        });
        self.compare(operator, value);
    }

    /// Goes on when the packet has a route already: at prerouting only one that this namespace has sent
    /// itself and gets back (`nft_rt_get_eval` in net/netfilter/nft_rt.c, `ip_dev_loopback_xmit` in
    /// net/ipv4/ip_output.c).
    pub(super) fn has_route(&mut self) {
        self.expression("rt", |a| {
            a.u32(nfta::RT_DREG, libc::NFT_REG_1 as u32);
            a.u32(nfta::RT_KEY, RT_NEXTHOP4);
        });
    }

    /// Goes on when the packet's bytes there compare so with `value`.
    pub(super) fn payload(&mut self, base: Base, offset: u32, operator: Operator, value: &[u8]) {
        self.load(base, offset, value.len());
        self.compare(operator, value);
    }

    /// Goes on when the IPv4 address there is in the set.
    pub(super) fn address_in(&mut self, offset: u32, set: &Set) {
        self.load(Base::Network, offset, size_of::<Ipv4Addr>());
        self.look_up(set, |_| {});
    }

    /// Does what the map says of the IPv4 address there, if anything.
    pub(super) fn verdict_of_address(&mut self, offset: u32, map: &Set) {
        self.load(Base::Network, offset, size_of::<Ipv4Addr>());
        self.look_up(map, |a| a.u32(nfta::LOOKUP_DREG, libc::NFT_REG_VERDICT as u32));
    }

    /// Counts packets and bytes that come here.
    pub(super) fn counter(&mut self) {
        self.expression("counter", |_| {});
    }

    /// Hands a copy to the NFLOG socket of the group.
    pub(super) fn log(&mut self, group: u16) {
        self.expression("log", |a| a.u16(nfta::LOG_GROUP, group));
    }

    /// Ends with this verdict.
    pub(super) fn verdict(&mut self, verdict: &Verdict) {
        self.expression("immediate", |a| {
            a.u32(nfta::IMMEDIATE_DREG, libc::NFT_REG_VERDICT as u32);
            a.nest(nfta::IMMEDIATE_DATA, |a| add_verdict(a, verdict));
        });
    }
}

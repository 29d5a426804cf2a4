//! nf_tables messages: tables, chains, sets, and the expressions of rules.

mod set_key;

use std::net::{IpAddr, Ipv6Addr};

use crate::multicast::{Address, AddressRange};
use crate::net::nfnetlink::{ACK, APPEND, Attributes, CREATE, EXCL, Messages};
pub(super) use crate::proxy::container::rules::nftables::set_key::{
    Icmpv6Type, IpProtocol, SetKey,
};

const SUBSYSTEM: u16 = (libc::NFNL_SUBSYS_NFTABLES as u16) << 8;
const NEW_TABLE: u16 = SUBSYSTEM | libc::NFT_MSG_NEWTABLE as u16;
const DELETE_TABLE: u16 = SUBSYSTEM | libc::NFT_MSG_DELTABLE as u16;
const NEW_CHAIN: u16 = SUBSYSTEM | libc::NFT_MSG_NEWCHAIN as u16;
const NEW_RULE: u16 = SUBSYSTEM | libc::NFT_MSG_NEWRULE as u16;
const NEW_SET: u16 = SUBSYSTEM | libc::NFT_MSG_NEWSET as u16;
const NEW_ELEMENTS: u16 = SUBSYSTEM | libc::NFT_MSG_NEWSETELEM as u16;
const BATCH_BEGIN: u16 = libc::NFNL_MSG_BATCH_BEGIN as u16;
const BATCH_END: u16 = libc::NFNL_MSG_BATCH_END as u16;

/// Before any other chain of the container (conntrack's first hook has priority -400).
const PRIORITY: i32 = -1000;
const TABLE_F_OWNER: u32 = 0x2;
const SET_INTERVAL: u32 = libc::NFT_SET_INTERVAL as u32;
/// `NFT_REG32_01`: the second four bytes of register 1.
const REGISTER_BEHIND_MARK: u32 = libc::NFT_REG32_01 as u32;
const LOOKUP_INVERTED: u32 = libc::NFT_LOOKUP_F_INV as u32;
const SET_MAP: u32 = libc::NFT_SET_MAP as u32;
const INTERVAL_END: u32 = libc::NFT_SET_ELEM_INTERVAL_END as u32;
/// `NFT_DATA_VERDICT` of linux/netfilter/nf_tables.h.
const DATA_TYPE_VERDICT: u32 = 0xffff_ff00;
/// Ranges in one message, whose list of elements is one attribute of at most 64 KiB.
const RANGES_PER_MESSAGE: usize = 256;
/// Single values in one message.
const ELEMENTS_PER_MESSAGE: usize = 1024;
/// `enum nft_fib_result` and `enum nft_fib_flags`.
const FIB_RESULT_OIF: u32 = 1;
const FIB_SOURCE_AND_INTERFACE: u32 = 0x1 | 0x8;
/// `enum nft_rt_keys`.
const RT_NEXTHOP4: u32 = 1;
const RT_NEXTHOP6: u32 = 2;

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
    pub(super) const SET_DESCRIPTION: u16 = 9;
    pub(super) const SET_DESCRIPTION_SIZE: u16 = 1;
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
    pub(super) const FIB_DREG: u16 = 1;
    pub(super) const FIB_RESULT: u16 = 2;
    pub(super) const FIB_FLAGS: u16 = 3;
    pub(super) const PAYLOAD_BASE: u16 = 2;
    pub(super) const PAYLOAD_OFFSET: u16 = 3;
    pub(super) const PAYLOAD_LEN: u16 = 4;
    pub(super) const PAYLOAD_SREG: u16 = 5;
    pub(super) const LOOKUP_SET: u16 = 1;
    pub(super) const LOOKUP_SREG: u16 = 2;
    pub(super) const LOOKUP_DREG: u16 = 3;
    pub(super) const LOOKUP_SET_ID: u16 = 4;
    pub(super) const LOOKUP_FLAGS: u16 = 5;
    pub(super) const BITWISE_SREG: u16 = 1;
    pub(super) const BITWISE_DREG: u16 = 2;
    pub(super) const BITWISE_LEN: u16 = 3;
    pub(super) const BITWISE_MASK: u16 = 4;
    pub(super) const BITWISE_XOR: u16 = 5;
    pub(super) const LOG_GROUP: u16 = 1;
    pub(super) const LIMIT_RATE: u16 = 1;
    pub(super) const LIMIT_UNIT: u16 = 2;
    pub(super) const LIMIT_BURST: u16 = 3;
    pub(super) const IMMEDIATE_DREG: u16 = 1;
    pub(super) const IMMEDIATE_DATA: u16 = 2;
    pub(super) const VERDICT_CODE: u16 = 1;
    pub(super) const VERDICT_CHAIN: u16 = 2;
    pub(super) const HOOK_HOOKNUM: u16 = 1;
    pub(super) const HOOK_PRIORITY: u16 = 2;
    pub(super) const HOOK_DEV: u16 = 3;
    pub(super) const LIST_ELEM: u16 = 1;
}

/// Tables under construction: a batch, which the kernel accepts or refuses as a whole.
pub(super) struct Tables<'t> {
    batch: Messages,
    name: &'t str,
    /// Of the table that is being filled.
    family: u8,
    sets: u32,
}

/// A set of the table.
pub(super) struct Set {
    name: String,
    /// Number in the batch. Rules of the batch refer to the set by it, because the kernel cannot
    /// look up the name before the batch is committed.
    id: u32,
}

/// What a rule does with a packet.
#[derive(Debug, Clone)]
pub(super) enum Verdict {
    /// Drops it.
    Drop,
    /// Continues at this chain, and then at the next rule.
    Jump(String),
    /// Continues at this chain. A packet that meets no rule of it is accepted.
    Goto(String),
    /// Ends this table's rules for the packet, which may leave as far as they are concerned.
    Accept,
    /// Leaves the chain.
    Return,
}

impl<'t> Tables<'t> {
    /// Begins tables of this name.
    pub(super) fn new(name: &'t str) -> Self {
        let mut batch = Messages::default();
        push_batch_boundary(&mut batch, BATCH_BEGIN);
        Tables { batch, name, family: 0, sets: 0 }
    }

    /// Begins a new table of a family, with the owner flag. What is added from here on belongs to
    /// it.
    ///
    /// Only the first message requests an acknowledgement. The kernel reports errors anyway, and a
    /// thousand acknowledgements would overflow the receive buffer.
    pub(super) fn add_table(&mut self, family: u8) {
        self.push_table(family, EXCL, TABLE_F_OWNER);
    }

    /// Begins a table of a family that outlives the netlink socket, or adds to the one that there
    /// is.
    pub(super) fn extend_table(&mut self, family: u8) {
        self.push_table(family, 0, 0);
    }

    /// Removes the table of a family, which is there. A table that is begun after this one takes
    /// its place at once.
    pub(super) fn remove_table(&mut self, family: u8) {
        let name = self.name;
        self.batch.push(DELETE_TABLE, ACK, family, 0, |a| a.text(nfta::TABLE_NAME, name));
    }

    fn push_table(&mut self, family: u8, flags: u16, table_flags: u32) {
        let ack = if self.family == 0 { ACK } else { 0 };
        self.family = family;
        self.batch.push(NEW_TABLE, CREATE | flags | ack, family, 0, |a| {
            a.text(nfta::TABLE_NAME, self.name);
            a.u32(nfta::TABLE_FLAGS, table_flags);
        });
    }

    /// Ends the batch and returns it.
    pub(super) fn finish(mut self) -> Messages {
        push_batch_boundary(&mut self.batch, BATCH_END);
        self.batch
    }

    /// Adds a base chain: one that a hook calls. The netdev family needs a device.
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

    /// Adds a regular chain: one that rules jump to.
    pub(super) fn add_chain(&mut self, chain: &str) {
        self.add(NEW_CHAIN, EXCL, |table, a| {
            a.text(nfta::CHAIN_TABLE, table);
            a.text(nfta::CHAIN_NAME, chain);
        });
    }

    /// Adds a rule at the end of a chain.
    pub(super) fn add_rule(&mut self, chain: &str, fill: impl FnOnce(&mut Rule<'_, '_>)) {
        self.add(NEW_RULE, APPEND, |table, a| {
            a.text(nfta::RULE_TABLE, table);
            a.text(nfta::RULE_CHAIN, chain);
            a.nest(nfta::RULE_EXPRESSIONS, |a| fill(&mut Rule { list: a }));
        });
    }

    /// Adds a set of addresses. The ranges are ascending and do not overlap.
    pub(super) fn add_set<A: Address + SetKey>(
        &mut self,
        name: String,
        ranges: &[AddressRange<A>],
    ) -> Set {
        self.new_set(name, ranges, |range| (range, None))
    }

    /// Adds a map from addresses to verdicts. The ranges are ascending and do not overlap.
    pub(super) fn add_map<A: Address + SetKey>(
        &mut self,
        name: String,
        ranges: &[(AddressRange<A>, Verdict)],
    ) -> Set {
        self.new_set(name, ranges, |(range, verdict)| (range, Some(verdict)))
    }

    /// Adds a set of single values.
    pub(super) fn add_set_of<K: SetKey>(&mut self, name: String, values: &[K]) -> Set {
        self.sets += 1;
        let set = Set { name, id: self.sets };
        self.add(NEW_SET, EXCL, |table, a| {
            a.text(nfta::SET_TABLE, table);
            a.text(nfta::SET_NAME, &set.name);
            a.u32(nfta::SET_KEY_TYPE, K::TYPE);
            a.u32(nfta::SET_KEY_LEN, K::LENGTH);
            // A set of a known size is a plain hash table or a bitmap.
            a.nest(nfta::SET_DESCRIPTION, |a| {
                a.u32(nfta::SET_DESCRIPTION_SIZE, values.len() as u32);
            });
            a.u32(nfta::SET_ID, set.id);
        });
        for chunk in values.chunks(ELEMENTS_PER_MESSAGE) {
            self.add(NEW_ELEMENTS, 0, |table, a| {
                a.text(nfta::ELEM_LIST_TABLE, table);
                a.text(nfta::ELEM_LIST_SET, &set.name);
                a.u32(nfta::ELEM_LIST_SET_ID, set.id);
                a.nest(nfta::ELEM_LIST_ELEMENTS, |a| {
                    for value in chunk {
                        a.nest(nfta::LIST_ELEM, |a| {
                            a.nest(nfta::ELEM_KEY, |a| {
                                value.with(|key| a.raw(nfta::DATA_VALUE, key));
                            });
                        });
                    }
                });
            });
        }
        set
    }

    fn new_set<E, A: Address + SetKey>(
        &mut self,
        name: String,
        elements: &[E],
        parts: impl Fn(&E) -> (&AddressRange<A>, Option<&Verdict>),
    ) -> Set {
        self.sets += 1;
        let set = Set { name, id: self.sets };
        let is_map = elements.first().is_some_and(|element| parts(element).1.is_some());
        self.add(NEW_SET, EXCL, |table, a| {
            a.text(nfta::SET_TABLE, table);
            a.text(nfta::SET_NAME, &set.name);
            a.u32(nfta::SET_FLAGS, SET_INTERVAL | if is_map { SET_MAP } else { 0 });
            a.u32(nfta::SET_KEY_TYPE, A::TYPE);
            a.u32(nfta::SET_KEY_LEN, A::LENGTH);
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

fn push_batch_boundary(batch: &mut Messages, kind: u16) {
    batch.push(kind, 0, libc::AF_UNSPEC as u8, libc::NFNL_SUBSYS_NFTABLES as u16, |_| {});
}

/// Adds a range: an element for its first address, and an end element for the address after its
/// last. A range up to the last address of the family has no end element.
fn add_range<A: Address + SetKey>(
    list: &mut Attributes<'_>,
    range: &AddressRange<A>,
    verdict: Option<&Verdict>,
) {
    list.nest(nfta::LIST_ELEM, |a| {
        a.nest(nfta::ELEM_KEY, |a| range.start().with(|key| a.raw(nfta::DATA_VALUE, key)));
        if let Some(verdict) = verdict {
            a.nest(nfta::ELEM_DATA, |a| add_verdict(a, verdict));
        }
    });
    if *range.end() != A::LARGEST {
        let after = A::from_number(range.end().to_number() + 1);
        list.nest(nfta::LIST_ELEM, |a| {
            a.nest(nfta::ELEM_KEY, |a| after.with(|key| a.raw(nfta::DATA_VALUE, key)));
            a.u32(nfta::ELEM_FLAGS, INTERVAL_END);
        });
    }
}

fn add_verdict(data: &mut Attributes<'_>, verdict: &Verdict) {
    data.nest(nfta::DATA_VERDICT, |a| match verdict {
        Verdict::Drop => a.u32(nfta::VERDICT_CODE, libc::NF_DROP as u32),
        Verdict::Accept => a.u32(nfta::VERDICT_CODE, libc::NF_ACCEPT as u32),
        Verdict::Jump(chain) => {
            a.u32(nfta::VERDICT_CODE, libc::NFT_JUMP.cast_unsigned());
            a.text(nfta::VERDICT_CHAIN, chain);
        }
        Verdict::Goto(chain) => {
            a.u32(nfta::VERDICT_CODE, libc::NFT_GOTO.cast_unsigned());
            a.text(nfta::VERDICT_CHAIN, chain);
        }
        Verdict::Return => a.u32(nfta::VERDICT_CODE, libc::NFT_RETURN.cast_unsigned()),
    });
}

/// A comparison (`enum nft_cmp_ops`).
#[derive(Clone, Copy)]
pub(super) enum Operator {
    Equal = 0,
    NotEqual = 1,
    AtLeast = 5,
}

/// The header that a payload offset counts from (`enum nft_payload_bases`).
#[derive(Clone, Copy)]
pub(super) enum Base {
    Link = 0,
    Network = 1,
    Transport = 2,
}

/// The expressions of a rule under construction. All use register 1. A rule ends at the first
/// condition that a packet does not meet.
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

    /// Adds a condition on a property of the packet.
    pub(super) fn meta(&mut self, key: u32, operator: Operator, value: &[u8]) {
        self.expression("meta", |a| {
            a.u32(nfta::META_DREG, libc::NFT_REG_1 as u32);
            a.u32(nfta::META_KEY, key);
        });
        self.compare(operator, value);
    }

    /// Adds the condition that the packet has another mark, or other bytes, of which there are at most
    /// four, in its network header at this offset: one comparison of two registers.
    pub(super) fn mark_or_bytes_differ(&mut self, mark: u32, offset: u32, bytes: &[u8]) {
        self.has_meta(libc::NFT_META_MARK as u32);
        self.expression("payload", |a| {
            a.u32(nfta::PAYLOAD_DREG, REGISTER_BEHIND_MARK);
            a.u32(nfta::PAYLOAD_BASE, Base::Network as u32);
            a.u32(nfta::PAYLOAD_OFFSET, offset);
            a.u32(nfta::PAYLOAD_LEN, bytes.len() as u32);
        });
        // The kernel fills a register of four bytes up with zeros.
        let mut both = [0; 8];
        both[..4].copy_from_slice(&mark.to_ne_bytes());
        both[4..4 + bytes.len()].copy_from_slice(bytes);
        self.compare(Operator::NotEqual, &both);
    }

    /// Adds the condition that the packet has a property at all, whatever its value.
    pub(super) fn has_meta(&mut self, key: u32) {
        self.expression("meta", |a| {
            a.u32(nfta::META_DREG, libc::NFT_REG_1 as u32);
            a.u32(nfta::META_KEY, key);
        });
    }

    /// Adds the condition that the packet has a route. At prerouting only a packet that this
    /// namespace has sent and that was looped back has one (`nft_rt_get_eval` in
    /// net/netfilter/nft_rt.c, `ip_dev_loopback_xmit` in net/ipv4/ip_output.c, `ip6_finish_output2` in
    /// net/ipv6/ip6_output.c). `family` is any address of the packet's family.
    pub(super) fn has_route(&mut self, family: IpAddr) {
        self.expression("rt", |a| {
            a.u32(nfta::RT_DREG, libc::NFT_REG_1 as u32);
            a.u32(nfta::RT_KEY, if family.is_ipv4() { RT_NEXTHOP4 } else { RT_NEXTHOP6 });
        });
    }

    /// Adds the condition that no route leads back to the packet's source through the interface where
    /// it arrived.
    pub(super) fn has_no_way_back(&mut self) {
        self.expression("fib", |a| {
            a.u32(nfta::FIB_DREG, libc::NFT_REG_1 as u32);
            a.u32(nfta::FIB_RESULT, FIB_RESULT_OIF);
            a.u32(nfta::FIB_FLAGS, FIB_SOURCE_AND_INTERFACE);
        });
        self.compare(Operator::Equal, &0u32.to_ne_bytes());
    }

    /// Adds a condition on bytes of the packet; their number is the length of `value`.
    pub(super) fn payload(&mut self, base: Base, offset: u32, operator: Operator, value: &[u8]) {
        self.load(base, offset, value.len());
        self.compare(operator, value);
    }

    /// Adds the condition that bytes of the packet are none of these values, which have one length.
    pub(super) fn payload_is_none_of<const N: usize>(
        &mut self,
        base: Base,
        offset: u32,
        values: &[[u8; N]],
    ) {
        self.load(base, offset, N);
        for value in values {
            self.compare(Operator::NotEqual, value);
        }
    }

    /// Adds the condition that the packet has a byte at this offset which can be read.
    pub(super) fn has_byte(&mut self, base: Base, offset: u32) {
        self.load(base, offset, 1);
    }

    /// Adds a condition on those bits of the packet that `mask` has; `mask` and `value` have the
    /// same length, of at most 16 bytes.
    pub(super) fn masked(
        &mut self,
        base: Base,
        offset: u32,
        mask: &[u8],
        operator: Operator,
        value: &[u8],
    ) {
        const NOTHING: [u8; 16] = [0; 16];
        self.load(base, offset, mask.len());
        self.expression("bitwise", |a| {
            a.u32(nfta::BITWISE_SREG, libc::NFT_REG_1 as u32);
            a.u32(nfta::BITWISE_DREG, libc::NFT_REG_1 as u32);
            a.u32(nfta::BITWISE_LEN, mask.len() as u32);
            a.nest(nfta::BITWISE_MASK, |a| a.raw(nfta::DATA_VALUE, mask));
            a.nest(nfta::BITWISE_XOR, |a| a.raw(nfta::DATA_VALUE, &NOTHING[..mask.len()]));
        });
        self.compare(operator, value);
    }

    /// Adds the condition that the bytes at this offset are in the set; `length` is that of a value
    /// of the set.
    pub(super) fn in_set<K: SetKey>(&mut self, base: Base, offset: u32, set: &Set) {
        self.load(base, offset, K::LENGTH as usize);
        self.look_up(set, |_| {});
    }

    /// Adds the condition that the bytes at this offset are not in the set.
    pub(super) fn not_in_set<K: SetKey>(&mut self, base: Base, offset: u32, set: &Set) {
        self.load(base, offset, K::LENGTH as usize);
        self.look_up(set, |a| a.u32(nfta::LOOKUP_FLAGS, LOOKUP_INVERTED));
    }

    /// Adds the condition that the address at this offset is in the set.
    pub(super) fn address_in<A: Address + SetKey>(&mut self, offset: u32, set: &Set) {
        self.load(Base::Network, offset, A::LENGTH as usize);
        self.look_up(set, |_| {});
    }

    /// Applies the verdict that the map has for the address at this offset, if it has one.
    pub(super) fn verdict_of_address<A: Address + SetKey>(&mut self, offset: u32, map: &Set) {
        self.load(Base::Network, offset, A::LENGTH as usize);
        self.look_up(map, |a| a.u32(nfta::LOOKUP_DREG, libc::NFT_REG_VERDICT as u32));
    }

    /// Copies an address of IPv6 within the network header, from one offset to another one. No checksum
    /// is changed.
    pub(super) fn copy_address(&mut self, from: u32, to: u32) {
        const LENGTH: usize = size_of::<Ipv6Addr>();
        self.load(Base::Network, from, LENGTH);
        self.expression("payload", |a| {
            a.u32(nfta::PAYLOAD_SREG, libc::NFT_REG_1 as u32);
            a.u32(nfta::PAYLOAD_BASE, Base::Network as u32);
            a.u32(nfta::PAYLOAD_OFFSET, to);
            a.u32(nfta::PAYLOAD_LEN, LENGTH as u32);
        });
    }

    /// Counts packets and bytes that meet all conditions so far.
    pub(super) fn counter(&mut self) {
        self.expression("counter", |_| {});
    }

    /// Adds the condition that so many packets a second, and at most so many at once, have met all
    /// conditions so far.
    pub(super) fn at_most(&mut self, per_second: u32, burst: u32) {
        self.expression("limit", |a| {
            a.u64(nfta::LIMIT_RATE, per_second.into());
            // The unit, in seconds.
            a.u64(nfta::LIMIT_UNIT, 1);
            a.u32(nfta::LIMIT_BURST, burst);
        });
    }

    /// Sends a copy to the NFLOG socket of this group.
    pub(super) fn log(&mut self, group: u16) {
        self.expression("log", |a| a.u16(nfta::LOG_GROUP, group));
    }

    /// Ends the rule with a verdict.
    pub(super) fn verdict(&mut self, verdict: &Verdict) {
        self.expression("immediate", |a| {
            a.u32(nfta::IMMEDIATE_DREG, libc::NFT_REG_VERDICT as u32);
            a.nest(nfta::IMMEDIATE_DATA, |a| add_verdict(a, verdict));
        });
    }
}

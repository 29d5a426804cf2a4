//! Rules in the container's namespace that belong to one socket: interception of its IGMP, and
//! the policy's hold on data.
//!
//! The tables carry the *owner* flag (Linux 5.12): nobody else can change them, and they go
//! when the socket is closed, however the proxy ends; then the container speaks IGMP natively.
//! In the words of nft(8), for each interface served:
//!
//! ```text
//! table ip mcrun { flags owner
//!   chain output { type filter hook output priority -1000
//!     ip protocol igmp oif IF meta mark != MARK counter log group GROUP drop }
//!   chain input  { type filter hook input priority -1000
//!     ip protocol igmp iif IF meta mark != MARK counter drop }
//!   # Where data is relayed, so that what arrives otherwise is not delivered twice:
//!     meta mark != MARK @nh,128,8 >= 224 ip protocol udp iif IF jump native-IF
//!   chain native-IF {
//!     rt nexthop exists return    # the container's own, looped back
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
//! table netdev mcrun { flags owner
//!   chain egress-IF { type filter hook egress device IF priority -1000
//!     ...all IGMP, also a packet socket's and behind one VLAN tag: counter drop... }
//! }
//! ```
//!
//! The protocol comes before the interface, and the mark before all: every packet of the container is
//! asked, most are neither IGMP nor another's, and a name is dearer to compare than a byte.
//!
//! `MARK` is random for each proxy. It cannot be "mark is zero": the kernel's own IGMPv3
//! reports carry a mark (`igmpv3_newpack` keeps the MTU there), and a process with CAP_NET_RAW may set one since
//! Linux 5.17, so that it must not be guessable either.
//!
//! A policy costs a packet one look-up in a balanced tree, or two where sources matter, however
//! long its lists are; without rules there is no chain. While a proxy takes over from another,
//! both have their tables, and a packet has to pass both: what only one of them lets in is
//! kept out for that moment, and what both let in is never held up.

mod nftables;

use std::io;

use crate::multicast::{AddressRange, Blocked, Reception};
use crate::net::nfnetlink::NfSocket;
use crate::proxy::container::rules::nftables::{Base, Operator, Table, Verdict};

const FAMILY_IPV4: u8 = libc::NFPROTO_IPV4 as u8;
const FAMILY_NETDEV: u8 = libc::NFPROTO_NETDEV as u8;

const HOOK_EGRESS: u32 = 1;
const IGMP: u8 = libc::IPPROTO_IGMP as u8;
const UDP: u8 = libc::IPPROTO_UDP as u8;
/// Fields of an IPv4 header (RFC 791 §3.1).
const IP_PROTOCOL: u32 = 9;
const IP_SOURCE: u32 = 12;
const IP_DESTINATION: u32 = 16;
/// The first octet of the first group.
const MULTICAST: u8 = 224;
const ETHERTYPE: u32 = 12;
const ETH_HEADER: u32 = 14;
const VLAN_TAG: u32 = 4;

const META_IIF: u32 = libc::NFT_META_IIF as u32;
const META_OIF: u32 = libc::NFT_META_OIF as u32;
const META_IIFNAME: u32 = libc::NFT_META_IIFNAME as u32;
const META_OIFNAME: u32 = libc::NFT_META_OIFNAME as u32;
const META_MARK: u32 = libc::NFT_META_MARK as u32;
const META_PROTOCOL: u32 = libc::NFT_META_PROTOCOL as u32;

/// An interface in the container to be intercepted.
pub(crate) struct Target<'a> {
    /// Its name.
    pub(crate) name: &'a str,
    /// Its index; 0 when it is yet to come.
    pub(crate) index: u32,
    /// What data it may not receive.
    pub(crate) reception: Reception,
    /// Where its data is relayed: the groups of 224.0.0.0/24 among it, ascending.
    pub(crate) relayed: Option<Vec<AddressRange>>,
}

impl Target<'_> {
    /// Goes on when a packet comes in by it, or goes out.
    fn matches(&self, rule: &mut nftables::Rule<'_, '_>, way: Way) {
        let (index, name) = match way {
            Way::In => (META_IIF, META_IIFNAME),
            Way::Out => (META_OIF, META_OIFNAME),
        };
        if self.relayed.is_none() {
            rule.meta(index, Operator::Equal, &self.index.to_ne_bytes());
            return;
        }
        // It may go and come again, with another index.
        let mut padded = [0; libc::IFNAMSIZ];
        for (to, from) in padded.iter_mut().zip(self.name.bytes()) {
            *to = from;
        }
        rule.meta(name, Operator::Equal, &padded);
    }
}

#[derive(Clone, Copy)]
enum Way {
    In,
    Out,
}

/// Installs the output and input rules, and those about data: what must be there for the proxy
/// to serve at all.
///
/// # Errors
/// The kernel's; all or nothing is installed. `EEXIST` when the container has a table of this
/// name.
pub(crate) fn intercept(
    socket: &NfSocket,
    name: &str,
    targets: &[Target<'_>],
    mark: u32,
    group: u16,
) -> io::Result<()> {
    let mut table = Table::new(FAMILY_IPV4, name);
    table.add_base_chain("output", libc::NF_INET_LOCAL_OUT as u32, None);
    table.add_base_chain("input", libc::NF_INET_LOCAL_IN as u32, None);
    for target in targets {
        table.add_rule("output", |rule| {
            rule.payload(Base::Network, IP_PROTOCOL, Operator::Equal, &[IGMP]);
            target.matches(rule, Way::Out);
            rule.meta(META_MARK, Operator::NotEqual, &mark.to_ne_bytes());
            rule.counter();
            rule.log(group);
            rule.verdict(&Verdict::Drop);
        });
        table.add_rule("input", |rule| {
            rule.payload(Base::Network, IP_PROTOCOL, Operator::Equal, &[IGMP]);
            target.matches(rule, Way::In);
            rule.meta(META_MARK, Operator::NotEqual, &mark.to_ne_bytes());
            rule.counter();
            rule.verdict(&Verdict::Drop);
        });
    }
    hold_data(&mut table, targets, mark);
    socket.transact(&table.finish())
}

/// The rules about data; nothing where no policy has any.
///
/// At prerouting, so that a packet kept out costs neither a route nor a conntrack entry, and
/// is not forwarded either. IGMP is not data: queries name the group as their destination.
fn hold_data(table: &mut Table<'_>, targets: &[Target<'_>], mark: u32) {
    const CHAIN: &str = "data";
    let restricted = |target: &&Target<'_>| !target.reception.is_unrestricted();
    if targets.iter().any(|target| target.relayed.is_some() || restricted(&target)) {
        table.add_base_chain(CHAIN, libc::NF_INET_PRE_ROUTING as u32, None);
    }
    for target in targets {
        if let Some(link_local) = &target.relayed {
            keep_native_out(table, CHAIN, target, link_local, mark);
        }
    }
    for target in targets.iter().filter(restricted) {
        let lists = format!("sources-{}", target.name);
        for (position, sources) in target.reception.sources.iter().enumerate() {
            let name = format!("{lists}-{position}");
            let set = table.add_set(name.clone(), sources);
            table.add_chain(&name);
            table.add_rule(&name, |rule| {
                rule.address_in(IP_SOURCE, &set);
                rule.counter();
                rule.verdict(&Verdict::Drop);
            });
        }
        let verdict = |blocked| match blocked {
            Blocked::All => Verdict::Drop,
            Blocked::Sources(position) => Verdict::Jump(format!("{lists}-{position}")),
        };
        let groups = target.reception.groups.iter();
        let groups: Vec<_> =
            groups.map(|(range, blocked)| (range.clone(), verdict(*blocked))).collect();
        let map = table.add_map(format!("groups-{}", target.name), &groups);
        table.add_rule(CHAIN, |rule| {
            target.matches(rule, Way::In);
            rule.payload(Base::Network, IP_DESTINATION, Operator::AtLeast, &[MULTICAST]);
            rule.payload(Base::Network, IP_PROTOCOL, Operator::NotEqual, &[IGMP]);
            rule.verdict_of_address(IP_DESTINATION, &map);
        });
    }
}

/// Drops what comes by the link to groups that the relay carries: a container on the same bridge
/// sends it, and its own relay, or the host, has it on the LAN too.
fn keep_native_out(
    table: &mut Table<'_>,
    base: &str,
    target: &Target<'_>,
    link_local: &[AddressRange],
    mark: u32,
) {
    let chain = format!("native-{}", target.name);
    table.add_chain(&chain);
    table.add_rule(&chain, |rule| {
        rule.has_route();
        rule.verdict(&Verdict::Return);
    });
    if !link_local.is_empty() {
        let set = table.add_set(format!("link-local-{}", target.name), link_local);
        table.add_rule(&chain, |rule| {
            rule.address_in(IP_DESTINATION, &set);
            rule.counter();
            rule.verdict(&Verdict::Drop);
        });
    }
    table.add_rule(&chain, |rule| {
        rule.payload(Base::Network, IP_DESTINATION, Operator::Equal, &[MULTICAST, 0, 0]);
        rule.verdict(&Verdict::Return);
    });
    table.add_rule(&chain, |rule| {
        rule.counter();
        rule.verdict(&Verdict::Drop);
    });
    table.add_rule(base, |rule| {
        // What the relay injects is most of it.
        rule.meta(META_MARK, Operator::NotEqual, &mark.to_ne_bytes());
        rule.payload(Base::Network, IP_DESTINATION, Operator::AtLeast, &[MULTICAST]);
        rule.payload(Base::Network, IP_PROTOCOL, Operator::Equal, &[UDP]);
        target.matches(rule, Way::In);
        rule.verdict(&Verdict::Jump(chain));
    });
}

/// Installs the egress rules (Linux 5.16), which also stop packet sockets. No IGMP at all goes out:
/// what the proxy injects comes back before it would pass here.
///
/// The frame itself is judged and not what its sender says of it (`skb->protocol` comes from
/// `sll_protocol`); the rule on the network header is for frames so short that the kernel does
/// not know where their link header ends.
///
/// # Errors
/// The kernel's; all or nothing is installed.
pub(crate) fn intercept_frames(
    socket: &NfSocket,
    name: &str,
    targets: &[Target<'_>],
) -> io::Result<()> {
    use Operator::Equal;
    let ipv4 = (libc::ETH_P_IP as u16).to_be_bytes();
    let mut table = Table::new(FAMILY_NETDEV, name);
    // One that is yet to come cannot be named as a device.
    for target in targets.iter().filter(|target| target.index != 0) {
        let chain = format!("egress-{}", target.index);
        table.add_base_chain(&chain, HOOK_EGRESS, Some(target.name));
        let mut rule = |matches: &dyn Fn(&mut nftables::Rule<'_, '_>)| {
            table.add_rule(&chain, |rule| {
                matches(rule);
                rule.counter();
                rule.verdict(&Verdict::Drop);
            });
        };
        rule(&|r| {
            r.payload(Base::Link, ETHERTYPE, Equal, &ipv4);
            r.payload(Base::Link, ETH_HEADER + IP_PROTOCOL, Equal, &[IGMP]);
        });
        for tag in [libc::ETH_P_8021Q, libc::ETH_P_8021AD] {
            rule(&|r| {
                r.payload(Base::Link, ETHERTYPE, Equal, &(tag as u16).to_be_bytes());
                r.payload(Base::Link, ETHERTYPE + VLAN_TAG, Equal, &ipv4);
                r.payload(Base::Link, ETH_HEADER + VLAN_TAG + IP_PROTOCOL, Equal, &[IGMP]);
            });
        }
        rule(&|r| {
            r.meta(META_PROTOCOL, Equal, &ipv4);
            r.payload(Base::Network, IP_PROTOCOL, Equal, &[IGMP]);
        });
    }
    socket.transact(&table.finish())
}

#[cfg(test)]
mod tests;

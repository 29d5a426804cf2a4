//! What may leave an interface: the table of the netdev family, at the egress hook (Linux 5.16).
//!
//! Every frame passes this hook, also one of a packet socket, and one that goes past the queueing
//! discipline (PACKET_QDISC_BYPASS). As nft(8) shows the rules of an interface with index 7, the
//! address ADDRESS and IPv6:
//!
//! ```text
//! table netdev mcrun { flags owner
//!   chain egress-7 { type filter hook egress device IF priority -1000
//!     @ll,48,64 MAC 0x0800 jump ipv4-7
//!     # Ethernet and IPv4, and each address that it may name as its own; 0.0.0.0 is one.
//!     @ll,48,112 MAC 0x0806 0x0001 0x0800 0x0604 @ll,176,80 MAC ADDRESS accept
//!     @ll,48,64 MAC 0x86dd goto ipv6-7      # where the attachment speaks IPv6
//!     counter drop }
//!   chain ipv4-7 {
//!     source address != ADDRESS != 0.0.0.0 return       # where there is an ADDRESS; many: a set
//!     UDP, no options, no later fragment, source port != 67, destination port != 68 accept
//!     protocol igmp meta skuid exists return                   # where IGMP is not intercepted
//!     protocol != UDP != ROUTING ... accept
//!     UDP, no options, fragment offset != 0 accept }
//!   chain ipv6-7, udp6-7, icmpv6-7, fragment6-7 { ... }
//! }
//! ```
//!
//! The start of a container waits for these rules, and the kernel takes about a microsecond for each
//! expression, and several for a chain or a set. So there are few: a rule names what may leave, and
//! one counter at the end counts the rest.
//!
//! What is not named is dropped: other source addresses, VLAN tags, LLC and SNAP with the bridges'
//! protocols, LLDP, and so on. The rules read the frame itself from its first byte on, because a
//! sender can choose `skb->protocol` (it comes from `sll_protocol`).
//!
//! The first bytes of some frames cannot be read: those that go past the queueing discipline while
//! `sll_protocol` names a protocol, so that the kernel does not look for the link header
//! (`packet_parse_headers` in net/packet/af_packet.c, `nft_payload_eval`). They are dropped.
//!
//! A packet that the kernel makes on its own account, such as its IGMP and MLD reports, has no
//! socket of a process, and so no `skuid`. Every packet of a process has one, also by a raw or a
//! packet socket. So a process cannot forge what its kernel may say.

mod ipv6;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::primitives::MacAddr;
use crate::proxy::config::EgressTask;
use crate::proxy::container::rules::nftables::{Base, Operator, Rule, Tables, Verdict};
use crate::proxy::container::rules::{IGMP, RuledInterface, UDP};

const HOOK_EGRESS: u32 = 1;
const META_SKUID: u32 = libc::NFT_META_SKUID as u32;

/// Offsets in a frame without a tag (IEEE 802.3).
const SOURCE_MAC: u32 = 6;
const ETHERTYPE: u32 = 12;
const PAYLOAD: u32 = 14;
const VLAN_TAG: u32 = 4;
/// Offsets in an IPv4 header (RFC 791 §3.1), behind the Ethernet header.
const IPV4_VERSION_AND_LENGTH: u32 = PAYLOAD;
const IPV4_FRAGMENT: u32 = PAYLOAD + 6;
const IPV4_PROTOCOL: u32 = PAYLOAD + 9;
const IPV4_SOURCE: u32 = PAYLOAD + 12;
/// First byte of an IPv4 header without options.
const IPV4_PLAIN: u8 = 0x45;
/// The ports of UDP behind such a header.
const IPV4_SOURCE_PORT: u32 = PAYLOAD + 20;
const IPV4_DESTINATION_PORT: u32 = IPV4_SOURCE_PORT + 2;
/// The offset in the field of flags and fragment offset.
const IPV4_FRAGMENT_OFFSET: [u8; 2] = [0x1f, 0xff];
/// Offsets in an ARP packet (RFC 826).
const ARP_SENDER: u32 = PAYLOAD + 8;
/// Ethernet, IPv4, and the lengths of their addresses: an ARP packet begins so.
const ETHERNET_AND_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];

/// Protocols of routers, and protocols that carry IPv4 or IPv6, and so IGMP and MLD, in IPv4:
/// IP in IP, IPv6 in IPv4, EIGRP, OSPF, PIM, VRRP.
const ROUTING: [u8; 6] = [4, 41, 88, 89, 103, 112];
/// Ports of DHCP's client and server (RFC 2131 §4.1).
const DHCP: ClientAndServer = ClientAndServer { client: 68, server: 67 };

/// Most addresses that one rule compares.
const MOST_COMPARED: usize = 16;

struct ClientAndServer {
    client: u16,
    server: u16,
}

/// What an interface may send.
#[derive(Debug, Clone)]
pub(crate) struct Egress {
    /// The only source of its frames.
    pub(crate) mac: MacAddr,
    /// The addresses that the attachment gives it. Without one of IPv4, the interface sends from
    /// any IPv4 address.
    pub(crate) addresses: Vec<IpAddr>,
    /// Whether it sends IPv6: from those addresses and from its link-local one.
    pub(crate) ipv6: bool,
    /// Whether it sends also from addresses that its kernel makes from its MAC address and the prefix
    /// of a router (RFC 4862 §5.5.3).
    pub(crate) slaac: bool,
    /// Whether it sends IPv6 from any address: a server gives it one, which may change.
    pub(crate) leases_ipv6: bool,
    /// Other interfaces have the same MAC address, so that the kernel does not make the link-local
    /// address from that address alone.
    pub(crate) shares_mac: bool,
}

impl Egress {
    /// What a task says of an interface that has this MAC address.
    pub(crate) fn new(mac: MacAddr, task: &EgressTask) -> Self {
        let EgressTask { addresses, ipv6, slaac, leases_ipv6, shares_mac } = task.clone();
        Egress { mac, addresses, ipv6, slaac, leases_ipv6, shares_mac }
    }
}

/// Adds the rules of one interface to the table of the netdev family.
pub(super) fn add_egress_rules(tables: &mut Tables<'_>, interface: &RuledInterface<'_>) {
    match &interface.egress {
        Some(egress) => Chains { tables, interface, egress }.add(),
        None => add_igmp_rules(tables, interface),
    }
}

/// The chains of an interface that may send what an [`Egress`] says.
struct Chains<'c, 't> {
    tables: &'c mut Tables<'t>,
    interface: &'c RuledInterface<'c>,
    egress: &'c Egress,
}

impl Chains<'_, '_> {
    fn add(mut self) {
        let ipv6: Vec<_> = self.egress.addresses.iter().filter_map(ipv6).collect();
        let mut sources: Vec<_> = self.egress.addresses.iter().filter_map(ipv4).collect();
        if !sources.is_empty() {
            // A host has this one before it has another.
            sources.push(Ipv4Addr::UNSPECIFIED);
        }
        // A chain must exist before a rule leads to it.
        let ipv4 = Verdict::Jump(self.ipv4(&sources));
        let ipv6 = self.egress.ipv6.then(|| Verdict::Goto(self.ipv6(ipv6)));
        let base = self.name("egress");
        self.tables.add_base_chain(&base, HOOK_EGRESS, Some(self.interface.name));
        self.add_kind(&base, libc::ETH_P_IP, &ipv4);
        self.arp(&base, &sources);
        if let Some(ipv6) = ipv6 {
            self.add_kind(&base, libc::ETH_P_IPV6, &ipv6);
        }
        self.drop_if(&base, |_| {});
    }

    /// Adds the rule for frames of one kind from the interface's own address.
    fn add_kind(&mut self, base: &str, ethertype: i32, verdict: &Verdict) {
        let own = self.source_and_type(ethertype);
        self.tables.add_rule(base, |rule| {
            rule.payload(Base::Link, SOURCE_MAC, Operator::Equal, &own);
            rule.verdict(verdict);
        });
    }

    /// What a frame has behind its destination.
    fn source_and_type(&self, ethertype: i32) -> [u8; 8] {
        let [a, b, c, d, e, f] = self.egress.mac.octets();
        let [high, low] = (ethertype as u16).to_be_bytes();
        [a, b, c, d, e, f, high, low]
    }

    /// Adds the chain that accepts what may leave of IPv4, and returns its name.
    fn ipv4(&mut self, sources: &[Ipv4Addr]) -> String {
        use Operator::{Equal, NotEqual};
        // A few comparisons are made faster than a set. A rule has room for 128 expressions.
        let set = sources.len() > MOST_COMPARED;
        let set = set.then(|| self.tables.add_set_of(self.name("sources"), sources));
        let chain = self.new_chain("ipv4");
        if !sources.is_empty() {
            let octets: Vec<_> = sources.iter().map(Ipv4Addr::octets).collect();
            self.tables.add_rule(&chain, |rule| {
                match &set {
                    Some(set) => rule.not_in_set::<Ipv4Addr>(Base::Link, IPV4_SOURCE, set),
                    None => rule.payload_is_none_of(Base::Link, IPV4_SOURCE, &octets),
                }
                rule.verdict(&Verdict::Return);
            });
        }
        // The usual packet, so that a stream costs little.
        self.add_plain_udp(&chain, IPV4_FRAGMENT_OFFSET, |rule| {
            rule.payload(Base::Link, IPV4_SOURCE_PORT, NotEqual, &DHCP.server.to_be_bytes());
            rule.payload(Base::Link, IPV4_DESTINATION_PORT, NotEqual, &DHCP.client.to_be_bytes());
        });
        if !self.interface.intercepted {
            self.tables.add_rule(&chain, |rule| {
                rule.payload(Base::Link, IPV4_PROTOCOL, Equal, &[IGMP]);
                rule.has_meta(META_SKUID);
                rule.verdict(&Verdict::Return);
            });
        }
        let others = [UDP].into_iter().chain(self.interface.intercepted.then_some(IGMP));
        let others: Vec<_> = others.chain(ROUTING).map(|protocol| [protocol]).collect();
        self.tables.add_rule(&chain, |rule| {
            rule.payload_is_none_of(Base::Link, IPV4_PROTOCOL, &others);
            rule.verdict(&Verdict::Accept);
        });
        // Only the first fragment has ports.
        self.add_plain_udp(&chain, [0; 2], |rule| {
            let mask = &IPV4_FRAGMENT_OFFSET;
            rule.masked(Base::Link, IPV4_FRAGMENT, mask, NotEqual, &[0, 0]);
        });
        chain
    }

    /// Accepts UDP in a packet without options whose fragment offset, as far as this mask goes, is
    /// 0. With options the ports are at another place, and nothing but IGMP and RSVP uses options in
    /// earnest.
    fn add_plain_udp(
        &mut self,
        chain: &str,
        offset: [u8; 2],
        conditions: impl FnOnce(&mut Rule<'_, '_>),
    ) {
        // The IPv4 header up to the protocol.
        const LENGTH: usize = 10;
        let mut mask = [0u8; LENGTH];
        let mut value = [0u8; LENGTH];
        let mut field = |at: u32, bits: &[u8], bytes: &[u8]| {
            let start = (at - PAYLOAD) as usize;
            mask[start..start + bits.len()].copy_from_slice(bits);
            value[start..start + bytes.len()].copy_from_slice(bytes);
        };
        field(IPV4_VERSION_AND_LENGTH, &[0xff], &[IPV4_PLAIN]);
        field(IPV4_FRAGMENT, &offset, &[0, 0]);
        field(IPV4_PROTOCOL, &[0xff], &[UDP]);
        self.tables.add_rule(chain, |rule| {
            rule.masked(Base::Link, PAYLOAD, &mask, Operator::Equal, &value);
            conditions(rule);
            rule.verdict(&Verdict::Accept);
        });
    }

    /// Accepts ARP of Ethernet and IPv4 whose sender is the interface's own.
    fn arp(&mut self, base: &str, sources: &[Ipv4Addr]) {
        let kind = [&self.source_and_type(libc::ETH_P_ARP)[..], &ETHERNET_AND_IPV4].concat();
        let mac = self.egress.mac.octets();
        let named = sources.iter().map(|source| [&mac[..], &source.octets()].concat());
        let senders: Vec<_> = match sources {
            [] => vec![mac.to_vec()],
            _ => named.collect(),
        };
        for sender in senders {
            self.tables.add_rule(base, |rule| {
                rule.payload(Base::Link, SOURCE_MAC, Operator::Equal, &kind);
                rule.payload(Base::Link, ARP_SENDER, Operator::Equal, &sender);
                rule.verdict(&Verdict::Accept);
            });
        }
    }

    fn name(&self, what: &str) -> String {
        format!("{what}-{}", self.interface.index)
    }

    fn new_chain(&mut self, what: &str) -> String {
        let chain = self.name(what);
        self.tables.add_chain(&chain);
        chain
    }

    fn drop_if(&mut self, chain: &str, conditions: impl FnOnce(&mut Rule<'_, '_>)) {
        drop_if(self.tables, chain, conditions);
    }

    /// Accepts fragments other than the first, which have no ports.
    fn accept_fragments(&mut self, chain: &str, offset: u32, mask: &[u8; 2]) {
        self.tables.add_rule(chain, |rule| {
            rule.masked(Base::Link, offset, mask, Operator::NotEqual, &[0, 0]);
            rule.verdict(&Verdict::Accept);
        });
    }

    /// Drops what a DHCP server or relay says. Clients accept an answer from any port.
    fn drop_dhcp_answers(&mut self, chain: &str, udp: u32, ports: &ClientAndServer) {
        const DESTINATION_PORT: u32 = 2;
        for (offset, port) in [(udp + DESTINATION_PORT, ports.client), (udp, ports.server)] {
            self.drop_if(chain, |rule| {
                rule.payload(Base::Link, offset, Operator::Equal, &port.to_be_bytes());
            });
        }
    }
}

/// Drops all IGMP, and all MLD that is intercepted, of an interface that may send everything else. None
/// leaves where it is intercepted: the proxy's injected packets are looped back before egress.
fn add_igmp_rules(tables: &mut Tables<'_>, interface: &RuledInterface<'_>) {
    use Operator::Equal;
    let ipv4 = (libc::ETH_P_IP as u16).to_be_bytes();
    let chain = format!("egress-{}", interface.index);
    tables.add_base_chain(&chain, HOOK_EGRESS, Some(interface.name));
    drop_if(tables, &chain, |rule| {
        rule.payload(Base::Link, ETHERTYPE, Equal, &ipv4);
        rule.payload(Base::Link, IPV4_PROTOCOL, Equal, &[IGMP]);
    });
    for tag in [libc::ETH_P_8021Q, libc::ETH_P_8021AD] {
        drop_if(tables, &chain, |rule| {
            rule.payload(Base::Link, ETHERTYPE, Equal, &(tag as u16).to_be_bytes());
            rule.payload(Base::Link, ETHERTYPE + VLAN_TAG, Equal, &ipv4);
            rule.payload(Base::Link, IPV4_PROTOCOL + VLAN_TAG, Equal, &[IGMP]);
        });
    }
    if interface.intercepts_mld() {
        ipv6::add_mld_rules(tables, &chain, interface);
    }
    tables.add_rule(&chain, |rule| {
        rule.has_byte(Base::Link, 0);
        rule.verdict(&Verdict::Accept);
    });
    drop_if(tables, &chain, |_| {});
}

fn drop_if(tables: &mut Tables<'_>, chain: &str, conditions: impl FnOnce(&mut Rule<'_, '_>)) {
    tables.add_rule(chain, |rule| {
        conditions(rule);
        rule.counter();
        rule.verdict(&Verdict::Drop);
    });
}

fn ipv4(address: &IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(*address),
        IpAddr::V6(_) => None,
    }
}

fn ipv6(address: &IpAddr) -> Option<Ipv6Addr> {
    match address {
        IpAddr::V6(address) => Some(*address),
        IpAddr::V4(_) => None,
    }
}

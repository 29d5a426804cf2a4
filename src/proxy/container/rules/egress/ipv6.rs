//! What leaves of IPv6, where the attachment speaks it.

use std::net::Ipv6Addr;

use crate::primitives::MacAddr;
use crate::proxy::container::rules::egress::{
    Chains, ClientAndServer, ETHERTYPE, Egress, META_SKUID, PAYLOAD, VLAN_TAG, drop_if,
};
use crate::proxy::container::rules::mld::MLD;
use crate::proxy::container::rules::nftables::{
    Base, Icmpv6Type, IpProtocol, Operator, Rule, Tables, Verdict,
};
use crate::proxy::container::rules::{RuledInterface, UDP};

/// Offsets in an IPv6 header (RFC 8200 §3), behind the Ethernet header.
const IPV6_NEXT_HEADER: u32 = PAYLOAD + 6;
const IPV6_SOURCE: u32 = PAYLOAD + 8;
const IPV6_HEADER_LENGTH: u32 = 40;
/// Where an address has its interface identifier (RFC 4291 §2.5.1).
const IDENTIFIER: u32 = 8;
/// Offsets in a fragment header (RFC 8200 §4.5), where it follows the IPv6 header.
const FRAGMENT_NEXT_HEADER: u32 = PAYLOAD + IPV6_HEADER_LENGTH;
const FRAGMENT_OFFSET: u32 = FRAGMENT_NEXT_HEADER + 2;
const FRAGMENT_OFFSET_BITS: [u8; 2] = [0xff, 0xf8];
const FRAGMENT_HEADER_LENGTH: u32 = 8;
/// Target of a neighbour advertisement, from the ICMPv6 header on (RFC 4861 §4.4).
const ICMPV6_TARGET: u32 = 8;

const ICMPV6: u8 = libc::IPPROTO_ICMPV6 as u8;
const NEXT_HOP_BY_HOP: u8 = libc::IPPROTO_HOPOPTS as u8;
const NEXT_FRAGMENT: u8 = libc::IPPROTO_FRAGMENT as u8;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;

/// Next headers of IPv6 that may leave: TCP, UDP, DCCP, ESP, ICMPv6, none, SCTP, UDP-Lite.
const IPV6_DATA: [u8; 8] = [6, UDP, 33, 50, ICMPV6, 59, 132, 136];
/// MLD (RFC 9777), router advertisement and redirect (RFC 4861), and multicast router discovery
/// (RFC 4286).
const ICMPV6_OF_ROUTERS: [u8; 9] = [130, 131, 132, 134, 137, 143, 151, 152, 153];
/// RFC 8415 §7.2.
const DHCPV6: ClientAndServer = ClientAndServer { client: 546, server: 547 };

impl Chains<'_, '_> {
    /// Adds the chains, and returns the name of the first.
    pub(super) fn ipv6(&mut self, addresses: Vec<Ipv6Addr>) -> String {
        let mut sources = addresses;
        if !self.egress.shares_mac {
            sources.push(self.egress.mac.link_local_address());
        }
        let targets = self.tables.add_set_of(self.name("targets"), &sources);
        sources.push(Ipv6Addr::UNSPECIFIED);
        let sources = self.tables.add_set_of(self.name("sources6"), &sources);
        let data = IPV6_DATA.map(IpProtocol);
        let data = self.tables.add_set_of(self.name("data6"), &data);
        let routers = ICMPV6_OF_ROUTERS.map(Icmpv6Type);
        let routers = self.tables.add_set_of(self.name("routers6"), &routers);
        let Egress { mac, shares_mac, slaac, leases_ipv6, .. } = *self.egress;
        let foreign = |rule: &mut Rule<'_, '_>, offset, own| {
            if shares_mac {
                let prefix = [0xfe, 0x80, 0, 0, 0, 0, 0, 0];
                rule.payload(Base::Link, offset, Operator::NotEqual, &prefix);
            }
            if slaac {
                let (mask, identifier) = interface_identifier(mac, shares_mac);
                let at = offset + IDENTIFIER;
                rule.masked(Base::Link, at, &mask, Operator::NotEqual, &identifier);
            }
            rule.not_in_set::<Ipv6Addr>(Base::Link, offset, own);
        };
        let next = |rule: &mut Rule<'_, '_>, operator, header: u8| {
            rule.payload(Base::Link, IPV6_NEXT_HEADER, operator, &[header]);
        };
        let upper = PAYLOAD + IPV6_HEADER_LENGTH;

        let udp = self.new_chain("udp6");
        self.drop_dhcp_answers(&udp, upper, &DHCPV6);

        let icmpv6 = self.new_chain("icmpv6");
        self.drop_if(&icmpv6, |r| r.in_set::<Icmpv6Type>(Base::Link, upper, &routers));
        if !leases_ipv6 {
            self.drop_if(&icmpv6, |rule| {
                rule.payload(Base::Link, upper, Operator::Equal, &[NEIGHBOUR_ADVERTISEMENT]);
                foreign(rule, upper + ICMPV6_TARGET, &targets);
            });
        }

        // The header of every fragment names the next one. What a first fragment may not be,
        // nothing in fragments may be.
        let fragment = self.new_chain("fragment6");
        let behind = FRAGMENT_NEXT_HEADER + FRAGMENT_HEADER_LENGTH;
        self.drop_if(&fragment, |rule| {
            rule.not_in_set::<IpProtocol>(Base::Link, FRAGMENT_NEXT_HEADER, &data);
        });
        self.accept_fragments(&fragment, FRAGMENT_OFFSET, &FRAGMENT_OFFSET_BITS);
        for (protocol, chain) in [(UDP, "udp6-fragment"), (ICMPV6, "icmpv6-fragment")] {
            let chain = self.new_chain(chain);
            match protocol {
                UDP => self.drop_dhcp_answers(&chain, behind, &DHCPV6),
                // Neighbour discovery is never fragmented (RFC 6980).
                _ => {
                    self.drop_if(&chain, |r| r.in_set::<Icmpv6Type>(Base::Link, behind, &routers));
                    self.drop_if(&chain, |rule| {
                        let kind = [NEIGHBOUR_ADVERTISEMENT];
                        rule.payload(Base::Link, behind, Operator::Equal, &kind);
                    });
                }
            }
            self.tables.add_rule(&fragment, |rule| {
                let named = [protocol];
                rule.payload(Base::Link, FRAGMENT_NEXT_HEADER, Operator::Equal, &named);
                rule.verdict(&Verdict::Goto(chain));
            });
        }

        let chain = self.new_chain("ipv6");
        if !leases_ipv6 {
            self.drop_if(&chain, |rule| foreign(rule, IPV6_SOURCE, &sources));
        }
        for (header, to) in [(UDP, udp), (ICMPV6, icmpv6), (NEXT_FRAGMENT, fragment)] {
            self.tables.add_rule(&chain, |rule| {
                next(rule, Operator::Equal, header);
                rule.verdict(&Verdict::Goto(to));
            });
        }
        // The kernel's own MLD, which a switch must hear to forward neighbour discovery, is the only
        // packet with options for every hop. Where it is intercepted, none leaves.
        let intercepted = self.interface.intercepts_mld();
        if !intercepted {
            self.drop_if(&chain, |rule| {
                next(rule, Operator::Equal, NEXT_HOP_BY_HOP);
                rule.has_meta(META_SKUID);
            });
        }
        self.drop_if(&chain, |rule| {
            if !intercepted {
                next(rule, Operator::NotEqual, NEXT_HOP_BY_HOP);
            }
            rule.not_in_set::<IpProtocol>(Base::Link, IPV6_NEXT_HEADER, &data);
        });
        chain
    }
}

/// Drops the MLD of an interface that may send everything else, with a tag and without: what has
/// options for every hop, in which a sender can hide it, and ICMPv6 of its types.
pub(super) fn add_mld_rules(tables: &mut Tables<'_>, chain: &str, interface: &RuledInterface<'_>) {
    use Operator::Equal;
    let types = tables.add_set_of(format!("mld-{}", interface.index), &MLD);
    let ipv6 = (libc::ETH_P_IPV6 as u16).to_be_bytes();
    let tags = [libc::ETH_P_8021Q, libc::ETH_P_8021AD].map(|tag| (tag as u16).to_be_bytes());
    let shapes = [None].into_iter().chain(tags.map(Some));
    for tag in shapes {
        let shift = if tag.is_some() { VLAN_TAG } else { 0 };
        let is_ipv6 = |rule: &mut Rule<'_, '_>| {
            if let Some(tag) = tag {
                rule.payload(Base::Link, ETHERTYPE, Equal, &tag);
            }
            rule.payload(Base::Link, ETHERTYPE + shift, Equal, &ipv6);
        };
        drop_if(tables, chain, |rule| {
            is_ipv6(rule);
            rule.payload(Base::Link, IPV6_NEXT_HEADER + shift, Equal, &[NEXT_HOP_BY_HOP]);
        });
        let (next, message) = (IPV6_NEXT_HEADER + shift, PAYLOAD + IPV6_HEADER_LENGTH + shift);
        let (of_fragment, behind) =
            (FRAGMENT_NEXT_HEADER + shift, message + FRAGMENT_HEADER_LENGTH);
        drop_if(tables, chain, |rule| {
            is_ipv6(rule);
            rule.payload(Base::Link, next, Equal, &[ICMPV6]);
            rule.in_set::<Icmpv6Type>(Base::Link, message, &types);
        });
        drop_if(tables, chain, |rule| {
            is_ipv6(rule);
            rule.payload(Base::Link, next, Equal, &[NEXT_FRAGMENT]);
            rule.payload(Base::Link, of_fragment, Equal, &[ICMPV6]);
            rule.in_set::<Icmpv6Type>(Base::Link, behind, &types);
        });
    }
}

/// The last eight bytes of the addresses that the kernel makes for an interface, and those of their
/// bits that are known (RFC 4291 appendix A, `addrconf_ifid_eui48` in include/net/addrconf.h). Links
/// that share their MAC address have a number in the middle.
fn interface_identifier(mac: MacAddr, shares_mac: bool) -> ([u8; 8], [u8; 8]) {
    let [a, b, c, d, e, f] = mac.octets();
    match shares_mac {
        false => ([0xff; 8], [a ^ 2, b, c, 0xff, 0xfe, d, e, f]),
        true => ([0xff, 0xff, 0xff, 0, 0, 0xff, 0xff, 0xff], [a, b, c, 0, 0, d, e, f]),
    }
}

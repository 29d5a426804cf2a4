//! What leaves of IPv6, where the attachment has an address of it.

use std::net::Ipv6Addr;

use crate::primitives::MacAddr;
use crate::proxy::container::rules::UDP;
use crate::proxy::container::rules::egress::{Chains, ClientAndServer, META_SKUID, PAYLOAD};
use crate::proxy::container::rules::nftables::{
    Base, Icmpv6Type, IpProtocol, Operator, Rule, Verdict,
};

/// Offsets in an IPv6 header (RFC 8200 §3), behind the Ethernet header.
const IPV6_NEXT_HEADER: u32 = PAYLOAD + 6;
const IPV6_SOURCE: u32 = PAYLOAD + 8;
const IPV6_HEADER_LENGTH: u32 = 40;
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
            sources.push(link_local(self.egress.mac));
        }
        let targets = self.tables.add_set_of(self.name("targets"), &sources);
        sources.push(Ipv6Addr::UNSPECIFIED);
        let sources = self.tables.add_set_of(self.name("sources6"), &sources);
        let data = IPV6_DATA.map(IpProtocol);
        let data = self.tables.add_set_of(self.name("data6"), &data);
        let routers = ICMPV6_OF_ROUTERS.map(Icmpv6Type);
        let routers = self.tables.add_set_of(self.name("routers6"), &routers);
        let shares_mac = self.egress.shares_mac;
        let foreign = |rule: &mut Rule<'_, '_>, offset, own| {
            if shares_mac {
                let prefix = [0xfe, 0x80, 0, 0, 0, 0, 0, 0];
                rule.payload(Base::Link, offset, Operator::NotEqual, &prefix);
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
        self.drop_if(&icmpv6, |rule| {
            rule.payload(Base::Link, upper, Operator::Equal, &[NEIGHBOUR_ADVERTISEMENT]);
            foreign(rule, upper + ICMPV6_TARGET, &targets);
        });

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
        self.drop_if(&chain, |rule| foreign(rule, IPV6_SOURCE, &sources));
        for (header, to) in [(UDP, udp), (ICMPV6, icmpv6), (NEXT_FRAGMENT, fragment)] {
            self.tables.add_rule(&chain, |rule| {
                next(rule, Operator::Equal, header);
                rule.verdict(&Verdict::Goto(to));
            });
        }
        // The kernel's own MLD, which a switch must hear to forward neighbour discovery, is the only
        // packet with options for every hop.
        self.drop_if(&chain, |rule| {
            next(rule, Operator::Equal, NEXT_HOP_BY_HOP);
            rule.has_meta(META_SKUID);
        });
        self.drop_if(&chain, |rule| {
            next(rule, Operator::NotEqual, NEXT_HOP_BY_HOP);
            rule.not_in_set::<IpProtocol>(Base::Link, IPV6_NEXT_HEADER, &data);
        });
        chain
    }
}

/// The link-local address that the kernel makes from a MAC address (RFC 4291 appendix A).
fn link_local(mac: MacAddr) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.octets();
    let [first, last] = [[a ^ 2, b, c, 0xff], [0xfe, d, e, f]].map(u32::from_be_bytes);
    let interface = u128::from(first) << 32 | u128::from(last);
    Ipv6Addr::from(0xfe80_u128 << 112 | interface)
}

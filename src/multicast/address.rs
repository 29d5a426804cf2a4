//! What IPv4 and IPv6 addresses have in common as groups and as sources.

use std::fmt;
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

mod sealed {
    /// Only this module implements [`Address`](super::Address).
    pub trait Sealed {}
    impl Sealed for std::net::Ipv4Addr {}
    impl Sealed for std::net::Ipv6Addr {}
}

/// The address of a group or of a source: [`Ipv4Addr`] or [`Ipv6Addr`].
///
/// Group state, policy and joins are generic over it. IGMP uses IPv4, MLD uses IPv6.
pub trait Address:
    sealed::Sealed
    + Copy
    + Ord
    + Hash
    + fmt::Debug
    + fmt::Display
    + FromStr<Err: fmt::Debug>
    + Into<IpAddr>
    + Send
    + Sync
    + 'static
{
    /// 0.0.0.0 or `::`.
    const UNSPECIFIED: Self;
    /// The address of this family with the largest number: all bits are set.
    const LARGEST: Self;
    /// The group of all systems on the link: 224.0.0.1 (RFC 1112 §4) or ff02::1
    /// (RFC 4291 §2.7.1).
    const ALL_SYSTEMS: Self;
    /// All groups: 224.0.0.0/4 or ff00::/8.
    const GROUPS: IpNet;
    /// The groups that no router forwards: 224.0.0.0/24 (RFC 5771 §4) or ff02::/16
    /// (RFC 4291 §2.7).
    const LINK_SCOPE: IpNet;
    /// The range of [`is_ssm`](Self::is_ssm) for messages.
    const SSM_RANGE: &'static str;
    /// PTP over UDP, all messages except those of the peer delay mechanism (IEEE 1588 Annexes C
    /// and D). Of IPv6 one group for each scope that is wider than the link.
    const PTP_PRIMARY: &'static [Self];
    /// A source for documentation, from which nothing is ever sent (RFC 5737, RFC 3849).
    const DOCUMENTATION: Self;

    /// The address, if it is of this family.
    fn from_ip(address: IpAddr) -> Option<Self>;

    /// The address as a number, for ranges.
    fn to_number(self) -> u128;

    /// The address with this number. Of IPv4 the low 32 bits count.
    fn from_number(number: u128) -> Self;

    /// Whether every join of the group names its sources: 232.0.0.0/8 or ff3x::/32
    /// (RFC 4607 §1).
    fn is_ssm(self) -> bool;

    /// Whether a packet can come from this address.
    fn is_possible_source(self) -> bool;

    /// Whether a switch forwards the group only to ports where it was reported, so that a
    /// membership has to be passed on.
    ///
    /// Not so of 224.0.0.0/24, which is never pruned (RFC 4541 §2.1.2). Of IPv6 only ff02::1 and
    /// the scopes 0 and 1 are never reported (RFC 9777 §6).
    fn needs_report(self) -> bool;

    /// Whether the address is a group.
    fn is_group(self) -> bool {
        Self::GROUPS.contains(&self.into())
    }

    /// Whether the group is one of [`LINK_SCOPE`](Self::LINK_SCOPE).
    fn is_link_scope(self) -> bool {
        Self::LINK_SCOPE.contains(&self.into())
    }
}

impl Address for Ipv4Addr {
    const UNSPECIFIED: Self = Ipv4Addr::UNSPECIFIED;
    const LARGEST: Self = Ipv4Addr::BROADCAST;
    const ALL_SYSTEMS: Self = Ipv4Addr::new(224, 0, 0, 1);
    const GROUPS: IpNet = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 4));
    const LINK_SCOPE: IpNet = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 24));
    const SSM_RANGE: &'static str = "232.0.0.0/8";
    const PTP_PRIMARY: &'static [Self] = &[Ipv4Addr::new(224, 0, 1, 129)];
    const DOCUMENTATION: Self = Ipv4Addr::new(192, 0, 2, 1);

    fn from_ip(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        }
    }

    fn to_number(self) -> u128 {
        self.to_bits().into()
    }

    fn from_number(number: u128) -> Self {
        Ipv4Addr::from_bits(number as u32)
    }

    fn is_ssm(self) -> bool {
        self.octets()[0] == 232
    }

    fn is_possible_source(self) -> bool {
        !(self.is_unspecified() || self.is_multicast() || self.is_broadcast())
    }

    fn needs_report(self) -> bool {
        !self.is_link_scope()
    }

    fn is_group(self) -> bool {
        self.is_multicast()
    }

    fn is_link_scope(self) -> bool {
        self.octets()[..3] == [224, 0, 0]
    }
}

/// PTP's primary group of one scope.
const fn ptp_primary_v6(scope: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xff00 | scope, 0, 0, 0, 0, 0, 0, 0x181)
}

impl Address for Ipv6Addr {
    const UNSPECIFIED: Self = Ipv6Addr::UNSPECIFIED;
    const LARGEST: Self = Ipv6Addr::from_bits(u128::MAX);
    const ALL_SYSTEMS: Self = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    const GROUPS: IpNet =
        IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8));
    const LINK_SCOPE: IpNet =
        IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0), 16));
    const SSM_RANGE: &'static str = "ff3x::/32";
    const PTP_PRIMARY: &'static [Self] = &[
        ptp_primary_v6(0x3),
        ptp_primary_v6(0x4),
        ptp_primary_v6(0x5),
        ptp_primary_v6(0x8),
        ptp_primary_v6(0xe),
    ];
    const DOCUMENTATION: Self = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

    fn from_ip(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(_) => None,
            IpAddr::V6(address) => Some(address),
        }
    }

    fn to_number(self) -> u128 {
        self.to_bits()
    }

    fn from_number(number: u128) -> Self {
        Ipv6Addr::from_bits(number)
    }

    fn is_ssm(self) -> bool {
        let [first, second, ..] = self.segments();
        first & 0xfff0 == 0xff30 && second == 0
    }

    fn is_possible_source(self) -> bool {
        !(self.is_unspecified() || self.is_multicast())
    }

    fn needs_report(self) -> bool {
        let scope = self.octets()[1] & 0x0f;
        scope > 1 && self != Self::ALL_SYSTEMS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is<A: Address>(test: fn(A) -> bool, text: &str) -> bool {
        test(text.parse().unwrap())
    }

    #[test]
    fn the_source_specific_range_is_that_of_rfc_4607() {
        for (text, expected) in
            [("232.0.0.0", true), ("232.255.255.255", true), ("233.0.0.0", false)]
        {
            assert_eq!(is(Ipv4Addr::is_ssm, text), expected, "{text}");
        }
        for (text, expected) in [
            ("ff3e::8000:1", true),
            ("ff32::1", true),
            ("ff3e:0:1::1", true),
            ("ff3e:1::1", false),
            ("ff0e::1", false),
            ("fe3e::1", false),
        ] {
            assert_eq!(is(Ipv6Addr::is_ssm, text), expected, "{text}");
        }
    }

    #[test]
    fn groups_that_are_never_pruned_need_no_report() {
        for (text, expected) in [("224.0.0.251", false), ("224.0.1.0", true), ("239.1.1.1", true)] {
            assert_eq!(is(Ipv4Addr::needs_report, text), expected, "{text}");
        }
        for (text, expected) in [
            ("ff02::1", false),
            ("ff01::2", false),
            ("ff00::2", false),
            // A snooping switch that misses a solicited-node group starves neighbour discovery.
            ("ff02::1:ff00:1", true),
            ("ff02::fb", true),
            ("ff0e::1", true),
        ] {
            assert_eq!(is(Ipv6Addr::needs_report, text), expected, "{text}");
        }
    }

    #[test]
    fn a_source_is_an_address_that_a_packet_can_come_from() {
        for (text, expected) in [
            ("10.0.0.1", true),
            ("0.0.0.0", false),
            ("255.255.255.255", false),
            ("239.1.1.1", false),
        ] {
            assert_eq!(is(Ipv4Addr::is_possible_source, text), expected, "{text}");
        }
        for (text, expected) in [("2001:db8::5", true), ("::", false), ("ff0e::1", false)] {
            assert_eq!(is(Ipv6Addr::is_possible_source, text), expected, "{text}");
        }
    }

    /// The same for both families.
    fn family<A: Address>() {
        let edge = |net: IpNet| {
            let number = |address| A::from_ip(address).unwrap().to_number();
            (number(net.network()), number(net.broadcast()))
        };
        for (net, test) in
            [(A::GROUPS, A::is_group as fn(A) -> bool), (A::LINK_SCOPE, A::is_link_scope)]
        {
            let (first, last) = edge(net);
            assert!(test(A::from_number(first)) && test(A::from_number(last)));
            assert!(!test(A::from_number(first - 1)));
            if last != A::LARGEST.to_number() {
                assert!(!test(A::from_number(last + 1)));
            }
        }
        assert!(A::ALL_SYSTEMS.is_link_scope() && !A::ALL_SYSTEMS.needs_report());
        assert!(A::PTP_PRIMARY.iter().all(|group| group.is_group() && group.needs_report()));
        assert!(A::DOCUMENTATION.is_possible_source() && !A::UNSPECIFIED.is_possible_source());
        let address: IpAddr = A::DOCUMENTATION.into();
        assert_eq!(A::from_ip(address), Some(A::DOCUMENTATION));
        assert_eq!(A::from_number(A::LARGEST.to_number()), A::LARGEST);
        assert_eq!(A::UNSPECIFIED.to_number(), 0);
    }

    #[test]
    fn both_families_are_consistent_in_themselves() {
        family::<Ipv4Addr>();
        family::<Ipv6Addr>();
        assert_eq!(Ipv4Addr::from_ip(Ipv6Addr::LOCALHOST.into()), None);
        assert_eq!(Ipv6Addr::from_ip(Ipv4Addr::LOCALHOST.into()), None);
    }
}

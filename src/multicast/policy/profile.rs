//! Names that stand for the groups of a protocol, of both address families.

/// A name, and what it stands for.
#[derive(Debug, Clone, Copy)]
pub struct Profile {
    /// The name, as the value of `allow` and `deny`.
    pub name: &'static str,
    /// Its groups, as rules.
    pub groups: &'static [&'static str],
    /// Whether the protocol needs IPv6, so that a container which is allowed it speaks IPv6.
    pub needs_ipv6: bool,
    /// Who says so.
    pub source: &'static str,
}

/// The profiles, in the order in which people read about them.
///
/// Groups of link scope are among them although no rule denies them: an `allow` rule has a relay
/// carry them.
pub const PROFILES: &[Profile] = &[
    Profile {
        name: "mdns",
        groups: &["224.0.0.251", "ff02::fb"],
        needs_ipv6: false,
        source: "RFC 6762 section 3",
    },
    Profile {
        name: "ssdp",
        groups: &["239.255.255.250", "ff02::c", "ff05::c"],
        needs_ipv6: false,
        source: "UPnP Device Architecture 2.0, section 1 and annex A; IANA's registries",
    },
    Profile {
        name: "matter",
        // mDNS; the group that fabrics share (Groupcast, policy IanaAddr); the groups of the prefix
        // fd00::/8 of fabrics (policy PerGroup, RFC 3306).
        groups: &["224.0.0.251", "ff02::fb", "ff05::fa", "ff35:40:fd00::/40"],
        needs_ipv6: true,
        source: "RFC 6762 section 3; Matter, IPv6 multicast addressing and Groupcast",
    },
    Profile {
        name: "ros2",
        // The address of the standard, and what Cyclone DDS and Fast DDS have for IPv6.
        groups: &["239.255.0.1", "ff02::ffff:efff:1", "ff1e::ffff:efff:1"],
        needs_ipv6: false,
        source: "DDSI-RTPS 2.5 section 9.6.1.4; Cyclone DDS and Fast DDS for IPv6",
    },
    Profile {
        name: "ptp",
        groups: &[
            "224.0.1.129",
            "224.0.0.107",
            "ff02::6b",
            "ff02::181",
            "ff03::181",
            "ff04::181",
            "ff05::181",
            "ff08::181",
            "ff0e::181",
        ],
        needs_ipv6: false,
        source: "IEEE 1588 annexes C and D; IANA's registries",
    },
    Profile {
        name: "sap",
        groups: &[
            "224.2.127.254",
            "239.195.255.255",
            "239.255.255.255",
            "ff02::2:7ffe",
            "ff03::2:7ffe",
            "ff04::2:7ffe",
            "ff05::2:7ffe",
            "ff08::2:7ffe",
            "ff0e::2:7ffe",
        ],
        needs_ipv6: false,
        source: "RFC 2974 section 3; RFC 2365 sections 6.1 and 6.2",
    },
];

//! Names that stand for the groups of a protocol, of both address families.

/// A name, and what it stands for.
#[derive(Debug, Clone, Copy)]
pub struct Profile {
    /// The name, as the value of `allow` and `deny`.
    pub name: &'static str,
    /// Its groups, as rules.
    pub groups: &'static [&'static str],
    /// Who says so.
    pub source: &'static str,
}

/// The profiles, in the order in which people read about them.
///
/// Groups of link scope are among them although no rule denies them: an `allow` rule has a relay
/// carry them.
pub const PROFILES: &[Profile] = &[
    Profile { name: "mdns", groups: &["224.0.0.251", "ff02::fb"], source: "RFC 6762 section 3" },
    Profile {
        name: "ssdp",
        groups: &["239.255.255.250", "ff02::c", "ff05::c"],
        source: "UPnP Device Architecture 2.0, section 1 and annex A; IANA's registries",
    },
    Profile {
        name: "matter",
        // mDNS; the group of all groups; a group for each fabric and group id.
        groups: &["224.0.0.251", "ff02::fb", "ff05::fa", "ff35:40:fd00::/40"],
        source: "RFC 6762 section 3; the Matter specification, on multicast addresses",
    },
    Profile {
        name: "ros2",
        // The address of the standard, and what Cyclone DDS and Fast DDS have for IPv6.
        groups: &["239.255.0.1", "ff02::ffff:efff:1", "ff1e::ffff:efff:1"],
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
        source: "RFC 2974 section 3; RFC 2365 sections 6.1 and 6.2",
    },
];

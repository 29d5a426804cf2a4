//! The IPv4 settings of an interface that rtnetlink sets.

/// An IPv4 setting of an interface (`IPV4_DEVCONF_*` of linux/ip.h). One netlink message sets
/// several. Writing a file below `/proc/sys/net` for each takes longer, and longer still on a host
/// with many namespaces (see [`crate::net::sysctl::Sysctls`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum DevConf {
    /// `rp_filter`.
    RpFilter = 8,
    /// `arp_filter`.
    ArpFilter = 13,
    /// `force_igmp_version`.
    ForceIgmpVersion = 17,
    /// `arp_ignore`.
    ArpIgnore = 19,
    /// `arp_notify`.
    ArpNotify = 22,
    /// `igmpv2_unsolicited_report_interval`.
    Igmpv2ReportInterval = 27,
    /// `igmpv3_unsolicited_report_interval`.
    Igmpv3ReportInterval = 28,
}

impl DevConf {
    /// Its file in `/proc/sys/net/ipv4/conf/INTERFACE`.
    pub fn name(self) -> &'static str {
        match self {
            DevConf::RpFilter => "rp_filter",
            DevConf::ArpFilter => "arp_filter",
            DevConf::ForceIgmpVersion => "force_igmp_version",
            DevConf::ArpIgnore => "arp_ignore",
            DevConf::ArpNotify => "arp_notify",
            DevConf::Igmpv2ReportInterval => "igmpv2_unsolicited_report_interval",
            DevConf::Igmpv3ReportInterval => "igmpv3_unsolicited_report_interval",
        }
    }
}

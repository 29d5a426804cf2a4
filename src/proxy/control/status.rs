//! The status of a proxy: the answer to `status` on its control socket,
//! `containers/ID/control.sock` in the state directory.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Add;

use serde::{Deserialize, Serialize};

use crate::igmp::Timing;
use crate::multicast::{Address, FilterMode};
use crate::notice::{Notice, Severity};
use crate::stream_count::StreamCount;

/// Everything a proxy knows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProxyStatus {
    /// Full container id.
    pub container: String,
    /// Version of the proxy's program; `None` from a program that did not have this field yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Process id of the proxy.
    pub pid: i32,
    /// Whether the proxy serves all interfaces as asked.
    pub state: ProxyState,
    /// Whether a keeper has all that must outlive the proxy.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub held: bool,
    /// What is wrong now: why the proxy is degraded, and what is missing on the LAN.
    ///
    /// As JSON two fields, both absent when nothing is wrong: `notices`, an array of objects, and
    /// `warnings`, an array of the texts of those that are warnings or errors. A proxy from before
    /// notices has `warnings` alone.
    #[serde(flatten, with = "notices_and_warnings")]
    pub notices: Vec<Notice>,
    /// Its interfaces, in the order of attachment.
    pub interfaces: Vec<InterfaceStatus>,
    /// What has arrived at the interfaces that are counted. They are not in [`InterfaceStatus`],
    /// because a proxy that takes over reads that and needs no counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub counts: Vec<InterfaceCounts>,
}

/// What has arrived at an interface of the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceCounts {
    /// Name in the container.
    pub interface: String,
    /// In the order of group and source; also of groups that the container has not joined.
    pub streams: Vec<StreamCount>,
}

impl ProxyStatus {
    /// The texts of all notices that are warnings or errors.
    pub fn warnings(&self) -> Vec<String> {
        warnings(&self.notices)
    }
}

fn warnings(notices: &[Notice]) -> Vec<String> {
    let serious = notices.iter().filter(|notice| notice.severity() <= Severity::Warning);
    serious.map(ToString::to_string).collect()
}

/// The two fields in which [`ProxyStatus::notices`] is written.
mod notices_and_warnings {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::notice::Notice;

    #[derive(Serialize)]
    struct Written<'a> {
        #[serde(skip_serializing_if = "Vec::is_empty")]
        warnings: Vec<String>,
        #[serde(skip_serializing_if = "<[Notice]>::is_empty")]
        notices: &'a [Notice],
    }

    #[derive(Deserialize)]
    struct Read {
        #[serde(default)]
        warnings: Vec<String>,
        #[serde(default)]
        notices: Option<Vec<Notice>>,
    }

    pub(super) fn serialize<S: Serializer>(
        notices: &[Notice],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        Written { warnings: super::warnings(notices), notices }.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<Notice>, D::Error> {
        let Read { warnings, notices } = Read::deserialize(deserializer)?;
        let from_texts = || warnings.into_iter().map(Notice::from_text).collect();
        Ok(notices.unwrap_or_else(from_texts))
    }
}

/// How a proxy works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProxyState {
    /// All interfaces are served as asked for.
    Running,
    /// An interface is missing, in the container or on the host. It is served when it comes.
    Waiting,
    /// IGMP cannot be intercepted. The container's kernel sends its own IGMP; the proxy only
    /// observes.
    Degraded,
}

/// One interface of the container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InterfaceStatus {
    /// Name in the container.
    pub interface: String,
    /// LAN interface on the host.
    pub parent: String,
    /// The LAN's querier, if one was heard within the other-querier-present interval of 255 s
    /// (RFC 9776 §8.5).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub querier: Option<QuerierStatus>,
    /// A second querier, which has lost their election and asks all the same (RFC 9776 §6.6.2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rival: Option<QuerierStatus>,
    /// Seconds since a proxy of the container began to listen for a querier. `None`: the link is
    /// down, nobody listens, or the proxy is from before this field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listening_s: Option<u64>,
    /// After so many seconds without a query the LAN has no querier (RFC 9776 §8.5).
    #[serde(default = "querier_timeout_by_default")]
    pub querier_timeout_s: u64,
    /// Groups that the container wants, in the order of their addresses.
    pub groups: Vec<GroupMembership>,
    /// Messages counted by their result. Names are stable; what is zero is left out.
    #[serde(default)]
    pub counters: std::collections::BTreeMap<String, u64>,
    /// What the relay has carried, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relay: Option<RelayStatus>,
    /// What is known of MLD, where the proxy speaks it. Its groups are among `groups`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mld: Option<MldStatus>,
    /// Groups that have arrived steadily since they were joined. A proxy that takes over goes on
    /// watching them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub streams: Vec<SteadyStream>,
}

/// As long as no querier has told its interval.
pub(crate) fn querier_timeout_by_default() -> u64 {
    Timing::default().other_querier_present_interval().as_secs()
}

/// What is known of MLD on one interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MldStatus {
    /// The LAN's MLD querier, as [`InterfaceStatus::querier`] is of IGMP. Its version is 1 or 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub querier: Option<QuerierStatus>,
    /// A second querier, as [`InterfaceStatus::rival`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rival: Option<QuerierStatus>,
    /// As [`InterfaceStatus::querier_timeout_s`].
    #[serde(default = "querier_timeout_by_default")]
    pub querier_timeout_s: u64,
    /// Messages counted by their result, as [`InterfaceStatus::counters`].
    #[serde(default)]
    pub counters: std::collections::BTreeMap<String, u64>,
}

/// A group that has arrived steadily since it was joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SteadyStream {
    /// The group.
    pub group: IpAddr,
    /// How its sources are joined.
    pub mode: FilterMode,
    /// Seconds since its last packet, as far as anybody has looked.
    pub silent_s: u64,
    /// Whether it has stopped: nothing had arrived for 10 s at the last look.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stopped: bool,
    /// Seconds since it was found left, while another interface gets it; `None`: it is joined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_s: Option<u64>,
}

impl InterfaceStatus {
    /// The groups of IPv4 that are joined on the LAN.
    pub(crate) fn joined(&self) -> impl Iterator<Item = Ipv4Addr> {
        let joined = self.groups.iter().filter(|entry| entry.status == MembershipStatus::Joined);
        joined.filter_map(|entry| Ipv4Addr::from_ip(entry.group))
    }
}

/// Data packets, counted by their result.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayCounts {
    /// Carried across.
    pub relayed: u64,
    /// Damaged, or refused by the kernel.
    pub dropped: u64,
    /// Above the rate limit.
    pub limited: u64,
    /// Sent to a group, or from an address, that the container may not send to or from; or an
    /// answer that the container has not asked for. A proxy from before this field has none.
    #[serde(default)]
    pub denied: u64,
}

impl RelayCounts {
    /// The kernel refused a packet that was counted as relayed.
    pub(crate) fn relayed_is_dropped(&mut self) {
        self.relayed = self.relayed.saturating_sub(1);
        self.dropped += 1;
    }

    /// What has been counted since these were the counts.
    pub(crate) fn since(self, before: RelayCounts) -> RelayCounts {
        RelayCounts {
            relayed: self.relayed.saturating_sub(before.relayed),
            dropped: self.dropped.saturating_sub(before.dropped),
            limited: self.limited.saturating_sub(before.limited),
            denied: self.denied.saturating_sub(before.denied),
        }
    }
}

impl Add for RelayCounts {
    type Output = RelayCounts;

    fn add(self, other: RelayCounts) -> RelayCounts {
        RelayCounts {
            relayed: self.relayed + other.relayed,
            dropped: self.dropped + other.dropped,
            limited: self.limited + other.limited,
            denied: self.denied + other.denied,
        }
    }
}

impl RelayStatus {
    /// The same with what the relay of the other address family has carried.
    pub(crate) fn with(mut self, other: RelayStatus) -> Self {
        self.inbound = self.inbound + other.inbound;
        self.outbound = self.outbound + other.outbound;
        self.overruns += other.overruns;
        self.in_kernel &= other.in_kernel;
        self.ports.extend(other.ports);
        self
    }
}

/// What the relay of an interface has carried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayStatus {
    /// Into the container, with the answers to its ports.
    pub inbound: RelayCounts,
    /// Out of it.
    pub outbound: RelayCounts,
    /// Packets of either direction that the kernel dropped because a socket buffer was full.
    pub overruns: u64,
    /// Whether the kernel passes the LAN's packets on, and the proxy only what the kernel cannot.
    #[serde(default)]
    pub in_kernel: bool,
    /// The translated ports, where the container's packets leave with the host's address.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<TranslatedPort>,
}

impl RelayStatus {
    /// Both directions together. Overruns count as dropped.
    pub fn total(&self) -> RelayCounts {
        let mut total = self.inbound + self.outbound;
        total.dropped += self.overruns;
        total
    }
}

/// A port of the container, and the port of the host that replaces it on the LAN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TranslatedPort {
    /// Source of the container's packets in the container.
    pub inside: SocketAddr,
    /// Their source on the LAN.
    pub outside: SocketAddr,
    /// Whether packets to `outside` reach the container. They do not if the port is the host's.
    pub answered: bool,
}

/// The querier of the LAN.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuerierStatus {
    /// Its address.
    pub address: IpAddr,
    /// Version that the querier speaks: of IGMP 1 to 3, of MLD 1 or 2.
    pub version: u8,
    /// Its query interval in seconds; only queries of IGMPv3 and MLDv2 tell it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval_s: Option<u32>,
    /// Seconds since its last general query.
    pub last_query_s: u64,
}

/// One group on one interface.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GroupMembership {
    /// The group.
    pub group: IpAddr,
    /// How `sources` is meant.
    pub mode: FilterMode,
    /// Source list.
    pub sources: Vec<IpAddr>,
    /// Version that the container uses for the group: of IGMP 1 to 3, of MLD 1 or 2.
    pub version: u8,
    /// Whether the group is joined on the LAN.
    pub status: MembershipStatus,
    /// The rule, the limit or the error behind any status but `joined`; a note on what is joined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Seconds since the container joined.
    pub age_s: u64,
    /// Packets of the group in both directions, where there is a relay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relay: Option<RelayCounts>,
}

/// Whether a group that the container wants is joined on the LAN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MembershipStatus {
    /// Joined on the LAN.
    Joined,
    /// Denied by a rule.
    Denied,
    /// Kept off the LAN, in full or in a part of its sources, by `max-groups` or `max-sources`.
    Limited,
    /// Refused by the host's kernel.
    Failed,
}

impl MembershipStatus {
    /// All of them.
    pub const ALL: [MembershipStatus; 4] = [
        MembershipStatus::Joined,
        MembershipStatus::Denied,
        MembershipStatus::Limited,
        MembershipStatus::Failed,
    ];

    /// The word for people, and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            MembershipStatus::Joined => "joined",
            MembershipStatus::Denied => "denied",
            MembershipStatus::Limited => "limited",
            MembershipStatus::Failed => "failed",
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status(notices: Vec<Notice>) -> ProxyStatus {
        ProxyStatus {
            container: "c1".into(),
            version: Some("1.0.0".into()),
            pid: 7,
            state: ProxyState::Running,
            held: false,
            notices,
            interfaces: Vec::new(),
            counts: Vec::new(),
        }
    }

    #[test]
    fn notices_are_shown_twice_and_read_once() {
        let status = status(vec![
            Notice::UpstreamWithoutAddress { upstream: "eth1".into() },
            Notice::NoLandlock {},
        ]);
        let shown = serde_json::to_value(&status).unwrap();
        assert_eq!(shown["warnings"], json!([status.notices[0].to_string()]));
        assert_eq!(shown["notices"][0]["code"], "upstream-without-address");
        assert_eq!(shown["notices"][1]["severity"], "info");
        assert_eq!(serde_json::from_value::<ProxyStatus>(shown).unwrap(), status);
    }

    #[test]
    fn nothing_wrong_is_no_field_at_all() {
        let shown = serde_json::to_value(status(Vec::new())).unwrap();
        assert!(shown.get("warnings").is_none() && shown.get("notices").is_none(), "{shown}");
        assert_eq!(serde_json::from_value::<ProxyStatus>(shown).unwrap(), status(Vec::new()));
    }
}

//! What a proxy tells on its control socket.
//!
//! `containers/ID/control.sock` in the state directory takes one request line, `status\n`, and
//! answers with one [`ProxyStatus`] as JSON, then closes.

use std::net::{IpAddr, SocketAddr};
use std::ops::Add;

use serde::{Deserialize, Serialize};

use crate::multicast::FilterMode;

/// Everything a proxy knows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProxyStatus {
    /// Full container id.
    pub container: String,
    /// Process id of the proxy.
    pub pid: i32,
    /// How it works.
    pub state: ProxyState,
    /// Why it works less than fully, and what is wrong with the LAN's querier now, for people; absent when
    /// all is well.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Its interfaces, in the order of attachment.
    pub interfaces: Vec<InterfaceStatus>,
}

/// How a proxy works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProxyState {
    /// All interfaces are served as asked.
    Running,
    /// Interception is not to be had: the container speaks IGMP itself, observed.
    Degraded,
}

/// One interface of the container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InterfaceStatus {
    /// Name in the container.
    pub interface: String,
    /// LAN interface on the host.
    pub parent: String,
    /// The LAN's querier, when one was heard within 255 s (RFC 9776 §8.5).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub querier: Option<QuerierStatus>,
    /// Groups, by address.
    pub groups: Vec<GroupMembership>,
    /// Messages counted by what became of them; names are stable, zeroes are left out.
    #[serde(default)]
    pub counters: std::collections::BTreeMap<String, u64>,
    /// What the relay has carried, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relay: Option<RelayStatus>,
}

/// What became of data packets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayCounts {
    /// Carried across.
    pub relayed: u64,
    /// Damaged, or refused by the kernel.
    pub dropped: u64,
    /// Above the rate limit.
    pub limited: u64,
}

impl RelayCounts {
    /// A packet that was counted as relayed was refused after all.
    pub(crate) fn relayed_is_dropped(&mut self) {
        self.relayed = self.relayed.saturating_sub(1);
        self.dropped += 1;
    }
}

impl Add for RelayCounts {
    type Output = RelayCounts;

    fn add(self, other: RelayCounts) -> RelayCounts {
        RelayCounts {
            relayed: self.relayed + other.relayed,
            dropped: self.dropped + other.dropped,
            limited: self.limited + other.limited,
        }
    }
}

/// What the relay of an interface has carried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayStatus {
    /// Into the container, answers to its ports included.
    pub inbound: RelayCounts,
    /// Out of it.
    pub outbound: RelayCounts,
    /// Packets lost in either direction because they came faster than they were carried.
    pub overruns: u64,
    /// The ports that the container sends from, where the host sends in its place.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<TranslatedPort>,
}

impl RelayStatus {
    /// Both directions; what came too fast counts as dropped.
    pub fn total(&self) -> RelayCounts {
        let mut total = self.inbound + self.outbound;
        total.dropped += self.overruns;
        total
    }
}

/// A port of the container, and the host's that stands for it on the LAN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TranslatedPort {
    /// What the container sends from.
    pub inside: SocketAddr,
    /// What the LAN sees.
    pub outside: SocketAddr,
    /// Whether what is sent there comes to the container. It does not where another program of the
    /// host has the port.
    pub answered: bool,
}

/// The querier of the LAN.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuerierStatus {
    /// Its address.
    pub address: IpAddr,
    /// IGMP version it speaks, 1 to 3.
    pub version: u8,
    /// Its query interval in seconds, where its queries tell (v3).
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
    /// IGMP version the container uses for it, 1 to 3.
    pub version: u8,
    /// What became of the wish.
    pub status: MembershipStatus,
    /// The rule, the limit or the error behind any status but `joined`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Seconds since the container joined.
    pub age_s: u64,
    /// What the relay has carried of it in both directions, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relay: Option<RelayCounts>,
}

/// What became of a wish for a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MembershipStatus {
    /// Joined on the LAN.
    Joined,
    /// Refused by a rule.
    Denied,
    /// Refused by `max-groups` or `max-sources`.
    Limited,
    /// The host's kernel refused it.
    Failed,
}

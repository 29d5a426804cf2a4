//! What a proxy tells on its control socket.
//!
//! `containers/ID/control.sock` in the state directory takes one request line, `status\n`, and
//! answers with one [`ProxyStatus`] as JSON, then closes.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::igmp::FilterMode;

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
    pub interfaces: Vec<InterfaceEntry>,
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
pub struct InterfaceEntry {
    /// Name in the container.
    pub interface: String,
    /// LAN interface on the host.
    pub parent: String,
    /// The LAN's querier, when one was heard within 255 s (RFC 9776 §8.5).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub querier: Option<LanQuerier>,
    /// Groups, by address.
    pub groups: Vec<GroupEntry>,
    /// Messages counted by what became of them; names are stable, zeroes are left out.
    #[serde(default)]
    pub counters: std::collections::BTreeMap<String, u64>,
}

/// The querier of the LAN.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LanQuerier {
    /// Its address.
    pub address: Ipv4Addr,
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
pub struct GroupEntry {
    /// The group.
    pub group: Ipv4Addr,
    /// How `sources` is meant.
    pub mode: FilterMode,
    /// Source list.
    pub sources: Vec<Ipv4Addr>,
    /// IGMP version the container uses for it, 1 to 3.
    pub version: u8,
    /// What became of the wish.
    pub status: GroupStatus,
    /// The rule, the limit or the error behind any status but `joined`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Seconds since the container joined.
    pub age_s: u64,
}

/// What became of a wish for a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GroupStatus {
    /// Joined on the LAN.
    Joined,
    /// Refused by a rule.
    Denied,
    /// Refused by `max-groups` or `max-sources`.
    Limited,
    /// The host's kernel refused it.
    Failed,
}

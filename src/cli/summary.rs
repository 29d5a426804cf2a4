//! A proxy and an interface as `mcrun ps --json` and `mcrun inspect --json` show them.

use serde::Serialize;

use crate::attachment::IgmpMode;
use crate::primitives::MacAddr;
use crate::proxy::{QuerierStatus, RelayCounts};

/// A proxy as `mcrun ps --json` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct ProxySummary {
    /// Its process id; absent when there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) pid: Option<i32>,
    /// `running`, `waiting`, `degraded`, `silent` (it does not answer), `dead`, or `off` (none asked
    /// for).
    pub(super) state: &'static str,
    /// Whether a keeper holds what must outlive the proxy.
    pub(super) held: bool,
    /// Proxies of the container that have died and were replaced.
    pub(super) deaths: u32,
}

/// An interface as `mcrun ps --json` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct InterfaceSummary {
    pub(super) name: String,
    pub(super) parent: String,
    pub(super) driver: &'static str,
    pub(super) mode: &'static str,
    pub(super) mac: Option<MacAddr>,
    pub(super) addresses: Vec<String>,
    /// Those that routers have given; absent without `ip=slaac`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) slaac_addresses: Option<Vec<String>>,
    pub(super) igmp: IgmpMode,
    /// Why the interface is not there; absent when it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) waiting: Option<String>,
    /// `relayed`, `dropped`, `limited` and `denied` packets in both directions, where a relay carries
    /// them.
    #[serde(flatten)]
    pub(super) relay: Option<RelayCounts>,
    /// The LAN's querier; absent when there is none, or nobody listens for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) querier: Option<QuerierStatus>,
    /// The same of MLD; absent also where the proxy does not speak it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) mld_querier: Option<QuerierStatus>,
    /// Seconds for which a querier was listened for; absent where nobody listens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) listening_s: Option<u64>,
}

//! The counters and the notices of a router.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::notice::Notice;
use crate::primitives::token_bucket::TokenBucket;

/// Stable names of counters, next to those of `Malformed` of the protocol's wire format.
pub mod counter {
    /// Packets from the container.
    pub const PACKETS: &str = "packets";
    /// Its v1 reports.
    pub const REPORTS_V1: &str = "reports_v1";
    /// Its v2 reports.
    pub const REPORTS_V2: &str = "reports_v2";
    /// Its v2 leaves.
    pub const LEAVES_V2: &str = "leaves_v2";
    /// Its v3 reports.
    pub const REPORTS_V3: &str = "reports_v3";
    /// Queries that the container sent itself; ignored.
    pub const CONTAINER_QUERIES: &str = "container_queries";
    /// Messages whose TTL is not 1; dropped.
    pub const BAD_TTL: &str = "bad_ttl";
    /// Messages without Router Alert.
    pub const NO_ROUTER_ALERT: &str = "no_router_alert";
    /// Messages dropped because there were too many.
    pub const RATE_LIMITED: &str = "rate_limited";
    /// Records whose group is not multicast; ignored.
    pub const BAD_RECORD_GROUP: &str = "bad_record_group";
    /// Sources that no packet can come from; ignored.
    pub const BAD_SOURCE: &str = "bad_source";
    /// Records of an unknown type; ignored.
    pub const UNKNOWN_RECORD_TYPE: &str = "unknown_record_type";
    /// Joins and leaves of groups that no switch prunes, such as those of 224.0.0.0/24.
    pub const LINK_LOCAL: &str = "link_local";
    /// Joins and leaves without a source in 232.0.0.0/8 or ff3x::/32.
    pub const SSM_ANY_SOURCE: &str = "ssm_any_source";
    /// Messages that the compatibility mode of their group ignores.
    pub const COMPATIBILITY_MODE: &str = "ignored_in_compatibility_mode";
    /// Source lists that were truncated to the limit.
    pub const SOURCES_LIMITED: &str = "sources_limited";
    /// Joins that were denied.
    pub const DENIED: &str = "denied";
    /// Joins beyond the limit of groups.
    pub const GROUPS_LIMITED: &str = "groups_limited";
    /// Refused joins beyond those that are stored.
    pub const REFUSED_FORGOTTEN: &str = "refused_forgotten";
    /// Groups that no report has told of for the group membership interval, and that the container's
    /// kernel has joined all the same.
    pub const CONFIRMED: &str = "confirmed_by_kernel";
    /// Queries of the LAN.
    pub const LAN_QUERIES: &str = "lan_queries";
    /// Those of them with source 0.0.0.0: proxy queries.
    pub const LAN_PROXY_QUERIES: &str = "lan_proxy_queries";
    /// Queries on the LAN from a source that no host has; ignored.
    pub const LAN_BAD_SOURCE: &str = "lan_bad_source";
    /// Queries to the container that relay a query of the LAN.
    pub const QUERIES_RELAYED: &str = "queries_relayed";
    /// The router's own queries to the container.
    pub const QUERIES_OWN: &str = "queries_own";
    /// LAN queries merged into one that was waiting already.
    pub const QUERIES_MERGED: &str = "queries_merged";
    /// Queries that were dropped because too many waited for the caller.
    pub const QUERIES_DROPPED: &str = "queries_dropped";
    /// Changes that went upstream.
    pub const CHANGES: &str = "changes";
    /// How often changes waited for the rate limit.
    pub const CHANGES_DELAYED: &str = "changes_delayed";
}

/// Notices that wait for the caller, and notices at once. They are samples: the counters are
/// complete.
const NOTICES: usize = 16;

/// Counters and notices of one router.
#[derive(Debug, Clone)]
pub(super) struct Diagnostics {
    pub(super) counters: BTreeMap<&'static str, u64>,
    notices: VecDeque<Notice>,
    bucket: TokenBucket,
}

impl Diagnostics {
    pub(super) fn new(now: Instant) -> Self {
        Diagnostics {
            counters: BTreeMap::new(),
            notices: VecDeque::new(),
            bucket: TokenBucket::new(NOTICES as u32, Duration::from_secs(10), now),
        }
    }

    pub(super) fn count(&mut self, name: &'static str) {
        self.add(name, 1);
    }

    pub(super) fn add(&mut self, name: &'static str, n: u64) {
        if n > 0 {
            let counter = self.counters.entry(name).or_default();
            *counter = counter.saturating_add(n);
        }
    }

    pub(super) fn notice(&mut self, now: Instant, notice: Notice) {
        if self.notices.len() < NOTICES && self.bucket.take(now) {
            self.notices.push_back(notice);
        }
    }

    pub(super) fn poll_notice(&mut self) -> Option<Notice> {
        self.notices.pop_front()
    }
}

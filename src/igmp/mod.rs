//! IGMPv1, v2 and v3 (RFC 1112, RFC 2236, RFC 9776) without sockets and without a clock.
//!
//! Bytes come in, messages, queries to send and wanted upstream filters go out; the time is
//! an argument. Nothing here knows netlink, nix or a file descriptor.
//!
//! [`wire`] reads and writes messages, [`group`] is the state of one group (the table of
//! RFC 9776 §6.4), and [`router`] is the querier of one container interface that puts them
//! together with the policy, the LAN's querier and the limits.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

mod bucket;
pub mod group;
pub mod router;
mod timing;
pub mod wire;

pub use router::Router;
pub use timing::{Timing, TimingError};

/// 224.0.0.0/24, which stays on the link and is never pruned (RFC 5771 §4, RFC 4541 §2.1.2).
pub fn is_link_local(group: Ipv4Addr) -> bool {
    group.octets()[..3] == [224, 0, 0]
}

/// 232.0.0.0/8, where every join names its sources (RFC 4607 §1).
pub fn is_ssm(group: Ipv4Addr) -> bool {
    group.octets()[0] == 232
}

/// How the sources of a [`Filter`] are meant (RFC 9776 §3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FilterMode {
    /// Only the sources named.
    Include,
    /// All but the sources named.
    Exclude,
}

/// Reception state of one multicast address: what is wanted of it.
///
/// `INCLUDE({})` means not joined (RFC 9776 §3.1). `A` is the address type: the table of
/// RFC 9776 §6.4 is that of MLDv2 too (RFC 9777 §7.4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter<A = Ipv4Addr> {
    /// How `sources` is meant.
    pub mode: FilterMode,
    /// The source list.
    pub sources: BTreeSet<A>,
}

impl<A: Ord> Filter<A> {
    /// Not joined: INCLUDE of nothing.
    pub fn none() -> Self {
        Filter { mode: FilterMode::Include, sources: BTreeSet::new() }
    }

    /// Joined from any source: EXCLUDE of nothing.
    pub fn any() -> Self {
        Filter { mode: FilterMode::Exclude, sources: BTreeSet::new() }
    }

    /// INCLUDE of these sources.
    pub fn include(sources: impl IntoIterator<Item = A>) -> Self {
        Filter { mode: FilterMode::Include, sources: sources.into_iter().collect() }
    }

    /// EXCLUDE of these sources.
    pub fn exclude(sources: impl IntoIterator<Item = A>) -> Self {
        Filter { mode: FilterMode::Exclude, sources: sources.into_iter().collect() }
    }

    /// Whether nothing is wanted.
    pub fn is_none(&self) -> bool {
        self.mode == FilterMode::Include && self.sources.is_empty()
    }
}

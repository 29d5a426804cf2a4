//! The source filter of a group.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// The filter mode of a [`SourceFilter`] (RFC 9776 §3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FilterMode {
    /// Only the sources named.
    Include,
    /// All except the sources named.
    Exclude,
}

/// A source filter: filter mode and source list of one multicast address (RFC 9776 §3.1,
/// RFC 9777 §4.1). `INCLUDE({})` means not joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFilter<A = Ipv4Addr> {
    /// The filter mode.
    pub mode: FilterMode,
    /// The source list.
    pub sources: BTreeSet<A>,
}

impl<A: Ord> SourceFilter<A> {
    /// Not joined: INCLUDE of nothing.
    pub fn none() -> Self {
        SourceFilter { mode: FilterMode::Include, sources: BTreeSet::new() }
    }

    /// Joined from any source: EXCLUDE of nothing.
    pub fn any() -> Self {
        SourceFilter { mode: FilterMode::Exclude, sources: BTreeSet::new() }
    }

    /// INCLUDE of these sources.
    pub fn include(sources: impl IntoIterator<Item = A>) -> Self {
        SourceFilter { mode: FilterMode::Include, sources: sources.into_iter().collect() }
    }

    /// EXCLUDE of these sources.
    pub fn exclude(sources: impl IntoIterator<Item = A>) -> Self {
        SourceFilter { mode: FilterMode::Exclude, sources: sources.into_iter().collect() }
    }

    /// Whether it is INCLUDE of nothing: not joined.
    pub fn is_none(&self) -> bool {
        self.mode == FilterMode::Include && self.sources.is_empty()
    }
}

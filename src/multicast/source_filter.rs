//! Which sources of a group are wanted.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// How the sources of a [`SourceFilter`] are meant (RFC 9776 §3.1).
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
pub struct SourceFilter<A = Ipv4Addr> {
    /// How `sources` is meant.
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

    /// Whether nothing is wanted.
    pub fn is_none(&self) -> bool {
        self.mode == FilterMode::Include && self.sources.is_empty()
    }
}

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

impl<A: Ord + Clone> SourceFilter<A> {
    /// What two sockets receive together (RFC 9776 §3.2, RFC 9777 §4.2).
    pub fn merged(&self, other: &Self) -> Self {
        let (a, b) = (&self.sources, &other.sources);
        let (mode, sources) = match (self.mode, other.mode) {
            (FilterMode::Include, FilterMode::Include) => (FilterMode::Include, a | b),
            (FilterMode::Exclude, FilterMode::Exclude) => (FilterMode::Exclude, a & b),
            (FilterMode::Exclude, FilterMode::Include) => (FilterMode::Exclude, a - b),
            (FilterMode::Include, FilterMode::Exclude) => (FilterMode::Exclude, b - a),
        };
        SourceFilter { mode, sources }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_merged_as_the_kernel_merges_sockets() {
        let s = |n| Ipv4Addr::new(10, 0, 0, n);
        let in_12 = SourceFilter::include([s(1), s(2)]);
        let in_3 = SourceFilter::include([s(3)]);
        let ex_23 = SourceFilter::exclude([s(2), s(3)]);
        assert_eq!(in_12.merged(&in_3), SourceFilter::include([s(1), s(2), s(3)]));
        assert_eq!(in_12.merged(&ex_23), SourceFilter::exclude([s(3)]));
        assert_eq!(ex_23.merged(&in_3), SourceFilter::exclude([s(2)]));
        assert_eq!(ex_23.merged(&SourceFilter::any()), SourceFilter::any());
        assert_eq!(SourceFilter::none().merged(&in_3), in_3);
        assert_eq!(SourceFilter::none().merged(&ex_23), ex_23);
    }
}

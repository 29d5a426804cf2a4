//! Groups of containers and what has arrived for each, as several commands show them.

use std::net::IpAddr;

use crate::cli::containers::Container;
use crate::multicast::FilterMode;
use crate::proxy::{GroupMembership, InterfaceStatus};
use crate::stream_count::StreamCount;

/// All groups of all containers, with the interface that each is on.
pub(super) fn memberships(
    containers: &[Container],
) -> impl Iterator<Item = (&Container, &InterfaceStatus, &GroupMembership)> {
    let interfaces = containers
        .iter()
        .flat_map(|c| c.status.iter().flat_map(move |s| s.interfaces.iter().map(move |i| (c, i))));
    interfaces.flat_map(|(c, i)| i.groups.iter().map(move |entry| (c, i, entry)))
}

/// What has arrived for a group.
pub(super) struct Arrived<'s> {
    /// From each source, also from those that the container does not want.
    pub(super) streams: Vec<&'s StreamCount>,
    /// From the sources that the container wants; `None`: nothing.
    pub(super) wanted: Option<StreamCount>,
}

impl<'s> Arrived<'s> {
    /// `None`: nothing is counted. Groups of IPv4 are.
    pub(super) fn of(
        container: &'s Container,
        interface: &InterfaceStatus,
        entry: &GroupMembership,
    ) -> Option<Self> {
        if entry.group.is_ipv6() {
            return None;
        }
        let counts = &container.status.as_ref()?.counts;
        let counts = counts.iter().find(|counts| counts.interface == interface.interface)?;
        let streams =
            counts.streams.iter().filter(|stream| IpAddr::V4(stream.group) == entry.group);
        let streams: Vec<_> = streams.collect();
        let wanted = streams.iter().filter(|stream| is_wanted(entry, stream));
        let wanted = wanted.map(|stream| **stream);
        let wanted = wanted.reduce(|mut sum, stream| {
            sum.add(&stream);
            sum
        });
        Some(Arrived { streams, wanted })
    }

    /// A number of what is wanted.
    pub(super) fn sum(&self, number: impl Fn(&StreamCount) -> u64) -> u64 {
        self.wanted.as_ref().map_or(0, number)
    }
}

/// Whether the container wants what comes from the source of a stream of the group.
pub(super) fn is_wanted(entry: &GroupMembership, stream: &StreamCount) -> bool {
    let is_listed = entry.sources.contains(&IpAddr::V4(stream.source));
    is_listed == (entry.mode == FilterMode::Include)
}

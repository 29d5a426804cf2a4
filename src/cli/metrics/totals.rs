//! What has arrived for each group, as counters that do not fall.
//!
//! A proxy counts by source, and forgets a source that is silent when others need its place. The sum of
//! the sources that a container wants falls then, and also when the container leaves a source. Prometheus
//! would take the rest of the sum for packets that came meanwhile.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

use crate::cli::containers::Container;
use crate::cli::memberships::{Arrived, is_wanted};
use crate::proxy::{GroupMembership, InterfaceStatus};
use crate::stream_count::StreamCount;

/// The counters of all groups, from one gathering to the next.
#[derive(Debug, Default)]
pub(super) struct Totals {
    groups: HashMap<Key, Group>,
    /// Number of the gathering.
    round: u64,
}

/// Container, interface and group.
type Key = (String, String, IpAddr);

#[derive(Debug, Default)]
struct Group {
    round: u64,
    total: Counts,
    /// The counts of all sources at the last gathering, also of those that are not wanted.
    sources: HashMap<Ipv4Addr, Counts>,
}

/// What is counted. All but `lost` only grow, as long as nothing is forgotten.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) packets: u64,
    pub(super) bytes: u64,
    pub(super) lost: u64,
    pub(super) reordered: u64,
    pub(super) duplicated: u64,
}

impl Totals {
    /// The counters of a group; at first the sum of the sources that are wanted.
    pub(super) fn of(
        &mut self,
        container: &Container,
        interface: &InterfaceStatus,
        entry: &GroupMembership,
        arrived: &Arrived<'_>,
    ) -> Counts {
        let key = (container.id().to_owned(), interface.interface.clone(), entry.group);
        let group = self.groups.entry(key).or_default();
        group.round = self.round;
        group.add(&arrived.streams, |stream| is_wanted(entry, stream))
    }

    /// Forgets the groups that were not asked for since the last call.
    pub(super) fn end_round(&mut self) {
        self.groups.retain(|_, group| group.round == self.round);
        self.round += 1;
    }
}

impl Group {
    fn add(
        &mut self,
        streams: &[&StreamCount],
        is_wanted: impl Fn(&StreamCount) -> bool,
    ) -> Counts {
        let mut sources = HashMap::with_capacity(streams.len());
        for stream in streams {
            let now = Counts::from(*stream);
            // One that counts less than before was forgotten, and counted anew.
            let before = self.sources.get(&stream.source).filter(|b| b.packets <= now.packets);
            if is_wanted(stream) {
                self.total.grow(before.copied().unwrap_or_default(), now);
            }
            sources.insert(stream.source, now);
        }
        self.sources = sources;
        self.total
    }
}

impl From<&StreamCount> for Counts {
    fn from(stream: &StreamCount) -> Self {
        let rtp = |number: fn(&crate::stream_count::RtpCount) -> u64| {
            stream.rtp.as_ref().map_or(0, number)
        };
        Counts {
            packets: stream.packets,
            bytes: stream.bytes,
            lost: rtp(|rtp| rtp.lost),
            reordered: rtp(|rtp| rtp.reordered),
            duplicated: rtp(|rtp| rtp.duplicated),
        }
    }
}

impl Counts {
    /// Adds what has come between two counts.
    fn grow(&mut self, before: Counts, now: Counts) {
        let grow = |total: &mut u64, before: u64, now: u64| {
            *total = total.saturating_add(now).saturating_sub(before);
        };
        grow(&mut self.packets, before.packets, now.packets);
        grow(&mut self.bytes, before.bytes, now.bytes);
        grow(&mut self.lost, before.lost, now.lost);
        grow(&mut self.reordered, before.reordered, now.reordered);
        grow(&mut self.duplicated, before.duplicated, now.duplicated);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream_count::RtpCount;

    fn stream(source: u8, packets: u64, lost: u64) -> StreamCount {
        let rtp = RtpCount {
            ssrc: 1,
            payload_type: 33,
            lost,
            reordered: 0,
            duplicated: 0,
            ssrc_changes: 0,
            restarts: 0,
        };
        StreamCount {
            group: Ipv4Addr::new(239, 1, 1, 1),
            source: Ipv4Addr::new(192, 0, 2, source),
            packets,
            bytes: 10 * packets,
            packet_rate: 0,
            byte_rate: 0,
            last_packet_ms: 0,
            rtp: Some(rtp),
        }
    }

    /// Packets and lost ones after each gathering of some streams, of which some sources are wanted.
    fn totals(gatherings: &[(&[StreamCount], &[u8])]) -> Vec<(u64, u64)> {
        let mut group = Group::default();
        let each = gatherings.iter().map(|(streams, wanted)| {
            let streams: Vec<_> = streams.iter().collect();
            let total = group.add(&streams, |s| wanted.contains(&s.source.octets()[3]));
            assert_eq!(total.bytes, 10 * total.packets);
            (total.packets, total.lost)
        });
        each.collect()
    }

    #[test]
    fn a_source_that_is_left_or_forgotten_takes_nothing_away() {
        let both = [stream(1, 100, 7), stream(2, 1000, 2)];
        let later = [stream(1, 150, 7), stream(2, 1100, 2)];
        assert_eq!(totals(&[(&both, &[1, 2]), (&later, &[2])]), [(1100, 9), (1200, 9)]);
        assert_eq!(totals(&[(&both, &[1, 2]), (&later[1..], &[1, 2])]), [(1100, 9), (1200, 9)]);
    }

    #[test]
    fn what_came_before_a_source_was_wanted_does_not_count() {
        let both = [stream(1, 100, 7), stream(2, 1000, 2)];
        let later = [stream(1, 150, 8), stream(2, 1100, 2)];
        assert_eq!(totals(&[(&both, &[1]), (&later, &[1, 2])]), [(100, 7), (250, 8)]);
    }

    #[test]
    fn a_source_that_is_counted_anew_and_a_new_one_count_from_zero() {
        let first = [stream(1, 100, 7)];
        let second = [stream(1, 30, 1), stream(2, 5, 0)];
        assert_eq!(totals(&[(&first, &[1, 2]), (&second, &[1, 2])]), [(100, 7), (135, 8)]);
    }

    #[test]
    fn a_late_packet_is_not_lost_any_more() {
        let (first, second) = ([stream(1, 100, 7)], [stream(1, 101, 6)]);
        assert_eq!(totals(&[(&first, &[1]), (&second, &[1])]), [(100, 7), (101, 6)]);
    }
}

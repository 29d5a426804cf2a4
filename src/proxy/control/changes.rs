//! Events are the differences between two states of a proxy: its groups, the queriers that it hears,
//! and what is wrong. The proxy finds them for its subscribers, and a subscriber finds those that it
//! missed while it was not connected.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use crate::multicast::{Address, FilterMode};
use crate::notice::{Notice, Severity};
use crate::proxy::control::event::{Event, MembershipEvent};
use crate::proxy::control::status::{
    GroupMembership, MembershipStatus, ProxyStatus, QuerierStatus, SteadyStream,
};

/// The groups of one interface as the subscribers know them, by address. A proxy has them for as long
/// as anybody subscribes, and a list takes half the memory of a map.
#[derive(Debug, Default)]
pub(crate) struct PublishedGroups(Vec<(IpAddr, Published)>);

#[derive(Debug, PartialEq, Eq)]
struct Published {
    mode: FilterMode,
    sources: Vec<IpAddr>,
    status: MembershipStatus,
    reason: Option<String>,
}

impl PublishedGroups {
    /// The groups of a status that the subscribers have got.
    pub(crate) fn new(groups: &[GroupMembership]) -> Self {
        PublishedGroups::of(groups.iter().cloned())
    }

    fn of(groups: impl Iterator<Item = GroupMembership>) -> Self {
        let mut list: Vec<_> = groups.map(|group| (group.group, published(group))).collect();
        list.sort_by_key(|(group, _)| *group);
        list.shrink_to_fit();
        PublishedGroups(list)
    }

    /// The place of a group, or the one that it would have.
    fn place(&self, group: IpAddr) -> Result<usize, usize> {
        self.0.binary_search_by_key(&group, |(group, _)| *group)
    }

    fn get(&self, group: IpAddr) -> Option<&Published> {
        self.place(group).ok().map(|place| &self.0[place].1)
    }

    /// The groups of IPv4 that are joined on the LAN.
    pub(crate) fn joined(&self) -> impl Iterator<Item = Ipv4Addr> {
        let joined = self.0.iter().filter(|(_, known)| known.status == MembershipStatus::Joined);
        joined.filter_map(|(group, _)| Ipv4Addr::from_ip(*group))
    }

    /// The events that lead to these groups: leaves before joins, by address.
    pub(crate) fn update(&mut self, interface: &str, groups: Vec<GroupMembership>) -> Vec<Event> {
        let old = std::mem::replace(self, PublishedGroups::of(groups.into_iter()));
        let left = old
            .0
            .iter()
            .filter(|(group, _)| self.get(*group).is_none())
            .map(|(group, _)| Event::Left { interface: interface.to_owned(), group: *group });
        let changed = self.0.iter().filter(|(group, published)| old.get(*group) != Some(published));
        left.chain(changed.map(|(group, published)| event(interface, *group, published))).collect()
    }
}

/// The queriers, the alarms and the streams of a proxy as the subscribers know them.
#[derive(Debug, Default)]
pub(crate) struct PublishedState {
    /// Address and version of the querier, by interface in the container, and by whether it is one of
    /// MLD.
    queriers: BTreeMap<(String, bool), (IpAddr, u8)>,
    alarms: BTreeMap<AlarmKey, Notice>,
    /// Whether a group that has arrived steadily has stopped, by interface in the container.
    streams: BTreeMap<(String, IpAddr), bool>,
}

/// What makes two notices the same alarm: a field that counts seconds or lists groups does not.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct AlarmKey {
    code: String,
    interface: Option<String>,
    upstream: Option<String>,
    group: Option<String>,
    /// Whether it is about a querier of MLD.
    is_mld: bool,
}

impl PublishedState {
    /// The state of a status that the subscribers have got.
    pub(crate) fn new(status: &ProxyStatus) -> Self {
        let mut state = PublishedState::default();
        let _ = state.update_from(status);
        state
    }

    /// The events that lead to this status.
    pub(crate) fn update_from(&mut self, status: &ProxyStatus) -> Vec<Event> {
        let streams = status.interfaces.iter().flat_map(|entry| {
            entry.streams.iter().map(|stream| (entry.interface.clone(), *stream))
        });
        self.update(queriers(status), streams, &status.notices)
    }

    /// The events that lead to these queriers, streams and notices, each with its interface. A notice
    /// that is no warning is no alarm.
    pub(crate) fn update(
        &mut self,
        queriers: impl Iterator<Item = (String, QuerierStatus)>,
        streams: impl Iterator<Item = (String, SteadyStream)>,
        notices: &[Notice],
    ) -> Vec<Event> {
        let new = queriers.map(|(interface, QuerierStatus { address, version, .. })| {
            ((interface, address.is_ipv6()), (address, version))
        });
        let old = std::mem::replace(&mut self.queriers, new.collect());
        let gone = old.keys().filter(|place| !self.queriers.contains_key(*place));
        let mut events: Vec<_> = gone.map(|place| querier_gone(place.clone())).collect();
        let changed = self.queriers.iter().filter(|(place, known)| old.get(*place) != Some(*known));
        events.extend(changed.map(|((interface, _), known)| querier(interface.clone(), *known)));
        events.extend(self.update_streams(streams));
        let serious = notices.iter().filter(|notice| notice.severity() <= Severity::Warning);
        let new = serious.map(|notice| (alarm_key(notice), notice.clone()));
        let old = std::mem::replace(&mut self.alarms, new.collect());
        let cleared = old.iter().filter(|(key, _)| !self.alarms.contains_key(key));
        events.extend(cleared.map(|(_, notice)| Event::AlarmCleared(notice.clone())));
        let raised = self.alarms.iter().filter(|(key, _)| !old.contains_key(key));
        events.extend(raised.map(|(_, notice)| Event::Alarm(notice.clone())));
        events
    }

    /// A stream that was left is told by the leave.
    fn update_streams(
        &mut self,
        streams: impl Iterator<Item = (String, SteadyStream)>,
    ) -> impl Iterator<Item = Event> {
        let joined = streams.filter(|(_, stream)| stream.left_s.is_none());
        let new = joined.map(|(interface, stream)| ((interface, stream.group), stream.stopped));
        let old = std::mem::replace(&mut self.streams, new.collect());
        let changed = self.streams.iter().filter(move |(key, has)| old.get(key) != Some(has));
        changed.map(|((interface, group), stopped)| {
            let (interface, group) = (interface.clone(), *group);
            match stopped {
                true => Event::StreamStopped { interface, group },
                false => Event::StreamStarted { interface, group },
            }
        })
    }
}

fn queriers(status: &ProxyStatus) -> impl Iterator<Item = (String, QuerierStatus)> {
    status.interfaces.iter().flat_map(|entry| {
        let mld = entry.mld.iter().filter_map(|mld| mld.querier.as_ref());
        let queriers = entry.querier.iter().chain(mld);
        queriers.map(|querier| (entry.interface.clone(), querier.clone()))
    })
}

/// The event of a querier that has come or changed.
fn querier(interface: String, (address, version): (IpAddr, u8)) -> Event {
    match address {
        IpAddr::V4(_) => Event::Querier { interface, address, version },
        IpAddr::V6(_) => Event::MldQuerier { interface, address, version },
    }
}

/// The event of a querier that has gone.
fn querier_gone((interface, is_mld): (String, bool)) -> Event {
    match is_mld {
        false => Event::QuerierGone { interface },
        true => Event::MldQuerierGone { interface },
    }
}

fn alarm_key(notice: &Notice) -> AlarmKey {
    // Strings, numbers and lists, which JSON takes without an error.
    let value = serde_json::to_value(notice).unwrap_or_default();
    let text = |field: &str| value[field].as_str().map(str::to_owned);
    AlarmKey {
        code: notice.code().to_owned(),
        interface: text("interface"),
        upstream: text("upstream"),
        group: text("group"),
        is_mld: value["querier"].as_str().is_some_and(|address| address.contains(':')),
    }
}

impl PublishedGroups {
    /// Remembers what an event of a proxy tells.
    pub(crate) fn note(&mut self, event: &Event) {
        let (membership, status) = match event {
            Event::Joined(membership) => (membership, MembershipStatus::Joined),
            Event::Denied(membership) => (membership, MembershipStatus::Denied),
            Event::Limited(membership) => (membership, MembershipStatus::Limited),
            Event::Failed(membership) => (membership, MembershipStatus::Failed),
            Event::Left { group, .. } => {
                if let Ok(place) = self.place(*group) {
                    self.0.remove(place);
                }
                return;
            }
            _ => return,
        };
        let MembershipEvent { group, mode, sources, reason, .. } = membership.clone();
        let published = Published { mode, sources, status, reason };
        match self.place(group) {
            Ok(place) => self.0[place].1 = published,
            Err(place) => self.0.insert(place, (group, published)),
        }
    }
}

impl PublishedState {
    /// Remembers what an event of a proxy tells.
    pub(crate) fn note(&mut self, event: &Event) {
        match event {
            Event::Querier { interface, address, version }
            | Event::MldQuerier { interface, address, version } => {
                let place = (interface.clone(), address.is_ipv6());
                self.queriers.insert(place, (*address, *version));
            }
            Event::QuerierGone { interface } => {
                self.queriers.remove(&(interface.clone(), false));
            }
            Event::MldQuerierGone { interface } => {
                self.queriers.remove(&(interface.clone(), true));
            }
            Event::StreamStarted { interface, group } => {
                self.streams.insert((interface.clone(), *group), false);
            }
            Event::StreamStopped { interface, group } => {
                self.streams.insert((interface.clone(), *group), true);
            }
            Event::Left { interface, group } => {
                self.streams.remove(&(interface.clone(), *group));
            }
            Event::Alarm(notice) => _ = self.alarms.insert(alarm_key(notice), notice.clone()),
            Event::AlarmCleared(notice) => _ = self.alarms.remove(&alarm_key(notice)),
            _ => {}
        }
    }
}

fn published(group: GroupMembership) -> Published {
    let GroupMembership { mode, sources, status, reason, .. } = group;
    Published { mode, sources, status, reason }
}

fn event(interface: &str, group: IpAddr, published: &Published) -> Event {
    let membership = MembershipEvent {
        interface: interface.to_owned(),
        group,
        mode: published.mode,
        sources: published.sources.clone(),
        reason: published.reason.clone(),
    };
    match published.status {
        MembershipStatus::Joined => Event::Joined(membership),
        MembershipStatus::Denied => Event::Denied(membership),
        MembershipStatus::Limited => Event::Limited(membership),
        MembershipStatus::Failed => Event::Failed(membership),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(last: u8, status: MembershipStatus) -> GroupMembership {
        GroupMembership {
            group: [239, 1, 1, last].into(),
            mode: FilterMode::Exclude,
            sources: Vec::new(),
            version: 3,
            status,
            reason: None,
            age_s: 0,
            relay: None,
        }
    }

    /// The events of the change, as `joined 1`.
    fn events(published: &mut PublishedGroups, groups: &[GroupMembership]) -> Vec<String> {
        let name = |event: Event| {
            let event = serde_json::to_value(event).unwrap();
            assert_eq!(event["interface"], "mc0");
            let group = event["group"].as_str().unwrap().rsplit('.').next().unwrap().to_owned();
            format!("{} {group}", event["event"].as_str().unwrap())
        };
        published.update("mc0", groups.to_vec()).into_iter().map(name).collect()
    }

    #[test]
    fn each_change_is_told_once() {
        use MembershipStatus::{Denied, Failed, Joined, Limited};
        let mut published = PublishedGroups::new(&[group(1, Joined)]);
        assert!(events(&mut published, &[group(1, Joined)]).is_empty());
        let all = [group(1, Joined), group(2, Denied), group(3, Limited), group(4, Failed)];
        assert_eq!(events(&mut published, &all), ["denied 2", "limited 3", "failed 4"]);
        assert!(events(&mut published, &all).is_empty());
        assert_eq!(
            events(&mut published, &[group(2, Joined), group(3, Limited), group(5, Joined)]),
            ["left 1", "left 4", "joined 2", "joined 5"]
        );
    }

    #[test]
    fn a_source_list_that_changes_is_an_event_and_an_age_is_none() {
        let mut published = PublishedGroups::new(&[]);
        let mut one = group(1, MembershipStatus::Joined);
        assert_eq!(events(&mut published, &[one.clone()]), ["joined 1"]);
        one.age_s = 100;
        assert!(events(&mut published, &[one.clone()]).is_empty());
        one.sources.push([10, 0, 0, 1].into());
        assert_eq!(events(&mut published, &[one]), ["joined 1"]);
    }

    fn no_querier(interface: &str, silent_s: u64) -> Notice {
        let (interface, upstream) = (interface.to_owned(), "eth1".to_owned());
        Notice::NoQuerier { interface, upstream, silent_s }
    }

    #[test]
    fn an_alarm_is_told_when_it_begins_and_when_it_ends() {
        let mut state = PublishedState::default();
        let mut state =
            |notices: &[Notice]| state.update(std::iter::empty(), std::iter::empty(), notices);
        let raised = no_querier("mc0", 255);
        // A notice that is no warning is none.
        let notices = [raised.clone(), Notice::NoLandlock {}];
        assert_eq!(state(&notices), [Event::Alarm(raised.clone())]);
        // The same with another number, and one of another interface.
        let other = no_querier("mc1", 255);
        let notices = [no_querier("mc0", 256), other.clone()];
        assert_eq!(state(&notices), [Event::Alarm(other.clone())]);
        let cleared = [Event::AlarmCleared(no_querier("mc0", 256))];
        assert_eq!(state(&[other]), cleared);
    }

    #[test]
    fn the_queriers_of_both_protocols_are_told_apart() {
        let interface = || "mc0".to_owned();
        let (igmp, mld): (IpAddr, IpAddr) = ([10, 0, 0, 1].into(), "fe80::1".parse().unwrap());
        let mut state = PublishedState::default();
        let update = |state: &mut PublishedState, queriers: &[IpAddr], notices: &[Notice]| {
            let status = |address: &IpAddr| {
                let (address, version, interval_s, last_query_s) = (*address, 1, None, 0);
                (interface(), QuerierStatus { address, version, interval_s, last_query_s })
            };
            state.update(queriers.iter().map(status), std::iter::empty(), notices)
        };
        let came = |address, version| match address {
            IpAddr::V4(_) => Event::Querier { interface: interface(), address, version },
            IpAddr::V6(_) => Event::MldQuerier { interface: interface(), address, version },
        };
        assert_eq!(update(&mut state, &[igmp, mld], &[]), [came(igmp, 1), came(mld, 1)]);
        let gone = Event::MldQuerierGone { interface: interface() };
        assert_eq!(update(&mut state, &[igmp], &[]), std::slice::from_ref(&gone));
        let gone_too = [Event::QuerierGone { interface: interface() }, came(mld, 1)];
        assert_eq!(update(&mut state, &[mld], &[]), gone_too);
        // What a subscriber is told is what the next status is compared with.
        let mut noted = PublishedState::default();
        for event in [came(igmp, 1), came(mld, 1), gone] {
            noted.note(&event);
        }
        assert_eq!(update(&mut noted, &[igmp], &[]), []);
        let without_lists = |querier| Notice::QuerierWithoutSourceLists {
            interface: interface(),
            upstream: "eth1".into(),
            querier,
            querier_version: 1,
            groups: Vec::new(),
        };
        let both = [without_lists(igmp), without_lists(mld)];
        assert_eq!(update(&mut noted, &[igmp], &both), both.clone().map(Event::Alarm));
    }

    #[test]
    fn a_querier_comes_changes_and_goes() {
        let mut state = PublishedState::default();
        let address: IpAddr = [10, 0, 0, 1].into();
        let interface = || "mc0".to_owned();
        let mut update = |querier: Option<(u8, u64)>| {
            let querier = querier.map(|(version, last_query_s)| {
                (interface(), QuerierStatus { address, version, interval_s: None, last_query_s })
            });
            state.update(querier.into_iter(), std::iter::empty(), &[])
        };
        let came = |version| Event::Querier { interface: interface(), address, version };
        assert_eq!(update(Some((3, 0))), [came(3)]);
        assert_eq!(update(Some((3, 9))), []);
        assert_eq!(update(Some((2, 0))), [came(2)]);
        assert_eq!(update(None), [Event::QuerierGone { interface: interface() }]);
        assert_eq!(update(None), []);
    }

    #[test]
    fn a_stream_starts_stops_and_starts_again_until_it_is_left() {
        let mut state = PublishedState::default();
        let group: IpAddr = [239, 1, 1, 1].into();
        let interface = || "mc0".to_owned();
        let stream = |stopped, left_s| {
            let mode = FilterMode::Exclude;
            Some(SteadyStream { group, mode, silent_s: 3, stopped, left_s })
        };
        let mut update = |stream: Option<SteadyStream>| {
            let streams = stream.map(|stream| (interface(), stream)).into_iter();
            state.update(std::iter::empty(), streams, &[])
        };
        let started = [Event::StreamStarted { interface: interface(), group }];
        let stopped = [Event::StreamStopped { interface: interface(), group }];
        assert_eq!(update(stream(false, None)), started);
        assert_eq!(update(stream(false, None)), []);
        assert_eq!(update(stream(true, None)), stopped);
        assert_eq!(update(stream(false, None)), started);
        assert_eq!(update(stream(false, Some(1))), []);
        assert_eq!(update(None), []);
        assert_eq!(update(stream(false, None)), started);
    }
}

//! Events of memberships: the difference between two states of an interface.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::multicast::FilterMode;
use crate::proxy::control::event::{Event, MembershipEvent};
use crate::proxy::control::status::{GroupMembership, MembershipStatus};

/// The groups of one interface as the subscribers know them.
#[derive(Debug, Default)]
pub(super) struct PublishedGroups(BTreeMap<IpAddr, Published>);

#[derive(Debug, PartialEq, Eq)]
struct Published {
    mode: FilterMode,
    sources: Vec<IpAddr>,
    status: MembershipStatus,
    reason: Option<String>,
}

impl PublishedGroups {
    /// The groups of a status that the subscribers have got.
    pub(super) fn new(groups: &[GroupMembership]) -> Self {
        let groups = groups.iter().cloned();
        PublishedGroups(groups.map(|group| (group.group, published(group))).collect())
    }

    /// The events that lead to these groups: leaves before joins, by address.
    pub(super) fn update(&mut self, interface: &str, groups: Vec<GroupMembership>) -> Vec<Event> {
        let new: BTreeMap<_, _> =
            groups.into_iter().map(|group| (group.group, published(group))).collect();
        let old = std::mem::replace(&mut self.0, new);
        let left = old
            .keys()
            .filter(|group| !self.0.contains_key(group))
            .map(|group| Event::Left { interface: interface.to_owned(), group: *group });
        let changed = self.0.iter().filter(|(group, published)| old.get(group) != Some(published));
        left.chain(changed.map(|(group, published)| event(interface, *group, published))).collect()
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
}

//! What all containers of the host have joined, and the alarms that only all of them together show.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};

use crate::events::{HostEvent, Occurrence};
use crate::multicast::Address;
use crate::notice::Notice;
use crate::oci::ContainerId;
use crate::proxy::Event;
use crate::survey::{JoinedGroup, shared_macs};

/// Time from a change to the alarms, so that many changes are looked at together.
const DELAY: Duration = Duration::from_secs(1);

/// What one container has joined.
#[derive(Debug, Default)]
pub(super) struct ContainerGroups {
    /// What people call the container.
    pub(super) name: String,
    /// The parent of each interface that takes frames by their Ethernet address.
    pub(super) parents: BTreeMap<String, String>,
    /// The groups of each interface.
    pub(super) joined: BTreeMap<String, BTreeSet<Ipv4Addr>>,
}

/// What all containers have joined, as those who follow them know it.
#[derive(Debug, Default)]
pub(super) struct HostGroups {
    all: Mutex<BTreeMap<ContainerId, ContainerGroups>>,
    changed: Notify,
}

/// Container, interface and group of an alarm.
type Key = (ContainerId, String, Ipv4Addr);

impl HostGroups {
    /// The container has joined these groups, and no others.
    pub(super) fn set(&self, id: &ContainerId, groups: ContainerGroups) {
        self.lock().insert(id.clone(), groups);
        self.changed.notify_one();
    }

    /// The container has joined this group too, or not any more.
    pub(super) fn note(&self, id: &ContainerId, interface: &str, group: IpAddr, is_joined: bool) {
        let mut all = self.lock();
        let (Some(container), Some(group)) = (all.get_mut(id), Ipv4Addr::from_ip(group)) else {
            return;
        };
        let groups = container.joined.entry(interface.to_owned()).or_default();
        let has_changed = match is_joined {
            true => groups.insert(group),
            false => groups.remove(&group),
        };
        if has_changed {
            self.changed.notify_one();
        }
    }

    /// The container has ended.
    pub(super) fn remove(&self, id: &ContainerId) {
        self.lock().remove(id);
        self.changed.notify_one();
    }

    /// Sends alarms, and their ends, until the receiver is closed. Those that stand when all
    /// containers have `begun` to be followed are no events.
    pub(super) async fn tell_alarms(
        &self,
        events: mpsc::Sender<HostEvent>,
        mut all_begun: mpsc::Receiver<Infallible>,
        begun: mpsc::Sender<Infallible>,
    ) {
        // Nothing is ever sent: the end is waited for.
        let _ = all_begun.recv().await;
        let mut told = self.alarms();
        drop(begun);
        loop {
            tokio::select! {
                () = self.changed.notified() => tokio::time::sleep(DELAY).await,
                () = events.closed() => return,
            }
            let alarms = self.alarms();
            for event in self.changes(&told, &alarms) {
                if events.send(event).await.is_err() {
                    return;
                }
            }
            told = alarms;
        }
    }

    /// The alarms of now.
    fn alarms(&self) -> BTreeMap<Key, Notice> {
        let all = self.lock();
        let (mut ids, mut joined) = (Vec::new(), Vec::new());
        for (id, ContainerGroups { name, parents, joined: by_interface }) in all.iter() {
            let each =
                by_interface.iter().flat_map(|(i, groups)| groups.iter().map(move |g| (i, g)));
            for (interface, group) in each {
                let Some(parent) = parents.get(interface) else { continue };
                ids.push(id);
                joined.push(JoinedGroup { name, interface, parent, group: *group });
            }
        }
        let alarms = shared_macs(&joined).into_iter().map(|(position, notice)| {
            let JoinedGroup { interface, group, .. } = joined[position];
            ((ids[position].clone(), interface.to_owned(), group), notice)
        });
        alarms.collect()
    }

    /// The events that lead from the one to the other: ends first. A container that has ended is told
    /// no more.
    fn changes(&self, old: &BTreeMap<Key, Notice>, new: &BTreeMap<Key, Notice>) -> Vec<HostEvent> {
        let all = self.lock();
        let event = |id: &ContainerId, event| {
            let name = &all.get(id)?.name;
            Some(HostEvent::now(id.as_str(), name, Occurrence::Proxy(event)))
        };
        let ended = old.iter().filter(|(key, _)| !new.contains_key(key));
        let ended = ended.filter_map(|(key, n)| event(&key.0, Event::AlarmCleared(n.clone())));
        let begun = new.iter().filter(|(key, _)| !old.contains_key(key));
        let begun = begun.filter_map(|(key, n)| event(&key.0, Event::Alarm(n.clone())));
        ended.chain(begun).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ContainerId, ContainerGroups>> {
        // A map is whole after each call.
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

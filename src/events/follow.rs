//! The events of all containers, as they happen.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::events::HostEvent;
use crate::events::container::Followed;
use crate::events::host_groups::HostGroups;
use crate::oci::ContainerId;
use crate::state::{Change, StateWatch, Store};

/// Sends the events of all containers until the receiver is closed. What is attached and joined
/// already is no event. A receiver that is too slow makes proxies drop events; a `lost` event says
/// how many, and what has changed meanwhile follows it. `begun` is dropped as soon as every container
/// that is there is followed.
///
/// # Errors
/// The state directory cannot be made or watched.
pub async fn follow(
    store: Store,
    events: mpsc::Sender<HostEvent>,
    begun: mpsc::Sender<Infallible>,
) -> anyhow::Result<()> {
    // Makes the directories that are watched.
    drop(store.lock_all()?);
    let (ended, tasks_end) = mpsc::unbounded_channel();
    let watch = StateWatch::open(&store)?;
    let groups = Arc::new(HostGroups::default());
    let mut all = All { store, events, watch, groups, tasks: HashMap::new(), ended };
    let (each_begun, all_begun) = mpsc::channel(1);
    all.find(Some(&each_begun));
    drop(each_begun);
    let (groups, events) = (Arc::clone(&all.groups), all.events.clone());
    tokio::spawn(async move { groups.tell_alarms(events, all_begun, begun).await });
    Ok(all.run(tasks_end).await?)
}

struct All {
    store: Store,
    events: mpsc::Sender<HostEvent>,
    watch: StateWatch,
    groups: Arc<HostGroups>,
    /// A task for each container, which is told that something has changed.
    tasks: HashMap<ContainerId, mpsc::Sender<()>>,
    ended: mpsc::UnboundedSender<ContainerId>,
}

impl All {
    async fn run(&mut self, mut tasks_end: mpsc::UnboundedReceiver<ContainerId>) -> io::Result<()> {
        loop {
            let changes = tokio::select! {
                changes = self.watch.changed() => changes?,
                Some(id) = tasks_end.recv() => {
                    self.tasks.remove(&id);
                    if self.store.container_dir(&id).is_dir() {
                        self.start(id, None);
                    }
                    continue;
                }
                () = self.events.closed() => return Ok(()),
            };
            for change in changes {
                match change {
                    Change::Appeared(id) => self.start(id, None),
                    Change::Changed(id) => self.tell(&id),
                    Change::Overflow => self.find(None),
                }
            }
        }
    }

    /// Follows every container that there is. With `begun` they were there before the following, and
    /// without it they came meanwhile.
    fn find(&mut self, begun: Option<&mpsc::Sender<Infallible>>) {
        for id in self.store.list().unwrap_or_default() {
            self.start(id, begun.cloned());
        }
    }

    fn start(&mut self, id: ContainerId, begun: Option<mpsc::Sender<Infallible>>) {
        self.watch.add(&id);
        if self.tasks.contains_key(&id) {
            return self.tell(&id);
        }
        // One change that waits tells everything: the task looks at all there is.
        let (sender, changes) = mpsc::channel(1);
        self.tasks.insert(id.clone(), sender);
        let (store, events) = (self.store.clone(), self.events.clone());
        let (groups, ended) = (Arc::clone(&self.groups), self.ended.clone());
        let followed = Followed::new(id.clone(), store, events, changes, groups);
        tokio::spawn(async move {
            followed.run(begun).await;
            // Nobody waits any more when the receiver is closed.
            let _ = ended.send(id);
        });
    }

    fn tell(&self, id: &ContainerId) {
        if let Some(task) = self.tasks.get(id) {
            // A full queue has a change that was not looked at yet.
            let _ = task.try_send(());
        }
    }
}

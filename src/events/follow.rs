//! The events of all containers, as they happen.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::events::HostEvent;
use crate::events::container::Followed;
use crate::events::host_groups::HostGroups;
use crate::oci::ContainerId;
use crate::state::{Change, Refusal, StateWatch, Store};

/// Time after which it is looked again whether the receiver has received all events.
const RECEIVING: Duration = Duration::from_millis(1);

/// Sends the events of all containers until the receiver is closed. What is attached and joined
/// already is no event. A receiver that is too slow makes proxies drop events; a `lost` event says
/// how many, and what has changed meanwhile follows it. `begun` is dropped as soon as every container
/// that is there is followed. Who sends a question is answered when all events are sent, and received,
/// that proxies have told by then; see [`nobody_asks`].
///
/// # Errors
/// The state directory cannot be made or watched.
pub async fn follow(
    store: Store,
    events: mpsc::Sender<HostEvent>,
    begun: mpsc::Sender<Infallible>,
    questions: mpsc::Receiver<Question>,
) -> anyhow::Result<()> {
    // Makes the directories that are watched.
    drop(store.lock_all()?);
    let (ended, tasks_end) = mpsc::unbounded_channel();
    let mut watch = StateWatch::open(&store)?;
    watch.add_refusals()?;
    let refusals = store.refusals().unwrap_or_default();
    let groups = Arc::new(HostGroups::default());
    let mut all =
        All { store, events, watch, refusals, groups, questions, tasks: HashMap::new(), ended };
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
    /// The refusals that were told, or were there before.
    refusals: Vec<Refusal>,
    groups: Arc<HostGroups>,
    questions: mpsc::Receiver<Question>,
    tasks: HashMap<ContainerId, Task>,
    ended: mpsc::UnboundedSender<ContainerId>,
}

/// The task of a container.
struct Task {
    /// Tells that something has changed.
    changes: mpsc::Sender<()>,
    /// Asks for what the proxy has told: the answer is the drop of what is sent.
    catch_up: mpsc::Sender<mpsc::Sender<Infallible>>,
}

/// Sent by who waits for the events that proxies have told so far; the answer is `()`.
pub type Question = oneshot::Sender<()>;

/// For a follower whom nobody asks.
pub fn nobody_asks() -> mpsc::Receiver<Question> {
    mpsc::channel(1).1
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
                Some(question) = self.questions.recv() => {
                    self.answer(question);
                    continue;
                }
                () = self.events.closed() => return Ok(()),
            };
            for change in changes {
                match change {
                    Change::Appeared(id) => self.start(id, None),
                    Change::Changed(id) => self.tell(&id),
                    Change::Refused => self.tell_refusals().await,
                    Change::Overflow => {
                        self.find(None);
                        self.tell_refusals().await;
                    }
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
        let (catch_up, asked) = mpsc::channel(1);
        self.tasks.insert(id.clone(), Task { changes: sender, catch_up });
        let (store, events) = (self.store.clone(), self.events.clone());
        let (groups, ended) = (Arc::clone(&self.groups), self.ended.clone());
        let followed = Followed::new(id.clone(), store, events, (changes, asked), groups);
        tokio::spawn(async move {
            followed.run(begun).await;
            // Nobody waits any more when the receiver is closed.
            let _ = ended.send(id);
        });
    }

    fn answer(&self, question: Question) {
        let (caught_up, mut all_caught_up) = mpsc::channel(1);
        for task in self.tasks.values() {
            // A full queue has a question that will be answered before.
            let _ = task.catch_up.try_send(caught_up.clone());
        }
        drop(caught_up);
        let events = self.events.clone();
        tokio::spawn(async move {
            // Nothing is ever sent: the end is waited for.
            let _ = all_caught_up.recv().await;
            while events.capacity() < events.max_capacity() && !events.is_closed() {
                tokio::time::sleep(RECEIVING).await;
            }
            let _ = question.send(());
        });
    }

    async fn tell_refusals(&mut self) {
        let Ok(now) = self.store.refusals() else { return };
        for refusal in added(&self.refusals, &now) {
            // Nobody waits any more when the receiver is closed.
            let _ = self.events.send(HostEvent::of_refusal(refusal.clone())).await;
        }
        self.refusals = now;
    }

    fn tell(&self, id: &ContainerId) {
        if let Some(task) = self.tasks.get(id) {
            // A full queue has a change that was not looked at yet.
            let _ = task.changes.try_send(());
        }
    }
}

/// What has come to a list whose end is kept: the oldest entries may have gone.
fn added<'n, T: PartialEq>(before: &[T], now: &'n [T]) -> &'n [T] {
    let kept = (0..=before.len()).map(|gone| &before[gone..]).find(|kept| now.starts_with(kept));
    &now[kept.map_or(0, <[T]>::len)..]
}

#[cfg(test)]
mod tests {
    use super::added;

    #[test]
    fn what_was_told_is_not_told_again() {
        assert_eq!(added(&[1, 2], &[1, 2, 3]), [3]);
        assert!(added(&[1, 2], &[1, 2]).is_empty());
        assert_eq!(added(&[1, 2, 2], &[2, 2, 2]), [2]);
        assert_eq!(added(&[1, 2], &[3, 4]), [3, 4]);
        assert_eq!(added(&[], &[1]), [1]);
    }
}

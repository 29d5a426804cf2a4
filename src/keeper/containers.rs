//! All containers of the state directory: a task for each.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::keeper::Options;
use crate::keeper::container::{Command, Kept};
use crate::keeper::fd_store::{FdStore, Restored, Stored};
use crate::keeper::fence::Board;
use crate::keeper::links::ChangedLinks;
use crate::oci::ContainerId;
use crate::state::{Change, StateWatch, Store};
use crate::sys::process::ProcessRef;

pub(super) struct Containers {
    store: Store,
    options: Options,
    watch: StateWatch,
    tasks: HashMap<ContainerId, mpsc::UnboundedSender<Command>>,
    fd_store: FdStore,
    board: Option<Board>,
    /// What an earlier keeper held, of containers that have no task yet.
    restored: Restored,
    ended: (mpsc::UnboundedSender<ContainerId>, mpsc::UnboundedReceiver<ContainerId>),
}

impl Containers {
    /// Watches the directory of all containers, which exists.
    pub(super) fn watch(
        store: &Store,
        options: Options,
        board: Option<Board>,
        restored: Restored,
    ) -> io::Result<Self> {
        Ok(Containers {
            store: store.clone(),
            options,
            watch: StateWatch::open(store)?,
            tasks: HashMap::new(),
            fd_store: FdStore::from_env(),
            board,
            restored,
            ended: mpsc::unbounded_channel(),
        })
    }

    /// Looks at every container that there is.
    pub(super) fn find_all(&mut self) {
        for id in self.store.list().unwrap_or_default() {
            self.look_at(id);
        }
    }

    /// Lets go of what an earlier keeper held of containers that there are no more.
    pub(super) fn forget_unknown(&mut self) {
        for (id, proxies) in std::mem::take(&mut self.restored) {
            for (process, _) in proxies {
                Stored::new(self.fd_store.clone(), id.clone(), process).remove();
            }
        }
    }

    /// Waits for a change, and tells the tasks.
    pub(super) async fn changed(&mut self) -> io::Result<()> {
        let changes = tokio::select! {
            changes = self.watch.changed() => changes?,
            Some(id) = self.ended.1.recv() => {
                self.tasks.remove(&id);
                if self.store.container_dir(&id).is_dir() {
                    self.look_at(id);
                }
                return Ok(());
            }
        };
        for change in changes {
            match change {
                Change::Appeared(id) => self.look_at(id),
                Change::Changed(id) => _ = self.tell(&id),
                Change::Overflow => self.find_all(),
                // A container that was refused has no proxy.
                Change::Refused => {}
            }
        }
        Ok(())
    }

    /// Lets go of what a proxy has left that has ended and was replaced.
    pub(super) fn release(
        &mut self,
        container: String,
        proxy: ProcessRef,
        done: oneshot::Sender<()>,
    ) {
        let task = ContainerId::try_from(container).ok().and_then(|id| self.tasks.get(&id));
        if let Some(task) = task {
            // A task that has ended holds nothing.
            let _ = task.send(Command::Release(proxy, done));
        }
    }

    /// Links of the host have changed.
    pub(super) fn links_changed(&self, changed: &Arc<ChangedLinks>) {
        for task in self.tasks.values() {
            // A task that has ended makes nothing.
            let _ = task.send(Command::LinksChanged(Arc::clone(changed)));
        }
    }

    /// Watches the directory of a container, and starts its task.
    fn look_at(&mut self, id: ContainerId) {
        self.watch.add(&id);
        if self.tell(&id) {
            return;
        }
        let (sender, commands) = mpsc::unbounded_channel();
        let mut kept = Kept::new(
            id.clone(),
            self.store.clone(),
            self.options.clone(),
            commands,
            self.fd_store.clone(),
            self.board.clone(),
        );
        for (process, stream) in self.restored.remove(&id).unwrap_or_default() {
            kept.restore(process, stream);
        }
        let ended = self.ended.0.clone();
        self.tasks.insert(id.clone(), sender);
        tokio::spawn(async move {
            kept.run().await;
            let _ = ended.send(id);
        });
    }

    /// Tells the task of a container that something has changed; `false` if it has none.
    fn tell(&self, id: &ContainerId) -> bool {
        self.tasks.get(id).is_some_and(|task| task.send(Command::Changed).is_ok())
    }
}

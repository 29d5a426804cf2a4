//! All containers of the state directory: a task for each. inotify(7) tells of directories and
//! records that come and go.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use crate::keeper::container::{Command, Kept};
use crate::keeper::fd_store::{FdStore, Restored, Stored};
use crate::keeper::listener::Asked;
use crate::keeper::{Options, readable_fd};
use crate::oci::ContainerId;
use crate::service::keeper_socket::KeeperRequest;
use crate::state::Store;

struct Watch(Inotify);

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Watch {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

pub(super) struct Containers {
    store: Store,
    options: Options,
    watch: AsyncFd<Watch>,
    /// Whose directory is watched.
    watched: HashMap<WatchDescriptor, ContainerId>,
    tasks: HashMap<ContainerId, mpsc::UnboundedSender<Command>>,
    fd_store: FdStore,
    /// What an earlier keeper held, of containers that have no task yet.
    restored: Restored,
    ended: (mpsc::UnboundedSender<ContainerId>, mpsc::UnboundedReceiver<ContainerId>),
}

impl Containers {
    /// Watches the directory of all containers, which exists.
    pub(super) fn watch(store: &Store, options: Options, restored: Restored) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        inotify
            .add_watch(&store.containers(), AddWatchFlags::IN_CREATE | AddWatchFlags::IN_ONLYDIR)?;
        Ok(Containers {
            store: store.clone(),
            options,
            watch: readable_fd(Watch(inotify))?,
            watched: HashMap::new(),
            tasks: HashMap::new(),
            fd_store: FdStore::from_env(),
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
        tokio::select! {
            ready = self.watch.readable() => ready?.clear_ready(),
            Some(id) = self.ended.1.recv() => {
                self.tasks.remove(&id);
                if self.store.container_dir(&id).is_dir() {
                    self.look_at(id);
                }
                return Ok(());
            }
        }
        while let Ok(events) = self.watch.get_ref().0.read_events() {
            for event in events {
                if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                    self.find_all();
                    continue;
                }
                if event.mask.contains(AddWatchFlags::IN_IGNORED) {
                    if let Some(id) = self.watched.remove(&event.wd) {
                        self.tell(&id);
                    }
                    continue;
                }
                match (self.watched.get(&event.wd).cloned(), event.name) {
                    (Some(id), _) => _ = self.tell(&id),
                    (None, Some(name)) => {
                        let id = name.into_string().ok().and_then(|name| name.try_into().ok());
                        if let Some(id) = id {
                            self.look_at(id);
                        }
                    }
                    (None, None) => {}
                }
            }
        }
        Ok(())
    }

    /// Carries out a request of the attachment service.
    pub(super) fn command(&mut self, (request, done): Asked) {
        let KeeperRequest::Release { container, proxy } = request;
        let task = ContainerId::try_from(container).ok().and_then(|id| self.tasks.get(&id));
        if let Some(task) = task {
            // A task that has ended holds nothing.
            let _ = task.send(Command::Release(proxy, done));
        }
    }

    /// Watches the directory of a container, and starts its task.
    fn look_at(&mut self, id: ContainerId) {
        let flags = AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_DELETE_SELF;
        let path = self.store.container_dir(&id);
        // A directory that has gone already needs no watch: the task sees that.
        if let Ok(descriptor) =
            self.watch.get_ref().0.add_watch(&path, flags | AddWatchFlags::IN_ONLYDIR)
        {
            self.watched.insert(descriptor, id.clone());
        }
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

//! What comes and goes in the state directory, told by inotify(7): directories of containers, and
//! what is put into their place there.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use tokio::io::unix::AsyncFd;

use crate::oci::ContainerId;
use crate::state::Store;
use crate::state::refusals::FILE;
use crate::sys::readable_fd::readable_fd;

/// A change of the state directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    /// A directory for this container was made.
    Appeared(ContainerId),
    /// The record or the control socket of a container was put into its place, or the directory
    /// has gone.
    Changed(ContainerId),
    /// A hook has refused an attachment.
    Refused,
    /// Changes were lost: everything is to be looked at.
    Overflow,
}

/// Watches the directory of all containers, and those of the containers that it is told to watch.
pub(crate) struct StateWatch {
    store: Store,
    inotify: AsyncFd<Descriptor>,
    watched: HashMap<WatchDescriptor, ContainerId>,
    /// The state directory itself, where refusals are written.
    root: Option<WatchDescriptor>,
}

struct Descriptor(Inotify);

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl StateWatch {
    /// Watches the directory of all containers, which exists.
    ///
    /// # Errors
    /// Those of inotify_init1(2) and inotify_add_watch(2).
    pub(crate) fn open(store: &Store) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let flags = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_ONLYDIR;
        inotify.add_watch(&store.containers(), flags)?;
        let inotify = readable_fd(Descriptor(inotify))?;
        Ok(StateWatch { store: store.clone(), inotify, watched: HashMap::new(), root: None })
    }

    /// Watches the directory of a container. One that has gone already needs no watch: whoever
    /// looks at it next sees that.
    pub(crate) fn add(&mut self, id: &ContainerId) {
        let flags =
            AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_DELETE_SELF | AddWatchFlags::IN_ONLYDIR;
        let path = self.store.container_dir(id);
        if let Ok(descriptor) = self.inotify.get_ref().0.add_watch(&path, flags) {
            self.watched.insert(descriptor, id.clone());
        }
    }

    /// Tells from now on of attachments that hooks refuse.
    ///
    /// # Errors
    /// Those of inotify_add_watch(2).
    pub(crate) fn add_refusals(&mut self) -> io::Result<()> {
        let flags = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_ONLYDIR;
        self.root = Some(self.inotify.get_ref().0.add_watch(self.store.root(), flags)?);
        Ok(())
    }

    /// Waits for changes. No change is lost when the caller stops waiting.
    ///
    /// # Errors
    /// That of epoll(7).
    pub(crate) async fn changed(&mut self) -> io::Result<Vec<Change>> {
        self.inotify.readable().await?.clear_ready();
        let mut changes = Vec::new();
        while let Ok(events) = self.inotify.get_ref().0.read_events() {
            for event in events {
                if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                    changes.push(Change::Overflow);
                } else if Some(event.wd) == self.root {
                    let is_refusal = event.name.is_some_and(|name| name == FILE);
                    changes.extend(is_refusal.then_some(Change::Refused));
                } else if event.mask.contains(AddWatchFlags::IN_IGNORED) {
                    changes.extend(self.watched.remove(&event.wd).map(Change::Changed));
                } else if let Some(id) = self.watched.get(&event.wd) {
                    changes.push(Change::Changed(id.clone()));
                } else if let Some(name) = event.name {
                    let id = name.into_string().ok().and_then(|name| name.try_into().ok());
                    changes.extend(id.map(Change::Appeared));
                }
            }
        }
        Ok(changes)
    }
}

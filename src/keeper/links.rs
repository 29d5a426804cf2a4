//! The host's links: when one changes, the links of containers that depend on it may be made anew.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::unix::AsyncFd;

use crate::net::link_monitor::{LinkEvent, LinkMonitor};
use crate::state::Attached;
use crate::sys::readable_fd::readable_fd;

/// A link is made, named and set up within some milliseconds.
const SETTLE_TIME: Duration = Duration::from_millis(10);
/// Bytes for one notification.
const BUFFER_SIZE: usize = 16 * 1024;

struct Monitor(LinkMonitor);

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Monitor {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

/// Receives the changes of the host's links.
pub(super) struct HostLinks(AsyncFd<Monitor>);

/// Links that have changed.
#[derive(Debug, Default)]
pub(super) struct ChangedLinks {
    names: BTreeSet<String>,
    indexes: BTreeSet<u32>,
    /// Those that have left the namespace.
    gone: BTreeSet<u32>,
    /// More has changed than was received.
    has_lost: bool,
}

impl HostLinks {
    /// Opens it in the caller's network namespace.
    pub(super) fn open() -> io::Result<Self> {
        Ok(HostLinks(readable_fd(Monitor(LinkMonitor::open(&[])?))?))
    }

    /// Waits for changes.
    pub(super) async fn changed(&self) -> io::Result<Arc<ChangedLinks>> {
        let mut ready = self.0.readable().await?;
        tokio::time::sleep(SETTLE_TIME).await;
        let mut changed = ChangedLinks::default();
        let mut buffer = vec![0; BUFFER_SIZE];
        loop {
            let received = self.0.get_ref().0.receive_named(&mut buffer, |event, name| {
                changed.indexes.insert(event.index());
                if matches!(event, LinkEvent::Removed(_)) {
                    changed.gone.insert(event.index());
                }
                if let (LinkEvent::Up(_), Some(name)) = (event, name) {
                    changed.names.insert(String::from_utf8_lossy(name).into_owned());
                }
            });
            match received {
                Ok(true) => {}
                Ok(false) => break,
                Err(_) => changed.has_lost = true,
            }
        }
        ready.clear_ready();
        Ok(Arc::new(changed))
    }
}

/// What the links of a container depend on.
#[derive(Debug, Default)]
pub(super) struct Dependence {
    names: BTreeSet<String>,
    indexes: BTreeSet<u32>,
    /// Where its groups are joined.
    upstreams: BTreeSet<u32>,
    /// A parent that has gone may come under another name.
    any_name: bool,
}

impl Dependence {
    /// That of the links which a record names.
    pub(super) fn of(attached: &Attached) -> Self {
        let mut this = Dependence::default();
        for interface in &attached.interfaces {
            let attachment = &interface.attachment;
            for name in [&attachment.parent, attachment.parent_link(), attachment.upstream()] {
                if this.names.insert(name.to_string())
                    && let Ok(index) = nix::net::if_::if_nametoindex(name.as_str())
                {
                    this.indexes.insert(index);
                }
            }
            let upstream = (interface.upstream_index != 0).then_some(interface.upstream_index);
            this.indexes.extend(upstream);
            this.upstreams.extend(upstream);
            this.any_name |= interface.is_waiting() && interface.parent_mac.is_some();
        }
        this
    }

    /// Whether an interface has gone where its groups are joined.
    pub(super) fn has_lost_upstream(&self, changed: &ChangedLinks) -> bool {
        !self.upstreams.is_disjoint(&changed.gone)
    }

    /// Whether there may be something to do.
    pub(super) fn is_touched_by(&self, changed: &ChangedLinks) -> bool {
        !self.names.is_empty()
            && (changed.has_lost
                || (self.any_name && !changed.names.is_empty())
                || !self.indexes.is_disjoint(&changed.indexes)
                || !self.names.is_disjoint(&changed.names))
    }
}

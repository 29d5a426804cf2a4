//! The containers on docker's networks of mcrun, and what other networks do to them: docker tells a
//! driver nothing of the networks of another one. The kernel tells of each default route that a
//! container gets, which a bridge network brings with it.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::net::netns::{NetNs, NetNsId};
use crate::net::route_watch::RouteWatch;

/// Containers that are followed at most.
const MOST: usize = 1024;
/// Those whose namespaces have gone are forgotten after this time, if docker does not say so.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// The sandboxes that are followed.
#[derive(Debug)]
pub(super) struct Followed {
    epoll: Epoll,
    watches: Mutex<HashMap<PathBuf, Watch>>,
    added: Condvar,
}

#[derive(Debug)]
struct Watch {
    routes: RouteWatch,
    /// What is mounted there. The watch would keep it in being.
    namespace: NetNsId,
    /// What epoll tells.
    number: u64,
}

impl Followed {
    /// Follows nobody yet.
    ///
    /// # Errors
    /// Those of epoll_create1(2).
    pub(super) fn new() -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        Ok(Followed { epoll, watches: Mutex::default(), added: Condvar::new() })
    }

    /// Follows the container in a sandbox. Where that cannot be done, `mcrun ps` tells who gets no
    /// answer.
    pub(super) fn add(&self, sandbox: &Path) {
        let mut watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
        let Ok(namespace) = NetNs::open(sandbox) else { return };
        let Ok(id) = namespace.id() else { return };
        if watches.get(sandbox).is_some_and(|watch| watch.namespace == id) || watches.len() >= MOST
        {
            return;
        }
        let Ok(Ok(routes)) = namespace.run(RouteWatch::open) else { return };
        let number = watches.values().map(|watch| watch.number).max().unwrap_or(0) + 1;
        let event = EpollEvent::new(EpollFlags::EPOLLIN, number);
        if self.epoll.add(&routes, event).is_ok() {
            watches.insert(sandbox.to_owned(), Watch { routes, namespace: id, number });
            self.added.notify_one();
        }
    }

    /// Follows it no more.
    pub(super) fn forget(&self, sandbox: &Path) {
        let mut watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
        // Its place with epoll goes with its socket.
        watches.remove(sandbox);
    }

    /// The sandboxes that have got a default route; returns when there is one.
    pub(super) fn changed(&self) -> Vec<PathBuf> {
        loop {
            let mut watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
            watches.retain(|sandbox, watch| is_there(sandbox, watch.namespace));
            while watches.is_empty() {
                watches = self.added.wait(watches).unwrap_or_else(PoisonError::into_inner);
            }
            drop(watches);
            let mut events = [EpollEvent::empty(); 16];
            let timeout = EpollTimeout::try_from(LOOK_AGAIN).unwrap_or(EpollTimeout::NONE);
            let count = self.epoll.wait(&mut events, timeout).unwrap_or(0);
            let numbers: Vec<_> = events[..count].iter().map(EpollEvent::data).collect();
            let watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
            let of_it = watches.iter().filter(|(_, watch)| numbers.contains(&watch.number));
            let changed = of_it.map(|(sandbox, watch)| {
                watch.routes.drain();
                sandbox.clone()
            });
            let changed: Vec<_> = changed.collect();
            if !changed.is_empty() {
                return changed;
            }
        }
    }
}

/// Whether this namespace is mounted there.
fn is_there(sandbox: &Path, namespace: NetNsId) -> bool {
    NetNs::open(sandbox).and_then(|now| now.id()).is_ok_and(|now| now == namespace)
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::sync::Arc;
    use std::thread;

    use super::*;

    #[test]
    fn a_sandbox_that_gets_a_default_route_is_told() {
        let followed = Arc::new(Followed::new().unwrap());
        let mut holder = Command::new("unshare").args(["-n", "sleep", "1000"]).spawn().unwrap();
        let sandbox = PathBuf::from(format!("/proc/{}/ns/net", holder.id()));
        let own = NetNs::open("/proc/self/ns/net").unwrap().id().unwrap();
        while NetNs::open(&sandbox).unwrap().id().unwrap() == own {
            thread::yield_now();
        }
        let waiter = {
            let followed = Arc::clone(&followed);
            thread::spawn(move || followed.changed())
        };
        followed.add(Path::new("/nonexistent"));
        followed.add(&sandbox);
        followed.add(&sandbox);
        assert_eq!(followed.watches.lock().unwrap().len(), 1);
        let namespace = NetNs::open(&sandbox).unwrap();
        for words in [
            "link add eth0 type veth peer name out",
            "link set out up",
            "link set eth0 up",
            "addr add 172.30.0.10/24 dev eth0",
            "route add default via 172.30.0.1",
        ] {
            let mut command = Command::new("ip");
            command.args(words.split(' '));
            assert!(namespace.run(|| command.status()).unwrap().unwrap().success(), "{words}");
        }
        assert_eq!(waiter.join().unwrap(), std::slice::from_ref(&sandbox));
        followed.forget(&sandbox);
        assert!(followed.watches.lock().unwrap().is_empty());
        holder.kill().unwrap();
        holder.wait().unwrap();
    }
}

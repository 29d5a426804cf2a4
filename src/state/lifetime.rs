//! How long an attachment lasts.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::net::netns::{NetNs, NetNsId};
use crate::sys::process::ProcessRef;

/// What an attachment lasts as long as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Lifetime {
    /// A process: the container's init.
    Process(ProcessRef),
    /// The network namespace's own path, such as `/run/netns/NAME`: the attachment ends when the
    /// file is removed. No process of the container is known.
    NamespacePath(PathBuf),
}

impl Lifetime {
    /// Whether the attachment may still be in use.
    ///
    /// `namespace` is the namespace that was attached. A path where another namespace is mounted
    /// now counts as removed.
    pub fn is_alive(&self, namespace: NetNsId) -> bool {
        match self {
            Lifetime::Process(process) => process.is_alive(),
            Lifetime::NamespacePath(path) => is_at(path, namespace),
        }
    }

    /// The process, if the attachment lasts as long as one.
    pub fn process(&self) -> Option<ProcessRef> {
        match self {
            Lifetime::Process(process) => Some(*process),
            Lifetime::NamespacePath(_) => None,
        }
    }
}

/// Whether this namespace is mounted at this path.
fn is_at(path: &Path, namespace: NetNsId) -> bool {
    NetNs::open(path).and_then(|opened| opened.id()).is_ok_and(|id| id == namespace)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_lasts_until_it_names_another_namespace_or_none() {
        let own = NetNs::current().unwrap().id().unwrap();
        let other = NetNs::create().unwrap().id().unwrap();
        let lifetime = |path: &str| Lifetime::NamespacePath(path.into());
        assert!(lifetime("/proc/self/ns/net").is_alive(own));
        assert!(!lifetime("/proc/self/ns/net").is_alive(other));
        assert!(!lifetime("/run/netns/no-such-namespace").is_alive(own));
        assert!(!lifetime("/dev/null").is_alive(own));
    }
}

//! The ways to a container's network namespace.

use std::io;

use crate::net::netns::NetNs;
use crate::proxy;
use crate::state::{Lifetime, LockedDir, RecordedContainer};
use crate::sys::process::ProcessRef;

/// The network namespace of a container that runs, and no other one that has its place now.
///
/// # Errors
/// Those of open(2); `NotFound` where no way is known.
pub(crate) fn running_namespace(container: &RecordedContainer) -> io::Result<NetNs> {
    let opened = match (&container.lifetime, container.namespace_path()) {
        (Lifetime::Process(process), _) => NetNs::of_pid(process.pid)?,
        (Lifetime::NamespacePath(_), Some(path)) => NetNs::open(path)?,
        (Lifetime::NamespacePath(_), None) => return Err(io::ErrorKind::NotFound.into()),
    };
    match opened.id()? == container.netns {
        true => Ok(opened),
        false => Err(io::Error::other("the container has another one now")),
    }
}

/// The container's network namespace, if there is still a way to it: through its process, through
/// the path where it is mounted, or through the proxy, which holds it until it ends.
pub(super) fn reach_namespace(
    container: &RecordedContainer,
    mut proxies: impl Iterator<Item = ProcessRef>,
    dir: &LockedDir,
) -> Option<NetNs> {
    if !container.is_of_this_boot() {
        return None;
    }
    let is_it = |namespace: &NetNs| namespace.id().is_ok_and(|id| id == container.netns);
    let of_process = || match container.lifetime {
        Lifetime::Process(process) if process.is_alive() => NetNs::of_pid(process.pid).ok(),
        _ => None,
    };
    let mounted = || NetNs::open(container.namespace_path()?).ok();
    let mut of_proxy =
        || proxies.any(ProcessRef::is_alive).then(|| proxy::namespace(dir.path()).ok()).flatten();
    of_process()
        .filter(is_it)
        .or_else(|| mounted().filter(is_it))
        .or_else(|| of_proxy().filter(is_it))
}

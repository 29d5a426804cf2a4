//! The ways to a container's network namespace.

use crate::net::netns::NetNs;
use crate::proxy;
use crate::state::{Lifetime, LockedDir, RecordedContainer};
use crate::sys::process::ProcessRef;

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

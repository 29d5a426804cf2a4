//! What docker before 28 does to a container's namespace when it has just been mounted.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::lookup;
use crate::net::netns::NetNs;
use crate::sys::process::ProcessRef;

/// How long docker may take to turn IPv6 off in a container, how often that is looked at, and the setting.
const HOOK_PATIENCE: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(1);
const IPV6_OFF: &str = "/proc/sys/net/ipv6/conf/all/disable_ipv6";

/// Waits until docker has turned IPv6 off in a container that is being created, which takes each address
/// with it that is there already (`GetSandboxForExternalKey` in libnetwork/osl/namespace_linux.go).
pub(super) fn wait_until_ipv6_is_off(sandbox: &Path) {
    let Ok(namespace) = NetNs::open(sandbox) else { return };
    let Ok(id) = namespace.id() else { return };
    let hook = lookup::in_namespace(id.inode())
        .and_then(|container| lookup::docker_hook_of(&container.id))
        .and_then(|pid| ProcessRef::of(pid).ok()?.open().ok());
    // Without the hook docker is done.
    let Some(hook) = hook else { return };
    let start = Instant::now();
    let is_off = || namespace.run(|| fs::read(IPV6_OFF)).is_ok_and(is_on_or_none);
    // A docker that is stuck has the container's start stuck too.
    while !is_off() && !hook.wait(LOOK_AGAIN) && start.elapsed() < HOOK_PATIENCE {}
}

/// Whether a setting is on, or the kernel has none.
fn is_on_or_none(text: io::Result<Vec<u8>>) -> bool {
    text.map_or(true, |text| text.trim_ascii() != b"0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_without_ipv6_has_it_off() {
        assert!(is_on_or_none(Ok(b"1\n".to_vec())));
        assert!(!is_on_or_none(Ok(b"0\n".to_vec())));
        assert!(is_on_or_none(Err(io::ErrorKind::NotFound.into())));
    }

    #[test]
    fn without_a_hook_nothing_is_waited_for() {
        wait_until_ipv6_is_off(Path::new("/nonexistent"));
        wait_until_ipv6_is_off(Path::new("/proc/thread-self/ns/net"));
    }
}

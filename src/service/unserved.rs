//! The limits of interfaces that no proxy serves (`igmp=off`). A proxy limits the others.

use std::io;

use crate::net::netns::NetNs;
use crate::proxy;
use crate::service::{AttachError, proxies};
use crate::state::AttachedInterface;

/// Limits what new interfaces send, of those that have no proxy.
///
/// # Errors
/// [`AttachError::Unlimited`], and if the namespace cannot be entered.
pub(super) fn limit(
    interfaces: &[AttachedInterface],
    namespace: &NetNs,
) -> Result<(), AttachError> {
    each_unserved(interfaces, |limited| namespace.run(|| proxy::limit_unserved(limited))?)
}

/// The same for interfaces of a container that runs. A version of mcrun that did not know of limits
/// may have made them; what has its limit keeps it.
///
/// # Errors
/// As of [`limit`].
pub(super) fn limit_existing(
    interfaces: &[AttachedInterface],
    namespace: &NetNs,
) -> Result<(), AttachError> {
    for interface in interfaces {
        each_unserved(std::slice::from_ref(interface), |limited| {
            match namespace.run(|| proxy::limit_unserved(limited))? {
                // It has its chains, or somebody has removed it.
                Err(e) if matches!(e.raw_os_error(), Some(libc::EEXIST | libc::ENOENT)) => Ok(()),
                result => result,
            }
        })?;
    }
    Ok(())
}

fn each_unserved(
    interfaces: &[AttachedInterface],
    limit: impl FnOnce(&[proxy::Unserved<'_>]) -> io::Result<()>,
) -> Result<(), AttachError> {
    let unserved = interfaces.iter().filter(|i| !proxies::is_served(&i.attachment));
    let limited: Vec<_> = unserved
        .filter_map(|i| {
            Some(proxy::Unserved {
                name: &i.name,
                index: i.index?,
                mac: i.mac?,
                egress: proxies::egress_task(&i.attachment)?,
            })
        })
        .collect();
    let Some(first) = limited.first() else { return Ok(()) };
    let interface = first.name.to_owned();
    limit(&limited).map_err(|source| AttachError::Unlimited { interface, source })
}

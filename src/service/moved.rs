//! Interfaces of containers that somebody has moved into the host's namespace.

use crate::link::apply::delete_made;
use crate::net::netlink::RouteSocket;
use crate::primitives::{InterfaceName, MacAddr};
use crate::service::AttachError;

/// Deletes links in the caller's network namespace that mcrun has made for a container, by name and by
/// MAC address where that is known. Returns whether there was one. `mcrun gc` and
/// [`super::repair`] find those of a record missing after that.
///
/// # Errors
/// The kernel's first refusal.
pub fn delete_moved(interfaces: &[(InterfaceName, Option<MacAddr>)]) -> Result<bool, AttachError> {
    let deleted = delete_made(&mut RouteSocket::open()?, |link| {
        interfaces
            .iter()
            .any(|(name, mac)| link.name == name.as_str() && (mac.is_none() || link.mac == *mac))
    });
    Ok(deleted?)
}

//! Which bridge of the host a container's interface is on.

use crate::net::messages::{Link, get_link_at, read_link};
use crate::net::netlink::RouteSocket;

/// Index of the host's bridge that has the other end of a container's veth link as a port; `None` if
/// the link is of another kind, or its other end is no port, or the host does not tell.
pub fn bridge_of(link: &Link, host: &mut RouteSocket) -> Option<u32> {
    let other_end = read_link(host.get(get_link_at(link.parent?)).ok()?)?;
    let is_veth = other_end.kind.as_deref() == Some("veth");
    other_end.port_of.filter(|_| is_veth).map(|(bridge, _)| bridge)
}

//! What is done to an interface that a container gets after its hook was called.
//!
//! docker since 28, and podman with a user namespace, connect a container to its networks between
//! `create` and `start`. Whatever an attachment depends on such an interface for is looked at
//! before the container's command runs.

use crate::attachment::Driver;
use crate::link::apply::keep_multicast_route;
use crate::link::facts::Facts;
use crate::link::plan::refuse_own_bridge;
use crate::net::netlink::RouteSocket;
use crate::net::netns::NetNs;
use crate::oci::ContainerId;
use crate::service::{AttachError, host_links};
use crate::state::{AttachedInterface, AttachmentRecord, Lifetime, Store};

/// Completes the relays of a container whose interfaces did not exist when it was attached, as far
/// as they exist now. A container without such relays is left alone, after a look at its record.
///
/// # Errors
/// [`AttachError`]; the container is not to be started then.
pub fn complete(id: &ContainerId, store: &Store) -> Result<(), AttachError> {
    // Who cannot read the record, as a rootless engine, has no attachment.
    let Ok(Some(AttachmentRecord::Attached(attached))) = store.read(id) else { return Ok(()) };
    let is_late = |interface: &AttachedInterface| {
        matches!(interface.attachment.driver, Driver::Relay { .. }) && interface.index.is_none()
    };
    if !attached.interfaces.iter().any(is_late) || !attached.container.is_alive() {
        return Ok(());
    }
    let namespace = match &attached.container.lifetime {
        Lifetime::Process(process) => NetNs::of_pid(process.pid)?,
        Lifetime::NamespacePath(path) => NetNs::open(path)?,
    };
    let (mut host, mut container) = (RouteSocket::open()?, RouteSocket::open_in(&namespace)?);
    for (position, interface) in attached.interfaces.iter().enumerate() {
        if !is_late(interface) {
            continue;
        }
        let attachment = &interface.attachment;
        let mark = host_links::mark(store);
        let attachments = std::slice::from_ref(attachment);
        let facts = Facts::gather(attachments, mark, &mut host, &mut container)?;
        refuse_own_bridge(attachment, &facts)?;
        let there = facts.container_links.values().find(|link| link.name == interface.name);
        // The first attachment has the multicast that names no interface, as where the interface
        // exists from the start.
        if let (0, Some(link)) = (position, there)
            && link.up
        {
            keep_multicast_route(&mut container, link.index)?;
        }
    }
    Ok(())
}

//! What is done to an interface that a container gets after its hook was called.
//!
//! docker since 28, and podman with a user namespace, connect a container to its networks between
//! `create` and `start`. Whatever an attachment depends on such an interface for is looked at
//! before the container's command runs.

use crate::attachment::Driver;
use crate::link::apply::{keep_answers, keep_multicast_route};
use crate::link::facts::Facts;
use crate::link::plan::refuse_own_bridge;
use crate::net::netlink::RouteSocket;
use crate::net::netns::NetNs;
use crate::oci::ContainerId;
use crate::service::namespace::running_namespace;
use crate::service::{AttachError, host_links};
use crate::state::{Attached, AttachedInterface, AttachmentRecord, Store};

/// Completes what depends on interfaces that did not exist when the container was attached, as far as
/// they exist now: relays, and answers. A container without an attachment is left alone, after a look at
/// its record.
///
/// # Errors
/// [`AttachError`]; the container is not to be started then.
pub fn complete(id: &ContainerId, store: &Store) -> Result<(), AttachError> {
    // Who cannot read the record, as a rootless engine, has no attachment.
    let Ok(Some(AttachmentRecord::Attached(attached))) = store.read(id) else { return Ok(()) };
    let is_late = |interface: &AttachedInterface| {
        matches!(interface.attachment.driver, Driver::Relay { .. }) && interface.index.is_none()
    };
    let completes_relays = attached.interfaces.iter().any(is_late);
    if !(completes_relays || has_made_links(&attached)) || !attached.container.is_alive() {
        return Ok(());
    }
    let namespace = running_namespace(&attached.container)?;
    follow_answers(&attached, &namespace);
    if !completes_relays {
        return Ok(());
    }
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

/// Makes answers leave by the interfaces of the container that were asked, as those are now.
pub(super) fn follow_answers(attached: &Attached, namespace: &NetNs) {
    if has_made_links(attached) {
        let made = attached.interfaces.iter().filter(|interface| interface.is_made());
        let made: Vec<_> = made.filter_map(|interface| interface.index).collect();
        // Where it cannot be done, `mcrun ps` tells who gets no answer.
        let _ = RouteSocket::open_in(namespace).map(|mut socket| keep_answers(&mut socket, &made));
    }
}

fn has_made_links(attached: &Attached) -> bool {
    attached.interfaces.iter().any(AttachedInterface::is_made)
}

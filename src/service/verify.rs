//! Whether an attachment is still as it was made.

use crate::link::facts::link;
use crate::net::netlink::RouteSocket;
use crate::oci::ContainerId;
use crate::service::namespace::running_namespace;
use crate::service::{AttachError, proxies};
use crate::state::{AttachedInterface, AttachmentRecord, Store};
use crate::sys::process::ProcessRef;

/// Compares the record of one interface with what is there: the container, the link, and the proxy
/// that serves it. Nothing is changed. Returns what the record says.
///
/// # Errors
/// [`AttachError::NotAttached`], [`AttachError::NoInterface`], and [`AttachError::Broken`], which
/// says what is not as it was.
pub fn verify(
    id: &ContainerId,
    name: &str,
    store: &Store,
) -> Result<AttachedInterface, AttachError> {
    let broken = |what: String| Err(AttachError::Broken(what));
    let record = store.read(id)?.and_then(AttachmentRecord::into_attached);
    let attached = record.ok_or_else(|| AttachError::NotAttached(id.clone()))?;
    let Some(interface) = attached.interfaces.iter().find(|i| i.name == name) else {
        let there: Vec<_> = attached.interfaces.iter().map(|i| i.name.as_str()).collect();
        return Err(AttachError::NoInterface { name: name.to_owned(), there: there.join(", ") });
    };
    if !attached.container.is_alive() {
        return broken(format!("the container {id} that is attached has ended"));
    }
    if let Some(reason) = &interface.waiting {
        return broken(format!("the interface {name} is not there: {reason}"));
    }
    let namespace = running_namespace(&attached.container)?;
    match link(&mut RouteSocket::open_in(&namespace)?, name)? {
        None => return broken(format!("the interface {name} is not there")),
        Some(found) if interface.index.is_some_and(|index| index != found.index) => {
            return broken(format!("the interface {name} is another one than was attached"));
        }
        Some(found) if !found.up => return broken(format!("the interface {name} is down")),
        Some(_) => {}
    }
    let is_served = proxies::is_served(&interface.attachment);
    if is_served && !attached.serving_proxy().is_some_and(ProcessRef::is_alive) {
        return broken(format!(
            "the proxy of container {id} has ended; mcrun reload starts another"
        ));
    }
    Ok(interface.clone())
}

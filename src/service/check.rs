//! Whether an attachment could be made, before there is a container.

use crate::attachment::{AdminConfig, Attachment};
use crate::link::facts::Facts;
use crate::link::plan::{missing_link, plan};
use crate::net::netlink::RouteSocket;
use crate::service::{AttachError, host_links};
use crate::state::{Claimed, Store, config_dir};

/// Checks an attachment against the administrator's limits, against the host and against the
/// addresses of other containers. Nothing is made or kept, so that an attachment may be refused all
/// the same when it is made.
///
/// # Errors
/// As [`super::attach_more`].
pub fn check(attachment: &Attachment, store: &Store) -> Result<(), AttachError> {
    let admin = AdminConfig::read(&config_dir())?;
    let attachments = std::slice::from_ref(attachment);
    admin.check_all(attachments, 0)?;
    // There is no container whose links could be in the way.
    let (mut host, mut container) = (RouteSocket::open()?, RouteSocket::open()?);
    let mark = host_links::mark(store);
    let mut facts = Facts::gather(attachments, mark, &mut host, &mut container)?;
    facts.container_links.clear();
    facts.bridges.clear();
    if !attachment.optional || missing_link(attachment, &facts).is_none() {
        plan(attachments, &facts)?;
    }
    let parent = attachment.parent_link();
    for net in attachment.ip.addresses() {
        if let Some(Claimed::Held(container)) = store.claimed(parent, net.addr())? {
            let parent = parent.clone();
            return Err(AttachError::AddressInUse { net: *net, parent, container, what: "" });
        }
    }
    Ok(())
}

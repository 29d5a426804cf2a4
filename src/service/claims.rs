//! Addresses that other containers have.

use crate::attachment::Attachment;
use crate::oci::ContainerId;
use crate::service::proxies::ProxyUsers;
use crate::service::{AttachError, detach, unfinished};
use crate::state::{AttachmentRecord, Claimed};

/// Claims the addresses of attachments for a container whose record names them.
///
/// # Errors
/// [`AttachError::AddressInUse`]. What was claimed is for the caller to release.
pub(super) fn claim(
    container: &ContainerId,
    attachments: &[Attachment],
    users: ProxyUsers<'_>,
) -> Result<(), AttachError> {
    for attachment in attachments {
        let parent = attachment.parent_link();
        for net in attachment.ip.addresses() {
            let in_use = |container, what| AttachError::AddressInUse {
                net: *net,
                parent: parent.clone(),
                container,
                what,
            };
            let claim = || users.store.claim(container, parent, net.addr());
            let mut claimed = claim()?;
            if let Claimed::Unfinished { id, .. } = &claimed
                && finish(id, users)?
            {
                claimed = claim()?;
            }
            match claimed {
                Claimed::Ours => {}
                Claimed::Held(name) => return Err(in_use(name, "")),
                Claimed::Unfinished { name, .. } => {
                    return Err(in_use(name, ", which is being attached or detached"));
                }
            }
        }
    }
    Ok(())
}

/// Finishes what a program that was killed has left of another container's attachment. `false`:
/// the program runs, and has the container's lock.
///
/// The lock is not waited for: two containers that want each other's addresses would wait for each
/// other. Shared links of the host are left to `mcrun gc`: who calls this may have their lock.
pub(super) fn finish(id: &ContainerId, users: ProxyUsers<'_>) -> Result<bool, AttachError> {
    let Some(dir) = users.store.try_lock(id)? else { return Ok(false) };
    match dir.read()? {
        Some(AttachmentRecord::Attached(mut attached))
            if attached.container.is_alive() && !attached.interfaces.is_empty() =>
        {
            unfinished::finish(&mut attached, &dir, users)?;
        }
        Some(record) => {
            detach::undo(&record, &dir)?;
            dir.remove()?;
        }
        None => {}
    }
    Ok(true)
}

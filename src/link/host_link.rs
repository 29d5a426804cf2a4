//! Planning links of the host that several attachments share.

use std::fmt;

use crate::attachment::{Attachment, HostLink, HostLinkKind};
use crate::link::error::{PlanError, refuse};
use crate::link::facts::Facts;
use crate::net::messages::Link;

/// A shared link that an attachment needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedHostLink {
    /// The link.
    pub link: HostLink,
    /// Index of its parent, the LAN interface.
    pub parent: u32,
    /// The index of the link, if it exists.
    pub index: Option<u32>,
    /// Whether the link is, or will be, one that the mcrun of this state directory has made.
    pub made: bool,
}

/// What an attachment needs, `None` if it needs no shared link.
///
/// # Errors
/// If the host has another link of this name, or the link is somebody else's and down.
pub(super) fn plan(
    attachment: &Attachment,
    parent: &Link,
    facts: &Facts,
) -> Result<Option<PlannedHostLink>, PlanError> {
    let Some(link) = attachment.host_link() else { return Ok(None) };
    let HostLinkKind::Vlan { id, .. } = link.kind;
    let planned = |index, made| {
        Ok(Some(PlannedHostLink { parent: parent.index, index, made, link: link.clone() }))
    };
    let Some(there) = facts.links.get(&link.name) else { return planned(None, true) };
    if !is_it(there, parent.index, id) {
        return refuse(format!(
            "vlan={id}: the host's {} is not VLAN {id} of {}; rename it",
            link.name, parent.name
        ));
    }
    let made = facts.mark.is_on(there);
    if !made && !there.up {
        return refuse(format!(
            "vlan={id}: {0} is down; set it up first (ip link set {0} up)",
            link.name
        ));
    }
    planned(Some(there.index), made)
}

/// Whether a link is this VLAN of the parent.
pub(super) fn is_it(link: &Link, parent: u32, id: u16) -> bool {
    link.vlan == Some(id) && link.parent == Some(parent) && link.parent_namespace.is_none()
}

impl fmt::Display for PlannedHostLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let HostLinkKind::Vlan { parent, id } = &self.link.kind;
        let verb = if self.index.is_some() { "use" } else { "make" };
        write!(f, "{verb} {} as VLAN {id} of {parent}", self.link.name)
    }
}

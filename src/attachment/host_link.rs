//! Links of the host that several attachments share.

use serde::{Deserialize, Serialize};

use crate::primitives::InterfaceName;

/// A link of the host that is made for attachments and that several of them may share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostLink {
    /// Name of the link.
    pub name: InterfaceName,
    /// What the link is.
    #[serde(flatten)]
    pub kind: HostLinkKind,
}

/// What a shared link is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum HostLinkKind {
    /// The tagged sub-interface of a LAN interface (IEEE 802.1Q).
    Vlan {
        /// The LAN interface.
        parent: InterfaceName,
        /// VLAN id, 1..=4094.
        id: u16,
    },
}

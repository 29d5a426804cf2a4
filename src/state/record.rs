//! The record of one attached container.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::attachment::{Attachment, Driver};
use crate::multicast::{GroupPolicy, RateLimits};
use crate::net::netns::NetNsId;
use crate::oci::ContainerId;
use crate::primitives::MacAddr;
use crate::sys::process::ProcessRef;

/// Everything that is needed to show an attachment, to repeat it and to take it back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The container's id.
    pub container: ContainerId,
    /// What people call it; the id where nobody said.
    pub name: String,
    /// Its init.
    pub init: ProcessRef,
    /// Its bundle, as the runtime told it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundle: Option<PathBuf>,
    /// Its network namespace.
    pub netns: NetNsId,
    /// Where that namespace is kept, when it outlives the container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns_path: Option<PathBuf>,
    /// When it was attached, in seconds since 1970.
    pub attached_at: u64,
    /// What was attached. Before the interfaces are complete this is the intention.
    pub interfaces: Vec<AttachedInterface>,
    /// The proxy; none when every interface has `igmp=off`, or before it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<ProcessRef>,
    /// Whether the proxy acts on the kernel's notifications of joins.
    #[serde(default = "yes")]
    pub notifications: bool,
    /// Mark of what the proxy puts into the container: one for all proxies of its life. 0 before the
    /// first, and in records of earlier versions.
    #[serde(default)]
    pub mark: u32,
    /// Whether the attachment was completed.
    pub complete: bool,
}

/// Records of earlier versions do not say.
fn yes() -> bool {
    true
}

/// One interface in the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachedInterface {
    /// Its name in the container.
    pub name: String,
    /// Its index in the container's namespace; 0 before it exists, and for one that the container is
    /// to get later.
    pub index: u32,
    /// Index of the host interface where the proxy joins; 0 before the interface exists.
    pub upstream_index: u32,
    /// Its hardware address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddr>,
    /// What was asked for.
    pub attachment: Attachment,
    /// The group rules in force: those asked for, within the administrator's.
    pub policy: GroupPolicy,
    /// What the relay carries at most: what was asked for, within the administrator's.
    #[serde(default, skip_serializing_if = "RateLimits::is_none")]
    pub rates: RateLimits,
}

impl AttachedInterface {
    /// Whether it was made for the container; a relay takes one that is there anyway.
    pub fn is_made(&self) -> bool {
        !matches!(self.attachment.driver, Driver::Relay { .. })
    }
}

//! The attachment record of a container: what was asked for, and what was made.
//!
//! A record has a stage, and each stage is a type of its own: [`Planned`] is written before
//! anything is made, so that whoever finds the record knows what to remove; [`Attached`] follows
//! when everything is made. The JSON on disk is [`file`]'s.

mod file;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde::{Deserialize, Serialize, Serializer};

use crate::attachment::{Attachment, EffectiveLimits, HostLink};
use crate::net::netns::NetNsId;
use crate::oci::ContainerId;
use crate::primitives::MacAddr;
use crate::state::Lifetime;
use crate::state::record::file::RecordFile;
use crate::sys::process::ProcessRef;

/// The record of one container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RecordFile", into = "RecordFile")]
pub enum AttachmentRecord {
    /// The attachment is being made, or the program that made it was killed.
    Planned(Planned),
    /// The attachment is complete.
    Attached(Attached),
}

/// Whom a record is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedContainer {
    /// The container's id.
    pub id: ContainerId,
    /// What people call the container; the id if it has no other name.
    pub name: String,
    /// What the attachment lasts as long as.
    pub lifetime: Lifetime,
    /// The boot of the machine (`/proc/sys/kernel/random/boot_id`). Process ids, start times and
    /// the numbers of namespaces repeat from boot to boot. None in records of early versions.
    pub boot: Option<String>,
    /// Directory that the container's engine keeps about it, such as an OCI bundle.
    pub bundle: Option<PathBuf>,
    /// The network namespace.
    pub netns: NetNsId,
    /// Where the namespace is mounted, if it is.
    pub netns_path: Option<PathBuf>,
}

/// An attachment that is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// Whom it is for.
    pub container: RecordedContainer,
    /// What is to be made in the container.
    pub interfaces: Vec<PlannedInterface>,
    /// Shared links of the host that the attachment uses. They may not exist yet.
    pub host_links: Vec<HostLinkUse>,
}

/// A complete attachment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// Whom it is for.
    pub container: RecordedContainer,
    /// Time of attachment, in seconds since 1970.
    pub attached_at: u64,
    /// The interfaces, in the order in which they were asked for.
    pub interfaces: Vec<AttachedInterface>,
    /// The proxy; none if every interface has `igmp=off`.
    pub proxy: Option<ProcessRef>,
    /// The proxy that `proxy` replaces, until it has ended.
    pub replaced: Option<ReplacedProxy>,
    /// Proxies that have ended while the container ran and were replaced.
    pub proxy_deaths: u32,
    /// User id of the proxy; none in records of early versions, whose proxies had 65534.
    pub proxy_user: Option<u32>,
    /// Mark of the packets that proxies put into the container. All proxies of the container have
    /// the same. None before the first proxy, and in records of early versions.
    pub mark: Option<u32>,
    /// Whether the proxy acts on the kernel's notifications of joins.
    pub notifications: bool,
    /// Whether the proxy counts what arrives.
    pub count: bool,
    /// Shared links of the host that the attachment uses.
    pub host_links: Vec<HostLinkUse>,
    /// Interfaces that are being added. They may not exist yet.
    pub adding: Vec<PlannedInterface>,
    /// Interfaces that are being removed. They may still exist.
    pub leaving: Vec<AttachedInterface>,
}

/// A proxy whose place another one takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplacedProxy {
    /// Its process.
    #[serde(flatten)]
    pub process: ProcessRef,
    /// Its user id, as [`Attached::proxy_user`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<u32>,
}

/// One interface that is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedInterface {
    /// Its name in the container.
    pub name: String,
    /// What was asked for.
    pub attachment: Attachment,
    /// What is in force of it, within the administrator's limits.
    pub limits: EffectiveLimits,
}

/// One interface in the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AttachedInterface {
    /// Its name in the container.
    pub name: String,
    /// Its index in the container's namespace; none for a relay's interface that the container
    /// gets later, and for a link that cannot be made now. In JSON that is 0.
    #[serde(serialize_with = "index_or_zero")]
    pub index: Option<u32>,
    /// Index of the host interface where the proxy joins.
    pub upstream_index: u32,
    /// Its MAC address. A link that is made anew gets the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddr>,
    /// Permanent MAC address of the parent, by which it is found under another name. A virtual
    /// parent has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_mac: Option<MacAddr>,
    /// Why the link is not there; none: it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<String>,
    /// The process that holds the lease of its address; none without `ip=dhcp`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_holder: Option<ProcessRef>,
    /// What was asked for.
    pub attachment: Attachment,
    /// What is in force of it, within the administrator's limits.
    #[serde(flatten)]
    pub limits: EffectiveLimits,
}

/// A shared link of the host, as one of its users records it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostLinkUse {
    /// The link.
    #[serde(flatten)]
    pub link: HostLink,
    /// Whether mcrun made the link, for this container or for another. A link that somebody else
    /// made is never removed.
    pub made: bool,
}

impl AttachmentRecord {
    /// Whom the record is about.
    pub fn container(&self) -> &RecordedContainer {
        match self {
            AttachmentRecord::Planned(planned) => &planned.container,
            AttachmentRecord::Attached(attached) => &attached.container,
        }
    }

    /// The complete attachment, if it is one.
    pub fn into_attached(self) -> Option<Attached> {
        match self {
            AttachmentRecord::Planned(_) => None,
            AttachmentRecord::Attached(attached) => Some(attached),
        }
    }

    /// The complete attachment, if it is one.
    pub fn attached(&self) -> Option<&Attached> {
        match self {
            AttachmentRecord::Planned(_) => None,
            AttachmentRecord::Attached(attached) => Some(attached),
        }
    }

    /// What was asked for, in the order of the interfaces.
    pub fn attachments(&self) -> impl Iterator<Item = &Attachment> {
        let (planned, attached) = match self {
            AttachmentRecord::Planned(planned) => (planned.interfaces.as_slice(), &[][..]),
            AttachmentRecord::Attached(attached) => (&[][..], attached.interfaces.as_slice()),
        };
        let planned = planned.iter().map(|interface| &interface.attachment);
        planned.chain(attached.iter().map(|interface| &interface.attachment))
    }

    /// The same, and what is being added and removed.
    pub fn all_attachments(&self) -> impl Iterator<Item = &Attachment> {
        let changing = self.attached().into_iter().flat_map(|attached| {
            let adding = attached.adding.iter().map(|interface| &interface.attachment);
            adding.chain(attached.leaving.iter().map(|interface| &interface.attachment))
        });
        self.attachments().chain(changing)
    }

    /// Shared links of the host that the attachment uses.
    pub fn host_links(&self) -> &[HostLinkUse] {
        match self {
            AttachmentRecord::Planned(planned) => &planned.host_links,
            AttachmentRecord::Attached(attached) => &attached.host_links,
        }
    }
}

impl RecordedContainer {
    /// Whether the container may still use its attachment.
    pub fn is_alive(&self) -> bool {
        self.is_of_this_boot() && self.lifetime.is_alive(self.netns)
    }

    /// Whether the record was made since the machine was booted, as far as that is known.
    pub fn is_of_this_boot(&self) -> bool {
        self.boot.as_deref().is_none_or(|boot| boot_id().is_none_or(|now| now == boot))
    }

    /// Whether the record is about the same container as another one, not only of the same id.
    pub fn is_same(&self, other: &Self) -> bool {
        self.lifetime == other.lifetime && self.is_of_this_boot() && other.is_of_this_boot()
    }

    /// Where the network namespace is mounted, if that is known.
    pub fn namespace_path(&self) -> Option<&Path> {
        match (&self.netns_path, &self.lifetime) {
            (Some(path), _) | (None, Lifetime::NamespacePath(path)) => Some(path),
            (None, Lifetime::Process(_)) => None,
        }
    }
}

impl Attached {
    /// The processes of its proxies: the one that serves, and the one that is being replaced.
    pub fn proxies(&self) -> impl Iterator<Item = ProcessRef> {
        self.proxy.into_iter().chain(self.replaced.map(|replaced| replaced.process))
    }

    /// Makes its proxy the one that another proxy replaces.
    pub fn begin_replacement(&mut self) {
        let (proxy, user) = (self.proxy.take(), self.proxy_user.take());
        if proxy.is_some_and(|proxy| !proxy.is_alive()) {
            self.proxy_deaths = self.proxy_deaths.saturating_add(1);
        }
        self.replaced = proxy.map(|process| ReplacedProxy { process, user });
    }

    /// The proxy that serves: the replaced one as long as the other one does not run.
    pub fn serving_proxy(&self) -> Option<ProcessRef> {
        let mut alive = self.proxies().filter(|proxy| proxy.is_alive());
        alive.next().or(self.proxy)
    }

    /// Whether a network of the container's engine has an interface of it.
    pub fn has_network(&self) -> bool {
        self.interfaces.iter().any(|interface| interface.attachment.is_of_network())
    }

    /// Whether the program that changed the attachment last was killed before its end.
    pub fn is_unfinished(&self) -> bool {
        self.replaced.is_some()
            || !self.adding.is_empty()
            || !self.leaving.is_empty()
            || self.interfaces.is_empty()
    }
}

/// Which boot of the machine this is; none where /proc does not say.
pub fn boot_id() -> Option<&'static str> {
    static ID: OnceLock<Option<String>> = OnceLock::new();
    let read = || std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok();
    ID.get_or_init(|| read().map(|text| text.trim_end().to_owned())).as_deref()
}

impl AttachedInterface {
    /// Whether the interface was made for the container by mcrun.
    pub fn is_made(&self) -> bool {
        self.attachment.makes_link()
    }

    /// Whether it is to be made for the container when its parent is there.
    pub fn is_waiting(&self) -> bool {
        self.is_made() && self.index.is_none()
    }
}

fn index_or_zero<S: Serializer>(index: &Option<u32>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u32(index.unwrap_or(0))
}

#[cfg(test)]
mod tests;

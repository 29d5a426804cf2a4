//! A record's JSON.
//!
//! Format 2 added `format`, `stage` and `host_links`. Format 1 has none of the three: `complete`
//! stands for the stage. A version that knows format 1 reads format 2 too, because the fields of
//! format 1 are still written. The exception is an attachment without a process, which it cannot
//! represent: there `init` is missing. `proxy_user`, `boot_id`, `replaced`, `proxy_deaths`, `adding`,
//! `leaving`, `parent_mac`, `waiting` and `lease_holder` were added to format 2 later. A version that does not know them passes
//! over them.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::attachment::Attachment;
use crate::attachment::EffectiveLimits;
use crate::net::netns::NetNsId;
use crate::oci::ContainerId;
use crate::primitives::MacAddr;
use crate::state::Lifetime;
use crate::state::record::{
    Attached, AttachedInterface, AttachmentRecord, HostLinkUse, Planned, PlannedInterface,
    RecordedContainer, ReplacedProxy,
};
use crate::sys::process::ProcessRef;

/// The format that this version writes, and the newest that it reads.
const FORMAT: u32 = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Stage {
    Planned,
    Attached,
}

#[derive(Clone, Serialize, Deserialize)]
pub(super) struct RecordFile {
    #[serde(default = "first_format")]
    format: u32,
    /// None in format 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stage: Option<Stage>,
    container: ContainerId,
    name: String,
    /// None if the attachment lasts as long as `netns_path`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    init: Option<ProcessRef>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bundle: Option<PathBuf>,
    netns: NetNsId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    boot_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    netns_path: Option<PathBuf>,
    /// 0 in the planned stage.
    attached_at: u64,
    interfaces: Vec<InterfaceFile>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    host_links: Vec<HostLinkUse>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    proxy: Option<ProcessRef>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    proxy_user: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    replaced: Option<ReplacedProxy>,
    #[serde(default, skip_serializing_if = "is_zero")]
    proxy_deaths: u32,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    adding: Vec<InterfaceFile>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    leaving: Vec<InterfaceFile>,
    /// Early versions did not write it.
    #[serde(default = "yes")]
    notifications: bool,
    /// Records of proxies that cannot count do not have it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    count: bool,
    /// 0: none.
    #[serde(default)]
    mark: u32,
    /// What format 1 has for `stage`.
    complete: bool,
}

#[derive(Clone, Serialize, Deserialize)]
struct InterfaceFile {
    name: String,
    /// 0: none.
    index: u32,
    /// 0 in the planned stage.
    upstream_index: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mac: Option<MacAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    parent_mac: Option<MacAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    waiting: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lease_holder: Option<ProcessRef>,
    attachment: Attachment,
    #[serde(flatten)]
    limits: EffectiveLimits,
}

fn first_format() -> u32 {
    1
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

fn yes() -> bool {
    true
}

impl TryFrom<RecordFile> for AttachmentRecord {
    type Error = String;

    fn try_from(file: RecordFile) -> Result<Self, String> {
        if !(1..=FORMAT).contains(&file.format) {
            return Err(format!(
                "format {} is unknown; this version of mcrun reads formats 1 to {FORMAT}",
                file.format
            ));
        }
        let lifetime = match (file.init, &file.netns_path) {
            (Some(init), _) => Lifetime::Process(init),
            (None, Some(path)) => Lifetime::NamespacePath(path.clone()),
            (None, None) => return Err("it has neither init nor netns_path".into()),
        };
        let container = RecordedContainer {
            id: file.container,
            name: file.name,
            lifetime,
            bundle: file.bundle,
            boot: file.boot_id,
            netns: file.netns,
            netns_path: file.netns_path,
        };
        let stage = file.stage.unwrap_or(match file.complete {
            true => Stage::Attached,
            false => Stage::Planned,
        });
        Ok(match stage {
            Stage::Planned => AttachmentRecord::Planned(Planned {
                container,
                interfaces: file.interfaces.into_iter().map(InterfaceFile::planned).collect(),
                host_links: file.host_links,
            }),
            Stage::Attached => AttachmentRecord::Attached(Attached {
                replaced: file.replaced.filter(|_| container.is_of_this_boot()),
                proxy: file.proxy.filter(|_| container.is_of_this_boot()),
                adding: file.adding.into_iter().map(InterfaceFile::planned).collect(),
                leaving: file.leaving.into_iter().map(InterfaceFile::attached).collect(),
                container,
                attached_at: file.attached_at,
                interfaces: file.interfaces.into_iter().map(InterfaceFile::attached).collect(),
                proxy_user: file.proxy_user,
                mark: (file.mark != 0).then_some(file.mark),
                notifications: file.notifications,
                proxy_deaths: file.proxy_deaths,
                count: file.count,
                host_links: file.host_links,
            }),
        })
    }
}

impl From<AttachmentRecord> for RecordFile {
    fn from(record: AttachmentRecord) -> Self {
        match record {
            AttachmentRecord::Planned(planned) => {
                let interfaces = planned.interfaces.into_iter().map(InterfaceFile::from_planned);
                RecordFile {
                    interfaces: interfaces.collect(),
                    host_links: planned.host_links,
                    ..RecordFile::about(planned.container, Stage::Planned)
                }
            }
            AttachmentRecord::Attached(attached) => {
                let interfaces = attached.interfaces.into_iter().map(InterfaceFile::from_attached);
                RecordFile {
                    attached_at: attached.attached_at,
                    interfaces: interfaces.collect(),
                    host_links: attached.host_links,
                    proxy: attached.proxy,
                    replaced: attached.replaced,
                    proxy_deaths: attached.proxy_deaths,
                    adding: attached.adding.into_iter().map(InterfaceFile::from_planned).collect(),
                    leaving: attached
                        .leaving
                        .into_iter()
                        .map(InterfaceFile::from_attached)
                        .collect(),
                    proxy_user: attached.proxy_user,
                    notifications: attached.notifications,
                    count: attached.count,
                    mark: attached.mark.unwrap_or(0),
                    ..RecordFile::about(attached.container, Stage::Attached)
                }
            }
        }
    }
}

impl RecordFile {
    fn about(container: RecordedContainer, stage: Stage) -> Self {
        let netns_path = container.namespace_path().map(PathBuf::from);
        RecordFile {
            format: FORMAT,
            stage: Some(stage),
            container: container.id,
            name: container.name,
            init: container.lifetime.process(),
            bundle: container.bundle,
            netns: container.netns,
            boot_id: container.boot,
            netns_path,
            attached_at: 0,
            interfaces: Vec::new(),
            host_links: Vec::new(),
            proxy: None,
            proxy_user: None,
            replaced: None,
            proxy_deaths: 0,
            adding: Vec::new(),
            leaving: Vec::new(),
            notifications: true,
            count: false,
            mark: 0,
            complete: stage == Stage::Attached,
        }
    }
}

impl InterfaceFile {
    fn planned(self) -> PlannedInterface {
        PlannedInterface { name: self.name, attachment: self.attachment, limits: self.limits }
    }

    fn attached(self) -> AttachedInterface {
        AttachedInterface {
            name: self.name,
            index: (self.index != 0).then_some(self.index),
            upstream_index: self.upstream_index,
            mac: self.mac,
            parent_mac: self.parent_mac,
            waiting: self.waiting,
            lease_holder: self.lease_holder,
            attachment: self.attachment,
            limits: self.limits,
        }
    }

    fn from_planned(interface: PlannedInterface) -> Self {
        InterfaceFile {
            name: interface.name,
            index: 0,
            upstream_index: 0,
            mac: None,
            parent_mac: None,
            waiting: None,
            lease_holder: None,
            attachment: interface.attachment,
            limits: interface.limits,
        }
    }

    fn from_attached(interface: AttachedInterface) -> Self {
        InterfaceFile {
            name: interface.name,
            index: interface.index.unwrap_or(0),
            upstream_index: interface.upstream_index,
            mac: interface.mac,
            parent_mac: interface.parent_mac,
            waiting: interface.waiting,
            lease_holder: interface.lease_holder,
            attachment: interface.attachment,
            limits: interface.limits,
        }
    }
}

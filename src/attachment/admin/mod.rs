//! The administrator's limits: `mcrun.toml` in the configuration directory.
//!
//! Attachments come from users, in annotations and variables, and hooks run as root. The
//! administrator says what users may ask for. Without the file they may ask for what harms nobody
//! else.
//!
//! ```toml
//! [attach]
//! networks = ["media"]             # named networks; without parents, nothing else
//! default-network = "media"        # of an attachment that names no network and no parent
//! parents = ["media0", "video*"]   # LAN interfaces, also as upstream; * stands for any ending
//! drivers = ["macvlan"]
//! igmp = ["proxy"]                 # native and off let a container speak IGMP on the LAN itself;
//!                                  # where [groups] has rules this is the default
//! ip = ["192.0.2.0/24"]            # what the section has no word about is refused if it touches
//!                                  # others on the LAN: ip, mac, gw, route, upstream, vlan
//!
//! [groups]                         # in force beside the rules of each attachment
//! allow = ["239.0.0.0/8"]
//! deny = ["239.255.0.0/16"]
//! max-groups = 100
//! ssm-strict = true                # joins from any source in 232.0.0.0/8 are denied (RFC 4604)
//! max-sources = 20
//!
//! [relay]                          # limits for the relay of one attachment, in each direction
//! max-pps = 100000                 # packets a second
//! max-byterate = 125000000         # bytes a second
//! ports = [5353, "6000-6100"]      # ports of the host that containers may take
//! bpf = false                      # the kernel relays nothing
//!
//! [proxy]
//! notifications = false            # joins at the container's reports, not at the kernel's
//!                                  # notifications
//! uids = "61184-65519"             # each proxy is a user of its own from this range
//!
//! [count]
//! enabled = false                  # what arrives is not counted
//!
//! [keeper]
//! fence = true                     # what only containers join does not reach the host's sockets
//!
//! [runtime]                        # the OCI runtime that mcrun-runtime calls
//! path = "/usr/sbin/runc"
//! ```

mod allowed;
mod file;
mod groups;
mod limits;
mod shown;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::num::{NonZeroU32, NonZeroU64};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::attachment::admin::allowed::Allowed;
use crate::attachment::admin::limits::LIMITS;
use crate::attachment::types::MAX_ATTACHMENTS;
use crate::attachment::{Attachment, NetworkName, UidRange};
use crate::multicast::{GroupPolicy, RateLimits};
use crate::primitives::PortRanges;
use crate::sys::trusted;

pub(super) use crate::attachment::admin::allowed::one_line;
pub(super) use crate::attachment::admin::groups::GroupRules;
pub use crate::attachment::admin::shown::{Setting, settings};

/// Bytes of the file.
const MAX_FILE: u64 = 1024 * 1024;

/// The key that limits the number of attachments.
const MAX_ATTACHMENTS_KEY: &str = "max-attachments";

/// What the administrator allows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AdminConfig {
    /// The lists of `[attach]` that the file has, by their names there.
    attach: BTreeMap<&'static str, Allowed>,
    max_attachments: Option<usize>,
    default_network: Option<NetworkName>,
    environment: Option<bool>,
    groups: GroupRules,
    relay: RelayRules,
    proxy: ProxySettings,
    count: Option<bool>,
    fence: Option<bool>,
    runtime: RuntimeConfig,
}

/// The limits of one attachment: its own within the administrator's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EffectiveLimits {
    /// Who may join what.
    pub policy: GroupPolicy,
    /// What the relay carries at most.
    #[serde(default, skip_serializing_if = "RateLimits::is_none")]
    pub rates: RateLimits,
    /// Ports of the host that a relay may give to the container.
    #[serde(default, skip_serializing_if = "PortRanges::is_empty")]
    pub host_ports: PortRanges,
    /// Whether the kernel may relay what it can.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub kernel_relay: bool,
}

/// The part of the file that mcrun-runtime reads to run its runtime.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RuntimeConfig {
    /// Path of the OCI runtime that mcrun-runtime calls; without it the first of runc, crun and so
    /// on that is installed.
    pub path: Option<PathBuf>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct RelayRules {
    max_pps: Option<NonZeroU32>,
    max_byterate: Option<NonZeroU64>,
    ports: PortRanges,
    bpf: Option<bool>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct ProxySettings {
    notifications: Option<bool>,
    uids: Option<UidRange>,
}

/// One thing that is wrong with the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong, and what would be right.
    pub message: String,
}

/// Why an attachment is refused. A file that cannot be read or parsed refuses every attachment:
/// without it mcrun would allow what the administrator forbids.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The file cannot be read, or somebody else than root could have written it.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file, or its directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not TOML, or has an unknown key or a wrong value.
    #[error("{path}: {message}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What is wrong, and on which line.
        message: String,
    },
    /// The attachment asks for more than the administrator allows.
    #[error("{0}")]
    Forbidden(String),
}

impl AdminConfig {
    /// The file of a directory.
    pub fn path(directory: &Path) -> PathBuf {
        directory.join("mcrun.toml")
    }

    /// Reads `mcrun.toml` of a directory; without one, what harms nobody else is allowed.
    ///
    /// # Errors
    /// When the file is there and cannot be read or understood.
    pub fn read(directory: &Path) -> Result<Self, AdminError> {
        read_file(&Self::path(directory), None)
    }

    /// Everything that is wrong with a file. The owner and the permission bits count where the file
    /// is that of `directory`.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn problems(directory: &Path, path: &Path) -> Result<Vec<Problem>, AdminError> {
        let unreadable = |source| AdminError::Read { path: path.to_owned(), source };
        let text = match path == Self::path(directory) {
            true => text(path)?.ok_or_else(|| unreadable(io::ErrorKind::NotFound.into()))?,
            false => fs::read_to_string(path).map_err(unreadable)?,
        };
        Ok(file::read(&text, None).problems)
    }

    /// Checks the attachments that are added to a container with `present` of them. Returns the
    /// limits of each: its own and the administrator's together.
    ///
    /// # Errors
    /// [`AdminError::Forbidden`], naming the first key that is not allowed and what is allowed.
    pub fn check_all(
        &self,
        added: &[Attachment],
        present: usize,
    ) -> Result<Vec<EffectiveLimits>, AdminError> {
        let (asked, most) = (present + added.len(), self.max_attachments());
        if asked > most {
            return Err(AdminError::Forbidden(format!(
                "{asked} attachments: the administrator allows a container {most} (mcrun.toml)"
            )));
        }
        added.iter().map(|attachment| self.check(attachment)).collect()
    }

    /// Checks one attachment against the administrator's rules. Returns its limits.
    ///
    /// # Errors
    /// As [`AdminConfig::check_all`].
    fn check(&self, attachment: &Attachment) -> Result<EffectiveLimits, AdminError> {
        let (limits, refusals) = self.restrict(attachment);
        match refusals.into_iter().next() {
            Some(refusal) => Err(AdminError::Forbidden(refusal)),
            None => Ok(limits),
        }
    }

    /// The limits of an attachment as far as they go, and why it would be refused today. Where
    /// nothing is left of the groups that it allows itself, all groups are denied.
    pub fn restrict(&self, attachment: &Attachment) -> (EffectiveLimits, Vec<String>) {
        let mut refusals: Vec<_> =
            LIMITS.iter().flat_map(|limit| limit.refusals(attachment, self)).collect();
        let own = &attachment.policy;
        let policy = self.groups.restrict(own).unwrap_or_else(|| {
            let first = own.allow.first().map(ToString::to_string).unwrap_or_default();
            refusals.push(format!(
                "allow={first}: the administrator allows {} (mcrun.toml)",
                self.groups.allowed()
            ));
            self.groups.nothing(own)
        });
        let ceiling = RateLimits {
            packets: self.relay.max_pps.map(NonZeroU32::get),
            bytes: self.relay.max_byterate.map(NonZeroU64::get),
        };
        let relayed = attachment.driver.is_relayed();
        let limits = EffectiveLimits {
            policy,
            rates: if relayed { attachment.rates.at_most(ceiling) } else { RateLimits::default() },
            host_ports: if relayed { self.relay.ports.clone() } else { PortRanges::default() },
            kernel_relay: attachment.driver.is_relay() && self.relay.bpf != Some(false),
        };
        (limits, refusals)
    }

    /// The network of attachments that name neither a network nor a parent.
    pub fn default_network(&self) -> Option<&NetworkName> {
        self.default_network.as_ref()
    }

    /// Whether a container may ask for attachments by its environment, which an image may set too.
    /// The default is no.
    pub fn environment(&self) -> bool {
        self.environment.unwrap_or(false)
    }

    /// The number of attachments that one container may have.
    fn max_attachments(&self) -> usize {
        self.max_attachments.unwrap_or(MAX_ATTACHMENTS)
    }

    /// Whether proxies act on the kernel's notification of a join (Linux 6.14) instead of waiting
    /// for the report that follows it. The default is yes.
    pub fn notifications(&self) -> bool {
        self.proxy.notifications.unwrap_or(true)
    }

    /// Whether proxies count what arrives, where the kernel has BPF. The default is yes.
    pub fn count(&self) -> bool {
        self.count.unwrap_or(true)
    }

    /// Whether the keeper keeps from the host's sockets what only containers have joined. The
    /// default is yes.
    pub fn fence(&self) -> bool {
        self.fence.unwrap_or(true)
    }

    /// The user ids from which proxies get theirs.
    pub fn proxy_uids(&self) -> UidRange {
        self.proxy.uids.unwrap_or_default()
    }
}

impl RuntimeConfig {
    /// Reads the section `[runtime]` of `mcrun.toml` alone: a mistake elsewhere in the file must
    /// not keep containers that run from being stopped.
    ///
    /// # Errors
    /// When the file is there and is not TOML, or the section has another shape.
    pub fn read(directory: &Path) -> Result<Self, AdminError> {
        Ok(read_file(&AdminConfig::path(directory), Some("runtime"))?.runtime)
    }
}

/// Reads a file; of all sections, or of one alone.
fn read_file(path: &Path, only: Option<&str>) -> Result<AdminConfig, AdminError> {
    match text(path)? {
        Some(text) => parse(&text, only)
            .map_err(|message| AdminError::Syntax { path: path.to_owned(), message }),
        None => Ok(AdminConfig::default()),
    }
}

/// The text of the file in force; `None`: there is no file. Who can write the file, or can put another
/// one in its place, decides what others may ask for.
fn text(path: &Path) -> Result<Option<String>, AdminError> {
    let refuse = |path: &Path| {
        let path = path.to_owned();
        |source| AdminError::Read { path, source }
    };
    let is_none = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    let directory = path.parent().unwrap_or(path);
    match trusted::check_directory(directory) {
        Err(error) if is_none(&error) => return Ok(None),
        checked => checked.map_err(refuse(directory))?,
    }
    match trusted::read_file(path, MAX_FILE) {
        Err(error) if is_none(&error) => Ok(None),
        read => read.map(Some).map_err(refuse(path)),
    }
}

fn parse(text: &str, only: Option<&str>) -> Result<AdminConfig, String> {
    let read = file::read(text, only);
    match read.problems.into_iter().next() {
        Some(problem) => Err(format!("line {}: {}", problem.line, problem.message)),
        None => Ok(read.config),
    }
}

#[cfg(test)]
mod tests;

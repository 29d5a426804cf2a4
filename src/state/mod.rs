//! Where things are kept: the state directory and the record of each attached container.
//!
//! ```text
//! /run/mcrun (MCRUN_STATE_DIR)    root only
//!   containers/ID/record.json     what was attached
//!   containers/ID/control.sock    the proxy's control socket
//!   containers/ID/proxy.log       the proxy's log where there is no syslog
//!   addresses/PARENT@ADDRESS      whose address it is
//!   pools/NETWORK/leases.json     who had which address of a network's pool last
//!   docker/endpoints/ID.json      places of docker's containers on mcrun's networks
//!   shims/PARENT.json             the host's own leg on a parent
//!   dhcp/ID/INTERFACE.json        the lease of an interface's address
//!   bundles/ID/                   containers that `mcrun run --rootfs` started
//!   refusals.jsonl                the last attachments that a hook has refused
//!   proxy-users                   locks of the user ids of proxies
//! ```
//!
//! A proxy removes its container's directory when the container has ended and nobody else
//! does, though it runs without privileges then: `containers/ID` belongs to the proxy's user,
//! and in `containers` everybody may remove what is theirs (sticky). Only who was given a
//! descriptor while it was root gets past the state directory itself, and the proxy's sandbox
//! forbids it everything except the removal.

mod claims;
mod dhcp_dirs;
mod dhcp_leases;
mod leases;
mod lifetime;
mod lock;
mod proxy_user;
mod record;
mod refusals;
mod root;
mod shims;
mod store;
mod watch;

use std::path::PathBuf;

pub use crate::state::claims::Claimed;
pub use crate::state::dhcp_leases::{DhcpLease, DhcpLeaseFile, seconds_since_1970};
pub use crate::state::leases::{Lease, Leases, LockedLeases};
pub use crate::state::lifetime::Lifetime;
pub(crate) use crate::state::proxy_user::hold as hold_proxy_user;
pub use crate::state::proxy_user::{ProxyUserError, ReservedUser};
pub use crate::state::record::{
    Attached, AttachedInterface, AttachmentRecord, HostLinkUse, Planned, PlannedInterface,
    RecordedContainer, ReplacedProxy, boot_id,
};
pub use crate::state::refusals::Refusal;
pub use crate::state::shims::{LockedShims, Shim};
pub use crate::state::store::{LockedDir, StateDirError, Store};
pub(crate) use crate::state::watch::{Change, StateWatch};

/// The state directory: `MCRUN_STATE_DIR`, else `/run/mcrun`.
pub fn state_dir() -> PathBuf {
    directory("MCRUN_STATE_DIR", "/run/mcrun")
}

/// The administrator's directory: `MCRUN_CONFIG_DIR`, else `/etc/mcrun`.
pub fn config_dir() -> PathBuf {
    directory("MCRUN_CONFIG_DIR", "/etc/mcrun")
}

/// Where the history of events is: `MCRUN_LOG_DIR`, else `/var/log/mcrun`.
pub fn log_dir() -> PathBuf {
    directory("MCRUN_LOG_DIR", "/var/log/mcrun")
}

/// Where networks of docker's are kept: `MCRUN_LIB_DIR`, else `/var/lib/mcrun`.
pub fn lib_dir() -> PathBuf {
    directory("MCRUN_LIB_DIR", "/var/lib/mcrun")
}

fn directory(variable: &str, default: &str) -> PathBuf {
    match std::env::var_os(variable) {
        Some(value) if !value.is_empty() => value.into(),
        _ => default.into(),
    }
}

//! Where things are kept: the state directory and the record of each attached container.
//!
//! ```text
//! /run/mcrun (MCRUN_STATE_DIR)    root only
//!   containers/ID/record.json     what was attached
//!   containers/ID/control.sock    the proxy's control socket
//!   containers/ID/proxy.log       the proxy's log where there is no syslog
//!   bundles/ID/                   containers that `mcrun run --rootfs` started
//! ```
//!
//! A proxy removes its container's directory when the container has ended and nobody else
//! does, though it runs without privileges then: `containers/ID` belongs to the proxy's user,
//! and `containers` lets its group remove what is theirs (sticky). Only who was given a descriptor
//! while it was root gets past the state directory itself, and the proxy's sandbox forbids it
//! everything but the removal.

mod lifetime;
mod record;
mod store;

use std::path::PathBuf;

pub use crate::state::lifetime::Lifetime;
pub use crate::state::record::{
    Attached, AttachedInterface, AttachmentRecord, HostLinkUse, Planned, PlannedInterface,
    RecordedContainer,
};
pub use crate::state::store::{LockedDir, StateDirError, Store};

/// User and group of a proxy once it has dropped its privileges: the kernel's overflow id,
/// which owns nothing.
pub const PROXY_ID: u32 = 65534;

/// The state directory: `MCRUN_STATE_DIR`, else `/run/mcrun`.
pub fn state_dir() -> PathBuf {
    directory("MCRUN_STATE_DIR", "/run/mcrun")
}

/// The administrator's directory: `MCRUN_CONFIG_DIR`, else `/etc/mcrun`.
pub fn config_dir() -> PathBuf {
    directory("MCRUN_CONFIG_DIR", "/etc/mcrun")
}

fn directory(variable: &str, default: &str) -> PathBuf {
    match std::env::var_os(variable) {
        Some(value) if !value.is_empty() => value.into(),
        _ => default.into(),
    }
}

//! Where things are kept: the state directory and the record of each attached container.
//!
//! ```text
//! /run/mcrun (MCRUN_STATE_DIR)    root only
//!   containers/ID/record.json     what was attached (this module)
//!   containers/ID/control.sock    the proxy's control socket
//!   containers/ID/proxy.log       the proxy's log where there is no syslog
//!   bundles/ID/                   containers that `mcrun run --rootfs` started
//! ```

use std::path::PathBuf;

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

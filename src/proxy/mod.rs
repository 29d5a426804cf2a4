//! The per-container IGMP proxy process.

mod config;
mod status;

pub use config::{ProxyConfig, ProxyInterface};
pub use status::{GroupEntry, GroupStatus, InterfaceEntry, LanQuerier, ProxyState, ProxyStatus};

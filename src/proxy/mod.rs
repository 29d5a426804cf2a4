//! The per-container IGMP proxy process.

mod client;
mod config;
mod spawn;
mod status;

pub use client::query_all;
pub use config::{ProxyConfig, ProxyInterface};
pub use spawn::{SpawnError, SpawnedProxy, spawn};
pub use status::{GroupEntry, GroupStatus, InterfaceEntry, LanQuerier, ProxyState, ProxyStatus};

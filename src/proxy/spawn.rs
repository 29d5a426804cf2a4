//! Starting a proxy.

use super::ProxyConfig;

/// A proxy that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpawnedProxy {
    /// Its process id.
    pub pid: i32,
    /// Its start time in clock ticks since boot.
    pub start: u64,
}

/// Why a proxy did not start.
#[derive(Debug, thiserror::Error)]
#[error("cannot start the proxy: {0}")]
pub struct SpawnError(String);

/// Starts a proxy and waits until it is ready.
///
/// # Errors
/// With its own words.
pub fn spawn(_config: &ProxyConfig) -> Result<SpawnedProxy, SpawnError> {
    Err(SpawnError("not there yet; igmp=off works".into()))
}

//! The control protocol: its values, the proxy's server, everybody's client, and how a proxy is launched.

pub(crate) mod client;
pub(crate) mod launch;
pub(crate) mod server;
pub(crate) mod status;

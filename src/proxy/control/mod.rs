//! The control protocol: its values, the proxy's server, the client for all other programs, and
//! the launch of a proxy.

pub(crate) mod changes;
pub(crate) mod client;
pub(crate) mod event;
pub(crate) mod group;
pub(crate) mod hold;
pub(crate) mod launch;
pub(crate) mod protocol;
mod send_queue;
pub(crate) mod server;
pub(crate) mod status;

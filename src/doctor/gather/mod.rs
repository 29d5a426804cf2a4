//! Finds facts out. Nothing on the host is changed, and every wait has a limit.

mod engines;
mod host;
mod inside;
mod kernel;
mod parent;
mod stream;
mod wire;

pub(crate) use crate::doctor::gather::host::{host, is_stale};
pub(crate) use crate::doctor::gather::parent::{ParentUse, joined, parents};
pub(crate) use crate::doctor::gather::stream::{
    ContainerUse, HostCounters, InterfaceUse, inside, streams,
};

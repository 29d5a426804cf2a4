//! Finds facts out. Nothing on the host is changed, and every wait has a limit.

mod engines;
mod host;
mod inside;
mod kernel;
mod parent;
mod stream;
mod test_stream;
mod wire;

pub(crate) use crate::doctor::gather::host::{host, is_stale};
pub(crate) use crate::doctor::gather::parent::{ParentUse, joined, parents};
pub(crate) use crate::doctor::gather::stream::{
    ContainerUse, HostCounters, InterfaceUse, inside, streams,
};
pub(crate) use crate::doctor::gather::test_stream::test_stream;

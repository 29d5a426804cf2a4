//! Finds facts out. Nothing on the host is changed, and every wait has a limit.

mod engines;
mod host;
mod kernel;
mod parent;
mod wire;

pub(crate) use crate::doctor::gather::host::{host, is_stale};
pub(crate) use crate::doctor::gather::parent::{ParentUse, parents};

//! The container's side: interception of its IGMP, injection of queries, and what its kernel tells.

pub(crate) mod interception;
pub(crate) mod macvlan_filter;
pub(crate) mod mark;
pub(crate) mod proc_net;
pub(crate) mod rtnl_barrier;
pub(crate) mod rules;

//! The container's side: interception of its IGMP, injection of queries, the nf_tables rules, and
//! what its kernel shows in /proc.

pub(crate) mod end_watch;
pub(crate) mod injection;
pub(crate) mod interception;
pub(crate) mod membership_files;
pub(crate) mod receive_filter;
pub(crate) mod rtnl_barrier;
pub(crate) mod rules;
pub(crate) mod stream_counter;
pub(crate) mod unserved;
pub(crate) mod xdp_guard;

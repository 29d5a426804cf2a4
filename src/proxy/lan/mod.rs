//! The LAN's side: joins, early reports and queries.

pub(crate) mod early_report;
pub(crate) mod family;
pub(crate) mod hearing;
pub(crate) mod host_groups;
mod host_version;
pub(crate) mod input_probe;
pub(crate) mod joins;
pub(crate) mod mld_probe;
pub(crate) mod mld_query_socket;
pub(crate) mod query_socket;
pub(crate) mod query_tap;
pub(crate) mod report_socket;
#[cfg(test)]
mod veth;

//! The rules of interfaces that no proxy serves (`igmp=off`).

use std::io;

use crate::multicast::GroupPolicy;
use crate::primitives::MacAddr;
use crate::proxy::config::EgressTask;
use crate::proxy::container::rules::{Egress, RuledInterface, install_unowned};

/// An interface of a container that no proxy serves.
#[derive(Debug)]
pub struct Unserved<'a> {
    /// Name in the container.
    pub name: &'a str,
    /// Index in the container.
    pub index: u32,
    /// Its MAC address.
    pub mac: MacAddr,
    /// What it may send.
    pub egress: EgressTask,
}

/// Limits what interfaces in the caller's network namespace send. What an earlier call has made for
/// others stays in force.
///
/// # Errors
/// Those of nf_tables; then nothing is limited. `EEXIST` when one of the interfaces is limited
/// already, `EOPNOTSUPP` before Linux 5.16.
pub fn limit_unserved(interfaces: &[Unserved<'_>]) -> io::Result<()> {
    let ruled: Vec<_> = interfaces
        .iter()
        .map(|Unserved { name, index, mac, egress }| RuledInterface {
            name,
            index: *index,
            intercepted: false,
            mld: false,
            hears_queries: false,
            data_filter: GroupPolicy::default().data_filter(),
            data_filter_v6: GroupPolicy::default().data_filter(),
            relayed: None,
            relayed_v6: Vec::new(),
            relayed_by_kernel: false,
            egress: Some(Egress::new(*mac, egress)),
        })
        .collect();
    install_unowned(&ruled)
}

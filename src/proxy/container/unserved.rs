//! The rules of interfaces that no proxy serves (`igmp=off`).

use std::io;

use crate::multicast::GroupPolicy;
use crate::primitives::MacAddr;
use crate::proxy::config::EgressTask;
use crate::proxy::container::rules::{Egress, RuledInterface, install_unowned};

/// Limits what interfaces in the caller's network namespace send: each with its name, its index and
/// its MAC address. What an earlier call has made stays in force.
///
/// # Errors
/// Those of nf_tables, such as `EOPNOTSUPP` before Linux 5.16; then nothing is limited.
pub fn limit_unserved(interfaces: &[(&str, u32, MacAddr, EgressTask)]) -> io::Result<()> {
    let ruled: Vec<_> = interfaces
        .iter()
        .map(|(name, index, mac, task)| RuledInterface {
            name,
            index: *index,
            intercepted: false,
            data_filter: GroupPolicy::default().data_filter(),
            relayed: None,
            egress: Some(Egress::new(*mac, task)),
        })
        .collect();
    install_unowned(&ruled)
}

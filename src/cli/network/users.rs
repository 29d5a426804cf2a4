//! The containers that are on networks.

use ipnet::IpNet;
use serde::Serialize;

use crate::attachment::NetworkName;
use crate::oci::ContainerId;
use crate::state::{AttachmentRecord, StateDirError, Store};

/// One interface of a running container.
#[derive(Debug, Serialize)]
pub(super) struct User {
    #[serde(skip)]
    pub(super) network: NetworkName,
    pub(super) container: ContainerId,
    pub(super) name: String,
    pub(super) interface: String,
    pub(super) addresses: Vec<IpNet>,
}

/// All of them. A record that cannot be read is told of by `mcrun ps`.
pub(super) fn all(store: &Store) -> Result<Vec<User>, StateDirError> {
    let mut users = Vec::new();
    for id in store.list()? {
        let Ok(Some(AttachmentRecord::Attached(attached))) = store.read(&id) else { continue };
        if !attached.container.is_alive() {
            continue;
        }
        for interface in &attached.interfaces {
            let Some(network) = &interface.attachment.network else { continue };
            users.push(User {
                network: network.name.clone(),
                container: id.clone(),
                name: attached.container.name.clone(),
                interface: interface.name.clone(),
                addresses: interface.attachment.ip.addresses().to_vec(),
            });
        }
    }
    Ok(users)
}

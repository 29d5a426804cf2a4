//! What is kept of endpoints that nobody has any more.

use std::time::Duration;

use crate::docker_network::driver::interface_names;
use crate::docker_network::kept::{Kept, KeptEndpoint};
use crate::docker_network::protocol::DockerId;
use crate::docker_network::sandboxes::is_mounted;
use crate::state::{AttachmentRecord, Store};

/// An endpoint without an interface is garbage after this time: docker connects a container at once.
const ENDPOINT_PATIENCE: Duration = Duration::from_secs(60);

/// Forgets the endpoints below a state directory of containers that have ended, and those that docker
/// has not connected. Returns what could not be forgotten.
pub fn collect_garbage(store: &Store) -> Vec<String> {
    let endpoints = Kept::endpoints(store.root());
    let is_used = |id: &DockerId, endpoint: &KeptEndpoint| match &endpoint.interface {
        Some(interface) if interface.made => {
            let record = store.read(&interface.container).ok().flatten();
            let record = record.filter(|record| record.container().is_alive());
            let attached = record.as_ref().and_then(AttachmentRecord::attached);
            interface_names(attached).any(|name| name == interface.name.as_str())
        }
        _ => {
            endpoint.sandbox.as_ref().is_some_and(|sandbox| is_mounted(sandbox))
                || endpoints.age(id) < ENDPOINT_PATIENCE
        }
    };
    let mut failures = Vec::new();
    for id in endpoints.list() {
        // One that cannot be understood is of no use to anybody.
        let kept = endpoints.read::<KeptEndpoint>(&id).ok().flatten();
        if kept.is_none_or(|endpoint| !is_used(&id, &endpoint)) {
            failures.extend(endpoints.remove(&id).err().map(|error| error.to_string()));
        }
    }
    failures
}

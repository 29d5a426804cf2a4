//! What each subcommand does.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::attachment::{Attachment, IpAssignment, Networks};
use crate::net::netns::NetNs;
use crate::netavark::protocol::{Call, Network, status};
use crate::netavark::{NetavarkError, options};
use crate::service;
use crate::service::{AttachError, AttachRequest, attach_more};
use crate::state::{AttachmentRecord, Store, config_dir};

/// Checks a network that podman is about to make. Returns the network as podman is to keep it.
pub(super) fn create(input: &[u8], store: &Store) -> Result<Value, NetavarkError> {
    let bad = |error: serde_json::Error| NetavarkError::Input(format!("the network: {error}"));
    let mut kept: Value = serde_json::from_slice(input).map_err(bad)?;
    if !kept.is_object() {
        return Err(NetavarkError::Input("the network is not a JSON object".into()));
    }
    let network = serde_json::from_value::<Network>(kept.clone()).map_err(bad)?;
    let given = network.ipam_options.get("driver").map_or("", String::as_str);
    if !["", "host-local", "none"].contains(&given) {
        return Err(NetavarkError::Input(format!(
            "--ipam-driver {given}: it is host-local or none; a DHCP server gives addresses with -o ip=dhcp"
        )));
    }
    let attachment = options::attachment(&network, None, &Networks::of(config_dir()))?;
    // An address that a container has concerns the next container, and not the network.
    let without = Attachment { ip: IpAssignment::None, pool: None, ..attachment };
    service::check(&without, store)?;
    let by_podman = given != "none" && !network.subnets.is_empty();
    kept["ipam_options"] = json!({"driver": if by_podman { "host-local" } else { "none" }});
    // podman's DNS server listens on a bridge of the host, which there is none of.
    kept["dns_enabled"] = json!(false);
    Ok(kept)
}

/// Attaches a container. Returns what was made.
pub(super) fn setup(call: &Call, netns: PathBuf, store: &Store) -> Result<Value, NetavarkError> {
    let unreadable = |error| NetavarkError::Input(format!("{}: {error}", netns.display()));
    NetNs::open(&netns).map_err(unreadable)?;
    let networks = Networks::of(config_dir());
    let mut attachment =
        options::attachment(&call.network, Some(&call.network_options), &networks)?;
    attachment.engine_network = true;
    let (id, name) = (&call.container_id, call.network_options.interface_name.as_str());
    let called = match call.container_name.as_str() {
        "" => id.to_string(),
        // The name is shown on terminals.
        name => name.chars().filter(|c| !c.is_control()).take(255).collect(),
    };
    let request = AttachRequest::of_namespace(id.clone(), called, netns, vec![attachment])?;
    attach_more(request, store)?;
    let record = store.read(id)?.and_then(AttachmentRecord::into_attached);
    let interfaces = record.map(|attached| attached.interfaces).unwrap_or_default();
    let made = interfaces.into_iter().find(|interface| interface.name == name);
    let made = made.ok_or_else(|| {
        NetavarkError::Input(format!("the record of container {id} has no {name}"))
    })?;
    let servers = match call.network.network_dns_servers.as_slice() {
        [] => networks.name_servers(&made.attachment),
        given => given.to_vec(),
    };
    Ok(status(&made, &servers))
}

/// Detaches a container. That there is nothing is as wanted: podman cleans up more than once.
pub(super) fn teardown(call: &Call, store: &Store) -> Result<(), NetavarkError> {
    let (id, name) = (&call.container_id, call.network_options.interface_name.as_str());
    match store.read(id)? {
        None => Ok(()),
        Some(AttachmentRecord::Attached(attached))
            if attached.container.is_alive() && !attached.interfaces.is_empty() =>
        {
            match service::detach(id, Some(name), store) {
                Err(AttachError::NotAttached(_) | AttachError::NoInterface { .. }) => Ok(()),
                other => Ok(other.map(drop)?),
            }
        }
        // The container has ended, or the program that attached or detached it was killed.
        Some(_) => Ok(service::remove_stopped(id, None, store)?),
    }
}

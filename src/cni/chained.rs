//! The attachment of an interface that another plugin has made.

use std::path::Path;

use crate::attachment::{Attachment, Driver, IpAssignment, Networks, parse_all};
use crate::cni::config::NetworkConfig;
use crate::cni::error::CniError;
use crate::cni::keys;
use crate::link::existing;
use crate::net::netns::NetNs;
use crate::primitives::InterfaceName;

/// What serves an interface: a proxy, if it is a child of an interface of the host; a relay from the
/// parent that the configuration names, if it is one end of a pair, or hardware that was moved into the
/// container, such as a virtual function of SR-IOV.
pub(super) fn attachment(
    config: &NetworkConfig,
    namespace: &Path,
    name: &InterfaceName,
    networks: &Networks,
) -> Result<Attachment, CniError> {
    let netns = NetNs::open(namespace).map_err(|error| {
        CniError::container(format!("CNI_NETNS={}: {error}", namespace.display()))
    })?;
    let there = existing::find(&netns, name.as_str())?.ok_or_else(|| {
        CniError::config(format!(
            "the plugins before mcrun-cni have made no interface {name}, and it adds to theirs; as the \
             first plugin of a network it makes one"
        ))
    })?;
    match (&there.child_of, there.kind.as_deref()) {
        (Some((parent, driver)), _) => {
            let mut attachment = one(&child(config, name, parent, driver)?, networks)?;
            attachment.adopted = true;
            if !there.addresses.is_empty() {
                attachment.ip = IpAssignment::Static(there.addresses);
            }
            Ok(attachment)
        }
        (None, Some("veth") | None) => relay(config, name, networks),
        (None, Some(kind)) => Err(CniError::config(format!(
            "{name} is of kind {kind}: what can be served are interfaces of the plugins macvlan, ipvlan, \
             ptp, bridge, host-device and sriov, and the parent of a macvlan or ipvlan link is on this host"
        ))),
    }
}

/// The text of the attachment of a child link: whose it is, and what the configuration says of the
/// proxy.
fn child(
    config: &NetworkConfig,
    name: &InterfaceName,
    parent: &InterfaceName,
    driver: &Driver,
) -> Result<String, CniError> {
    keys::refuse_keys_of_links(&config.keys)?;
    let mut pairs = keys::pairs(&config.keys)?;
    pairs.push(format!("parent={parent},name={name}"));
    pairs.push(format!("driver={},mode={}", driver.name(), driver.mode()));
    if let Driver::Ipvlan { flag, .. } = driver {
        pairs.push(format!("flag={}", flag.name()));
    }
    Ok(pairs.join(","))
}

fn relay(
    config: &NetworkConfig,
    name: &InterfaceName,
    networks: &Networks,
) -> Result<Attachment, CniError> {
    let mut pairs = keys::pairs(&config.keys)?;
    if !config.keys.contains_key("driver") {
        pairs.push("driver=relay".into());
    }
    pairs.push(format!("interface={name}"));
    one(&pairs.join(","), networks)
}

/// The one attachment of a text.
pub(super) fn one(text: &str, networks: &Networks) -> Result<Attachment, CniError> {
    let mut attachments = parse_all([text], networks)?;
    match (attachments.pop(), attachments.is_empty()) {
        (Some(attachment), true) => Ok(attachment),
        _ => Err(CniError::config("parent is missing: name the LAN interface of the host")),
    }
}

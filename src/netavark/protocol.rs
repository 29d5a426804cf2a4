//! What netavark's plugin interface says, as far as it concerns an attachment. Members that are not
//! named here are passed over.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use crate::netavark::NetavarkError;
use crate::oci::ContainerId;
use crate::primitives::{InterfaceName, MacAddr};
use crate::state::AttachedInterface;

/// A network as podman keeps it.
#[derive(Debug, Default, Deserialize)]
#[serde(expecting = "a network as podman keeps it")]
pub(super) struct Network {
    /// The LAN interface, where the options do not name it: `podman network create --interface-name`.
    #[serde(default, deserialize_with = "or_default")]
    pub(super) network_interface: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) subnets: Vec<Subnet>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) options: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) ipam_options: BTreeMap<String, String>,
    /// Of `podman network create --dns`.
    #[serde(default, deserialize_with = "or_default")]
    pub(super) network_dns_servers: Vec<IpAddr>,
    /// Static routes of the network.
    #[serde(default, deserialize_with = "or_default")]
    pub(super) routes: Vec<Route>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) internal: bool,
}

/// A subnet of a network.
#[derive(Debug, Deserialize)]
pub(super) struct Subnet {
    pub(super) subnet: IpNet,
    #[serde(default)]
    pub(super) gateway: Option<IpAddr>,
}

/// A route of a network.
#[derive(Debug, Deserialize)]
pub(super) struct Route {
    pub(super) destination: IpNet,
    #[serde(default)]
    pub(super) gateway: Option<IpAddr>,
}

/// One container on one network.
#[derive(Debug, Deserialize)]
#[serde(expecting = "an object with container_id, network and network_options")]
pub(super) struct Call {
    pub(super) container_id: ContainerId,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) container_name: String,
    pub(super) network: Network,
    pub(super) network_options: NetworkOptions,
}

/// What is said of the container's interface.
#[derive(Debug, Deserialize)]
pub(super) struct NetworkOptions {
    pub(super) interface_name: InterfaceName,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) static_ips: Vec<IpAddr>,
    #[serde(default)]
    pub(super) static_mac: Option<MacAddr>,
}

impl Call {
    /// Reads what is on standard input.
    pub(super) fn parse(text: &[u8]) -> Result<Self, NetavarkError> {
        serde_json::from_slice(text)
            .map_err(|e| NetavarkError::Input(format!("the container's options: {e}")))
    }
}

/// The answer to `setup`.
pub(super) fn status(made: &AttachedInterface, servers: &[IpAddr]) -> Value {
    let attachment = &made.attachment;
    let subnets = attachment.ip.addresses().iter().map(|net| {
        let gateway = attachment.gateways.iter().find(|gateway| net.contains(*gateway));
        match gateway {
            Some(gateway) => json!({"ipnet": net.to_string(), "gateway": gateway.to_string()}),
            None => json!({"ipnet": net.to_string()}),
        }
    });
    let subnets: Vec<_> = subnets.collect();
    let mac = made.mac.map(|mac| mac.to_string()).unwrap_or_default();
    json!({
        "dns_search_domains": [],
        "dns_server_ips": servers,
        "interfaces": {&made.name: {"mac_address": mac, "subnets": subnets}},
    })
}

/// podman writes `null` for what is empty.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    value: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(value)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_null_or_not_there_is_empty() {
        let call = Call::parse(
            br#"{"container_id":"c1","container_name":"cam","port_mappings":null,
                 "network":{"name":"n","id":"1","driver":"mcrun","network_interface":"eth1",
                            "options":null,"subnets":null,"network_dns_servers":null},
                 "network_options":{"interface_name":"eth0","static_ips":null,"aliases":null}}"#,
        )
        .unwrap();
        assert_eq!(call.network.network_interface, "eth1");
        assert!(call.network.subnets.is_empty() && call.network_options.static_ips.is_empty());
        for (bad, expected) in [
            ("", "EOF"),
            ("[]", "an object with container_id"),
            (
                r#"{"container_id":"../c","network":{},"network_options":{"interface_name":"e"}}"#,
                "id",
            ),
            (
                r#"{"container_id":"c","network":{},"network_options":{"interface_name":"a/b"}}"#,
                "an interface name is",
            ),
            (r#"{"container_id":"c","network":{}}"#, "network_options"),
        ] {
            let error = Call::parse(bad.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(expected) && !error.contains('\n'), "{bad}: {error}");
        }
    }
}

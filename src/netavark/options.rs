//! From a network of podman's to the attachment of a container on it. The options are the attachment's
//! keys, except those whose values podman has.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::attachment::{Attachment, Driver, Networks, option_pairs, parse_each};
use crate::netavark::NetavarkError;
use crate::netavark::protocol::{Network, NetworkOptions};
use crate::primitives::printable;

/// Characters of an option that are shown.
const MAX_SHOWN: usize = 200;

/// The options that a network cannot have, and what is right.
const OTHERS: [(&str, &str); 4] = [
    ("mac", "a MAC address is one container's: podman run --mac-address"),
    ("name", "podman names the interface: podman run --network NAME:interface_name=red"),
    (
        "interface",
        "it is for driver=relay, and a network of podman's makes an interface of its own",
    ),
    ("optional", "podman promises an interface; leave it out"),
];

/// The attachment of one container; of the network alone, as far as it goes, where `container` is none.
pub(super) fn attachment(
    network: &Network,
    container: Option<&NetworkOptions>,
    networks: &Networks,
) -> Result<Attachment, NetavarkError> {
    let mut pairs = pairs(network, networks)?;
    let has_own_addresses = pairs.iter().any(|pair| pair.starts_with("ip="));
    if has_own_addresses && !network.subnets.is_empty() {
        return Err(input(
            "ip: podman gives addresses of the network's subnet; leave one of the two out, or use \
             --ipam-driver none",
        ));
    }
    let mut addresses = Vec::new();
    for address in container.map(|options| options.static_ips.as_slice()).unwrap_or_default() {
        addresses.push(with_prefix(*address, network)?);
    }
    pairs.extend(addresses.iter().map(|net| format!("ip={net}")));
    // Without an address nothing leads to a gateway.
    let reachable = |gateway: &IpAddr| addresses.iter().any(|net| net.contains(gateway));
    if !network.internal {
        let gateways = network.subnets.iter().filter_map(|subnet| subnet.gateway);
        pairs.extend(gateways.filter(reachable).map(|gateway| format!("gw={gateway}")));
    }
    for route in &network.routes {
        let destination = route.destination.trunc();
        match route.gateway {
            Some(gateway) if reachable(&gateway) => {
                pairs.push(format!("route={destination}@{gateway}"));
            }
            Some(_) if container.is_none() => {}
            Some(gateway) => {
                return Err(input(format!(
                    "the route to {destination}: no address of the container is in the network of \
                     its gateway {gateway}"
                )));
            }
            None => pairs.push(format!("route={destination}")),
        }
    }
    if let Some(options) = container {
        pairs.push(format!("name={}", options.interface_name));
        pairs.extend(options.static_mac.map(|mac| format!("mac={mac}")));
    }
    let mut attachments = parse_each([pairs.join(",").as_str()], networks)?;
    match (attachments.pop(), attachments.as_slice()) {
        (Some(attachment), []) if matches!(attachment.driver, Driver::Relay { .. }) => Err(input(
            "driver=relay: a network of podman's makes an interface, and relay makes none; the drivers \
             are macvlan and ipvlan",
        )),
        (Some(attachment), []) => Ok(attachment),
        _ => Err(input("the options of a network make one attachment")),
    }
}

/// The options as `KEY=VALUE`, one for each value.
fn pairs(network: &Network, networks: &Networks) -> Result<Vec<String>, NetavarkError> {
    let mut pairs = Vec::new();
    let names_parent = ["parent", "net"].iter().any(|key| network.options.contains_key(*key));
    if !network.network_interface.is_empty() && !names_parent {
        pairs.push(format!("parent={}", network.network_interface));
    }
    if pairs.is_empty() && !names_parent {
        match networks.default_name() {
            Ok(Some(name)) => pairs.push(format!("net={name}")),
            _ => {
                return Err(input(
                    "parent is missing: name the LAN interface of the host, as in podman network \
                     create -d mcrun -o parent=eth0",
                ));
            }
        }
    }
    for (name, value) in &network.options {
        let shown = || printable(&format!("{name}={value}"), MAX_SHOWN);
        let refuse = |why: &str| Err(input(format!("{}: {why}", shown())));
        if let Some((_, why)) = OTHERS.iter().find(|(other, _)| other == name) {
            return refuse(why);
        }
        match option_pairs(name, value) {
            Ok(own) => pairs.extend(own),
            Err(why) => return refuse(why),
        }
    }
    Ok(pairs)
}

/// An address with the prefix length of its subnet.
fn with_prefix(address: IpAddr, network: &Network) -> Result<IpNet, NetavarkError> {
    let subnet = network.subnets.iter().find(|subnet| subnet.subnet.contains(&address));
    let net = subnet.and_then(|subnet| IpNet::new(address, subnet.subnet.prefix_len()).ok());
    net.ok_or_else(|| input(format!("{address}: it is in no subnet of the network")))
}

fn input(why: impl Into<String>) -> NetavarkError {
    NetavarkError::Input(why.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(network: &str, container: Option<&str>) -> Result<Attachment, String> {
        let network: Network = serde_json::from_str(network).unwrap();
        let options: Option<NetworkOptions> =
            container.map(|text| serde_json::from_str(text).unwrap());
        attachment(&network, options.as_ref(), &Networks::of("/nonexistent"))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn options_and_addresses_become_an_attachment() {
        let attachment = of(
            r#"{"options":{"parent":"eth1","allow":"239.1.0.0/16 239.2.0.0/16","vlan":"10"},
                "subnets":[{"subnet":"10.1.0.0/16","gateway":"10.1.0.1"},{"subnet":"fd00::/64"}]}"#,
            Some(
                r#"{"interface_name":"eth0","static_ips":["10.1.0.9","fd00::9"],
                    "static_mac":"02:00:00:00:00:09"}"#,
            ),
        )
        .unwrap();
        let ips: Vec<_> = attachment.ip.addresses().iter().map(ToString::to_string).collect();
        assert_eq!(ips, ["10.1.0.9/16", "fd00::9/64"]);
        assert_eq!(attachment.gateways, ["10.1.0.1".parse::<IpAddr>().unwrap()]);
        assert_eq!(attachment.parent_link().as_str(), "eth1.10");
        assert_eq!(attachment.name.unwrap().as_str(), "eth0");
        let by_interface = of(r#"{"network_interface":"eth2"}"#, None).unwrap();
        assert_eq!(by_interface.parent.as_str(), "eth2");
    }

    #[test]
    fn what_is_refused_is_named() {
        let eth0 = r#"{"interface_name":"eth0","static_ips":["10.9.0.9"]}"#;
        for (network, container, expected) in [
            ("{}", None, "parent is missing"),
            (
                r#"{"options":{"parent":"eth1","mac":"02:00:00:00:00:09"}}"#,
                None,
                "podman run --mac",
            ),
            (r#"{"options":{"parent":"eth1","driver":"relay"}}"#, None, "relay"),
            (
                r#"{"options":{"parnt":"eth1"},"network_interface":"e"}"#,
                None,
                "did you mean parent?",
            ),
            (r#"{"options":{"parent":"eth1,vlan=7"}}"#, None, "it has one value"),
            (r#"{"options":{"parent":"eth1"}}"#, Some(eth0), "10.9.0.9: it is in no subnet"),
            (
                r#"{"options":{"parent":"eth1","ip":"pool"},"subnets":[{"subnet":"10.9.0.0/24"}]}"#,
                None,
                "leave one of the two out",
            ),
        ] {
            let error = of(network, container).unwrap_err();
            assert!(error.contains(expected), "{network}: {error}");
        }
    }
}

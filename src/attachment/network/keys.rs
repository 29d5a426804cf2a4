//! The table of keys of a network's file that are no attachment keys.

use ipnet::IpNet;

use crate::attachment::network::{AddressRange, Network};
use crate::attachment::values::gateway;

/// One key.
pub(super) struct NetworkKey {
    /// Its name.
    pub(super) name: &'static str,
    /// Whether its value may be a list.
    pub(super) repeatable: bool,
    /// Reads one value.
    pub(super) read: fn(&mut Network, &str) -> Result<(), String>,
}

/// Keys that this version does not carry out, and refuses.
pub(super) const RESERVED: [&str; 1] = ["dns"];

/// The keys, in the order in which people read about them.
pub(super) const NETWORK_KEYS: [NetworkKey; 5] = [
    NetworkKey {
        name: "description",
        repeatable: false,
        read: |network, text| {
            if text.chars().any(char::is_control) {
                return Err("control characters are not shown to anybody".into());
            }
            network.description = Some(text.to_owned());
            Ok(())
        },
    },
    NetworkKey {
        name: "subnet",
        repeatable: true,
        read: |network, text| {
            let net = subnet(text)?;
            let subnets = &mut network.addressing.subnets;
            if let Some(other) = subnets.iter().find(|n| n.addr().is_ipv4() == net.addr().is_ipv4())
            {
                return Err(format!("{other} is of this address family too; there can be one"));
            }
            subnets.push(net);
            Ok(())
        },
    },
    NetworkKey {
        name: "range",
        repeatable: true,
        read: |network, text| {
            network.addressing.ranges.push(text.parse::<AddressRange>()?);
            Ok(())
        },
    },
    NetworkKey {
        name: "exclude",
        repeatable: true,
        read: |network, text| {
            network.addressing.excluded.push(text.parse::<AddressRange>()?);
            Ok(())
        },
    },
    NetworkKey {
        name: "gateway",
        repeatable: true,
        read: |network, text| {
            let address = gateway(text)?;
            let gateways = &mut network.addressing.gateways;
            if let Some(other) = gateways.iter().find(|g| g.is_ipv4() == address.is_ipv4()) {
                return Err(format!("{other} is of this address family too; there can be one"));
            }
            gateways.push(address);
            Ok(())
        },
    },
];

fn subnet(text: &str) -> Result<IpNet, String> {
    let Ok(net) = text.parse::<IpNet>() else {
        return Err("not a network, as in 192.0.2.0/24".into());
    };
    let address = net.addr();
    if address.is_multicast() || address.is_loopback() || net.prefix_len() == 0 {
        return Err("no host of a LAN has an address of this network".into());
    }
    match net.trunc() {
        whole if whole == net => Ok(net),
        whole => Err(format!("bits are set behind the prefix; did you mean {whole}?")),
    }
}

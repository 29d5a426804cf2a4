//! The table of keys of a network's file that are no attachment keys.

use std::net::IpAddr;

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

/// Most name servers: resolv.conf(5) has no more.
const MAX_NAME_SERVERS: usize = 3;

/// The keys, in the order in which people read about them.
pub(super) const NETWORK_KEYS: [NetworkKey; 6] = [
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
    NetworkKey {
        name: "dns",
        repeatable: true,
        read: |network, text| {
            let server = text.parse::<IpAddr>().ok();
            let is_host = |server: &IpAddr| !server.is_multicast() && !server.is_unspecified();
            let Some(server) = server.filter(is_host) else {
                return Err("not the address of a name server, as in 192.0.2.53".into());
            };
            let servers = &mut network.name_servers;
            if servers.len() == MAX_NAME_SERVERS {
                return Err(format!("there can be {MAX_NAME_SERVERS} name servers"));
            }
            if !servers.contains(&server) {
                servers.push(server);
            }
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

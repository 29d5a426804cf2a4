//! `mcrun shim`.

use std::net::IpAddr;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use ipnet::IpNet;
use serde::Serialize;

use crate::cli::output::{print, print_json, table};
use crate::net::host_routes::read_host_route;
use crate::net::messages::get_routes_through;
use crate::net::netlink::{NetlinkError, RouteSocket};
use crate::primitives::InterfaceName;
use crate::service;
use crate::state::{Shim, Store};

pub(super) const ABOUT: &str = "Give the host a leg of its own on a parent, by which it and the containers \
reach each other.

A macvlan link does not hear its parent: without a shim, the host and the containers on a parent reach each \
other only where the switch sends frames back. A shim is a macvlan link of the host, mcshim-PARENT, with a \
route to each address of a container on the parent. Programs of the host send multicast to containers, and \
receive theirs, by this interface. What the LAN sends they receive by the parent, as before: a shim takes no \
multicast from the LAN, and no IGMP leaves by it.";

/// Exit status of a command line that is wrong.
const WRONG_USAGE: u8 = 2;

/// Arguments of `mcrun shim`.
#[derive(Debug, Args)]
pub struct ShimArgs {
    /// What to do.
    #[command(subcommand)]
    command: ShimCommand,
}

/// The commands of `mcrun shim`.
#[derive(Debug, Subcommand)]
enum ShimCommand {
    /// Make the host's leg on a parent.
    ///
    /// Prints the name of the interface. It stays until it is removed or the machine is booted. What is
    /// there already, with the same addresses, is put in order.
    Add {
        /// The parent, such as eth1, or eth1.10 for containers with vlan=10.
        parent: InterfaceName,
        /// An address of the host's own for it, which nobody else has: one of IPv4, or one of each
        /// family. Without it the host's address on the parent is the source of what it sends.
        #[arg(long, value_name = "ADDRESS", value_parser = address)]
        ip: Vec<IpAddr>,
    },
    /// Remove the host's leg on parents.
    Rm {
        /// The parents.
        #[arg(required = true, value_name = "PARENT")]
        parents: Vec<InterfaceName>,
    },
    /// List the host's legs on parents.
    ///
    /// ROUTES is the number of addresses of containers that lead through it. STATE is up, missing
    /// while the parent is not there, or unfinished: mcrun gc removes that one.
    Ls {
        /// Print an array of objects instead of a table.
        #[arg(long)]
        json: bool,
    },
}

/// A shim as it is shown.
#[derive(Debug, Serialize)]
struct Shown {
    parent: String,
    interface: String,
    addresses: Vec<IpAddr>,
    routes: Vec<IpAddr>,
    state: &'static str,
}

/// An address, also with the prefix length of a single one.
fn address(text: &str) -> Result<IpAddr, String> {
    let wrong = || "not an address, as in 192.0.2.7 or 2001:db8::7".to_owned();
    let parsed = match text.contains('/') {
        false => text.parse(),
        true => {
            let net: IpNet = text.parse().map_err(|_| wrong())?;
            if net.prefix_len() != net.max_prefix_len() {
                return Err(format!(
                    "give the address alone, {}: routes through it lead to containers only",
                    net.addr()
                ));
            }
            Ok(net.addr())
        }
    };
    let address: IpAddr = parsed.map_err(|_| wrong())?;
    match address.is_unspecified() || address.is_multicast() || address.is_loopback() {
        true => Err("not an address that a host can have on a LAN".to_owned()),
        false => Ok(address),
    }
}

pub(super) fn run(args: ShimArgs) -> anyhow::Result<ExitCode> {
    let store = Store::from_env();
    match args.command {
        ShimCommand::Add { parent, ip } => {
            for v6 in [false, true] {
                if ip.iter().filter(|address| address.is_ipv6() == v6).count() > 1 {
                    eprintln!("mcrun: --ip: give one address of each family");
                    return Ok(ExitCode::from(WRONG_USAGE));
                }
            }
            let link = service::add_shim(&parent, &ip, &store)?;
            print(&format!("{link}\n"))?;
        }
        ShimCommand::Rm { parents } => {
            let mut status = 0;
            for parent in parents {
                match service::remove_shim(&parent, &store) {
                    Ok(()) => print(&format!("{parent}\n"))?,
                    Err(error) => {
                        eprintln!("mcrun: {error}");
                        status = status.max(super::status(&error.into()));
                    }
                }
            }
            return Ok(status.into());
        }
        ShimCommand::Ls { json } => list(&store, json)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn list(store: &Store, json: bool) -> anyhow::Result<()> {
    let mut host = RouteSocket::open()?;
    let shims = store.shims()?;
    let shown = shims.into_iter().map(|shim| show(shim, &mut host));
    let shown = shown.collect::<Result<Vec<_>, _>>()?;
    if json {
        print_json(&shown)?;
        return Ok(());
    }
    let headings = ["PARENT", "INTERFACE", "ADDRESSES", "ROUTES", "STATE"];
    print(&table(&headings, shown.iter().map(Shown::cells)))?;
    Ok(())
}

impl Shown {
    fn cells(&self) -> Vec<String> {
        let addresses: Vec<_> = self.addresses.iter().map(ToString::to_string).collect();
        let addresses = if addresses.is_empty() { "-".to_owned() } else { addresses.join(" ") };
        let (parent, interface) = (self.parent.clone(), self.interface.clone());
        vec![parent, interface, addresses, self.routes.len().to_string(), self.state.to_owned()]
    }
}

fn show(shim: Shim, host: &mut RouteSocket) -> Result<Shown, NetlinkError> {
    let link = crate::link::facts::link(host, shim.link.as_str())?;
    let mut routes = Vec::new();
    for v6 in [false, true] {
        let Some(link) = &link else { continue };
        let answers = host.filtered_dump(get_routes_through(link.index, v6))?;
        let through = answers.into_iter().filter_map(read_host_route);
        routes.extend(through.filter(|(index, _)| *index == link.index).map(|(_, r)| r.to));
    }
    routes.sort_unstable();
    let state = match (shim.made, &link) {
        (false, _) => "unfinished",
        (true, None) => "missing",
        (true, Some(link)) if !link.up => "down",
        (true, Some(_)) => "up",
    };
    Ok(Shown {
        parent: shim.parent.to_string(),
        interface: shim.link.to_string(),
        addresses: shim.addresses,
        routes,
        state,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_a_shim_is_a_single_one() {
        for right in ["192.0.2.7", "192.0.2.7/32", "2001:db8::7"] {
            assert!(address(right).is_ok(), "{right}");
        }
        for wrong in ["192.0.2.7/24", "224.0.0.1", "0.0.0.0", "127.0.0.1", "eth0", "1.2.3/32", ""] {
            assert!(address(wrong).is_err(), "{wrong}");
        }
    }
}

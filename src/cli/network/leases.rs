//! `mcrun network leases`.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::process::ExitCode;

use serde::Serialize;

use crate::attachment::{NetworkName, Networks};
use crate::cli::network::users;
use crate::cli::network::users::User;
use crate::cli::output::{print, print_json, table};
use crate::oci::ContainerId;
use crate::state::Store;

/// The contract of `mcrun network leases --json`.
#[derive(Serialize)]
struct Row {
    network: NetworkName,
    address: IpAddr,
    /// Whether a running container has the address.
    in_use: bool,
    container: ContainerId,
    name: String,
    interface: String,
}

pub(super) fn list(
    networks: &Networks,
    names: Vec<NetworkName>,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let store = Store::from_env();
    let users = users::all(&store)?;
    let mut status = ExitCode::SUCCESS;
    let mut rows = Vec::new();
    for network in named_or_all(networks, names, &users)? {
        let mut of_it: Vec<Row> = in_use(&network, &users).collect();
        for lease in store.leases(&network)?.all() {
            if of_it.iter().all(|row| row.address != lease.address) {
                of_it.push(Row {
                    network: network.clone(),
                    address: lease.address,
                    in_use: false,
                    container: lease.container.clone(),
                    name: lease.name.clone(),
                    interface: lease.interface.clone(),
                });
            }
        }
        if of_it.is_empty() && !networks.path(&network).exists() {
            eprintln!("mcrun: network {network}: there is no such network");
            status = ExitCode::FAILURE;
        }
        of_it.sort_by_key(|row| row.address);
        rows.extend(of_it);
    }
    if json {
        print_json(&rows)?;
        return Ok(status);
    }
    let headings = ["NETWORK", "ADDRESS", "STATE", "CONTAINER", "INTERFACE"];
    let rows = rows.into_iter().map(|row| {
        let state = if row.in_use { "in use" } else { "free" };
        vec![
            row.network.to_string(),
            row.address.to_string(),
            state.to_owned(),
            row.name,
            row.interface,
        ]
    });
    print(&table(&headings, rows))?;
    Ok(status)
}

/// The networks of these names; of none, all that have a file or containers.
fn named_or_all(
    networks: &Networks,
    names: Vec<NetworkName>,
    users: &[User],
) -> anyhow::Result<Vec<NetworkName>> {
    if !names.is_empty() {
        return Ok(names);
    }
    let with_file = networks.names()?.into_iter();
    let all: BTreeSet<_> = with_file.chain(users.iter().map(|user| user.network.clone())).collect();
    Ok(all.into_iter().collect())
}

/// The addresses that running containers have on a network.
fn in_use(network: &NetworkName, users: &[User]) -> impl Iterator<Item = Row> {
    users.iter().filter(move |user| user.network == *network).flat_map(|user| {
        user.addresses.iter().map(|net| Row {
            network: user.network.clone(),
            address: net.addr(),
            in_use: true,
            container: user.container.clone(),
            name: user.name.clone(),
            interface: user.interface.clone(),
        })
    })
}

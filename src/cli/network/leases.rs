//! `mcrun network leases`.

use std::net::IpAddr;
use std::process::ExitCode;

use serde::Serialize;

use crate::attachment::{NetworkName, Networks};
use crate::cli::network::users;
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
    let names = if names.is_empty() { networks.names()? } else { names };
    let mut rows = Vec::new();
    for network in names {
        let mut leases = store.leases(&network)?.all().to_vec();
        leases.sort_by_key(|lease| lease.address);
        rows.extend(leases.into_iter().map(|lease| {
            Row {
                in_use: users
                    .iter()
                    .any(|user| user.container == lease.container && user.has(lease.address)),
                network: network.clone(),
                address: lease.address,
                container: lease.container,
                name: lease.name,
                interface: lease.interface,
            }
        }));
    }
    if json {
        print_json(&rows)?;
        return Ok(ExitCode::SUCCESS);
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
    Ok(ExitCode::SUCCESS)
}

//! `mcrun network ls` and `inspect`.

use std::fmt::Write;
use std::process::ExitCode;

use anyhow::Context;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::attachment::{Network, NetworkName, Networks};
use crate::cli::network::users;
use crate::cli::network::users::User;
use crate::cli::output::{print, print_json, table};
use crate::state::Store;

/// The contract of `mcrun network ls --json`.
#[derive(Serialize)]
struct Row {
    name: NetworkName,
    parent: String,
    driver: String,
    subnets: Vec<String>,
    containers: usize,
    description: Option<String>,
}

pub(super) fn list(networks: &Networks, json: bool) -> anyhow::Result<ExitCode> {
    let users = users::all(&Store::from_env())?;
    let mut status = ExitCode::SUCCESS;
    let mut rows = Vec::new();
    for name in networks.names()? {
        let network = match networks.read(&name) {
            Ok(network) => network,
            Err(error) => {
                eprintln!("mcrun: network {name}: {error}");
                status = ExitCode::FAILURE;
                continue;
            }
        };
        let mut on_it: Vec<_> = users.iter().filter(|user| user.network == name).collect();
        on_it.dedup_by_key(|user| &user.container);
        rows.push(Row {
            parent: parent(&network),
            driver: network.key("driver").unwrap_or("macvlan").to_owned(),
            subnets: network.addressing.subnets.iter().map(ToString::to_string).collect(),
            containers: on_it.len(),
            description: network.description,
            name,
        });
    }
    if json {
        print_json(&rows)?;
        return Ok(status);
    }
    let headings = ["NAME", "PARENT", "DRIVER", "SUBNET", "CONTAINERS", "DESCRIPTION"];
    let rows = rows.into_iter().map(|row| {
        let subnets = row.subnets.join(" ");
        vec![
            row.name.to_string(),
            row.parent,
            row.driver,
            if subnets.is_empty() { "-".into() } else { subnets },
            row.containers.to_string(),
            row.description.unwrap_or_default(),
        ]
    });
    print(&table(&headings, rows))?;
    Ok(status)
}

/// The LAN interface, with its VLAN.
fn parent(network: &Network) -> String {
    let parent = network.key("parent").unwrap_or_default().to_owned();
    network.key("vlan").map_or(parent.clone(), |vlan| format!("{parent}.{vlan}"))
}

pub(super) fn inspect(
    networks: &Networks,
    name: &NetworkName,
    as_json: bool,
) -> anyhow::Result<ExitCode> {
    let network = networks.read(name).with_context(|| format!("network {name}"))?;
    let mut users = users::all(&Store::from_env())?;
    users.retain(|user| user.network == *name);
    if !as_json {
        print(&text(networks, name, &network, &users)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut keys = Map::new();
    for (key, value) in &network.keys {
        match keys.get_mut(*key) {
            Some(Value::Array(values)) => values.push(json!(value)),
            Some(first) => *first = json!([first.take(), value]),
            None => {
                keys.insert((*key).to_owned(), json!(value));
            }
        }
    }
    let addressing = &network.addressing;
    print_json(&json!({
        "name": name,
        "file": networks.path(name),
        "description": network.description,
        "keys": keys,
        "subnets": addressing.subnets,
        "ranges": addressing.ranges,
        "excluded": addressing.excluded,
        "gateways": addressing.gateways,
        "dns": network.name_servers,
        "containers": users,
    }))?;
    Ok(ExitCode::SUCCESS)
}

fn text(
    networks: &Networks,
    name: &NetworkName,
    network: &Network,
    users: &[User],
) -> Result<String, std::fmt::Error> {
    let mut out = String::new();
    let mut line = |key: &str, value: &dyn std::fmt::Display| writeln!(out, "{key:<12} {value}");
    line("name", name)?;
    line("file", &networks.path(name).display())?;
    if let Some(description) = &network.description {
        line("description", description)?;
    }
    for (key, value) in &network.keys {
        line(key, value)?;
    }
    let addressing = &network.addressing;
    addressing.subnets.iter().try_for_each(|subnet| line("subnet", subnet))?;
    addressing.ranges.iter().try_for_each(|range| line("range", range))?;
    addressing.excluded.iter().try_for_each(|range| line("exclude", range))?;
    addressing.gateways.iter().try_for_each(|gateway| line("gateway", gateway))?;
    network.name_servers.iter().try_for_each(|server| line("dns", server))?;
    for user in users {
        let addresses: Vec<_> = user.addresses.iter().map(ToString::to_string).collect();
        let what = format!("{} {} {}", user.name, user.interface, addresses.join(" "));
        line("container", &what.trim_end())?;
    }
    Ok(out)
}

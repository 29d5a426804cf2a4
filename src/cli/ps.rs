//! `mcrun ps`.

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::containers::{self, Container, InterfaceSummary, ProxySummary};
use super::output::{print, print_json, table};
use crate::state::Store;

/// Arguments of `mcrun ps`.
#[derive(Debug, Args)]
pub struct PsArgs {
    /// Print an array of objects instead of a table.
    #[arg(long)]
    json: bool,
}

/// The contract of `mcrun ps --json`.
#[derive(Serialize)]
struct Row<'a> {
    container: &'a str,
    name: &'a str,
    pid: i32,
    interfaces: Vec<InterfaceSummary>,
    proxy: ProxySummary,
    groups: usize,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    warnings: &'a [String],
}

impl<'a> Row<'a> {
    fn of(container: &'a Container) -> Self {
        Row {
            container: container.record.container.as_str(),
            name: &container.record.name,
            pid: container.record.init.pid,
            interfaces: container.interfaces(),
            proxy: container.proxy(),
            groups: container.group_count(),
            warnings: container.status.as_ref().map_or(&[], |s| &s.warnings),
        }
    }
}

pub(super) fn run(args: PsArgs) -> anyhow::Result<ExitCode> {
    let containers = containers::all(&Store::from_env())?;
    if args.json {
        print_json(&containers.iter().map(Row::of).collect::<Vec<_>>())?;
        return Ok(ExitCode::SUCCESS);
    }
    let headings = ["CONTAINER", "NAME", "PID", "INTERFACE", "ADDRESSES", "PROXY", "GROUPS"];
    let rows = containers.iter().flat_map(|container| {
        // A line for each interface; what is the container's stands on its first.
        container.record.interfaces.iter().enumerate().map(|(position, interface)| {
            let once = |text: String| if position == 0 { text } else { String::new() };
            let addresses = interface.attachment.ip.addresses().iter().map(ToString::to_string);
            vec![
                once(container.short_id().to_owned()),
                once(container.record.name.clone()),
                once(container.record.init.pid.to_string()),
                format!("{}@{}", interface.name, interface.attachment.parent),
                Some(addresses.collect::<Vec<_>>().join(" "))
                    .filter(|a| !a.is_empty())
                    .unwrap_or("-".into()),
                once(container.proxy().state.to_owned()),
                once(container.group_count().to_string()),
            ]
        })
    });
    print(&table(&headings, rows))?;
    for container in &containers {
        for warning in container.status.iter().flat_map(|s| &s.warnings) {
            eprintln!("mcrun: {}: {warning}", container.record.name);
        }
    }
    Ok(ExitCode::SUCCESS)
}

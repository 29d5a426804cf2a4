//! `mcrun ps`.

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use crate::cli::containers;
use crate::cli::containers::{Container, Unreadable};
use crate::cli::output::{print, print_json, table};
use crate::cli::queriers;
use crate::cli::queriers::Heard;
use crate::cli::summary::{InterfaceSummary, ProxySummary};
use crate::notice::Notice;
use crate::standalone::{ContainerRecord, ContainerState};
use crate::state::Store;

/// Arguments of `mcrun ps`.
#[derive(Debug, Args)]
pub struct PsArgs {
    /// Also list containers of mcrun run that are not attached or have stopped.
    #[arg(short, long)]
    all: bool,
    /// Print an array of objects instead of a table.
    #[arg(long)]
    json: bool,
}

/// The contract of `mcrun ps --json`.
#[derive(Serialize)]
struct Row<'a> {
    container: &'a str,
    name: &'a str,
    /// `null` for a container that has stopped, or that is a named network namespace and no
    /// process.
    pid: Option<i32>,
    /// `unknown` if the record cannot be read.
    status: &'static str,
    /// Of a container that has stopped: its code, or 128 + signal.
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_status: Option<i32>,
    /// Of a container that has stopped: seconds since 1970-01-01 UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    finished_at: Option<u64>,
    interfaces: Vec<InterfaceSummary>,
    proxy: ProxySummary,
    groups: usize,
    /// What is wrong at the container, as texts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
    /// The same as objects, with the notices that are no warnings.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    notices: Vec<Notice>,
    /// Why the record cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// The status of a container whose record cannot be read.
const UNKNOWN: &str = "unknown";

impl<'a> Row<'a> {
    fn of(container: &'a Container) -> Self {
        Row {
            container: container.record.container.id.as_str(),
            name: &container.record.container.name,
            pid: container.pid(),
            status: ContainerState::Running.name(),
            exit_status: None,
            finished_at: None,
            interfaces: container.interfaces(),
            proxy: container.proxy(),
            groups: container.group_count(),
            warnings: container.warnings(),
            notices: container.notices(),
            error: None,
        }
    }
}

impl<'a> Row<'a> {
    fn of_standalone(record: &'a ContainerRecord) -> Self {
        let status = record.state();
        let running = status == ContainerState::Running;
        Row {
            pid: record.init.filter(|_| running).map(|init| init.pid),
            exit_status: record.exit_status,
            finished_at: record.finished,
            ..Row::without_attachment(&record.id, status.name(), "off")
        }
    }

    fn of_unreadable(unreadable: &'a Unreadable) -> Self {
        Row {
            error: Some(unreadable.error.to_string()),
            ..Row::without_attachment(unreadable.id.as_str(), UNKNOWN, UNKNOWN)
        }
    }

    fn without_attachment(id: &'a str, status: &'static str, proxy: &'static str) -> Self {
        Row {
            container: id,
            name: id,
            pid: None,
            status,
            exit_status: None,
            finished_at: None,
            interfaces: Vec::new(),
            proxy: ProxySummary { pid: None, state: proxy, held: false, deaths: 0 },
            groups: 0,
            warnings: Vec::new(),
            notices: Vec::new(),
            error: None,
        }
    }
}

pub(super) fn run(args: PsArgs) -> anyhow::Result<ExitCode> {
    let (containers, unreadable) = containers::all(&Store::from_env())?;
    let mut others = if args.all { containers::unattached(&containers) } else { Vec::new() };
    others.retain(|other| unreadable.iter().all(|u| u.id.as_str() != other.id));
    if args.json {
        let rows = containers.iter().map(Row::of);
        let rows = rows.chain(unreadable.iter().map(Row::of_unreadable));
        print_json(&rows.chain(others.iter().map(Row::of_standalone)).collect::<Vec<_>>())?;
        return Ok(containers::tell(&unreadable));
    }
    let mut headings =
        vec!["CONTAINER", "NAME", "PID", "INTERFACE", "ADDRESSES", "PROXY", "QUERIER", "GROUPS"];
    if args.all {
        headings.push("STATUS");
    }
    let rows = containers.iter().flat_map(|container| {
        // A line for each interface; what is the container's stands on its first.
        container.record.interfaces.iter().enumerate().map(|(position, interface)| {
            let once = |text: String| if position == 0 { text } else { String::new() };
            let attachment = &interface.attachment;
            let addresses = attachment.ip.addresses().iter().map(ToString::to_string);
            let addresses = addresses.chain(container.slaac_words(interface));
            vec![
                once(container.short_id().to_owned()),
                once(container.record.container.name.clone()),
                once(container.pid().map_or("-".into(), |pid| pid.to_string())),
                format!("{}@{}", interface.name, interface.attachment.parent_link()),
                Some(addresses.collect::<Vec<_>>().join(" "))
                    .filter(|a| !a.is_empty())
                    .unwrap_or("-".into()),
                once(container.proxy().state.to_owned()),
                querier(container, &interface.name),
                once(container.group_count().to_string()),
                once("running".to_owned()),
            ]
        })
    });
    let others = others.iter().map(|record| {
        let pid = record.init.filter(|_| record.state() == ContainerState::Running);
        let pid = pid.map_or("-".to_owned(), |init| init.pid.to_string());
        let mut row = vec![record.id.clone(), record.id.clone(), pid];
        row.extend(["-", "-", "-", "-", "-"].map(str::to_owned));
        row.push(containers::status(record));
        row
    });
    let unknown = unreadable.iter().map(|Unreadable { id, .. }| {
        let mut row = vec![id.to_string(), id.to_string()];
        row.extend(["-", "-", "-", "unreadable", "-", "-", UNKNOWN].map(str::to_owned));
        row
    });
    let rows = rows.chain(unknown).chain(others).map(|mut row| {
        row.truncate(headings.len());
        row
    });
    print(&table(&headings, rows))?;
    containers::warn(&containers);
    Ok(containers::tell(&unreadable))
}

/// The queriers of the interface's LAN, or `-` where nobody listens for them.
fn querier(container: &Container, interface: &str) -> String {
    queriers::cell(container.listening(interface).into_iter().flat_map(Heard::all))
}

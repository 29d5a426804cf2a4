//! `mcrun inspect`.

use std::fmt::Write;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use crate::cli::containers;
use crate::cli::containers::Container;
use crate::cli::output::{print, print_json};
use crate::cli::queriers;
use crate::cli::queriers::{Heard, Protocol};
use crate::lookup;
use crate::lookup::LookupError;
use crate::proxy::{RelayCounts, RelayStatus};
use crate::standalone::ContainerState;
use crate::state::Store;

/// Arguments of `mcrun inspect`.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// The container, by name, id or the beginning of its id.
    container: String,
    /// Print an object instead of text.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: InspectArgs) -> anyhow::Result<ExitCode> {
    let store = Store::from_env();
    let container = match containers::find(&store, &args.container) {
        Ok(container) => container,
        Err(error) => return unattached(&args, &store, error),
    };
    if args.json {
        let record = &container.record;
        print_json(&json!({
            "container": record.container.id,
            "name": record.container.name,
            "pid": container.pid(),
            "state": ContainerState::Running,
            "bundle": record.container.bundle,
            "attached_at": record.attached_at,
            "interfaces": container.interfaces(),
            "attachments": record.interfaces,
            "proxy": container.proxy(),
            "status": container.status,
        }))?;
    } else {
        print(&text(&container)?)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A container of `mcrun run` that has stopped, or runs without an attachment; another one is
/// `error`.
fn unattached(args: &InspectArgs, store: &Store, error: anyhow::Error) -> anyhow::Result<ExitCode> {
    let Some(LookupError::Stopped(id) | LookupError::NotAttached(id)) = error.downcast_ref() else {
        return Err(error);
    };
    let found = lookup::find_standalone(id, "inspect", store);
    let Some((container, record)) =
        found.ok().and_then(|container| Some((container.clone(), container.record()?)))
    else {
        return Err(error);
    };
    let running = record.state() == ContainerState::Running;
    let pid = record.init.filter(|_| running).map(|init| init.pid);
    if args.json {
        print_json(&json!({
            "container": record.id,
            "name": record.id,
            "pid": pid,
            "state": record.state(),
            "exit_status": record.exit_status,
            "created_at": record.created,
            "finished_at": record.finished,
            "bundle": container.dir(),
            "rootfs": record.rootfs,
            "command": record.command,
            "interfaces": [],
            "attachments": [],
            "proxy": { "state": "off" },
            "status": null,
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut out = String::new();
    writeln!(out, "container  {}", record.id)?;
    writeln!(out, "state      {}", containers::status(&record))?;
    if let Some(pid) = pid {
        writeln!(out, "pid        {pid}")?;
    }
    writeln!(out, "command    {}", record.command.join(" "))?;
    writeln!(out, "rootfs     {}", record.rootfs.display())?;
    writeln!(out, "bundle     {}", container.dir().display())?;
    print(&out)?;
    Ok(ExitCode::SUCCESS)
}

fn write_relay(out: &mut String, relay: &RelayStatus) -> std::fmt::Result {
    for (way, counts) in [("in", relay.inbound), ("out", relay.outbound)] {
        let RelayCounts { relayed, dropped, limited, denied } = counts;
        writeln!(
            out,
            "  relay {way:<3} {relayed} relayed, {dropped} dropped, {limited} limited, {denied} \
             denied"
        )?;
    }
    if relay.overruns > 0 {
        writeln!(out, "  relay     {} lost to full buffers", relay.overruns)?;
    }
    for port in &relay.ports {
        let answers = if port.answered { "" } else { ", answers to this port stay on the host" };
        writeln!(out, "  port      {} sent as {}{answers}", port.inside, port.outside)?;
    }
    Ok(())
}

fn text(container: &Container) -> Result<String, std::fmt::Error> {
    let record = &container.record;
    let proxy = container.proxy();
    let mut out = String::new();
    writeln!(out, "container  {}", record.container.id)?;
    writeln!(out, "name       {}", record.container.name)?;
    if let Some(pid) = container.pid() {
        writeln!(out, "pid        {pid}")?;
    }
    if let Some(bundle) = &record.container.bundle {
        writeln!(out, "bundle     {}", bundle.display())?;
    }
    match proxy.pid {
        Some(pid) => writeln!(out, "proxy      {} (pid {pid})", proxy.state)?,
        None => writeln!(out, "proxy      {}", proxy.state)?,
    }
    for warning in container.warnings() {
        writeln!(out, "warning    {warning}")?;
    }
    for interface in &record.interfaces {
        let attachment = &interface.attachment;
        let (driver, mode) = (attachment.driver.name(), attachment.driver.mode());
        writeln!(out, "\ninterface  {}", interface.name)?;
        writeln!(out, "  parent    {}", attachment.parent_link())?;
        writeln!(out, "  driver    {}", format!("{driver} {mode}").trim_end())?;
        if let Some(mac) = interface.mac {
            writeln!(out, "  mac       {mac}")?;
        }
        for address in attachment.ip.addresses() {
            writeln!(out, "  address   {address}")?;
        }
        for address in container.slaac_words(interface) {
            writeln!(out, "  address   {address}")?;
        }
        if attachment.ip.is_dhcp()
            && let Some(lease) = Store::from_env().dhcp_lease(&record.container.id, &interface.name)
        {
            match lease.server {
                Some(server) => write!(out, "  lease     from {server}")?,
                None => write!(out, "  lease     of DHCPv6")?,
            }
            match lease.seconds_left() {
                Some(left) => writeln!(out, ", for {left} s")?,
                None => writeln!(out, ", for ever")?,
            }
            for route in &lease.routes {
                writeln!(out, "  route     {route}")?;
            }
        }
        for gateway in &attachment.gateways {
            writeln!(out, "  gateway   {gateway} metric {}", attachment.metric)?;
        }
        for route in &attachment.routes {
            writeln!(out, "  route     {route}")?;
        }
        writeln!(out, "  igmp      {} on {}", attachment.igmp.name(), attachment.upstream())?;
        for rule in &interface.limits.policy.deny {
            writeln!(out, "  deny      {rule}")?;
        }
        for rule in &interface.limits.policy.allow {
            writeln!(out, "  allow     {rule}")?;
        }
        let limits = &interface.limits.policy;
        writeln!(out, "  limits    {} groups, {} sources", limits.max_groups, limits.max_sources)?;
        if let Some(entry) = container.listening(&interface.name) {
            for heard in Heard::all(entry) {
                let protocol = heard.protocol.name();
                match heard.querier {
                    Some(q) => {
                        let kind = queriers::kind(q);
                        writeln!(out, "  querier   {} {protocol}v{}{kind}", q.address, q.version)?;
                    }
                    None if heard.protocol == Protocol::Igmp => {
                        writeln!(out, "  querier   none{}", heard.unheard())?;
                    }
                    None => writeln!(out, "  querier   {protocol} none{}", heard.unheard())?,
                }
            }
        }
        let entries = container.status.iter().flat_map(|s| &s.interfaces);
        for entry in entries.filter(|entry| entry.interface == interface.name) {
            writeln!(out, "  groups    {}", entry.groups.len())?;
            if let Some(relay) = &entry.relay {
                write_relay(&mut out, relay)?;
            }
            for (counter, value) in &entry.counters {
                writeln!(out, "  counted   {counter} {value}")?;
            }
            for (counter, value) in entry.mld.iter().flat_map(|mld| &mld.counters) {
                writeln!(out, "  counted   MLD {counter} {value}")?;
            }
        }
    }
    Ok(out)
}

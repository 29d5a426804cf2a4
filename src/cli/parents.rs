//! `mcrun parents`.

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use crate::cli::containers;
use crate::cli::containers::Container;
use crate::cli::output::{print, print_json, table};
use crate::cli::queriers;
use crate::cli::queriers::{Heard, Protocol};
use crate::net::messages::Link;
use crate::primitives::MacAddr;
use crate::proxy::QuerierStatus;
use crate::state::Store;
use crate::survey::HostLinks;

/// Arguments of `mcrun parents`.
#[derive(Debug, Args)]
pub struct ParentsArgs {
    /// Print an array of objects instead of a table.
    #[arg(long)]
    json: bool,
}

/// The contract of `mcrun parents --json`.
#[derive(Serialize)]
struct Row<'a> {
    parent: &'a str,
    /// As `ip link` names the kind of a virtual link; `null` for an adapter.
    kind: Option<&'a str>,
    up: bool,
    carrier: bool,
    mtu: u32,
    mac: Option<MacAddr>,
    addresses: Vec<String>,
    /// What keeps containers from the LAN, or may.
    limits: Vec<String>,
    users: Vec<User<'a>>,
    /// Missing if no proxy has heard one.
    #[serde(skip_serializing_if = "Option::is_none")]
    querier: Option<&'a QuerierStatus>,
    /// The same of MLD.
    #[serde(skip_serializing_if = "Option::is_none")]
    mld_querier: Option<&'a QuerierStatus>,
    /// Seconds for which a proxy has listened; missing if none does.
    #[serde(skip_serializing_if = "Option::is_none")]
    listening_s: Option<u64>,
}

/// An interface of a container that uses a parent.
#[derive(Serialize)]
struct User<'a> {
    container: &'a str,
    name: &'a str,
    interface: &'a str,
}

impl<'a> Row<'a> {
    fn of(parent: &'a Link, links: &HostLinks, containers: &'a [Container]) -> Self {
        let of = |protocol| listening(&parent.name, protocol, containers);
        let igmp = of(Protocol::Igmp);
        Row {
            parent: &parent.name,
            kind: parent.kind.as_deref(),
            up: parent.up,
            carrier: parent.carrier,
            mtu: parent.mtu,
            mac: parent.mac,
            addresses: links.networks_of(parent.index).map(|network| network.to_string()).collect(),
            limits: links.limits(parent).iter().map(ToString::to_string).collect(),
            users: users(&parent.name, containers),
            querier: igmp.and_then(|heard| heard.querier),
            mld_querier: of(Protocol::Mld).and_then(|heard| heard.querier),
            listening_s: igmp.and_then(|heard| heard.listening_s),
        }
    }

    fn cells(&self, containers: &'a [Container]) -> Vec<String> {
        let or_none = |text: String| if text.is_empty() { "-".to_owned() } else { text };
        let state = match (self.up, self.carrier) {
            (false, _) => "down",
            (true, false) => "no carrier",
            (true, true) => "up",
        };
        vec![
            self.parent.to_owned(),
            or_none(self.kind.unwrap_or_default().to_owned()),
            state.to_owned(),
            self.mtu.to_string(),
            or_none(self.addresses.join(" ")),
            self.users.len().to_string(),
            queriers::cell(all_listening(self.parent, containers)),
            or_none(self.limits.join("; ")),
        ]
    }
}

/// The interfaces of containers whose parent or upstream this is.
fn users<'a>(parent: &str, containers: &'a [Container]) -> Vec<User<'a>> {
    let each = containers.iter().flat_map(|container| {
        let record = &container.record;
        let uses = record.interfaces.iter().filter(move |interface| {
            let attachment = &interface.attachment;
            [attachment.parent_link(), attachment.upstream()].iter().any(|l| l.as_str() == parent)
        });
        uses.map(|interface| User {
            container: record.container.id.as_str(),
            name: &record.container.name,
            interface: &interface.name,
        })
    });
    each.collect()
}

/// What the proxies know that listen on this interface of the host: that of one that has heard a
/// querier, else that of the one that has listened for the longest time.
fn listening<'a>(
    upstream: &str,
    protocol: Protocol,
    containers: &'a [Container],
) -> Option<Heard<'a>> {
    let each = containers.iter().flat_map(|container| {
        let interfaces = container.record.interfaces.iter();
        let there = interfaces.filter(|i| i.attachment.upstream().as_str() == upstream);
        there.filter_map(|interface| container.listening(&interface.name))
    });
    each.filter_map(|entry| Heard::of(entry, protocol))
        .max_by_key(|heard| (heard.querier.is_some(), heard.listening_s))
}

/// The same in each protocol that any of them speaks.
pub(super) fn all_listening<'a>(
    upstream: &str,
    containers: &'a [Container],
) -> impl Iterator<Item = Heard<'a>> {
    let of = move |protocol| listening(upstream, protocol, containers);
    Protocol::ALL.into_iter().filter_map(of)
}

pub(super) fn run(args: ParentsArgs) -> anyhow::Result<ExitCode> {
    let links = HostLinks::read()?;
    let (containers, unreadable) = containers::all(&Store::from_env())?;
    let rows: Vec<_> = links.parents().map(|link| Row::of(link, &links, &containers)).collect();
    if args.json {
        print_json(&rows)?;
        return Ok(containers::tell(&unreadable));
    }
    let headings = ["PARENT", "KIND", "STATE", "MTU", "ADDRESSES", "USERS", "QUERIER", "LIMITS"];
    let rows = rows.iter().map(|row| row.cells(&containers));
    print(&table(&headings, rows))?;
    Ok(containers::tell(&unreadable))
}

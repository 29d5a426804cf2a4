//! `mcrun groups`.

use std::net::{IpAddr, Ipv4Addr};
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use crate::cli::containers;
use crate::cli::containers::Container;
use crate::cli::memberships::{Arrived, memberships};
use crate::cli::output::{age, bit_rate, print, print_json, table};
use crate::cli::queriers::{Heard, Protocol};
use crate::multicast::{FilterMode, scope_name};
use crate::notice::Notice;
use crate::proxy::{GroupMembership, MembershipStatus, RelayCounts};
use crate::state::Store;
use crate::stream_count::{RtpCount, StreamCount};

/// Arguments of `mcrun groups`.
#[derive(Debug, Args)]
pub struct GroupsArgs {
    /// Only this container, by name, id or the beginning of its id.
    container: Option<String>,
    /// Print an array of objects instead of a table.
    #[arg(long)]
    json: bool,
}

/// The contract of `mcrun groups --json`.
#[derive(Serialize)]
struct Row<'a> {
    container: &'a str,
    name: &'a str,
    interface: &'a str,
    parent: &'a str,
    group: IpAddr,
    /// Of IPv6.
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<&'static str>,
    mode: FilterMode,
    sources: &'a [IpAddr],
    version: u8,
    status: MembershipStatus,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    age_s: u64,
    /// What has arrived for the group from the sources that the container wants. All are null where
    /// nothing is counted.
    packets: Option<u64>,
    /// Of UDP payload, as `byte_rate`.
    bytes: Option<u64>,
    /// Packets a second.
    packet_rate: Option<u64>,
    byte_rate: Option<u64>,
    /// Null also before the first packet.
    last_packet_ms: Option<u64>,
    /// Null also where most of it is not RTP.
    rtp: Option<RtpCount>,
    /// From each source, also from those that the container does not want.
    streams: Option<Vec<Source>>,
    /// `relayed`, `dropped`, `limited` and `denied` packets in both directions, where a relay carries
    /// them.
    #[serde(flatten)]
    relay: Option<RelayCounts>,
    /// What is wrong at the container, as `mcrun ps` shows it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
    /// The same as objects, with the notices that are no warnings.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    notices: Vec<Notice>,
}

/// What has arrived from one source.
#[derive(Serialize)]
struct Source {
    source: Ipv4Addr,
    packets: u64,
    bytes: u64,
    packet_rate: u64,
    byte_rate: u64,
    last_packet_ms: u64,
    rtp: Option<RtpCount>,
}

impl From<&StreamCount> for Source {
    fn from(stream: &StreamCount) -> Self {
        Source {
            source: stream.source,
            packets: stream.packets,
            bytes: stream.bytes,
            packet_rate: stream.packet_rate,
            byte_rate: stream.byte_rate,
            last_packet_ms: stream.last_packet_ms,
            rtp: stream.rtp,
        }
    }
}

pub(super) fn run(args: GroupsArgs) -> anyhow::Result<ExitCode> {
    let store = Store::from_env();
    let (containers, unreadable) = match &args.container {
        Some(wanted) => (vec![containers::find(&store, wanted)?], Vec::new()),
        None => containers::all(&store)?,
    };
    let memberships = memberships(&containers);
    if args.json {
        let rows = memberships.map(|(container, interface, entry)| {
            let arrived = Arrived::of(container, interface, entry);
            let sum = |number: fn(&StreamCount) -> u64| arrived.as_ref().map(|a| a.sum(number));
            let wanted = arrived.as_ref().and_then(|arrived| arrived.wanted.as_ref());
            Row {
                container: container.record.container.id.as_str(),
                name: &container.record.container.name,
                interface: &interface.interface,
                parent: &interface.parent,
                group: entry.group,
                scope: scope(entry.group),
                mode: entry.mode,
                sources: &entry.sources,
                version: entry.version,
                status: entry.status,
                reason: entry.reason.as_deref(),
                age_s: entry.age_s,
                packets: sum(|s| s.packets),
                bytes: sum(|s| s.bytes),
                packet_rate: sum(|s| s.packet_rate),
                byte_rate: sum(|s| s.byte_rate),
                last_packet_ms: wanted.map(|s| s.last_packet_ms),
                rtp: wanted.and_then(|s| s.rtp),
                streams: arrived
                    .as_ref()
                    .map(|a| a.streams.iter().map(|s| Source::from(*s)).collect()),
                relay: entry.relay,
                warnings: container.warnings(),
                notices: container.notices(),
            }
        });
        print_json(&rows.collect::<Vec<_>>())?;
        return Ok(containers::tell(&unreadable));
    }
    let memberships: Vec<_> = memberships.collect();
    let relayed = memberships.iter().any(|(_, _, entry)| entry.relay.is_some());
    let mut headings =
        vec!["NAME", "INTERFACE", "GROUP", "SOURCES", "VERSION", "STATUS", "AGE", "RATE", "LAST"];
    // Of IPv4, the address alone tells.
    let scoped = memberships.iter().any(|(_, _, entry)| entry.group.is_ipv6());
    if scoped {
        headings.insert(3, "SCOPE");
    }
    if relayed {
        headings.extend(["RELAYED", "DROPPED", "LIMITED"]);
    }
    let rows = memberships.into_iter().map(|(container, interface, entry)| {
        let mut row = vec![
            container.record.container.name.clone(),
            format!("{}@{}", interface.interface, interface.parent),
            entry.group.to_string(),
            sources(entry),
            format!("v{}", entry.version),
            containers::membership_status(entry),
            age(entry.age_s),
        ];
        if scoped {
            row.insert(3, scope(entry.group).unwrap_or("-").to_owned());
        }
        row.extend(arrival(Arrived::of(container, interface, entry).as_ref()));
        if relayed {
            let counts = entry.relay.map(|counts| [counts.relayed, counts.dropped, counts.limited]);
            let cells =
                counts.map_or_else(Default::default, |counts| counts.map(|n| n.to_string()));
            row.extend::<[String; 3]>(cells);
        }
        row
    });
    let table = table(&headings, rows);
    print(&(queriers(&containers) + &table))?;
    containers::warn(&containers);
    for container in containers.iter().filter(|c| c.status.is_none() && c.record.proxy.is_some()) {
        let state = container.proxy().state;
        eprintln!(
            "mcrun: {}: the proxy is {state}, its groups are not known",
            container.record.container.name
        );
    }
    Ok(containers::tell(&unreadable))
}

fn scope(group: IpAddr) -> Option<&'static str> {
    match group {
        IpAddr::V4(_) => None,
        IpAddr::V6(group) => Some(scope_name(group)),
    }
}

/// The columns RATE and LAST.
fn arrival(arrived: Option<&Arrived<'_>>) -> [String; 2] {
    let Some(arrived) = arrived else { return ["-".into(), "-".into()] };
    match &arrived.wanted {
        Some(wanted) => [bit_rate(wanted.byte_rate), age(wanted.last_packet_ms / 1000)],
        None => [bit_rate(0), "never".into()],
    }
}

pub(super) fn sources(entry: &GroupMembership) -> String {
    let list = || entry.sources.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    match (entry.mode, entry.sources.is_empty()) {
        (FilterMode::Exclude, true) => "any".into(),
        (FilterMode::Exclude, false) => format!("any but {}", list()),
        (FilterMode::Include, _) => list(),
    }
}

/// A line for each LAN and protocol with the querier that its containers hear.
fn queriers(containers: &[Container]) -> String {
    let mut lines: Vec<(&str, Heard<'_>)> = Vec::new();
    let interfaces = containers.iter().flat_map(|container| {
        let names = container.record.interfaces.iter().map(|interface| &interface.name);
        names.filter_map(|name| container.listening(name))
    });
    let all = interfaces.flat_map(|i| Heard::all(i).map(|heard| (i.parent.as_str(), heard)));
    for (parent, heard) in all {
        // Proxies of one LAN hear the same; the first that has heard anything speaks for all.
        let is_same = |(on, known): &&mut (&str, Heard<'_>)| {
            *on == parent && known.protocol == heard.protocol
        };
        match lines.iter_mut().find(is_same) {
            Some((_, known)) if known.querier.is_none() => *known = heard,
            Some(_) => {}
            None => lines.push((parent, heard)),
        }
    }
    lines.into_iter().map(|(parent, heard)| querier(parent, &heard)).collect()
}

fn querier(parent: &str, heard: &Heard<'_>) -> String {
    let protocol = heard.protocol.name();
    match heard.querier {
        Some(q) => format!(
            "{parent}: querier {} ({}{protocol}v{}), last query {} ago\n",
            q.address,
            if q.address.is_unspecified() { "proxy querier, " } else { "" },
            q.version,
            age(q.last_query_s)
        ),
        None if heard.protocol == Protocol::Igmp => {
            format!("{parent}: no querier{}\n", heard.unheard())
        }
        None => format!("{parent}: no {protocol} querier{}\n", heard.unheard()),
    }
}

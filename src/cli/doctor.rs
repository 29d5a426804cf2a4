//! `mcrun doctor`.

mod screen;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::bail;
use clap::Args;

use crate::attachment::IgmpMode;
use crate::cli::containers;
use crate::cli::containers::{Container, Unreadable};
use crate::cli::output::{print, print_json};
use crate::doctor::gather::{
    ContainerUse, HostCounters, InterfaceUse, ParentUse, host, inside, is_stale, joined, parents,
    streams, test_stream,
};
use crate::doctor::{
    ContainerFacts, Fact, Finding, Level, Membership, OwnAddress, Queriers, StateFacts, check_host,
    check_parent, check_stream, check_test_stream,
};
use crate::multicast::{Address, SourceFilter};
use crate::notice::Notice;
use crate::primitives::InterfaceName;
use crate::proxy::{GroupMembership, MembershipStatus, QuerierStatus};
use crate::service::runs_another_program;
use crate::state::Store;
use crate::survey::HostLinks;

/// What `--help` says.
pub(super) const ABOUT: &str = "\
Find out what is wrong, and what to do about it.

Looks at the host (kernel, settings, engines, mcrun's own state), and at each interface that
containers are attached to, or that --parent names: link, firewall, rp_filter, queriers, addresses
that another station has, streams that nobody has joined. It listens on these interfaces for a second.

With a container, also at each group that the container has joined, or at the one that is named: asked
for, allowed, joined on the LAN, arriving on the parent, arriving inside, read by a socket.

A line begins with ok, warning, failure, or unknown, where something cannot be found out. Nothing is
changed, and nothing is joined except by --send. Without root much is unknown.";

/// What stands below the options.
pub(super) const STATUS: &str = "\
Exit status:
  0    nothing fails; there may be warnings
  1    something fails
  2    wrong usage
  125  an error of mcrun

What is sent: a question to the LAN whose the addresses of the host and of its containers are, and to
the host itself packets of IGMP and MLD that do not leave it. With --send also up to 16 frames by which
interfaces on the same LAN are found, and the test stream: 50 packets to groups of 239.255.0.0/16, with
TTL 1, in half a second. One of the groups is joined for a second.";

/// For how long is listened.
const LISTENING: Duration = Duration::from_secs(1);

/// Arguments of `mcrun doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Look at what this container receives, by name, id or the beginning of its id.
    container: Option<String>,
    /// Only this group.
    #[arg(value_parser = parse_group)]
    group: Option<Ipv4Addr>,
    /// Look at this interface of the host too; may be repeated.
    #[arg(long, value_name = "IF")]
    parent: Vec<InterfaceName>,
    /// Send a test stream through the switch to each --parent.
    ///
    /// Proves that the switch forwards what is joined, and only that: 25 packets of a group that is
    /// joined meanwhile, and 25 of one that is not, from another interface of the host on the same LAN.
    #[arg(long, requires = "parent")]
    send: bool,
    /// Send from this interface; without it, one on the same LAN is looked for.
    #[arg(long, value_name = "IF", requires = "send")]
    send_from: Option<InterfaceName>,
    /// Print an array of objects instead of lines.
    #[arg(long)]
    json: bool,
}

fn parse_group(text: &str) -> Result<Ipv4Addr, String> {
    let group = text.parse().ok().filter(Ipv4Addr::is_multicast);
    group.ok_or_else(|| "expected a group of IPv4, such as 239.1.2.3".into())
}

pub(super) fn run(args: DoctorArgs) -> anyhow::Result<ExitCode> {
    let store = Store::from_env();
    let known = containers::all(&store);
    let links = HostLinks::read()?;
    let all = known.as_ref().map_or(&[][..], |(containers, _)| containers);
    let looked_at = match &args.container {
        // Without mcrun's state none can be found.
        Some(_) if let Err(error) = &known => bail!("{error:#}"),
        Some(wanted) => Some(containers::find_among(wanted, all, &store)?),
        None => None,
    };
    let mut uses = uses(all);
    if let Some(container) = looked_at {
        let own = container.record.interfaces.iter().map(|i| &i.attachment);
        let own: Vec<_> =
            own.flat_map(|a| [a.parent_link().to_string(), a.upstream().to_string()]).collect();
        uses.retain(|name, _| own.contains(name));
    }
    for parent in &args.parent {
        uses.entry(parent.to_string())
            .or_insert_with(|| ParentUse { name: parent.to_string(), ..ParentUse::default() });
    }
    let state = match &known {
        Ok((containers, unreadable)) => Ok(state(&store, containers, unreadable)),
        Err(error) => Err(format!("{error:#}")),
    };
    let container = looked_at.map(|container| container_use(container, args.group));
    let uses = uses.into_values().collect();
    let mut findings = findings(state, uses, container.as_ref(), &links);
    if args.send {
        let from = args.send_from.as_ref().map(InterfaceName::as_str);
        let sent = args.parent.iter().flat_map(|parent| {
            let stream = test_stream(parent.as_str(), from, &links, &joined());
            check_test_stream(parent.as_str(), &stream)
        });
        findings.extend(sent);
    }
    if args.json {
        print_json(&findings)?;
    } else {
        print(&screen::text(&findings))?;
    }
    let fails = findings.iter().any(|finding| finding.level == Level::Failure);
    Ok(if fails { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn findings(
    state: Fact<StateFacts>,
    uses: Vec<ParentUse>,
    container: Option<&ContainerUse>,
    links: &HostLinks,
) -> Vec<Finding> {
    let joined = joined();
    let counters = HostCounters::now();
    // What is tried in the host's kernel takes no longer than is listened.
    let (host, parents, inside) = thread::scope(|scope| {
        let parents = scope.spawn(|| parents(uses, links, &joined, LISTENING));
        let inside = container.map(|container| scope.spawn(|| inside(container, LISTENING)));
        let host = host(state);
        let inside = inside.map(|thread| thread.join().unwrap_or_else(|_| Err(CUT_OFF.into())));
        (host, parents.join().unwrap_or_default(), inside)
    });
    let rp_filtered = counters.map_or(0, |counters| counters.rp_filtered_since());
    let mut findings = check_host(&host);
    findings.extend(parents.iter().flat_map(check_parent));
    if let Some((container, inside)) = container.zip(inside) {
        let streams = streams(container, inside, &parents, &joined, rp_filtered, LISTENING);
        findings.extend(streams.iter().flat_map(check_stream));
    }
    findings
}

/// Why nothing is known, in a case that does not happen.
const CUT_OFF: &str = "it was not looked at to the end";

/// A container, as its record and its proxy have it.
fn container_use(container: &Container, group: Option<Ipv4Addr>) -> ContainerUse {
    let interfaces = container.record.interfaces.iter().map(|interface| {
        let entry = container.entry(&interface.name);
        let groups = entry.into_iter().flat_map(|entry| &entry.groups);
        let memberships = groups.filter_map(|entry| {
            let IpAddr::V4(group) = entry.group else { return None };
            let sources = entry.sources.iter().filter_map(|source| match source {
                IpAddr::V4(source) => Some(*source),
                IpAddr::V6(_) => None,
            });
            let filter = SourceFilter { mode: entry.mode, sources: sources.collect() };
            let (status, reason) = (entry.status, entry.reason.clone());
            Some((group, Membership { status, reason, filter }))
        });
        InterfaceUse {
            name: interface.name.clone(),
            upstream: interface.attachment.upstream().to_string(),
            is_relay: interface.attachment.driver.is_relay(),
            is_proxied: interface.attachment.igmp == IgmpMode::Proxy,
            memberships: memberships.collect(),
        }
    });
    ContainerUse {
        container: container.record.container.clone(),
        proxy: container.proxy().state,
        interfaces: interfaces.collect(),
        group,
    }
}

/// The interfaces of the host that containers use, by name.
fn uses(containers: &[Container]) -> BTreeMap<String, ParentUse> {
    let mut uses: BTreeMap<String, ParentUse> = BTreeMap::new();
    for container in containers {
        for interface in &container.record.interfaces {
            let attachment = &interface.attachment;
            let upstream = attachment.upstream().to_string();
            let parent = attachment.parent_link().to_string();
            for name in [&parent, &upstream] {
                let used = uses.entry(name.clone()).or_default();
                used.name.clone_from(name);
            }
            let Some(used) = uses.get_mut(&upstream) else { continue };
            used.users += 1;
            used.relays += usize::from(interface.attachment.driver.is_relay());
            if let Some(entry) = container.listening(&interface.name) {
                let heard = (&entry.querier, &entry.rival, entry.querier_timeout_s);
                add_queriers(&mut used.queriers, heard, entry.listening_s);
                if let Some(mld) = &entry.mld {
                    let used = used.mld.get_or_insert_default();
                    let heard = (&mld.querier, &mld.rival, mld.querier_timeout_s);
                    add_queriers(&mut used.queriers, heard, entry.listening_s);
                    used.is_wanted |= entry.groups.iter().any(is_wanted_in_mld);
                }
            }
            let entry = container.entry(&interface.name);
            used.joined.extend(entry.into_iter().flat_map(|entry| &entry.groups).filter_map(
                |membership| match membership.group {
                    IpAddr::V4(group) => Some(group),
                    IpAddr::V6(_) => None,
                },
            ));
            let notices = container.notices().into_iter();
            used.notices.extend(notices.filter(|notice| is_about(notice, &upstream)));
            let Some(used) = uses.get_mut(&parent) else { continue };
            used.addresses.extend(attachment.ip.addresses().iter().filter_map(|address| {
                let ipnet::IpNet::V4(address) = *address else { return None };
                let owner = container.record.container.name.clone();
                Some(OwnAddress { address, owner, macs: interface.mac.into_iter().collect() })
            }));
        }
    }
    uses
}

/// Adds what one proxy has heard in one protocol: the querier, its rival, and the seconds without a
/// query after which there is none.
fn add_queriers(
    known: &mut Queriers,
    (querier, rival, timeout_s): (&Option<QuerierStatus>, &Option<QuerierStatus>, u64),
    listening_s: Option<u64>,
) {
    let rank = |querier: &QuerierStatus| (querier.address.is_unspecified(), querier.last_query_s);
    let is_better =
        |new: &QuerierStatus| known.elected.as_ref().is_none_or(|old| rank(new) < rank(old));
    if querier.as_ref().is_some_and(is_better) {
        known.elected.clone_from(querier);
    }
    if rival.is_some() {
        known.rival.clone_from(rival);
    }
    known.listening_s = known.listening_s.max(listening_s);
    known.timeout_s = known.timeout_s.max(Some(timeout_s));
}

/// Whether a switch with MLD snooping has to know of a group, beyond what neighbour discovery joins.
fn is_wanted_in_mld(membership: &GroupMembership) -> bool {
    let is_joined = membership.status == MembershipStatus::Joined;
    is_joined && matches!(membership.group, IpAddr::V6(group) if !group.is_link_scope())
}

/// Whether a notice is about an interface of the host.
fn is_about(notice: &Notice, name: &str) -> bool {
    match notice {
        Notice::QueriesFiltered { upstream, .. }
        | Notice::ArrivalsFiltered { upstream }
        | Notice::ReportsFiltered { upstream }
        | Notice::QuerierWithoutSourceLists { upstream, .. } => upstream == name,
        Notice::DuplicateAddress { parent, .. } => parent == name,
        _ => false,
    }
}

fn state(store: &Store, containers: &[Container], unreadable: &[Unreadable]) -> StateFacts {
    let ids = store.list().unwrap_or_default();
    let stale = ids
        .into_iter()
        .filter(|id| store.read(id).is_ok_and(|record| is_stale(store, id, record.as_ref())));
    StateFacts {
        stale: stale.map(|id| id.to_string()).collect(),
        unreadable: unreadable.iter().map(|u| (u.id.to_string(), u.error.to_string())).collect(),
        containers: containers.iter().map(facts).collect(),
    }
}

fn facts(container: &Container) -> ContainerFacts {
    let proxy = container.proxy();
    let entries = container.status.iter().flat_map(|status| &status.interfaces);
    let refused = entries.flat_map(|entry| {
        let groups = entry.groups.iter().filter(|group| group.status != MembershipStatus::Joined);
        groups.map(|group| {
            let status = containers::membership_status(group);
            (entry.interface.clone(), group.group.to_string(), status)
        })
    });
    ContainerFacts {
        name: container.record.container.name.clone(),
        proxy: proxy.state,
        is_outdated: container.record.proxy.is_some_and(runs_another_program),
        is_unfinished: container.record.is_unfinished(),
        deaths: proxy.deaths,
        refused: refused.collect(),
    }
}

//! The checks of the queriers of a LAN, of IGMP and of MLD.

use std::net::IpAddr;

use crate::doctor::facts::{ParentFacts, Queriers, Wire};
use crate::doctor::finding::Findings;
use crate::doctor::host::count;
use crate::notice::{Notice, membership_protocol};
use crate::proxy::QuerierStatus;

/// A protocol in which a LAN is asked.
struct Protocol {
    name: &'static str,
    /// The check of the querier, and that of a second one.
    querier: &'static str,
    second: &'static str,
}

const IGMP: Protocol = Protocol { name: "IGMP", querier: "querier", second: "two-queriers" };
const MLD: Protocol = Protocol { name: "MLD", querier: "mld-querier", second: "two-mld-queriers" };

/// The queriers of both protocols; those of MLD where it is spoken, or heard.
pub(super) fn queriers(facts: &ParentFacts, wire: Option<&Wire>, findings: &mut Findings) {
    let heard = wire.map_or(&[][..], |wire| &wire.queriers);
    let (igmp, mld): (Vec<_>, Vec<_>) = heard.iter().partition(|(address, _)| address.is_ipv4());
    queriers_of(&IGMP, &facts.queriers, &igmp, true, findings);
    if facts.mld.is_some() || !mld.is_empty() {
        let nothing = Queriers::default();
        let known = facts.mld.as_ref().map_or(&nothing, |mld| &mld.queriers);
        let is_wanted = facts.mld.as_ref().is_some_and(|mld| mld.is_wanted);
        queriers_of(&MLD, known, &mld, is_wanted, findings);
    }
    old_queriers(facts, findings);
}

/// The queriers of one protocol: those that proxies know, and those that were heard just now.
fn queriers_of(
    protocol: &Protocol,
    known: &Queriers,
    heard: &[(IpAddr, u8)],
    is_wanted: bool,
    findings: &mut Findings,
) {
    let Queriers { elected, rival, listening_s, timeout_s } = known;
    let long = timeout_s.unwrap_or(u64::MAX);
    match (elected, heard) {
        (Some(querier), _) => findings.ok(protocol.querier, describe(querier)),
        (None, [(address, version), ..]) => findings
            .ok(protocol.querier, format_args!("querier {address} ({}v{version})", protocol.name)),
        (None, []) => match listening_s {
            Some(seconds) if *seconds >= long => missing(protocol, long, is_wanted, findings),
            Some(seconds) => findings.unknown(
                protocol.querier,
                format_args!(
                    "none heard for {seconds} s; that there is none is certain after {long} s"
                ),
            ),
            None => findings.unknown(
                protocol.querier,
                "nobody listens: a proxy with igmp=proxy on this interface would",
            ),
        },
    }
    let others = elected.as_ref().into_iter().map(|querier| querier.address);
    let others: Vec<_> = others.filter(|address| !address.is_unspecified()).collect();
    let second = rival.as_ref().map(describe).or_else(|| {
        let mut heard = heard.iter().filter(|(address, _)| !address.is_unspecified());
        let (address, version) = match others.first() {
            Some(known) => heard.find(|(address, _)| *known != *address),
            None => heard.nth(1),
        }?;
        Some(format!("querier {address} ({}v{version})", protocol.name))
    });
    if let Some(second) = second {
        findings.warning(
            protocol.second,
            format_args!("there is a second one, which should be silent: {second}"),
            "let one of them ask; if they do not hear each other, the LAN is cut in two for multicast",
        );
    }
}

/// It is certain that there is none. A LAN does without one of MLD where its switches do not snoop MLD.
fn missing(protocol: &Protocol, long: u64, is_wanted: bool, findings: &mut Findings) {
    let none = format!("no {} querier for {long} s or longer", protocol.name);
    if protocol.name == IGMP.name {
        findings.failure(
            protocol.querier,
            format_args!("{none}: snooping switches forget what is joined"),
            "enable a querier on a switch or router of the LAN",
        );
    } else if is_wanted {
        findings.warning(
            protocol.querier,
            format_args!("{none}: switches with MLD snooping forget what is joined"),
            "enable an MLD querier on a switch or router of the LAN, or turn MLD snooping off",
        );
    } else {
        findings.ok(
            protocol.querier,
            format_args!("{none}; no container has joined a group of IPv6 beyond link scope"),
        );
    }
}

/// Queriers whose version does not know what is joined.
fn old_queriers(facts: &ParentFacts, findings: &mut Findings) {
    for notice in &facts.notices {
        if let Notice::QuerierWithoutSourceLists { querier, querier_version, groups, .. } = notice {
            let first = groups.first().map(ToString::to_string).unwrap_or_default();
            let protocol = membership_protocol(querier);
            let with_lists = if querier.is_ipv4() { 3 } else { 2 };
            findings.warning(
                "querier-version",
                format_args!(
                    "{} joined with named sources, such as {first}, and the querier {querier} speaks \
                     {protocol}v{querier_version}: the LAN forwards them from any source",
                    count(groups.len(), "group")
                ),
                format_args!("set the querier to {protocol}v{with_lists}"),
            );
        }
    }
}

/// `querier 10.0.0.1 (IGMPv3), every 125 s, last query 12 s ago`.
fn describe(querier: &QuerierStatus) -> String {
    let QuerierStatus { address, version, interval_s, last_query_s } = querier;
    let proxy = if address.is_unspecified() { "proxy querier, " } else { "" };
    let every = interval_s.map(|seconds| format!(", every {seconds} s")).unwrap_or_default();
    let protocol = membership_protocol(address);
    format!(
        "querier {address} ({proxy}{protocol}v{version}){every}, last query {last_query_s} s ago"
    )
}

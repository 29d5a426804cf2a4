//! The checks of a parent and of its LAN.

mod queriers;

use crate::doctor::facts::{MldFacts, ParentFacts, Wire};
use crate::doctor::finding::{Finding, Findings, Subject};
use crate::doctor::host::count;
use crate::doctor::parent::queriers::queriers;
use crate::notice::Notice;
use crate::survey::Limit;

/// Strict check of source addresses (`rp_filter` in ip-sysctl.rst).
const STRICT: u32 = 1;
/// The smallest MTU in which an IPv4 LAN carries packets of 1500 bytes.
const USUAL_MTU: u32 = 1500;

/// What is wrong with a parent.
pub(crate) fn check(facts: &ParentFacts) -> Vec<Finding> {
    let mut findings = Findings::of(Subject::Parent { parent: facts.name.clone() });
    let Some(link) = &facts.link else {
        let name = &facts.name;
        findings.failure(
            "exists",
            format_args!("the host has no interface {name}"),
            "mcrun parents lists those that can be named",
        );
        return findings.done();
    };
    if link.loopback {
        findings.failure(
            "link",
            "it is the loopback interface, which is on no LAN",
            "mcrun parents lists those that can be named",
        );
        return findings.done();
    }
    let kind = link.kind.as_deref().map(|kind| format!(", {kind}")).unwrap_or_default();
    let users = count(facts.users, "container interface");
    let promiscuous = if facts.is_promiscuous { ", promiscuous" } else { "" };
    if !link.up {
        findings.failure(
            "link",
            "it is down: nothing arrives and nothing leaves",
            format_args!("ip link set {} up", facts.name),
        );
    } else if !link.carrier {
        findings.failure(
            "link",
            "it is up and has no carrier: the cable, the switch port or the other end is down",
            "look at the cable and at the port of the switch",
        );
    } else {
        findings
            .ok("link", format_args!("up, carrier, MTU {}{kind}{promiscuous}; {users}", link.mtu));
    }
    limits(facts, &mut findings);
    members(facts, link.mtu, &mut findings);
    let works = link.up && link.carrier;
    if works {
        firewall(facts, &mut findings);
        if let Some(mld) = &facts.mld {
            mld_firewall(mld, &mut findings);
        }
    }
    rp_filter(facts, &mut findings);
    match &facts.wire {
        Ok(wire) if works => {
            queriers(facts, Some(wire), &mut findings);
            heard(wire, facts, &mut findings);
        }
        Err(why) if works => {
            queriers(facts, None, &mut findings);
            findings.unknown("wire", format_args!("what arrives, and whose addresses are: {why}"));
        }
        _ => {}
    }
    findings.done()
}

fn limits(facts: &ParentFacts, findings: &mut Findings) {
    let name = &facts.name;
    if let Some(controller) = &facts.port_of {
        findings.failure(
            "port",
            format_args!("it is a port of {controller}, which takes what arrives"),
            format_args!("name {controller} as the parent"),
        );
    }
    for limit in &facts.limits {
        match limit {
            // Told of the link itself.
            Limit::Down | Limit::NoCarrier => {}
            Limit::NoEthernet => findings.warning(
                "ethernet",
                "it is no Ethernet: it can have no macvlan and no ipvlan links",
                "use driver=relay",
            ),
            Limit::WithoutLan => findings.warning(
                "lan",
                "it is a bridge that leads to no LAN, such as a container engine's",
                "name the interface that is on the LAN",
            ),
            Limit::NoAddress => findings.warning(
                "address",
                "it has no IPv4 address: reports come from 0.0.0.0, which some switches ignore",
                format_args!("give it any, such as by ip address add 169.254.1.1/16 dev {name}"),
            ),
            Limit::WiFi => findings.warning(
                "wifi",
                "it is a wireless LAN, whose access point drops other MAC addresses",
                "use driver=ipvlan or driver=relay",
            ),
            Limit::VirtualMachine => findings.warning(
                "virtual-machine",
                "it is the adapter of a virtual machine, whose host may drop other MAC addresses",
                "allow promiscuous mode and forged transmits there, or use driver=ipvlan or relay",
            ),
        }
    }
    if let Some((snoops, asks)) = facts.bridge {
        let text = match (snoops, asks) {
            (true, true) => "the bridge snoops, and is a querier itself",
            (true, false) => "the bridge snoops, and waits for a querier of the LAN",
            (false, _) => "the bridge does not snoop: it floods multicast to all of its ports",
        };
        findings.ok("bridge", text);
    }
}

fn members(facts: &ParentFacts, mtu: u32, findings: &mut Findings) {
    let dead: Vec<_> = facts.members.iter().filter(|(_, _, carrier)| !carrier).collect();
    if let Some((first, ..)) = dead.first() {
        let text = format!("{} without a carrier, such as {first}", count(dead.len(), "member"));
        if dead.len() == facts.members.len() {
            findings.failure(
                "members",
                text,
                "look at their cables and at the ports of the switch",
            );
        } else {
            findings.warning("members", text, "look at its cable and at the port of the switch");
        }
    } else if !facts.members.is_empty() {
        findings.ok(
            "members",
            format_args!("{}, all with a carrier", count(facts.members.len(), "member")),
        );
    }
    if let Some((small, theirs, _)) = facts.members.iter().find(|(_, theirs, _)| *theirs < mtu) {
        findings.warning(
            "mtu",
            format_args!(
                "its MTU is {mtu}, and that of its member {small} {theirs}: longer packets are lost"
            ),
            format_args!("ip link set {small} mtu {mtu}"),
        );
    } else if mtu < USUAL_MTU {
        findings.warning(
            "mtu",
            format_args!("its MTU is {mtu}: packets of {USUAL_MTU} bytes are fragmented or lost"),
            format_args!("ip link set {} mtu {USUAL_MTU}, if the LAN carries that", facts.name),
        );
    }
    let Some(mode) = facts.bond_mode.as_deref() else { return };
    match mode {
        "active-backup" | "802.3ad" => findings.ok("bond", format_args!("bond in mode {mode}")),
        "broadcast" => findings.warning(
            "bond",
            "a bond in mode broadcast: each packet arrives several times",
            "use mode active-backup or 802.3ad",
        ),
        _ => findings.warning(
            "bond",
            format_args!(
                "a bond in mode {mode}: the switch hears reports on one port and may forward to another"
            ),
            "use mode active-backup or 802.3ad",
        ),
    }
}

fn firewall(facts: &ParentFacts, findings: &mut Findings) {
    let told = |f: &dyn Fn(&Notice) -> bool| facts.notices.iter().find(|notice| f(notice));
    let let_in = "let IGMP in, such as by iptables -I INPUT -p igmp -j ACCEPT; see \
                  docs/troubleshooting.md for ufw, firewalld and nftables";
    let in_text = match told(&|n| matches!(n, Notice::QueriesFiltered { .. })) {
        Some(Notice::QueriesFiltered { querier, .. }) => Some(format!(
            "the host's firewall or rp_filter drops the queries of {querier}: mcrun answers for the \
             containers, nobody for programs of the host"
        )),
        _ if told(&|n| matches!(n, Notice::ArrivalsFiltered { .. })).is_some() => Some(
            "the host's firewall drops IGMP that arrives, and a relay hears no query".to_owned(),
        ),
        _ => None,
    };
    match (in_text, &facts.lets_in) {
        (Some(text), _) => findings.warning("firewall-in", text, let_in),
        (None, Ok(false)) => findings.warning(
            "firewall-in",
            "the host's firewall drops IGMP that arrives: its own memberships and those of relays \
             run out",
            let_in,
        ),
        (None, Ok(true)) => findings.ok("firewall-in", "the host's firewall lets IGMP in"),
        (None, Err(why)) => {
            findings.unknown("firewall-in", format_args!("whether IGMP gets in: {why}"));
        }
    }
    let is_told = told(&|n| matches!(n, Notice::ReportsFiltered { .. })).is_some();
    match &facts.lets_out {
        _ if is_told => dropped_out(findings),
        Ok(false) => dropped_out(findings),
        Ok(true) => findings.ok("firewall-out", "the host's firewall lets IGMP out"),
        Err(why) => {
            findings.unknown("firewall-out", format_args!("whether IGMP gets out: {why}"));
        }
    }
}

fn dropped_out(findings: &mut Findings) {
    findings.failure(
        "firewall-out",
        "the host's firewall drops the IGMP that the host sends: switches do not learn what is joined",
        "let IGMP out, such as by iptables -I OUTPUT -p igmp -j ACCEPT",
    );
}

/// The same for MLD. No proxy answers what the host does not hear.
fn mld_firewall(mld: &MldFacts, findings: &mut Findings) {
    match &mld.lets_in {
        Ok(true) => findings.ok("mld-firewall-in", "the host's firewall lets MLD queries in"),
        Ok(false) => findings.failure(
            "mld-firewall-in",
            "the host's firewall drops the MLD queries that arrive: snooping switches forget what is \
             joined",
            "let MLD in, such as by ip6tables -I INPUT -p icmpv6 --icmpv6-type 130 -j ACCEPT; see \
             docs/troubleshooting.md for ufw, firewalld and nftables",
        ),
        Err(why) => findings
            .unknown("mld-firewall-in", format_args!("whether MLD queries get in: {why}")),
    }
    match &mld.lets_out {
        Ok(true) => findings.ok("mld-firewall-out", "the host's firewall lets MLD reports out"),
        Ok(false) => findings.failure(
            "mld-firewall-out",
            "the host's firewall drops the MLD reports that the host sends: switches do not learn \
             what is joined",
            "let MLD out, such as by ip6tables -I OUTPUT -p icmpv6 --icmpv6-type 143 -j ACCEPT, and \
             the same for the types 131 and 132",
        ),
        Err(why) => findings
            .unknown("mld-firewall-out", format_args!("whether MLD reports get out: {why}")),
    }
}

fn rp_filter(facts: &ParentFacts, findings: &mut Findings) {
    let name = &facts.name;
    let advice = format!(
        "sysctl -w net.ipv4.conf.{name}.rp_filter=2 (and net.ipv4.conf.all.rp_filter if that is 1)"
    );
    let querier = facts.queriers.elected.as_ref().map(|querier| querier.address);
    match facts.rp_filter {
        None => findings.unknown("rp-filter", "net.ipv4.conf: rp_filter cannot be read"),
        Some(STRICT) => match (querier, &facts.route_to_querier) {
            (Some(querier), route)
                if !querier.is_unspecified() && route.as_deref() != Some(name) =>
            {
                let by = match route {
                    Some(other) => format!("has its route to {querier} by {other}"),
                    None => format!("has no route to {querier}"),
                };
                findings.failure(
                    "rp-filter",
                    format_args!(
                        "rp_filter is 1 and the host {by}: it drops the querier's queries"
                    ),
                    advice,
                );
            }
            _ if facts.relays > 0 => findings.warning(
                "rp-filter",
                "rp_filter is 1: the relay gets streams only from sources to which the host has a \
                 route by this interface",
                advice,
            ),
            _ => findings
                .ok("rp-filter", "rp_filter is 1, which concerns the host's own sockets alone"),
        },
        Some(value) => findings.ok("rp-filter", format_args!("rp_filter is {value}")),
    }
}

fn heard(wire: &Wire, facts: &ParentFacts, findings: &mut Findings) {
    let seconds = wire.time.as_secs_f64();
    for duplicate in &wire.duplicates {
        findings.failure(
            "duplicate-address",
            format_args!(
                "{}, the address of {}, is also that of the station {}",
                duplicate.address, duplicate.owner, duplicate.mac
            ),
            "give one of them another address",
        );
    }
    let made = facts.notices.iter().filter(|n| matches!(n, Notice::DuplicateAddress { .. }));
    let made: Vec<_> = made.collect();
    for notice in &made {
        findings.failure("duplicate-address", notice, "give one of them another address");
    }
    if wire.duplicates.is_empty() && made.is_empty() && wire.asked > 0 {
        findings.ok(
            "duplicate-address",
            format_args!("no other station has {}", {
                match wire.asked {
                    1 => "its address".to_owned(),
                    many => format!("one of {many} addresses"),
                }
            }),
        );
    }
    let is_snooping_bridge = facts.bridge.is_some_and(|(snoops, _)| snoops);
    match wire.foreign.iter().max_by_key(|(_, packets)| **packets) {
        Some((group, packets)) => findings.warning(
            "snooping",
            format_args!(
                "{} that nobody here has joined: {packets} packets of {group} within {seconds:.1} s; \
                 the switch does not snoop, or floods to this port",
                match wire.foreign.len() {
                    1 => "a stream arrives".to_owned(),
                    many => format!("{many} streams arrive"),
                }
            ),
            "enable IGMP snooping on the switch, unless a router is to be on this port",
        ),
        None if is_snooping_bridge => {}
        None => findings.ok(
            "snooping",
            format_args!("nothing arrives within {seconds:.1} s that nobody here has joined"),
        ),
    }
}

#[cfg(test)]
mod tests;

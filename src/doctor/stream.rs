//! The checks of one group as a container receives it: from the join to the program that reads.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use crate::doctor::facts::{Arrivals, Membership, StreamFacts, StreamInterface, UdpSocket};
use crate::doctor::finding::{Finding, Findings, Subject};
use crate::doctor::host::count;
use crate::multicast::{FilterMode, SourceFilter};
use crate::proxy::MembershipStatus;

/// Where a stream ends.
pub(crate) fn check(facts: &StreamFacts) -> Vec<Finding> {
    let mut findings =
        Findings::of(Subject::Stream { container: facts.container.clone(), group: facts.group });
    if matches!(facts.proxy, "dead" | "silent") {
        findings.failure(
            "proxy",
            format_args!(
                "the proxy is {}: what the container joins is not joined on the LAN",
                facts.proxy
            ),
            "mcrun reload starts another one",
        );
    }
    let interface = match asked(facts, &mut findings) {
        Some(interface) => interface,
        None => {
            for interface in &facts.interfaces {
                unasked_wire(facts, interface, &mut findings);
            }
            return findings.done();
        }
    };
    let is_joined = joined(facts, interface, &mut findings);
    let wire = on_the_wire(facts, interface, is_joined, &mut findings);
    if inside(facts, interface, wire, &mut findings) {
        read(facts, interface, &mut findings);
    }
    findings.done()
}

/// The interface on which the container has joined.
fn asked<'f>(facts: &'f StreamFacts, findings: &mut Findings) -> Option<&'f StreamInterface> {
    let filter_of = |interface: &'f StreamInterface| match &facts.joined {
        Ok(joined) => joined.get(&interface.name),
        Err(_) => None,
    };
    if let Some((interface, filter)) =
        facts.interfaces.iter().find_map(|interface| Some((interface, filter_of(interface)?)))
    {
        let sources = describe(filter);
        findings.ok("asked", format_args!("joined on {} from {sources}", interface.name));
        return Some(interface);
    }
    match &facts.joined {
        Ok(joined) => match joined.keys().next() {
            Some(other) => findings.failure(
                "asked",
                format_args!("joined on {other}, which is not attached to a LAN"),
                format_args!(
                    "let the program name {0}, or let the route 224.0.0.0/4 lead to {0}",
                    facts.first_interface()
                ),
            ),
            None => findings.failure(
                "asked",
                "no program in the container has joined it",
                "look at the program: which group, on which interface, and whether it runs",
            ),
        },
        Err(why) => findings.unknown("asked", format_args!("what the container has joined: {why}")),
    }
    None
}

/// What is on the wire although nobody has asked for it.
fn unasked_wire(facts: &StreamFacts, interface: &StreamInterface, findings: &mut Findings) {
    let upstream = &interface.upstream;
    let seconds = facts.time.as_secs_f64();
    match &interface.wire {
        Ok(Some(arrivals)) => findings.ok(
            "wire",
            format_args!("it arrives on {upstream}: {}", describe_arrivals(arrivals, seconds)),
        ),
        Ok(None) => findings.unknown(
            "wire",
            format_args!(
                "nothing of it arrives on {upstream}, as is usual for a group that is not joined"
            ),
        ),
        Err(why) => findings.unknown("wire", format_args!("what arrives on {upstream}: {why}")),
    }
}

/// Whether it is joined on the LAN.
fn joined(facts: &StreamFacts, interface: &StreamInterface, findings: &mut Findings) -> bool {
    let upstream = &interface.upstream;
    if !interface.is_proxied {
        findings.ok("allowed", "the container speaks IGMP itself: no rule and no proxy is between");
        return true;
    }
    let Some(Membership { status, reason, filter }) = &interface.membership else {
        if facts.proxy == "running" {
            findings.failure(
                "joined",
                "the proxy does not know of it",
                "mcrun reload makes the proxy ask the container again",
            );
        }
        return false;
    };
    let reason = reason.as_deref().unwrap_or_default();
    match status {
        MembershipStatus::Denied => findings.failure(
            "allowed",
            format_args!("denied: {reason}"),
            "change allow= or deny= of the attachment, or [groups] of mcrun.toml and run mcrun reload",
        ),
        MembershipStatus::Limited => findings.failure(
            "allowed",
            format_args!("a limit is reached: {reason}"),
            "raise it in the attachment or in [groups] of mcrun.toml, or leave other groups",
        ),
        MembershipStatus::Joined | MembershipStatus::Failed => {
            findings.ok("allowed", "allowed, and within the limits");
        }
    }
    match (status, &interface.on_host) {
        (MembershipStatus::Denied | MembershipStatus::Limited, _) => return false,
        (MembershipStatus::Failed, _) => {
            findings.failure(
                "joined",
                format_args!("not joined on {upstream}: {reason}"),
                "see the findings of the host and of the parent",
            );
            return false;
        }
        (MembershipStatus::Joined, Ok(false)) => {
            findings.failure(
                "joined",
                format_args!(
                    "mcrun has joined it, and the host's kernel does not have it on {upstream}"
                ),
                "mcrun reload joins again",
            );
            return false;
        }
        (MembershipStatus::Joined, Err(why)) => {
            findings.unknown("joined", format_args!("whether the host has joined it: {why}"));
        }
        (MembershipStatus::Joined, Ok(true)) => findings.ok(
            "joined",
            format_args!("the host has joined it on {upstream} from {}", describe(filter)),
        ),
    }
    true
}

/// What arrives on the parent, if that is known.
fn on_the_wire<'f>(
    facts: &'f StreamFacts,
    interface: &'f StreamInterface,
    is_joined: bool,
    findings: &mut Findings,
) -> Option<&'f Arrivals> {
    let upstream = &interface.upstream;
    let seconds = facts.time.as_secs_f64();
    let arrives_inside = matches!(&interface.inside, Ok(Some(_)));
    match &interface.wire {
        Ok(Some(arrivals)) => {
            let text = describe_arrivals(arrivals, seconds);
            findings.ok("wire", format_args!("it arrives on {upstream}: {text}"));
            let wanted = facts.joined.as_ref().ok().and_then(|joined| joined.get(&interface.name));
            let is_wanted = |source: &Ipv4Addr| {
                wanted.is_none_or(|filter| {
                    filter.sources.contains(source) == (filter.mode == FilterMode::Include)
                })
            };
            if !arrivals.sources.iter().any(is_wanted) {
                findings.failure(
                    "sources",
                    format_args!(
                        "it comes from {}, and the container wants it from {}",
                        list(&arrivals.sources),
                        wanted.map_or_else(String::new, describe)
                    ),
                    "let the program name the right source",
                );
            }
            Some(arrivals)
        }
        Ok(None) if arrives_inside => {
            findings.ok(
                "wire",
                format_args!("it does not come by {upstream}: its sender is on this host"),
            );
            None
        }
        Ok(None) if is_joined => {
            findings.failure(
                "wire",
                format_args!("nothing of it arrives on {upstream} within {seconds:.1} s"),
                "look whether it is sent, by mcrun probe recv at the sender's switch port; whether its \
                 TTL lasts if routers are between; and whether the switch has the group on this port",
            );
            None
        }
        Ok(None) => {
            findings.unknown(
                "wire",
                format_args!("nothing of it arrives on {upstream}, as is usual for a group that is not joined"),
            );
            None
        }
        Err(why) => {
            findings.unknown("wire", format_args!("what arrives on {upstream}: {why}"));
            None
        }
    }
}

/// Whether it arrives inside.
fn inside(
    facts: &StreamFacts,
    interface: &StreamInterface,
    wire: Option<&Arrivals>,
    findings: &mut Findings,
) -> bool {
    let (name, seconds) = (&interface.name, facts.time.as_secs_f64());
    match (&interface.inside, wire) {
        (Ok(Some(arrivals)), _) => {
            let text = describe_arrivals(arrivals, seconds);
            findings.ok("inside", format_args!("it arrives at {name}: {text}"));
            true
        }
        (Ok(None), None) => false,
        (Ok(None), Some(_)) if interface.is_relay && facts.host_rp_filtered > 0 => {
            findings.failure(
                "rp-filter",
                format_args!(
                    "the host's rp_filter drops what comes from a source without a route back: {} within \
                     {seconds:.1} s",
                    count_packets(facts.host_rp_filtered)
                ),
                format_args!("sysctl -w net.ipv4.conf.{}.rp_filter=2", interface.upstream),
            );
            false
        }
        (Ok(None), Some(_)) if interface.is_relay => {
            findings.failure(
                "inside",
                format_args!("nothing of it reaches {name}, although it arrives on {}", interface.upstream),
                "let the host's firewall let it in, such as by ufw allow PORT/udp, and look at mcrun groups \
                 for what the relay has dropped or limited",
            );
            false
        }
        (Ok(None), Some(_)) => {
            findings.failure(
                "inside",
                format_args!(
                    "nothing of it reaches {name}, although it arrives on {}",
                    interface.upstream
                ),
                format_args!("look whether {name} is up, by ip link in the container's network"),
            );
            false
        }
        (Err(why), _) => {
            findings.unknown("inside", format_args!("what arrives at {name}: {why}"));
            false
        }
    }
}

/// Whether a program reads it.
fn read(facts: &StreamFacts, interface: &StreamInterface, findings: &mut Findings) {
    let Ok(Some(arrivals)) = &interface.inside else { return };
    let seconds = facts.time.as_secs_f64();
    let sockets = match &facts.sockets {
        Ok(sockets) => sockets,
        Err(why) => {
            findings.unknown("read", format_args!("the sockets of the container: {why}"));
            return;
        }
    };
    let takes = |socket: &&UdpSocket| {
        arrivals.ports.contains(&socket.port)
            && (socket.address.is_unspecified() || socket.address == facts.group)
    };
    let sockets: Vec<_> = sockets.iter().filter(takes).collect();
    let ports: Vec<_> = arrivals.ports.iter().map(ToString::to_string).collect();
    let ports = ports.join(", ");
    if facts.rp_filtered > 0 && facts.reads == 0 {
        findings.failure(
            "rp-filter",
            format_args!(
                "rp_filter of the container drops what comes from a source without a route back: {} \
                 within {seconds:.1} s",
                count_packets(facts.rp_filtered)
            ),
            format_args!(
                "set net.ipv4.conf.{}.rp_filter and net.ipv4.conf.all.rp_filter to 0 or 2 in the container",
                interface.name
            ),
        );
        return;
    }
    if sockets.is_empty() {
        findings.failure(
            "read",
            format_args!("no socket of the container is bound to port {ports}"),
            "let the program listen on the port that the sender uses, or let the sender use the program's",
        );
        return;
    }
    let lost: u64 = sockets.iter().map(|socket| socket.dropped).sum();
    let before: u64 = sockets.iter().map(|socket| socket.dropped_before).sum();
    let waiting: u64 = sockets.iter().map(|socket| socket.waiting).sum();
    let more = "let the program ask for a larger buffer (SO_RCVBUF, up to net.core.rmem_max), or read faster";
    if lost > 0 {
        findings.failure(
            "socket-buffer",
            format_args!(
                "the buffer of a socket on port {ports} overflows: {} lost within {seconds:.1} s",
                count_packets(lost)
            ),
            more,
        );
    } else if facts.reads == 0 && waiting > 0 {
        findings.failure(
            "read",
            format_args!(
                "the program does not read its socket on port {ports}: {waiting} bytes wait"
            ),
            "look at the program: it hangs, or is stopped",
        );
    } else if facts.reads == 0 {
        findings.failure(
            "firewall-inside",
            format_args!(
                "nothing of it reaches a socket, although {} bound to port {ports}",
                match sockets.len() {
                    1 => "one is".to_owned(),
                    many => format!("{many} are"),
                }
            ),
            "look for a rule in the container's network that drops it, by nft list ruleset",
        );
    } else if before > 0 {
        findings.warning(
            "socket-buffer",
            format_args!(
                "the buffer of a socket on port {ports} has overflown before: {} lost since it was opened",
                count_packets(before)
            ),
            more,
        );
    } else {
        findings.ok("read", format_args!("a socket on port {ports} is read, and has lost nothing"));
    }
}

fn count_packets(number: u64) -> String {
    count(usize::try_from(number).unwrap_or(usize::MAX), "packet")
}

/// `any source`, `10.0.0.7`, `any source except 10.0.0.7`.
fn describe(filter: &SourceFilter) -> String {
    match (filter.mode, filter.sources.is_empty()) {
        (FilterMode::Exclude, true) => "any source".into(),
        (FilterMode::Exclude, false) => format!("any source except {}", list(&filter.sources)),
        (FilterMode::Include, _) => list(&filter.sources),
    }
}

/// The first three, and how many more.
fn list(sources: &BTreeSet<Ipv4Addr>) -> String {
    let shown: Vec<_> = sources.iter().take(3).map(ToString::to_string).collect();
    match sources.len().saturating_sub(3) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// `200 packets within 1.0 s from 10.0.0.7 to port 5004`.
fn describe_arrivals(arrivals: &Arrivals, seconds: f64) -> String {
    let ports: Vec<_> = arrivals.ports.iter().take(3).map(ToString::to_string).collect();
    format!(
        "{} within {seconds:.1} s from {} to port {}",
        count_packets(arrivals.packets),
        list(&arrivals.sources),
        ports.join(", ")
    )
}

#[cfg(test)]
mod tests;

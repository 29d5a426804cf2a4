//! The checks of the host.

use crate::doctor::facts::{
    ContainerFacts, EngineFacts, Feature, HostFacts, RefusedAttachment, StateFacts,
};
use crate::doctor::finding::{Finding, Findings, Subject};

/// The oldest kernel that mcrun is made for.
const OLDEST: (u32, u32) = (6, 1);
/// The kernel's default of memberships of one socket (net/ipv4/igmp.c).
const USUAL_MEMBERSHIPS: u32 = 20;
/// Findings of one kind that are shown one by one.
const SHOWN: usize = 10;

/// What is wrong with the host.
pub(crate) fn check(facts: &HostFacts) -> Vec<Finding> {
    let mut findings = Findings::of(Subject::Host);
    privileges(facts, &mut findings);
    kernel(facts, &mut findings);
    settings(facts, &mut findings);
    for engine in &facts.engines {
        self::engine(engine, &mut findings);
    }
    if facts.engines.is_empty() {
        findings
            .ok("engine", "no engine is installed; mcrun run --rootfs needs runc or crun alone");
    }
    match &facts.keeper {
        Ok(true) => findings.ok("keeper", "a keeper runs"),
        Ok(false) => findings.warning(
            "keeper",
            "no keeper runs: a proxy that dies takes its memberships with it, and no event is kept",
            "start mcrun keep, such as by systemctl enable --now mcrun-keeper",
        ),
        Err(why) => findings.unknown("keeper", format_args!("whether a keeper runs: {why}")),
    }
    match &facts.state {
        Ok(state) => self::state(state, &mut findings),
        Err(why) => findings.unknown("state", format_args!("mcrun's state: {why}")),
    }
    match &facts.refusals {
        Ok(refusals) if refusals.is_empty() => {}
        Ok(refusals) => {
            let last = refusals.last().map(String::as_str).unwrap_or_default();
            findings.warning(
                "refusals",
                format_args!(
                    "{} in the last hour; the last: {last}",
                    count(refusals.len(), "refusal")
                ),
                "mcrun events --since 1h shows them",
            );
        }
        Err(why) => findings.unknown("refusals", format_args!("what was refused: {why}")),
    }
    refused_attachments(facts, &mut findings);
    findings.done()
}

fn refused_attachments(facts: &HostFacts, findings: &mut Findings) {
    const CHECK: &str = "refused-attachments";
    let refused = match &facts.refused_attachments {
        Ok(refused) => refused,
        Err(why) => {
            findings.unknown(CHECK, format_args!("which attachments hooks have refused: {why}"));
            return;
        }
    };
    let Some(RefusedAttachment { age_s, container, reason }) = refused.last() else { return };
    let ago = match age_s {
        0..=119 => format!("{age_s} s"),
        _ => format!("{} min", age_s / 60),
    };
    findings.warning(
        CHECK,
        format_args!(
            "{} in the last hour; the last, {ago} ago: container {container}: {reason}",
            count(refused.len(), "refused attachment")
        ),
        "change what the reason names, and start the container again",
    );
}

fn privileges(facts: &HostFacts, findings: &mut Findings) {
    match (facts.is_root, facts.lacking.as_slice()) {
        (_, []) => {}
        (true, lacking) => findings.failure(
            "privileges",
            format_args!("root lacks {}: containers cannot be attached", lacking.join(", ")),
            "run mcrun and the engine outside of a container, or give it these capabilities",
        ),
        (false, _) => findings.unknown(
            "privileges",
            "without root neither mcrun's state nor the wire nor the firewall can be looked at: run it \
             with sudo",
        ),
    }
}

fn kernel(facts: &HostFacts, findings: &mut Findings) {
    let release = &facts.release;
    match version(release) {
        Some(version) if version < OLDEST => findings.warning(
            "kernel",
            format_args!("Linux {release} is older than {}.{}", OLDEST.0, OLDEST.1),
            "use a newer kernel",
        ),
        _ => findings.ok("kernel", format_args!("Linux {release}")),
    }
    for (feature, has) in &facts.features {
        let (check, name, otherwise) = about(*feature);
        match has {
            Ok(true) => findings.ok(check, name),
            Err(why) => findings.unknown(check, format_args!("{name}: {why}")),
            Ok(false) => match feature {
                Feature::Macvlan | Feature::Tables | Feature::Log => findings.failure(
                    check,
                    format_args!("the kernel has no {name}: {otherwise}"),
                    "use a kernel that is built with it, or install the package of its modules",
                ),
                Feature::JoinNotifications
                | Feature::Ipvlan
                | Feature::Counting
                | Feature::Relaying => {
                    let text = format_args!("the kernel has no {name}: {otherwise}").to_string();
                    findings.warning(check, text, "nothing, if that is acceptable")
                }
            },
        }
    }
}

/// The check of a feature, its name, and what does not work without it.
fn about(feature: Feature) -> (&'static str, &'static str, &'static str) {
    match feature {
        Feature::JoinNotifications => (
            "kernel-join-notifications",
            "notifications of joins (Linux 6.14)",
            "a join reaches the switch some milliseconds later",
        ),
        Feature::Tables => (
            "kernel-nf-tables",
            "nf_tables with owned tables (Linux 5.12)",
            "containers speak IGMP themselves, and relays do not start",
        ),
        Feature::Log => (
            "kernel-nfnetlink-log",
            "nfnetlink_log",
            "containers speak IGMP themselves, and relays do not start",
        ),
        Feature::Macvlan => {
            ("kernel-macvlan", "macvlan", "only driver=ipvlan and driver=relay can be used")
        }
        Feature::Ipvlan => ("kernel-ipvlan", "ipvlan", "driver=ipvlan cannot be used"),
        Feature::Counting => (
            "kernel-bpf",
            "BPF for counting what arrives (Linux 5.12)",
            "rates and losses are not shown",
        ),
        Feature::Relaying => (
            "kernel-bpf-relay",
            "BPF for relaying (Linux 6.6)",
            "with driver=relay, proxies relay at several times the cost",
        ),
    }
}

/// Major and minor number of a kernel's release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn settings(facts: &HostFacts, findings: &mut Findings) {
    let name = "net.ipv4.igmp_max_memberships";
    match facts.max_memberships {
        Some(0) => findings.failure(
            "igmp-max-memberships",
            format_args!("{name} is 0: nothing can be joined"),
            format_args!("sysctl -w {name}={USUAL_MEMBERSHIPS}, and in /etc/sysctl.d"),
        ),
        Some(few) if few < USUAL_MEMBERSHIPS => findings.warning(
            "igmp-max-memberships",
            format_args!("{name} is {few}: a proxy needs more sockets than usual"),
            format_args!("sysctl -w {name}={USUAL_MEMBERSHIPS}, and in /etc/sysctl.d"),
        ),
        Some(value) => findings.ok("igmp-max-memberships", format_args!("{name} is {value}")),
        None => findings.unknown("igmp-max-memberships", format_args!("{name} cannot be read")),
    }
    if facts.max_sources == Some(0) {
        findings.failure(
            "igmp-max-msf",
            "net.ipv4.igmp_max_msf is 0: nothing can be joined with named sources",
            "sysctl -w net.ipv4.igmp_max_msf=10, and in /etc/sysctl.d",
        );
    }
}

fn engine(engine: &EngineFacts, findings: &mut Findings) {
    let name = engine.name;
    let command = format!("mcrun setup {}", target(engine));
    match &engine.is_set_up {
        Ok(true) => findings.ok("engine", format_args!("{name} knows mcrun")),
        Ok(false) if engine.needs_setup => findings.warning(
            "engine",
            format_args!("{name} is installed and does not know mcrun"),
            format_args!("{command}, if containers of {name} are to be attached"),
        ),
        Ok(false) => findings.ok(
            "engine",
            format_args!(
                "{name} gets its hooks from mcrun run; {command} is for its own command line"
            ),
        ),
        Err(why) => findings.unknown("engine", format_args!("how {name} is set up: {why}")),
    }
}

fn target(engine: &EngineFacts) -> String {
    clap::ValueEnum::to_possible_value(&engine.target)
        .map_or_else(String::new, |value| value.get_name().to_owned())
}

fn state(state: &StateFacts, findings: &mut Findings) {
    for (id, why) in state.unreadable.iter().take(SHOWN) {
        findings.failure(
            "record",
            format_args!("the record of container {id} cannot be read: {why}"),
            "see state directory in docs/troubleshooting.md",
        );
    }
    if let Some(first) = state.stale.first() {
        let records = count(state.stale.len(), "record");
        findings.warning(
            "stale-state",
            format_args!(
                "{records} of containers that have ended or were never attached, such as {first}"
            ),
            "mcrun gc removes them",
        );
    }
    let mut troubled = 0;
    for container in &state.containers {
        if container_trouble(container, findings, troubled < SHOWN) {
            troubled += 1;
        }
    }
    if troubled > SHOWN {
        findings.failure(
            "proxy",
            format_args!("{} more have trouble", count(troubled - SHOWN, "container")),
            "mcrun ps lists them",
        );
    }
    let running = state.containers.len();
    if troubled == 0 {
        let text = match running {
            0 => "no container is attached".to_owned(),
            1 => "1 container is attached, and its proxy runs".to_owned(),
            many => format!("{many} containers are attached, and their proxies run"),
        };
        findings.ok("proxy", text);
    }
}

/// Whether a container has trouble, which is told if `told` says so.
fn container_trouble(container: &ContainerFacts, findings: &mut Findings, told: bool) -> bool {
    let mut own = Findings::of(Subject::Host);
    let name = &container.name;
    match container.proxy {
        "dead" => own.failure(
            "proxy",
            format_args!("{name}: the proxy is dead: nothing is joined for the container"),
            "mcrun reload starts another one; mcrun keep does so by itself",
        ),
        "silent" => own.failure(
            "proxy",
            format_args!("{name}: the proxy runs and does not answer"),
            "mcrun reload replaces it",
        ),
        "degraded" => own.failure(
            "proxy",
            format_args!(
                "{name}: the container speaks IGMP itself, because the kernel lacks something"
            ),
            "see the kernel's findings above, and mcrun ps",
        ),
        "waiting" => own.warning(
            "proxy",
            format_args!(
                "{name}: an interface is missing or down, in the container or on the host"
            ),
            "mcrun ps says which",
        ),
        _ => {}
    }
    if container.is_unfinished {
        own.warning(
            "unfinished",
            format_args!("{name}: the program that changed the attachment last was killed"),
            "mcrun gc finishes its work",
        );
    }
    if container.is_outdated && container.proxy != "dead" {
        own.warning(
            "outdated",
            format_args!("{name}: the proxy is of another version than the installed program"),
            "mcrun reload replaces it without loss",
        );
    }
    if container.deaths > 0 {
        let deaths = match container.deaths {
            1 => "1 proxy".to_owned(),
            many => format!("{many} proxies"),
        };
        own.warning(
            "deaths",
            format_args!("{name}: {deaths} of the container died and were replaced"),
            format_args!("mcrun events {name} says when, and the journal why"),
        );
    }
    if let Some((interface, group, reason)) = container.refused.first() {
        let groups = count(container.refused.len(), "group");
        own.warning(
            "groups",
            format_args!("{name}: {groups} not joined, such as {group} on {interface}: {reason}"),
            format_args!("mcrun groups {name} lists them; mcrun doctor {name} {group} says more"),
        );
    }
    let own = own.done();
    let has_trouble = !own.is_empty();
    if told {
        findings.extend(own);
    }
    has_trouble
}

/// `1 group`, `2 groups`.
pub(super) fn count(number: usize, what: &str) -> String {
    let end = if number == 1 { "" } else { "s" };
    format!("{number} {what}{end}")
}

#[cfg(test)]
mod tests;

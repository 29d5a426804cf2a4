//! What the kernel says: memberships, links, rules, processes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use serde_json::Value;

use super::Lab;
use super::process::{in_namespace, json, run};

/// What a container could leave on its host. Compared with what was there before it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// Links, with their promiscuity and allmulti counts.
    links: BTreeSet<String>,
    /// nftables rules.
    rules: String,
    /// Groups the host's kernel is in, and their source filters.
    memberships: String,
    /// Processes in the host's namespace; of a machine, mcrun's.
    processes: BTreeSet<(i32, String)>,
    /// Files below the state directory, where it keeps containers, bundles and docker's endpoints.
    state: BTreeSet<String>,
}

impl Leftovers {
    pub(super) fn read(lab: &Lab) -> Leftovers {
        let links = json(lab.enter("host", "ip").args(["-j", "-d", "link"]));
        let describe = |link: &Value| {
            format!(
                "{} promiscuity {} allmulti {}",
                link["ifname"], link["promiscuity"], link["allmulti"]
            )
        };
        let namespace = format!("/run/netns/{}", lab.namespace("host"));
        let mut state = BTreeSet::new();
        for directory in ["containers", "bundles", "docker/endpoints"] {
            let entries = fs::read_dir(lab.state_dir().join(directory));
            for entry in entries.into_iter().flatten().flatten() {
                state.insert(format!("{directory}/{}", entry.file_name().display()));
            }
        }
        let joined = run(lab.enter("host", "cat").args(["/proc/net/igmp", "/proc/net/mcfilter"]));
        Leftovers {
            links: links.as_array().expect("links").iter().map(describe).collect(),
            rules: run(lab.enter("host", "nft").args(["list", "ruleset"])),
            memberships: joined.lines().map(without_timers).collect::<Vec<_>>().join("\n"),
            processes: in_namespace(Path::new(&namespace))
                .into_iter()
                .filter(|(_, line)| !lab.is_machine || line.contains("mcrun-"))
                .collect(),
            state,
        }
    }
}

/// A line of /proc/net/igmp without the timer column and the querier version, which change.
fn without_timers(line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words[..] {
        // Group, users, timer, reporter.
        [group, users, timer, _] if timer.contains(':') => format!("  {group} {users}"),
        // Index, device, colon, count, version.
        [index, device, ":", count, _] => format!("{index} {device} {count}"),
        _ => words.join(" "),
    }
}

/// A group some kernel has joined.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Membership {
    /// Interface name.
    pub interface: String,
    /// The group.
    pub group: Ipv4Addr,
}

/// The IPv4 memberships in the network namespace of a process (0: this one).
pub fn memberships(pid: i32) -> BTreeSet<Membership> {
    let text = fs::read_to_string(format!("/proc/{pid}/net/igmp")).unwrap_or_default();
    parse_memberships(&text)
}

fn parse_memberships(text: &str) -> BTreeSet<Membership> {
    let mut interface = String::new();
    let mut found = BTreeSet::new();
    for line in text.lines().skip(1) {
        let words: Vec<&str> = line.split_whitespace().collect();
        if !line.starts_with('\t') {
            interface = words.get(1).copied().unwrap_or_default().trim_end_matches(':').to_owned();
        } else if let Some(Ok(group)) = words.first().map(|word| u32::from_str_radix(word, 16)) {
            // Printed as the number that the address in network order is on this machine.
            let group = Ipv4Addr::from(group.to_ne_bytes());
            found.insert(Membership { interface: interface.clone(), group });
        }
    }
    found
}

/// Source filters in the network namespace of a process: by group, the included and the excluded
/// sources with the numbers of sockets that say so (/proc/net/mcfilter).
pub fn source_filters(text: &str) -> BTreeMap<Ipv4Addr, BTreeMap<Ipv4Addr, (u32, u32)>> {
    let mut filters: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
    for line in text.lines().skip(1) {
        let [_, _, group, source, include, exclude] =
            line.split_whitespace().collect::<Vec<_>>()[..]
        else {
            panic!("/proc/net/mcfilter: {line}");
        };
        let address = |word: &str| {
            let digits = word.trim_start_matches("0x");
            Ipv4Addr::from(u32::from_str_radix(digits, 16).expect("an address"))
        };
        filters.entry(address(group)).or_default().insert(
            address(source),
            (include.parse().expect("count"), exclude.parse().expect("count")),
        );
    }
    filters
}

impl Lab {
    /// Groups the container host's kernel has joined on the parent, except those of 224.0.0.0/24.
    pub fn host_joins(&self) -> BTreeSet<Ipv4Addr> {
        let text = run(self.enter("host", "cat").arg("/proc/net/igmp"));
        parse_memberships(&text)
            .into_iter()
            .filter(|m| m.interface == super::PARENT && m.group.octets()[..3] != [224, 0, 0])
            .map(|m| m.group)
            .collect()
    }

    /// Source filters of the container host's kernel.
    pub fn host_filters(&self) -> BTreeMap<Ipv4Addr, BTreeMap<Ipv4Addr, (u32, u32)>> {
        source_filters(&run(self.enter("host", "cat").arg("/proc/net/mcfilter")))
    }
}

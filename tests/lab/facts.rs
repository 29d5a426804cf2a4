//! What the kernel says: memberships, links, rules, processes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use serde_json::Value;

use super::Lab;
use super::family::{Family, SourceCounts};
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
pub struct Membership<A> {
    /// Interface name.
    pub interface: String,
    /// The group.
    pub group: A,
}

/// Whether the kernel has joined the group in the network namespace of a process, on any interface.
pub fn has_joined<A: Family>(pid: i32, group: A) -> bool {
    let text = fs::read_to_string(format!("/proc/{pid}/net/{}", A::GROUPS_FILE));
    A::memberships(&text.unwrap_or_default()).iter().any(|m| m.group == group)
}

/// Source filters of a kernel by group, from its [`Family::SOURCES_FILE`].
pub fn source_filters<A: Family>(text: &str) -> BTreeMap<A, SourceCounts<A>> {
    let mut filters: BTreeMap<_, SourceCounts<A>> = BTreeMap::new();
    for line in text.lines().skip(1) {
        let [_, _, group, source, include, exclude] =
            line.split_whitespace().collect::<Vec<_>>()[..]
        else {
            panic!("{}: {line}", A::SOURCES_FILE);
        };
        filters.entry(A::listed(group)).or_default().insert(
            A::listed(source),
            (include.parse().expect("count"), exclude.parse().expect("count")),
        );
    }
    filters
}

impl Lab {
    /// Groups the container host's kernel has joined on the parent, except those that it reports to
    /// nobody.
    pub fn host_groups<A: Family>(&self) -> BTreeSet<A> {
        let text = run(self.enter("host", "cat").arg(format!("/proc/net/{}", A::GROUPS_FILE)));
        A::memberships(&text)
            .into_iter()
            .filter(|m| m.interface == super::PARENT && m.group.needs_report())
            .map(|m| m.group)
            .collect()
    }

    /// The same of IPv4.
    pub fn host_joins(&self) -> BTreeSet<Ipv4Addr> {
        self.host_groups()
    }

    /// Source filters of the container host's kernel. Where several interfaces have joined groups, see
    /// [`Lab::show_all_lists`].
    pub fn host_sources<A: Family>(&self) -> BTreeMap<A, SourceCounts<A>> {
        source_filters(&run(self
            .enter("host", "cat")
            .arg(format!("/proc/net/{}", A::SOURCES_FILE))))
    }

    /// The same of IPv4.
    pub fn host_filters(&self) -> BTreeMap<Ipv4Addr, SourceCounts<Ipv4Addr>> {
        self.host_sources()
    }
}

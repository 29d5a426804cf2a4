//! What mcrun has changed on this host, and whose each thing is. Nothing is changed to find that out.
//!
//! The kernel says what is there, and the records say whose. What the kernel has and no record names
//! was left behind by a program that was killed.

mod containers;
mod host;
mod processes;
mod strays;

use std::collections::BTreeMap;
use std::io;

use serde::Serialize;

use crate::inventory::processes::Processes;
use crate::net::messages::{Link, get_links, read_link};
use crate::net::netlink::RouteSocket;
use crate::net::netns::NetNs;
use crate::state::{StateDirError, Store};

/// One thing that mcrun has made or changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Change {
    /// What kind of thing it is.
    pub(crate) kind: Kind,
    /// The thing, in one line.
    pub(crate) what: String,
    /// Whose it is: a container's name, or a program or target of mcrun's. `None`: nobody's.
    pub(crate) owner: Option<String>,
    /// The id of the container that owns it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) container: Option<String>,
    /// Whether it is in use.
    pub(crate) state: Use,
    /// What removes it, if it stays until somebody does that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) remove: Option<String>,
}

/// What kind of thing it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// A link of a container, or a VLAN of the host.
    Link,
    /// Settings below `/proc/sys/net`.
    Sysctl,
    /// A routing rule.
    Rule,
    /// An nf_tables table.
    Nftables,
    /// A process.
    Process,
    /// The sockets of a proxy, and what they have joined.
    Sockets,
    /// BPF programs and maps.
    Bpf,
    /// A control group.
    Cgroup,
    /// A file or a directory.
    File,
    /// A configuration file of a container engine.
    Engine,
    /// A unit of systemd that is started at boot.
    Unit,
}

impl Kind {
    /// The word for it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Link => "link",
            Kind::Sysctl => "sysctl",
            Kind::Rule => "rule",
            Kind::Nftables => "nftables",
            Kind::Process => "process",
            Kind::Sockets => "sockets",
            Kind::Bpf => "bpf",
            Kind::Cgroup => "cgroup",
            Kind::File => "file",
            Kind::Engine => "engine",
            Kind::Unit => "unit",
        }
    }
}

/// Whether a thing is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Use {
    /// Its owner is there, or it stays until somebody removes it.
    #[serde(rename = "in-use")]
    Owned,
    /// No record names it, or its owner has ended.
    LeftBehind,
    /// Its owner is not to be found out, as without root.
    Unknown,
}

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Inventory {
    /// The changes: the host's, then those of each container, by name.
    pub(crate) changes: Vec<Change>,
    /// What could not be looked at, a line each.
    pub(crate) hidden: Vec<String>,
}

/// What removes most of what was left behind.
const GC: &str = "mcrun gc";

/// Looks for everything that mcrun has changed.
///
/// # Errors
/// A state directory that cannot be listed.
pub(crate) fn take(store: &Store) -> Result<Inventory, StateDirError> {
    let is_root = nix::unistd::geteuid().is_root();
    let processes = Processes::find(store.root());
    let mut found = Inventory::default();
    let host = Host::read();
    host::links(&host, store, is_root, &mut found);
    host::shims(&host, store, is_root, &mut found);
    host::proxy_group(&processes, &mut found);
    host::setup(&mut found);
    if !is_root {
        host::proxies_of_anybody(&processes, &mut found);
        found.hidden.push(
            "without root, what is in containers, their records, rules, sockets and BPF programs \
             cannot be seen: run it with sudo"
                .to_owned(),
        );
        return Ok(found);
    }
    host::keeper(&mut found);
    host::servers(&processes, &mut found);
    host::files(store, &mut found)?;
    let seen = containers::all(store, &processes, &host, &mut found)?;
    strays::processes(&processes, &seen, &mut found);
    strays::links(&processes, &seen, &host, &mut found);
    Ok(found)
}

impl Change {
    fn used(kind: Kind, what: impl Into<String>, owner: &str) -> Self {
        Change {
            kind,
            what: what.into(),
            owner: Some(owner.to_owned()),
            container: None,
            state: Use::Owned,
            remove: None,
        }
    }

    fn left(kind: Kind, what: impl Into<String>, remove: impl Into<String>) -> Self {
        Change {
            kind,
            what: what.into(),
            owner: None,
            container: None,
            state: Use::LeftBehind,
            remove: Some(remove.into()),
        }
    }
}

/// The host's network namespace.
struct Host {
    namespace: io::Result<NetNs>,
    links: BTreeMap<u32, Link>,
}

impl Host {
    fn read() -> Self {
        let links = RouteSocket::open().ok().and_then(|mut host| host.dump(get_links()).ok());
        let links = links.into_iter().flatten().filter_map(read_link);
        Host { namespace: NetNs::current(), links: links.map(|link| (link.index, link)).collect() }
    }

    fn link_name(&self, index: u32) -> String {
        let known = self.links.get(&index).map(|link| link.name.clone());
        known.unwrap_or_else(|| format!("the host's interface {index}"))
    }
}

//! What the host itself has of mcrun.

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;

use clap::ValueEnum;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

use crate::attachment::Networks;
use crate::events::History;
use crate::inventory::processes::Processes;
use crate::inventory::{Change, GC, Host, Inventory, Kind, Use};
use crate::link;
use crate::link::apply::SHIM;
use crate::link::mark::{Mark, is_marked};
use crate::net::messages::Link;
use crate::net::nft_tables;
use crate::primitives::printable;
use crate::proxy;
use crate::service::keeper_socket;
use crate::setup::{Setup, SetupTarget};
use crate::state::{StateDirError, Store, config_dir, log_dir, state_dir};
use crate::sys::cgroup::ControlGroup;
use crate::sys::egress_filter;

/// Where systemd finds the units that start at boot.
const UNITS: &str = "/etc/systemd/system";

/// VLAN links that mcrun has made for containers.
pub(super) fn links(host: &Host, store: &Store, is_root: bool, found: &mut Inventory) {
    let mark = Mark::of(store.root());
    let made = host.links.values().filter(|link| link.vlan.is_some() && is_marked(link));
    for link in made {
        let parent = host.link_name(link.parent.unwrap_or(0));
        let what = format!("{} (VLAN {}) on {parent}", link.name, link.vlan.unwrap_or(0));
        let mut users = Vec::new();
        for id in store.list().unwrap_or_default() {
            if let Ok(Some(record)) = store.read(&id)
                && record.host_links().iter().any(|used| used.link.name.as_str() == link.name)
            {
                users.push(record.container().name.clone());
            }
        }
        found.changes.push(match (is_root, users.is_empty()) {
            (false, _) => {
                Change { owner: None, state: Use::Unknown, ..Change::used(Kind::Link, what, "") }
            }
            (true, true) if !mark.is_on(link) => Change::used(Kind::Link, what, &others(link)),
            (true, true) => Change::left(Kind::Link, what, GC),
            (true, false) => Change::used(Kind::Link, what, &users.join(", ")),
        });
    }
}

/// Whose a link of another state directory is: what its mark says.
fn others(link: &Link) -> String {
    let alias = link.alias.as_deref().unwrap_or_default();
    format!("alias {}", printable(alias, 256))
}

/// The host's own legs on parents, and their rules.
pub(super) fn shims(host: &Host, store: &Store, is_root: bool, found: &mut Inventory) {
    let shims = store.shims().unwrap_or_default();
    let mark = Mark::of(store.root());
    let mut add = |kind, what: String, name: &str, link: Option<&Link>, remove: &str| {
        let shim = shims.iter().find(|shim| shim.link.as_str() == name);
        found.changes.push(match (is_root, shim) {
            (false, _) => {
                Change { owner: None, state: Use::Unknown, ..Change::used(kind, what, "") }
            }
            (true, None) => match link.filter(|link| !mark.is_on(link)) {
                Some(link) => Change::used(kind, what, &others(link)),
                None => Change::left(kind, what, remove),
            },
            (true, Some(shim)) if !shim.made => Change::left(kind, what, GC),
            (true, Some(shim)) => Change {
                remove: Some(format!("mcrun shim rm {}", shim.parent)),
                ..Change::used(kind, what, "mcrun shim")
            },
        });
    };
    let links: Vec<_> = host.links.values().filter(|link| link::apply::is_shim(link)).collect();
    for link in &links {
        let parent = host.link_name(link.parent.unwrap_or(0));
        add(Kind::Link, format!("{} (macvlan) on {parent}", link.name), &link.name, Some(link), GC);
    }
    // Without root the tables cannot be read, which is told.
    for name in proxy::shim_rules(SHIM).unwrap_or_default() {
        let link = links.iter().copied().find(|link| link.name == name);
        // Whose rules without a link are, nothing tells.
        let nft = format!("nft delete table inet {name}");
        let remove = if link.is_some() { GC } else { &nft };
        add(Kind::Nftables, format!("table inet {name}, on the host"), &name, link, remove);
    }
}

/// The control group of the proxies of the host, and the filter of what they send. `mcrun gc` removes a group without processes.
pub(super) fn proxy_group(processes: &Processes, found: &mut Inventory) {
    let Ok(group) = ControlGroup::find(proxy::GROUP) else { return };
    let path = group.path().display().to_string();
    let inside = fs::read_to_string(group.path().join("cgroup.procs")).unwrap_or_default();
    let count = inside.lines().count();
    let what = format!("{path}, with {count} processes");
    let is_used = count > 0 || !processes.proxies.is_empty();
    let add = |kind, what: String| match is_used {
        true => Change::used(kind, what, "all proxies"),
        false => Change::left(kind, what, GC.to_owned()),
    };
    found.changes.push(add(Kind::Cgroup, what));
    if matches!(egress_filter::is_attached(group.as_fd()), Ok(true)) {
        let what = format!("filter of what proxies send, on {path}");
        found.changes.push(add(Kind::Bpf, what));
    }
}

/// What `mcrun setup` has changed, and units that start at boot.
pub(super) fn setup(found: &mut Inventory) {
    for target in SetupTarget::value_variants() {
        let Some(name) = target.to_possible_value() else { continue };
        let owner = format!("mcrun setup {}", name.get_name());
        let files = Setup::changed(Path::new("/"), *target).into_iter();
        let changes = files.map(|path| Change {
            remove: Some(format!("{owner} --remove")),
            ..Change::used(Kind::Engine, path.display().to_string(), &owner)
        });
        found.changes.extend(changes);
    }
    let targets = fs::read_dir(UNITS).into_iter().flatten().flatten();
    for target in targets.filter(|entry| entry.file_name().to_string_lossy().ends_with(".wants")) {
        for unit in ["mcrun-keeper.service", "mcrun-metrics.service", "mcrun-docker.socket"] {
            let path = target.path().join(unit);
            if path.is_symlink() {
                found.changes.push(Change {
                    remove: Some(format!("systemctl disable {unit}")),
                    ..Change::used(Kind::Unit, path.display().to_string(), "systemctl enable")
                });
            }
        }
    }
}

/// Proxies, where it cannot be told whose they are.
pub(super) fn proxies_of_anybody(processes: &Processes, found: &mut Inventory) {
    found.changes.extend(processes.proxies.iter().map(|proxy| Change {
        owner: None,
        state: Use::Unknown,
        ..Change::used(Kind::Process, format!("mcrun-proxy, pid {}", proxy.process.pid), "")
    }));
}

/// The keeper, and the fence that it keeps.
pub(super) fn keeper(found: &mut Inventory) {
    let socket = keeper_socket::connect().ok();
    let peer = socket.and_then(|socket| getsockopt(&socket, PeerCredentials).ok());
    if let Some(peer) = &peer {
        let what = format!("mcrun keep, pid {}", peer.pid());
        found.changes.push(Change::used(Kind::Process, what, "keeper"));
    }
    match nft_tables::named("mcrun") {
        Ok(tables) => {
            let holder = peer.map_or("systemd, for the next keeper", |_| "keeper");
            let changes = tables.into_iter().map(|table| {
                let what = format!("table {} {}, on the host", table.family, table.name);
                Change::used(Kind::Nftables, what, holder)
            });
            found.changes.extend(changes);
        }
        // A kernel without nf_tables has no tables.
        Err(error) if error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => {}
        Err(error) => found.hidden.push(format!("the host's nf_tables: {error}")),
    }
}

/// Exporters that show the containers of this state directory, and network drivers that attach them.
pub(super) fn servers(processes: &Processes, found: &mut Inventory) {
    let is_server = |command: &str| ["metrics", "serve"].contains(&command);
    let servers = processes.programs.iter().filter(|(_, command)| is_server(command));
    for (pid, command) in servers.filter(|(pid, _)| has_state_dir(*pid)) {
        let what = format!("mcrun {command}, pid {pid}");
        found.changes.push(Change::used(Kind::Process, what, command));
    }
}

/// Whether a process has the same state directory as this one.
fn has_state_dir(pid: i32) -> bool {
    let Ok(environment) = fs::read(format!("/proc/{pid}/environ")) else { return false };
    let variables = environment.split(|byte| *byte == 0);
    let named = variables.filter_map(|variable| variable.strip_prefix(b"MCRUN_STATE_DIR="));
    let named = named.map(String::from_utf8_lossy).find(|value| !value.is_empty());
    Path::new(named.as_deref().unwrap_or("/run/mcrun")) == state_dir()
}

/// Files that are not of one container.
///
/// # Errors
/// A state directory that must not be read.
pub(super) fn files(store: &Store, found: &mut Inventory) -> Result<(), StateDirError> {
    if store.check()? {
        let leases = store.lease_files().into_iter();
        let changes = leases.map(|path| {
            Change::used(Kind::File, path.display().to_string(), "addresses of networks")
        });
        found.changes.extend(changes);
        let refusals = store.refusal_files()?.into_iter();
        let changes =
            refusals.map(|path| Change::used(Kind::File, path.display().to_string(), "hooks"));
        found.changes.extend(changes);
    }
    let networks = Networks::of(config_dir());
    for name in networks.names().unwrap_or_default() {
        let what = networks.path(&name).display().to_string();
        found.changes.push(Change {
            remove: Some(format!("mcrun network rm {name}")),
            ..Change::used(Kind::File, what, "administrator")
        });
    }
    for path in History::files(&log_dir()) {
        found.changes.push(Change::used(Kind::File, path.display().to_string(), "keeper"));
    }
    Ok(())
}

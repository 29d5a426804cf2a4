//! What containers have of mcrun.

use std::os::fd::OwnedFd;

use crate::inventory::processes::Processes;
use crate::inventory::strays::Seen;
use crate::inventory::{Change, GC, Host, Inventory, Kind, Use, strays};
use crate::link::apply::rules_for_answers;
use crate::link::written_settings;
use crate::lookup::engine_name;
use crate::net::netlink::{NetlinkError, RouteSocket};
use crate::net::netns::NetNs;
use crate::net::nft_tables;
use crate::net::sysctl::Sysctls;
use crate::oci::ContainerId;
use crate::proxy::{MembershipStatus, ProxyStatus, ask_all};
use crate::service::running_namespace;
use crate::standalone;
use crate::state::{Attached, AttachmentRecord, StateDirError, Store};
use crate::sys::process::ProcessRef;
use crate::sys::procfs;

/// A container that runs.
struct Running {
    attached: Attached,
    name: String,
}

/// Everything of every container that has a directory or a claim.
///
/// # Errors
/// A state directory that cannot be listed.
pub(super) fn all(
    store: &Store,
    processes: &Processes,
    host: &Host,
    found: &mut Inventory,
) -> Result<Seen, StateDirError> {
    let mut seen = Seen::default();
    let mut running = Vec::new();
    for id in store.list()? {
        seen.ids.insert(id.to_string());
        let directory = store.container_dir(&id).display().to_string();
        match store.read(&id) {
            Ok(Some(AttachmentRecord::Attached(attached))) if attached.container.is_alive() => {
                let container = &attached.container;
                let name = engine_name(container.id.as_str(), container.bundle.as_deref());
                let name = name.unwrap_or_else(|| container.name.clone());
                running.push(Running { attached, name });
            }
            // Whoever is making an attachment or removing it has the lock.
            Ok(_) if matches!(store.try_lock(&id), Ok(None)) => {
                let mut change = Change::used(Kind::File, directory, id.as_str());
                change.container = Some(id.to_string());
                found.changes.push(change);
            }
            Ok(_) => found.changes.push(Change::left(Kind::File, directory, GC)),
            Err(error) => {
                let what = format!("{directory}, whose record cannot be read: {error}");
                let mut change = Change::used(Kind::File, what, id.as_str());
                change.state = Use::Unknown;
                found.changes.push(change);
            }
        }
    }
    running.sort_by(|a, b| {
        (&a.name, &a.attached.container.id).cmp(&(&b.name, &b.attached.container.id))
    });
    let id = |running: &Running| running.attached.container.id.clone();
    let directories: Vec<_> = running.iter().map(|r| store.container_dir(&id(r))).collect();
    let wait_for_answers = ask_all(&directories);
    // Refused in a container whose /proc is masked.
    let proc = procfs::new_instance().ok();
    let insides: Vec<_> =
        running.iter().map(|r| inside(r, proc.as_ref(), host, &mut seen)).collect();
    let each = running.iter().zip(insides).zip(wait_for_answers());
    for ((container, inside), answer) in each {
        let first = found.changes.len();
        found.changes.extend(inside.changes);
        found.hidden.extend(inside.hidden);
        proxies(container, answer.ok().as_ref(), processes, &mut seen, found);
        let directory = store.container_dir(&id(container)).display().to_string();
        found.changes.push(Change::used(Kind::File, directory, &container.name));
        for change in found.changes.iter_mut().skip(first).filter(|c| c.owner.is_some()) {
            change.container = Some(id(container).to_string());
        }
    }
    claims(store, &running, found)?;
    standalone_containers(found);
    Ok(seen)
}

/// What is in the container's network namespace.
fn inside(container: &Running, proc: Option<&OwnedFd>, host: &Host, seen: &mut Seen) -> Inventory {
    let mut found = Inventory::default();
    let Running { attached, name } = container;
    match running_namespace(&attached.container) {
        Ok(namespace) => {
            seen.namespaces.insert(attached.container.netns);
            in_namespace(container, &namespace, proc, host, &mut found);
        }
        Err(error) => found.hidden.push(format!("{name}: its network namespace: {error}")),
    }
    found
}

fn proxies(
    container: &Running,
    status: Option<&ProxyStatus>,
    processes: &Processes,
    seen: &mut Seen,
    found: &mut Inventory,
) {
    let Running { attached, name } = container;
    for interface in &attached.interfaces {
        if let Some(holder) = interface.lease_holder.filter(|holder| holder.is_alive()) {
            let what = format!("mcrun-dhcp, pid {}, lease of {}", holder.pid, interface.name);
            found.changes.push(Change::used(Kind::Process, what, name));
        }
    }
    for process in attached.proxies().filter(|process| process.is_alive()) {
        seen.proxies.insert(process.pid);
        proxy(attached, process, status, processes, name, found);
    }
}

/// Links, rules and settings in the container's namespace.
fn in_namespace(
    container: &Running,
    namespace: &NetNs,
    proc: Option<&OwnedFd>,
    host: &Host,
    found: &mut Inventory,
) {
    let Running { attached, name } = container;
    let changing = attached.adding.iter().map(|i| i.name.as_str());
    let changing: Vec<_> =
        changing.chain(attached.leaving.iter().map(|i| i.name.as_str())).collect();
    let links = host.namespace.as_ref().map(|own| strays::made_in(namespace, own));
    for link in links.unwrap_or_default() {
        let kind = link.kind.as_deref().unwrap_or("link");
        let parent = host.link_name(link.parent.unwrap_or(0));
        let what = format!("{} ({kind}) on {parent}", link.name);
        let is_recorded = attached.interfaces.iter().any(|i| i.index == Some(link.index));
        if is_recorded || changing.contains(&link.name.as_str()) {
            found.changes.push(Change::used(Kind::Link, what, name));
        } else {
            let what = format!("{what}, in container {name}");
            found.changes.push(Change::left(Kind::Link, what, GC));
        }
    }
    let look = || {
        let settings = Sysctls::of_instance(proc).unwrap_or_default();
        let lines: Vec<_> = attached
            .interfaces
            .iter()
            .filter_map(|interface| {
                let own = interface.name.parse().ok()?;
                let there = interface.index.is_some();
                let paths = written_settings::of(&own, &interface.attachment, there);
                let values: Vec<_> = paths
                    .iter()
                    .filter_map(|path| {
                        let value = settings.number(path)?;
                        Some(format!("{}={value}", path.replace('/', ".")))
                    })
                    .collect();
                (!values.is_empty()).then(|| values.join(" "))
            })
            .collect();
        let rules = RouteSocket::open().map_err(NetlinkError::from);
        let rules = rules.and_then(|mut socket| rules_for_answers(&mut socket));
        (nft_tables::named("mcrun"), lines, rules.unwrap_or_default())
    };
    match namespace.run(look) {
        Ok((tables, lines, rules)) => {
            let lines = lines.into_iter().map(|line| Change::used(Kind::Sysctl, line, name));
            found.changes.extend(lines);
            let rules = rules.iter().map(|rule| Change::used(Kind::Rule, rule.to_string(), name));
            found.changes.extend(rules);
            let tables = tables.unwrap_or_default().into_iter();
            let tables = tables.map(|table| {
                Change::used(Kind::Nftables, format!("table {} {}", table.family, table.name), name)
            });
            found.changes.extend(tables);
        }
        Err(error) => found.hidden.push(format!("{name}: its network namespace: {error}")),
    }
}

/// A proxy's process, sockets and BPF programs.
fn proxy(
    attached: &Attached,
    process: ProcessRef,
    status: Option<&ProxyStatus>,
    processes: &Processes,
    name: &str,
    found: &mut Inventory,
) {
    let pid = process.pid;
    let user = match attached.replaced {
        Some(replaced) if replaced.process == process => replaced.user,
        _ => attached.proxy_user,
    };
    let user = user.map_or(String::new(), |user| format!(", user {user}"));
    let what = format!("mcrun-proxy, pid {pid}{user}");
    found.changes.push(Change::used(Kind::Process, what, name));
    let Some(seen) = processes.proxy(process) else { return };
    let joined = status.filter(|_| Some(process) == attached.serving_proxy()).map(joined);
    let joined = joined.map_or(String::new(), |text| format!(", joined on the host: {text}"));
    let what = format!("{} of pid {pid}{joined}", seen.sockets);
    found.changes.push(Change::used(Kind::Sockets, what, name));
    if !seen.bpf.is_empty() {
        let objects: Vec<_> = seen.bpf.iter().map(|(kind, id)| format!("{kind} {id}")).collect();
        let what = format!("{} of pid {pid}", objects.join(", "));
        found.changes.push(Change::used(Kind::Bpf, what, name));
    }
}

/// How many groups a proxy has joined, on which interfaces of the host.
fn joined(status: &ProxyStatus) -> String {
    let each = status.interfaces.iter().map(|interface| {
        let groups = interface.groups.iter();
        let joined = groups.filter(|entry| entry.status == MembershipStatus::Joined).count();
        let plural = if joined == 1 { "" } else { "s" };
        format!("{joined} group{plural} on {}", interface.parent)
    });
    each.collect::<Vec<_>>().join(", ")
}

fn claims(store: &Store, running: &[Running], found: &mut Inventory) -> Result<(), StateDirError> {
    let mut claims = store.list_claims()?;
    claims.sort();
    let name_of = |id: &ContainerId| {
        let known = running.iter().find(|r| r.attached.container.id == *id);
        known.map_or_else(|| id.to_string(), |running| running.name.clone())
    };
    for (path, holder) in claims {
        let what = path.display().to_string();
        found.changes.push(match holder {
            Some(id) => Change {
                container: Some(id.to_string()),
                ..Change::used(Kind::File, what, &name_of(&id))
            },
            None => Change::left(Kind::File, what, GC),
        });
    }
    Ok(())
}

/// Containers of `mcrun run --rootfs`: their bundles and shims.
fn standalone_containers(found: &mut Inventory) {
    for container in standalone::Container::list() {
        let bundle = container.dir().display().to_string();
        let Some(record) = container.record() else {
            // It is being made, or that was interrupted.
            let mut change = Change::used(Kind::File, bundle, container.id());
            change.state = Use::Unknown;
            found.changes.push(change);
            continue;
        };
        if record.is_abandoned() {
            found.changes.push(Change::left(Kind::File, bundle, GC));
            continue;
        }
        let owned = |kind, what: String| Change {
            container: Some(record.id.clone()),
            ..Change::used(kind, what, &record.id)
        };
        found.changes.push(owned(Kind::File, bundle));
        if record.shim.is_alive() {
            let what = format!("shim, pid {}", record.shim.pid);
            found.changes.push(owned(Kind::Process, what));
        }
    }
}

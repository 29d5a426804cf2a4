//! Removing attachments: of a container that has ended, and of one that runs.

use std::io;
use std::path::Path;

use crate::attachment::AdminConfig;
use crate::link::apply::release_answers;
use crate::net::netlink::RouteSocket;
use crate::net::netns::NetNs;
use crate::oci::ContainerId;
use crate::proxy;
use crate::service::namespace::reach_namespace;
use crate::service::proxies::ProxyUsers;
use crate::service::unfinished::RunningProxies;
use crate::service::{AttachError, ShimError, host_links, leases, proxies, shims, unfinished};
use crate::state::{
    Attached, AttachedInterface, AttachmentRecord, LockedDir, RecordedContainer, StateDirError,
    Store, config_dir,
};

/// Removes what is left of the attachment of a container that has stopped. A container that is not
/// known has nothing left.
///
/// Ids are unique below one root of a runtime, or in one namespace of containerd, not on a host: a
/// container of this id that is alive and has another bundle than `bundle` is another container,
/// and keeps its attachment.
///
/// # Errors
/// [`AttachError`] if something could not be removed.
pub fn remove_stopped(
    id: &ContainerId,
    bundle: Option<&Path>,
    store: &Store,
) -> Result<(), AttachError> {
    match store.lock(id)? {
        Some(dir) => {
            if let Ok(Some(record)) = dir.read()
                && is_of_another(record.container(), bundle)
                && record.container().is_alive()
            {
                return Ok(());
            }
            detach_all(dir, store)
        }
        // The proxy may have removed the directory first. It cannot delete shared links.
        None => {
            shims::follow(store);
            host_links::collect(store).map(drop)
        }
    }
}

/// Whether a container has another bundle than one that has stopped.
fn is_of_another(recorded: &RecordedContainer, stopped: Option<&Path>) -> bool {
    recorded.bundle.as_deref().zip(stopped).is_some_and(|(recorded, stopped)| recorded != stopped)
}

/// Removes what the container of an ended process has asked for. Interfaces of its engine's networks stay
/// as long as the namespace does: the engine has them removed, or starts the container again with them.
///
/// # Errors
/// As [`remove_stopped`].
pub fn remove_asked(
    id: &ContainerId,
    bundle: Option<&Path>,
    store: &Store,
) -> Result<(), AttachError> {
    if let Some(dir) = store.lock(id)?
        && let Ok(Some(AttachmentRecord::Attached(mut attached))) = dir.read()
        && attached.has_network()
        && attached.container.is_alive()
    {
        if is_of_another(&attached.container, bundle) {
            return Ok(());
        }
        let users = proxy_users(store);
        unfinished::finish(&mut attached, &dir, users)?;
        return remove(&mut attached, &dir, users, |i| !i.attachment.is_of_network());
    }
    remove_stopped(id, bundle, store)
}

/// Removes the interfaces of a container that `is_to_go` selects, and leaves at least one. The others are
/// served without a gap.
///
/// # Errors
/// What could not be done. The record then says what there is.
pub(super) fn remove(
    attached: &mut Attached,
    dir: &LockedDir,
    users: ProxyUsers<'_>,
    is_to_go: impl Fn(&AttachedInterface) -> bool,
) -> Result<(), AttachError> {
    let removed: Vec<_> = attached.interfaces.extract_if(.., |i| is_to_go(i)).collect();
    if removed.is_empty() {
        return Ok(());
    }
    attached.leaving.extend_from_slice(&removed);
    dir.write(&AttachmentRecord::Attached(attached.clone()))?;
    unfinished::finish(attached, dir, users)?;
    // A claim that stays holds nothing.
    let gone = removed.iter().map(|interface| &interface.attachment);
    let _ = users.store.release_claims(&attached.container.id, gone);
    shims::follow(users.store);
    host_links::collect(users.store).map(drop)
}

/// A file of the administrator's that cannot be understood keeps nobody from being detached.
fn proxy_users(store: &Store) -> ProxyUsers<'_> {
    let range = AdminConfig::read(&config_dir()).unwrap_or_default().proxy_uids();
    ProxyUsers { store, range }
}

/// Removes an attachment and its directory. A step that fails does not keep the others from being
/// done.
///
/// # Errors
/// The first failure.
pub(super) fn detach_all(dir: LockedDir, store: &Store) -> Result<(), AttachError> {
    let mut shared = Vec::new();
    let record = dir.read();
    let undone = match &record {
        Ok(Some(record)) => {
            shared.extend_from_slice(record.host_links());
            undo(record, &dir)
        }
        _ => Ok(()),
    };
    let removed = dir.remove();
    if let Ok(Some(record)) = &record {
        // A claim that stays holds nothing.
        let _ = store.release_claims(&record.container().id, record.all_attachments());
        if record.all_attachments().any(|attachment| attachment.ip.is_dhcp()) {
            store.remove_dhcp_dir(&record.container().id);
        }
    }
    shims::follow(store);
    // A link is in use as long as a record names it.
    let released = host_links::release(&shared, store);
    record?;
    undone?;
    removed?;
    released
}

/// Deletes the links, then ends the proxy. In this order the proxy's rules are still there when the
/// kernel tears the namespace down: its leaves must not reach the LAN.
pub(super) fn undo(record: &AttachmentRecord, dir: &LockedDir) -> Result<(), AttachError> {
    let attached = record.attached();
    let proxies = || attached.into_iter().flat_map(Attached::proxies);
    // Whoever finds the record of a container that runs knows that the rest is to be removed.
    if let Some(attached) = attached
        && attached.container.is_alive()
        && !attached.interfaces.is_empty()
    {
        let leaving = [attached.leaving.clone(), attached.interfaces.clone()].concat();
        let none = Attached { interfaces: Vec::new(), leaving, ..attached.clone() };
        dir.write(&AttachmentRecord::Attached(none))?;
    }
    // While there are links to give addresses back by.
    let interfaces = attached.into_iter().flat_map(|a| a.interfaces.iter().chain(&a.leaving));
    leases::release(interfaces);
    let deleted = match reach_namespace(record.container(), proxies(), dir) {
        Some(namespace) => {
            let deleted = match record {
                AttachmentRecord::Planned(planned) => {
                    unfinished::delete_links(&namespace, [].iter(), &planned.interfaces)
                }
                AttachmentRecord::Attached(attached) => {
                    let interfaces = attached.interfaces.iter().chain(&attached.leaving);
                    unfinished::delete_links(&namespace, interfaces, &attached.adding)
                }
            };
            release_running(record.container(), &namespace);
            deleted
        }
        None => Ok(()),
    };
    for proxy in proxies() {
        proxies::terminate(proxy)?;
    }
    deleted
}

/// What goes with the namespace of a container that has ended, and is to be taken from one that runs.
fn release_running(container: &RecordedContainer, namespace: &NetNs) {
    if container.is_alive() {
        // Without an interface of mcrun's, rules that stay change nothing.
        let _ = RouteSocket::open_in(namespace).map(|mut socket| release_answers(&mut socket));
    }
}

/// Removes interfaces of a container that runs: all of them, or the one of this name. The others
/// are served without a gap. Returns the names of those removed.
///
/// # Errors
/// [`AttachError::NotAttached`], [`AttachError::NoInterface`], and what could not be done. The
/// record then says what there is.
pub fn detach(
    id: &ContainerId,
    name: Option<&str>,
    store: &Store,
) -> Result<Vec<String>, AttachError> {
    let not_attached = || AttachError::NotAttached(id.clone());
    let dir = store.lock(id)?.ok_or_else(not_attached)?;
    let record = dir.read()?.and_then(AttachmentRecord::into_attached);
    let mut attached = record.ok_or_else(not_attached)?;
    let users = proxy_users(store);
    if attached.container.is_alive() && !attached.interfaces.is_empty() {
        unfinished::finish(&mut attached, &dir, users)?;
    }
    let names: Vec<String> = attached.interfaces.iter().map(|i| i.name.clone()).collect();
    let position = match name {
        Some(name) => Some(names.iter().position(|n| n == name).ok_or_else(|| {
            let name = name.chars().filter(|c| !c.is_control()).take(64).collect();
            AttachError::NoInterface { name, there: names.join(", ") }
        })?),
        None => None,
    };
    let Some(position) = position.filter(|_| names.len() > 1) else {
        detach_all(dir, store)?;
        return Ok(names);
    };
    let name = names[position].clone();
    remove(&mut attached, &dir, users, |interface| interface.name == name)?;
    Ok(vec![name])
}

/// What [`collect_garbage`] did about one container.
#[derive(Debug)]
pub struct Collected {
    /// Its id.
    pub container: ContainerId,
    /// What could not be removed.
    pub result: Result<(), AttachError>,
}

/// What [`collect_garbage`] did.
#[derive(Debug)]
pub struct Garbage {
    /// The containers that had ended, and those of which something was removed.
    pub containers: Vec<Collected>,
    /// Names of the shared links of the host that nobody used any more; or what kept them from
    /// being deleted.
    pub host_links: Result<Vec<String>, AttachError>,
    /// Names of links of the host's own legs on parents whose making or removal was interrupted.
    pub shims: Result<Vec<String>, ShimError>,
}

/// Removes the attachments of containers that have ended, what programs that were killed have left,
/// shared links of the host that nobody uses, and the control group of proxies if there is none. What the record of a container that runs names
/// is left alone.
///
/// # Errors
/// If the state directory cannot be listed.
pub fn collect_garbage(store: &Store) -> Result<Garbage, StateDirError> {
    let mut collected = Vec::new();
    let range = AdminConfig::read(&config_dir()).unwrap_or_default().proxy_uids();
    let containers = store.list()?;
    // One look for all containers. Whoever has the lock of a container knows that the launcher of a
    // proxy that was found before, and that the record does not name, has ended.
    let running = RunningProxies::find();
    for container in containers {
        let result = match store.lock(&container) {
            Ok(Some(dir)) => match dir.read() {
                Ok(Some(AttachmentRecord::Attached(mut attached)))
                    if attached.container.is_alive() && !attached.interfaces.is_empty() =>
                {
                    let users = ProxyUsers { store, range };
                    // An earlier version made none. What somebody else has is not to be had.
                    let _ = store.restore_claims(&AttachmentRecord::Attached(attached.clone()));
                    let found =
                        running.as_ref().map_err(|e| io::Error::new(e.kind(), e.to_string()));
                    let removed = found.map_err(AttachError::from).and_then(|running| {
                        unfinished::collect(&mut attached, &dir, users, running)
                    });
                    match removed {
                        Ok(false) => continue,
                        other => other.map(drop),
                    }
                }
                // It is unknown whether the container of an unreadable record is alive.
                Err(error) => Err(error.into()),
                // The container has ended, or whoever was attaching or detaching it was killed.
                Ok(_) => detach_all(dir, store),
            },
            Ok(None) => continue,
            Err(error) => Err(error.into()),
        };
        collected.push(Collected { container, result });
    }
    let gone = |id: &ContainerId| !store.container_dir(id).is_dir();
    store.list_dhcp_dirs().iter().filter(|id| gone(id)).for_each(|id| store.remove_dhcp_dir(id));
    let claims = store.collect_claims();
    // Before the VLAN links that they may hang on.
    let shims = shims::collect(store);
    let host_links = claims.map_err(AttachError::from).and_then(|()| host_links::collect(store));
    proxy::remove_unused_group();
    Ok(Garbage { containers: collected, host_links, shims })
}

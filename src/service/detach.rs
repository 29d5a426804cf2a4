//! Removing attachments: of a container that has ended, and of one that runs.

use std::io;

use crate::attachment::AdminConfig;
use crate::link::apply::{delete_interfaces, keep_multicast_route};
use crate::net::netlink::RouteSocket;
use crate::net::netns::NetNs;
use crate::oci::ContainerId;
use crate::proxy;
use crate::service::proxies::ProxyUsers;
use crate::service::{AttachError, host_links, proxies};
use crate::state::{
    Attached, AttachmentRecord, HostLinkUse, Lifetime, LockedDir, RecordedContainer, StateDirError,
    Store, config_dir,
};
use crate::sys::process::ProcessRef;

/// Removes what is left of a container's attachment. A container that is not known has nothing
/// left.
///
/// # Errors
/// [`AttachError`] if something could not be removed.
pub fn remove(id: &ContainerId, store: &Store) -> Result<(), AttachError> {
    match store.lock(id)? {
        Some(dir) => detach_all(dir, store),
        // The proxy may have removed the directory first. It cannot delete shared links.
        None => host_links::collect(store).map(drop),
    }
}

/// Removes an attachment and its directory. A step that fails does not keep the others from being
/// done.
///
/// # Errors
/// The first failure.
pub(super) fn detach_all(dir: LockedDir, store: &Store) -> Result<(), AttachError> {
    let mut shared = Vec::new();
    let undone = match dir.read() {
        Ok(Some(record)) => {
            shared.extend_from_slice(record.host_links());
            undo(&record, &dir)
        }
        Ok(None) => Ok(()),
        Err(error) => Err(error.into()),
    };
    let removed = dir.remove();
    // A link is in use as long as a record names it.
    let released = host_links::release(&shared, store);
    undone?;
    removed?;
    released
}

/// Deletes the links, then ends the proxy. In this order the proxy's rules are still there when the
/// kernel tears the namespace down: its leaves must not reach the LAN.
fn undo(record: &AttachmentRecord, dir: &LockedDir) -> Result<(), AttachError> {
    let Some(attached) = record.attached() else { return Ok(()) };
    let deleted = match reach_namespace(&attached.container, attached.proxy, dir) {
        Some(namespace) => delete_links(attached, &namespace),
        None => Ok(()),
    };
    attached.proxy.map_or(Ok(()), proxies::terminate)?;
    deleted
}

fn delete_links(attached: &Attached, namespace: &NetNs) -> Result<(), AttachError> {
    let mut socket = RouteSocket::open_in(namespace)?;
    let made = attached.interfaces.iter().filter(|i| i.index.is_some() && i.is_made());
    Ok(delete_interfaces(&mut socket, made.map(|i| (i.name.as_str(), i.mac)))?)
}

/// The container's network namespace, if there is still a way to it: through its process, through
/// the path where it is mounted, or through the proxy, which holds it until it ends.
pub(super) fn reach_namespace(
    container: &RecordedContainer,
    proxy: Option<ProcessRef>,
    dir: &LockedDir,
) -> Option<NetNs> {
    let is_it = |namespace: &NetNs| namespace.id().is_ok_and(|id| id == container.netns);
    let of_process = || match container.lifetime {
        Lifetime::Process(process) if process.is_alive() => NetNs::of_pid(process.pid).ok(),
        _ => None,
    };
    let mounted = || NetNs::open(container.namespace_path()?).ok();
    let of_proxy = || proxy?.is_alive().then(|| proxy::namespace(dir.path()).ok()).flatten();
    of_process()
        .filter(is_it)
        .or_else(|| mounted().filter(is_it))
        .or_else(|| of_proxy().filter(is_it))
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
    let namespace = reach_namespace(&attached.container, attached.proxy, &dir);
    let namespace = namespace.ok_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))?;
    let mut socket = RouteSocket::open_in(&namespace)?;
    let interface = &attached.interfaces[position];
    if interface.is_made() {
        delete_interfaces(&mut socket, [(interface.name.as_str(), interface.mac)])?;
    }
    let removed = attached.interfaces.remove(position);
    if let Some(index) = attached.interfaces.first().and_then(|first| first.index) {
        keep_multicast_route(&mut socket, index)?;
    }
    let needed = |used: &HostLinkUse| {
        attached.interfaces.iter().any(|i| i.attachment.host_link().as_ref() == Some(&used.link))
    };
    let (host_links, released) = attached.host_links.iter().cloned().partition(needed);
    attached.host_links = host_links;
    let released: Vec<HostLinkUse> = released;
    // A file that cannot be understood keeps nobody from being detached.
    let range = AdminConfig::read(&config_dir()).unwrap_or_default().proxy_uids();
    proxies::replace(&mut attached, &dir, ProxyUsers { store, range })?;
    host_links::release(&released, store)?;
    Ok(vec![removed.name])
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
    /// The containers that had ended.
    pub containers: Vec<Collected>,
    /// Names of the shared links of the host that nobody used any more; or what kept them from
    /// being deleted.
    pub host_links: Result<Vec<String>, AttachError>,
}

/// Removes the attachments of containers that have ended, what programs that were killed have left,
/// and shared links of the host that nobody uses. Containers that run are left alone.
///
/// # Errors
/// If the state directory cannot be listed.
pub fn collect_garbage(store: &Store) -> Result<Garbage, StateDirError> {
    let mut collected = Vec::new();
    for container in store.list()? {
        let result = match store.lock(&container) {
            Ok(Some(dir)) => match dir.read() {
                Ok(Some(record)) if record.container().is_alive() => continue,
                // It is unknown whether the container of an unreadable record is alive.
                Err(error) => Err(error.into()),
                Ok(_) => detach_all(dir, store),
            },
            Ok(None) => continue,
            Err(error) => Err(error.into()),
        };
        collected.push(Collected { container, result });
    }
    Ok(Garbage { containers: collected, host_links: host_links::collect(store) })
}

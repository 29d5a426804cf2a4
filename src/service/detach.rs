//! Taking attachments back: for a container that has stopped, and for what nobody cleaned up.

use crate::link::apply::{delete_interfaces, keep_multicast_route};
use crate::net::netlink::RouteSocket;
use crate::net::netns::NetNs;
use crate::oci::ContainerId;
use crate::proxy;
use crate::service::{AttachError, proxies};
use crate::state::{LockedDir, Record, StateDirError, Store};

/// Takes back an attachment and removes its directory. What fails does not keep the rest from
/// being done.
///
/// # Errors
/// The first thing that failed.
pub fn detach(dir: LockedDir) -> Result<(), AttachError> {
    let undone = match dir.read() {
        Ok(Some(record)) => take_back(&record, &dir),
        Ok(None) => Ok(()),
        Err(error) => Err(error.into()),
    };
    let removed = dir.remove();
    undone?;
    Ok(removed?)
}

/// The links go first, while the proxy's rules still stand: a kernel that tears down a namespace says
/// its leaves, and they are not for the LAN.
fn take_back(record: &Record, dir: &LockedDir) -> Result<(), AttachError> {
    let deleted = match surviving_namespace(record, dir) {
        Some(namespace) => delete_links(record, &namespace),
        None => Ok(()),
    };
    record.proxy.map_or(Ok(()), proxies::dismiss)?;
    deleted
}

fn delete_links(record: &Record, namespace: &NetNs) -> Result<(), AttachError> {
    let mut socket = RouteSocket::open_in(namespace)?;
    let interfaces = record.interfaces.iter().filter(|i| i.index != 0 && i.is_made());
    Ok(delete_interfaces(&mut socket, interfaces.map(|i| (i.name.as_str(), i.mac)))?)
}

/// The container's namespace, when it can still be reached: through its init, where it is kept, or
/// through the proxy, which holds it until it has ended itself.
fn surviving_namespace(record: &Record, dir: &LockedDir) -> Option<NetNs> {
    let of_init = || record.init.is_alive().then(|| NetNs::of_pid(record.init.pid).ok()).flatten();
    let kept = || record.netns_path.as_ref().and_then(|path| NetNs::open(path).ok());
    let of_proxy = || record.proxy?.is_alive().then(|| proxy::namespace(dir.path()).ok()).flatten();
    let namespace = of_init().or_else(kept).or_else(of_proxy)?;
    (namespace.id().ok()? == record.netns).then_some(namespace)
}

/// Takes interfaces of a container away, all of them or the one of this name, and leaves it running. The
/// others are served on without a gap. Their names are returned.
///
/// # Errors
/// [`AttachError::NotAttached`], [`AttachError::NoInterface`], and what could not be done; what is on record
/// then is what there is.
pub fn detach_running(
    id: &ContainerId,
    name: Option<&str>,
    store: &Store,
) -> Result<Vec<String>, AttachError> {
    let not_attached = || AttachError::NotAttached(id.clone());
    let dir = store.lock(id)?.ok_or_else(not_attached)?;
    let mut record = dir.read()?.ok_or_else(not_attached)?;
    let names: Vec<String> = record.interfaces.iter().map(|i| i.name.clone()).collect();
    let position = match name {
        Some(name) => Some(names.iter().position(|n| n == name).ok_or_else(|| {
            let name = name.chars().filter(|c| !c.is_control()).take(64).collect();
            AttachError::NoInterface { name, there: names.join(", ") }
        })?),
        None => None,
    };
    let Some(position) = position.filter(|_| names.len() > 1) else {
        detach(dir)?;
        return Ok(names);
    };
    let interface = &record.interfaces[position];
    let mut socket = RouteSocket::open_in(&NetNs::of_pid(record.init.pid)?)?;
    if interface.is_made() {
        delete_interfaces(&mut socket, [(interface.name.as_str(), interface.mac)])?;
    }
    let removed = record.interfaces.remove(position);
    if let Some(first) = record.interfaces.first().filter(|first| first.index != 0) {
        keep_multicast_route(&mut socket, first.index)?;
    }
    proxies::replace(&mut record, &dir)?;
    Ok(vec![removed.name])
}

/// What [`collect_garbage`] did about one container.
#[derive(Debug)]
pub struct Collected {
    /// Its id.
    pub container: ContainerId,
    /// What could not be taken back.
    pub result: Result<(), AttachError>,
}

/// Takes back the attachments of containers that have ended, and what hooks that were killed have
/// left. Containers that run are left alone.
///
/// # Errors
/// When the state directory cannot be listed.
pub fn collect_garbage(store: &Store) -> Result<Vec<Collected>, StateDirError> {
    let mut collected = Vec::new();
    for container in store.list()? {
        let result = match store.lock(&container) {
            Ok(Some(dir)) => match dir.read() {
                Ok(Some(record)) if record.init.is_alive() => continue,
                // Whether the container of a record that cannot be read lives, nobody knows.
                Err(error) => Err(error.into()),
                Ok(_) => detach(dir),
            },
            Ok(None) => continue,
            Err(error) => Err(error.into()),
        };
        collected.push(Collected { container, result });
    }
    Ok(collected)
}

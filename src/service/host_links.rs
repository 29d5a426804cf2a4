//! Links of the host that several containers share. Their users are counted through the records,
//! under the state directory's lock: there is no count that could be wrong.

use crate::link::apply::{delete_host_link, made_host_links};
use crate::link::mark::Mark;
use crate::link::plan::InterfacePlan;
use crate::net::messages::Link;
use crate::net::netlink::RouteSocket;
use crate::service::AttachError;
use crate::state::{HostLinkUse, StateDirError, Store};

/// The mark of links that are made with the records of a state directory.
pub(super) fn mark(store: &Store) -> Mark {
    Mark::of(store.root())
}

/// The shared links that planned interfaces use, each once.
pub(super) fn uses(plans: &[InterfacePlan]) -> Vec<HostLinkUse> {
    let mut uses: Vec<HostLinkUse> = Vec::new();
    for planned in plans.iter().filter_map(|plan| plan.host_link.as_ref()) {
        if uses.iter().all(|known| known.link != planned.link) {
            uses.push(HostLinkUse { link: planned.link.clone(), made: planned.made });
        }
    }
    uses
}

/// Deletes those of the links that no record names any more. Links that somebody else has made
/// stay. While a record cannot be read, which may be that of a user, all stay: `mcrun gc` names it.
///
/// # Errors
/// The kernel's refusal, and a state directory that cannot be listed.
pub(super) fn release(released: &[HostLinkUse], store: &Store) -> Result<(), AttachError> {
    let made = released.iter().filter(|released| released.made);
    let names: Vec<&str> = made.map(|released| released.link.name.as_str()).collect();
    let mark = mark(store);
    delete_unused(&names, |link| mark.is_on_recorded(link), store).map(drop)
}

/// Deletes all links that have the mark of the state directory and that no record names; returns their
/// names.
///
/// # Errors
/// As those of [`release`].
pub(super) fn collect(store: &Store) -> Result<Vec<String>, AttachError> {
    let mark = mark(store);
    let made = made_host_links(&mark, &mut RouteSocket::open()?)?;
    let names: Vec<&str> = made.iter().map(String::as_str).collect();
    delete_unused(&names, |link| mark.is_on(link), store)
}

fn delete_unused(
    names: &[&str],
    ours: impl Fn(&Link) -> bool,
    store: &Store,
) -> Result<Vec<String>, AttachError> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let _lock = store.lock_all()?;
    let Some(used) = used(store)? else { return Ok(Vec::new()) };
    let mut host = RouteSocket::open()?;
    let mut deleted = Vec::new();
    for name in names.iter().filter(|name| !used.iter().any(|used| used == *name)) {
        if delete_host_link(name, &ours, &mut host)? {
            deleted.push((*name).to_owned());
        }
    }
    Ok(deleted)
}

/// Names of the shared links that records name; `None` if one of the records cannot be read.
fn used(store: &Store) -> Result<Option<Vec<String>>, StateDirError> {
    let mut used = Vec::new();
    for id in store.list()? {
        match store.read(&id) {
            Ok(Some(record)) => {
                used.extend(record.host_links().iter().map(|used| used.link.name.to_string()));
            }
            Ok(None) => {}
            Err(_) => return Ok(None),
        }
    }
    Ok(Some(used))
}

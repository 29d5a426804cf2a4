//! Checks whether a parent can have a child in cases that the kernel does not refuse, and finds the
//! container or program that holds the parent.
//!
//! All ipvlan children of a parent have one mode and one flag. The kernel does not refuse a child
//! with another mode: it changes the mode of all children (`ipvlan_link_new` in
//! drivers/net/ipvlan/ipvlan_main.c), also of those in running containers. So mcrun checks first.

use std::collections::BTreeSet;
use std::fs::File;

use crate::attachment::Driver;
use crate::link::apply::ApplyError;
use crate::link::children;
use crate::link::children::{Child, ChildKind};
use crate::link::plan::{InterfacePlan, LinkPlan};
use crate::net::netlink::RouteSocket;
use crate::net::netns::NetNs;
use crate::primitives::InterfaceName;
use crate::service::AttachError;
use crate::state::{AttachmentRecord, RecordedContainer, Store};

/// Checks that no planned ipvlan child changes the mode or flag of existing children. Hold the
/// returned lock until the planned children are made: without it two hooks at the same time would
/// both find no child. A caller that has the lock already passes it as `lock`.
///
/// # Errors
/// [`AttachError::Parent`], which names the existing child and its owner.
pub(super) fn check(
    plans: &[InterfacePlan],
    host: &mut RouteSocket,
    store: &Store,
    mut lock: Option<File>,
) -> Result<Option<File>, AttachError> {
    let planned = plans.iter().filter_map(|plan| match plan.link {
        LinkPlan::Ipvlan { mode, flag } => {
            Some(((&plan.parent.name, plan.parent.index?), mode, flag))
        }
        _ => None,
    });
    let mut checked = BTreeSet::new();
    for ((name, index), mode, flag) in planned {
        if lock.is_none() {
            lock = Some(store.lock_all()?);
        }
        // Several children of one container agree with each other already.
        if !checked.insert(index) {
            continue;
        }
        let Some((child, whose)) = find(name, index, host, store) else { continue };
        let ChildKind::Ipvlan(theirs, their_flag) = child.kind else { continue };
        let refuse = |key: &str, wanted: &str, there: &str| {
            Err(AttachError::Parent(format!(
                "{key}={wanted}: {name} has ipvlan children of {key} {there}, such as {} {whose}, and all children of a parent have the same",
                child.name
            )))
        };
        if theirs != mode {
            return refuse("mode", mode.name(), theirs.name());
        }
        if their_flag != flag {
            return refuse("flag", flag.name(), their_flag.name());
        }
    }
    Ok(lock)
}

/// Adds to a refusal who holds the parent.
pub(super) fn explain(error: ApplyError, store: &Store) -> AttachError {
    let ApplyError::ParentHeld { parent, driver } = &error else {
        return error.into();
    };
    let name = &parent.name;
    let found = parent.index.zip(RouteSocket::open().ok());
    let found = found.and_then(|(index, mut host)| find(name, index, &mut host, store));
    match found {
        Some((child, whose)) => AttachError::Parent(format!(
            "parent={name}: it cannot have {driver} children, since it has {} children, such as {} {whose}",
            child.kind.name(),
            child.name
        )),
        None => error.into(),
    }
}

/// A child of a parent, and its owner. The records tell in which namespaces to look; the kernel
/// tells which links are there.
fn find(
    name: &InterfaceName,
    parent: u32,
    host: &mut RouteSocket,
    store: &Store,
) -> Option<(Child, String)> {
    let own = NetNs::current().ok()?;
    let in_container = |container: &RecordedContainer| {
        let namespace = match container.lifetime.process() {
            Some(process) => NetNs::of_pid(process.pid),
            None => NetNs::open(container.namespace_path()?),
        };
        let child = children::in_namespace(&namespace.ok()?, &own, parent).ok()??;
        Some((child, format!("of container {}", container.name)))
    };
    // The links of a planned attachment may exist already: another hook is making it.
    let may_have_child = |record: &AttachmentRecord| {
        record.attachments().any(|attachment| {
            !matches!(attachment.driver, Driver::Relay { .. }) && attachment.parent_link() == name
        })
    };
    let ids = store.list().unwrap_or_default();
    // A record that cannot be read is mcrun gc's business.
    let records = ids.iter().filter_map(|id| store.read(id).ok()?);
    let mut records = records.filter(may_have_child);
    let recorded = records.find_map(|record| {
        let container = record.container();
        container.is_alive().then(|| in_container(container))?
    });
    let on_host = |host| {
        let child = children::on_host(host, parent).ok()??;
        Some((child, "of the host".to_owned()))
    };
    recorded.or_else(|| on_host(host)).or_else(|| {
        let (child, path) = children::anywhere(parent).ok()??;
        Some((child, children::describe(&path)))
    })
}

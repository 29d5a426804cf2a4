//! Attaching one container, all or nothing.

use std::time::{SystemTime, UNIX_EPOCH};

use caps::{CapSet, Capability};

use super::HookError;
use super::cleanup::detach;
use super::proxies::{self, Unfinished};
use super::request::Request;
use crate::attach::{AdminConfig, AdminError, Attachment};
use crate::net::apply::Applying;
use crate::net::facts::{Facts, link};
use crate::net::netlink::RouteSocket;
use crate::net::netns::NetNs;
use crate::net::plan::plan;
use crate::oci::{ContainerId, ContainerState};
use crate::state::{AttachedInterface, LockedDir, ProcessRef, Record, Store, config_dir};

/// Attaches the container of `state` as it asks.
pub(super) fn attach(
    state: &ContainerState,
    request: Request,
    store: &Store,
) -> Result<(), HookError> {
    let pid = state.pid.ok_or(HookError::NoPid)?;
    let init = ProcessRef::of(pid).map_err(|_| HookError::Ended(pid))?;
    let interfaces = interfaces(request.attachments, &AdminConfig::read(&config_dir())?)?;
    check_privileges()?;
    let namespace = NetNs::of_pid(pid)?;
    if namespace.id()? == NetNs::current()?.id()? {
        return Err(HookError::HostNetwork);
    }
    if request.netns_path.is_some()
        && let Some(other) = attached_in(&namespace, &state.id, store)?
    {
        return Err(HookError::AttachedNetwork(other));
    }
    let mut container = RouteSocket::open_in(&namespace)?;

    let mut dir = store.lock_or_create(&state.id)?;
    // A record that cannot be understood is of no use to anybody: it is replaced.
    if let Ok(Some(record)) = dir.read() {
        let same = record.init == init
            && record
                .interfaces
                .iter()
                .map(|i| &i.attachment)
                .eq(interfaces.iter().map(|i| &i.attachment));
        if same && is_intact(&record, &mut container) {
            return Ok(());
        }
        // Left by an earlier container of this id, or by a hook that was killed.
        detach(dir)?;
        dir = store.lock_or_create(&state.id)?;
    }
    let record = Record {
        container: state.id.clone(),
        name: request.name,
        init,
        bundle: state.bundle.clone(),
        netns: namespace.id()?,
        netns_path: request.netns_path,
        attached_at: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
        interfaces,
        proxy: None,
        complete: false,
    };
    let result = carry_out(record, &dir, &namespace, &mut container);
    if result.is_err() {
        // The reason is more useful than that its traces could not be removed either.
        let _ = dir.remove();
    }
    result
}

/// Another container that lives and is attached in this namespace.
fn attached_in(
    namespace: &NetNs,
    own: &ContainerId,
    store: &Store,
) -> Result<Option<ContainerId>, HookError> {
    let id = namespace.id()?;
    let others = store.list()?.into_iter().filter(|other| other != own);
    // A record that cannot be read is mcrun gc's business.
    let mut records = others.filter_map(|other| store.read(&other).ok()?);
    let lives_there = |record: &Record| record.netns == id && record.init.is_alive();
    Ok(records.find(lives_there).map(|record| record.container))
}

/// The interfaces as they are meant to be, each checked against the administrator's rules.
fn interfaces(
    attachments: Vec<Attachment>,
    admin: &AdminConfig,
) -> Result<Vec<AttachedInterface>, AdminError> {
    let each = attachments.into_iter().enumerate();
    each.map(|(position, attachment)| {
        Ok(AttachedInterface {
            name: attachment.interface_name(position).to_string(),
            index: 0,
            upstream_index: 0,
            mac: None,
            policy: admin.check(&attachment)?,
            attachment,
        })
    })
    .collect()
}

fn carry_out(
    mut record: Record,
    dir: &LockedDir,
    namespace: &NetNs,
    container: &mut RouteSocket,
) -> Result<(), HookError> {
    let attachments: Vec<_> = record.interfaces.iter().map(|i| i.attachment.clone()).collect();
    let mut host = RouteSocket::open()?;
    let facts = Facts::gather(&attachments, &mut host, container)?;
    let plans = plan(&attachments, &facts)?;
    // The intention first: whoever finds it knows what to take back.
    dir.write(&record)?;
    dir.hand_to_proxy()?;

    let mut applying = Applying::create(&plans, &mut host, container, namespace)?;
    let made = applying.created().iter().zip(&plans);
    for (interface, (created, plan)) in record.interfaces.iter_mut().zip(made) {
        interface.index = created.index;
        interface.mac = created.mac;
        interface.upstream_index = plan.upstream.1;
    }
    // The proxy's rules and sockets must be there before the link comes up: one native query of
    // version 2 would hold the container's kernel in that version for minutes.
    let proxy = proxies::start(&record)?;
    record.proxy = proxy.as_ref().map(Unfinished::process);
    applying.activate()?;
    record.complete = true;
    dir.write(&record)?;
    applying.commit();
    if let Some(proxy) = proxy {
        proxy.keep();
    }
    Ok(())
}

/// Whether an attachment stands as its record says.
fn is_intact(record: &Record, container: &mut RouteSocket) -> bool {
    record.complete
        && record.proxy.is_none_or(ProcessRef::is_alive)
        && record.interfaces.iter().all(|interface| {
            link(container, &interface.name)
                .is_ok_and(|found| found.is_some_and(|found| found.index == interface.index))
        })
}

/// The capabilities without which an attachment fails halfway; asked for at the start, one by one, so
/// that the missing one can be named.
fn check_privileges() -> Result<(), HookError> {
    const NEEDED: [(Capability, &str); 5] = [
        (Capability::CAP_NET_ADMIN, "CAP_NET_ADMIN"),
        (Capability::CAP_SYS_ADMIN, "CAP_SYS_ADMIN"),
        (Capability::CAP_NET_RAW, "CAP_NET_RAW"),
        (Capability::CAP_SETUID, "CAP_SETUID"),
        (Capability::CAP_SETGID, "CAP_SETGID"),
    ];
    let have = caps::read(None, CapSet::Effective).unwrap_or_default();
    match NEEDED.iter().find(|(capability, _)| !have.contains(capability)) {
        Some((_, name)) => Err(HookError::Privilege(name)),
        None => Ok(()),
    }
}

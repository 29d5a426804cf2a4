//! Attaching one container, all or nothing: when it is created, or while it runs.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use caps::{CapSet, Capability};

use crate::attachment::{
    AdminConfig, AdminError, Attachment, Driver, EffectiveLimits, check_together,
};
use crate::link::apply::Applying;
use crate::link::facts::{Facts, link};
use crate::link::plan::plan;
use crate::net::netlink::RouteSocket;
use crate::net::netns::NetNs;
use crate::oci::{ContainerId, ContainerState};
use crate::proxy::ProxyLaunch;
use crate::service::AttachError;
use crate::service::detach::detach;
use crate::service::parents;
use crate::service::proxies;
use crate::state::{AttachedInterface, LockedDir, Record, Store, config_dir};
use crate::sys::process::ProcessRef;

/// What a container asks for when it is created.
#[derive(Debug, PartialEq, Eq)]
pub struct AttachRequest {
    /// At least one attachment.
    pub attachments: Vec<Attachment>,
    /// What people call the container.
    pub name: String,
    /// Path of its network namespace, when the namespace is not the container's alone.
    pub netns_path: Option<PathBuf>,
}

/// Attaches the container of `state` as it asks.
///
/// # Errors
/// [`AttachError`]; nothing is left behind then.
pub fn attach(
    state: &ContainerState,
    request: AttachRequest,
    store: &Store,
) -> Result<(), AttachError> {
    let admin = AdminConfig::read(&config_dir())?;
    let interfaces = interfaces(request.attachments, &admin)?;
    let launch = proxies::begin(&interfaces)?;
    let mut container = Target::open(state, store)?;
    if request.netns_path.is_some()
        && let Some(other) = attached_in(&container.namespace, &state.id, store)?
    {
        return Err(AttachError::AttachedNetwork(other));
    }

    let mut dir = store.lock_or_create(&state.id)?;
    // A record that cannot be understood is of no use to anybody: it is replaced.
    if let Ok(Some(record)) = dir.read() {
        let same = record.init == container.init
            && record
                .interfaces
                .iter()
                .map(|i| &i.attachment)
                .eq(interfaces.iter().map(|i| &i.attachment));
        if same && is_intact(&record, &mut container.socket) {
            return Ok(());
        }
        // Left by an earlier container of this id, or by a hook that was killed.
        detach(dir)?;
        dir = store.lock_or_create(&state.id)?;
    }
    let record = container.record(state, request.name, request.netns_path, interfaces, &admin)?;
    container.attach_first(record, dir, launch)
}

/// Attaches a container that runs already to something more. What it has stays as it is.
///
/// The new interfaces are the last of the container's; one without a `name=` gets the first `mcN` that is
/// free. Their names are returned.
///
/// # Errors
/// [`AttachError`]; the container is then as it was.
pub fn attach_running(
    state: &ContainerState,
    attachments: Vec<Attachment>,
    store: &Store,
) -> Result<Vec<String>, AttachError> {
    let mut container = Target::open(state, store)?;
    let admin = AdminConfig::read(&config_dir())?;
    let mut dir = store.lock_or_create(&state.id)?;
    let there = match dir.read() {
        Ok(Some(record)) if record.complete && record.init == container.init => Some(record),
        Ok(None) => None,
        // Of an earlier container of this id, or not to be understood.
        _ => {
            detach(dir)?;
            dir = store.lock_or_create(&state.id)?;
            None
        }
    };
    let Some(mut record) = there else {
        let result = (|| {
            check_together(&attachments).map_err(AttachError::Together)?;
            let interfaces = interfaces(attachments, &admin)?;
            let names = interfaces.iter().map(|i| i.name.clone()).collect();
            // Engines rename containers: they are asked for the name when it is shown.
            let name = state.id.to_string();
            let launch = proxies::begin(&interfaces)?;
            Ok((container.record(state, name, None, interfaces, &admin)?, names, launch))
        })();
        return match result {
            Ok((record, names, launch)) => {
                container.attach_first(record, dir, launch).map(|()| names)
            }
            Err(error) => {
                let _ = dir.remove();
                Err(error)
            }
        };
    };
    let taken = record.interfaces.iter().map(|i| i.name.clone()).collect();
    let attachments = name_interfaces(attachments, taken);
    check_together(&[named(&record), attachments.clone()].concat())
        .map_err(AttachError::Together)?;
    let added = interfaces(attachments, &admin)?;
    let names = added.iter().map(|i| i.name.clone()).collect();
    record.notifications = admin.notifications();
    container.attach_more(record, added, &dir)?;
    Ok(names)
}

/// The attachments of a record, each with the name that its interface has.
fn named(record: &Record) -> Vec<Attachment> {
    let each = record.interfaces.iter();
    each.map(|i| Attachment { name: i.name.parse().ok(), ..i.attachment.clone() }).collect()
}

/// Gives each attachment without a name the first that is free. A relay's interface has its own.
fn name_interfaces(mut attachments: Vec<Attachment>, mut taken: Vec<String>) -> Vec<Attachment> {
    for attachment in &mut attachments {
        let mut candidates = (0..).map(|position| attachment.interface_name(position));
        // A name that was asked for is taken or not; check_together tells.
        let name = match (&attachment.driver, &attachment.name) {
            (Driver::Relay { .. }, _) => continue,
            (_, Some(name)) => Some(name.clone()),
            (_, None) => candidates.find(|name| !taken.iter().any(|taken| taken == name.as_str())),
        };
        taken.extend(name.iter().map(ToString::to_string));
        attachment.name = name;
    }
    attachments
}

/// A container that can be attached: it runs, and it has a network namespace of its own.
struct Target<'s> {
    store: &'s Store,
    init: ProcessRef,
    namespace: NetNs,
    socket: RouteSocket,
}

impl<'s> Target<'s> {
    fn open(state: &ContainerState, store: &'s Store) -> Result<Self, AttachError> {
        let pid = state.pid.ok_or(AttachError::NoPid)?;
        let init = ProcessRef::of(pid).map_err(|_| AttachError::Ended(pid))?;
        check_privileges()?;
        let namespace = NetNs::of_pid(pid)?;
        if namespace.id()? == NetNs::current()?.id()? {
            return Err(AttachError::HostNetwork);
        }
        let socket = RouteSocket::open_in(&namespace)?;
        Ok(Target { store, init, namespace, socket })
    }

    /// The intention to attach it to these.
    fn record(
        &self,
        state: &ContainerState,
        name: String,
        netns_path: Option<PathBuf>,
        interfaces: Vec<AttachedInterface>,
        admin: &AdminConfig,
    ) -> Result<Record, AttachError> {
        Ok(Record {
            container: state.id.clone(),
            name,
            init: self.init,
            bundle: state.bundle.clone(),
            netns: self.namespace.id()?,
            netns_path,
            attached_at: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
            interfaces,
            proxy: None,
            mark: 0,
            notifications: admin.notifications(),
            complete: false,
        })
    }

    /// Attaches it where nothing was attached.
    fn attach_first(
        &mut self,
        record: Record,
        dir: LockedDir,
        launch: Option<ProxyLaunch>,
    ) -> Result<(), AttachError> {
        // The intention first: whoever finds it knows what to take back.
        let result = (|| {
            dir.write(&record)?;
            dir.hand_to_proxy()?;
            self.carry_out(record, 0, &dir, launch)
        })();
        if result.is_err() {
            // The reason is more useful than that its traces could not be removed either.
            let _ = dir.remove();
        }
        result
    }

    /// Attaches it to something more. No intention is recorded: what a process that is killed halfway
    /// leaves is a link that goes with the container.
    fn attach_more(
        &mut self,
        mut record: Record,
        added: Vec<AttachedInterface>,
        dir: &LockedDir,
    ) -> Result<(), AttachError> {
        let have = record.interfaces.len();
        record.interfaces.extend(added);
        let launch = proxies::begin(&record.interfaces)?;
        self.carry_out(record, have, dir, launch)
    }

    /// Makes the interfaces of a record from position `have` on; those before exist. A proxy that serves
    /// them is replaced by one that serves all: the new one is there before the old one goes.
    fn carry_out(
        &mut self,
        mut record: Record,
        have: usize,
        dir: &LockedDir,
        mut launch: Option<ProxyLaunch>,
    ) -> Result<(), AttachError> {
        let added = &record.interfaces[have..];
        let attachments: Vec<_> = added.iter().map(|i| i.attachment.clone()).collect();
        let mut host = RouteSocket::open()?;
        let facts = Facts::gather(&attachments, &mut host, &mut self.socket)?;
        let plans = plan(&attachments, &facts)?;

        for (interface, plan) in record.interfaces[have..].iter_mut().zip(&plans) {
            interface.upstream_index = plan.upstream.1;
        }
        let before = Record { interfaces: record.interfaces[..have].to_vec(), ..record.clone() };
        if let Some(launch) = &mut launch {
            proxies::give(launch, &mut record, before.proxy)?;
        }

        let lock = parents::check(&plans, &mut host, self.store)?;
        let mut applying = Applying::create(&plans, &mut host, &mut self.socket, &self.namespace)
            .map_err(|error| parents::explain(error, self.store))?;
        drop(lock);
        for (interface, created) in record.interfaces[have..].iter_mut().zip(applying.created()) {
            interface.index = created.index;
            interface.mac = created.mac;
        }
        match finish(&mut record, &mut applying, &mut launch, dir) {
            Ok(()) => {
                applying.commit();
                if let Some(launch) = launch {
                    launch.detach_child();
                }
                proxies::retire(before.proxy, dir)
            }
            Err(error) => {
                // The links go while the new proxy's rules stand.
                drop(applying);
                drop(launch);
                let mut before = before;
                if before.proxy.is_some() {
                    // The proxy that was to follow has taken the control socket with it. Without
                    // another the container is served as before, only unseen.
                    let _ = proxies::replace(&mut before, dir);
                } else if have > 0 {
                    // The record of what there is, or the next detach finds too much.
                    let _ = dir.write(&before);
                }
                Err(error)
            }
        }
    }
}

/// Lets a proxy that knows its task begin to serve the interfaces of a record, which are there and still
/// down, and brings them up. Its rules and sockets must be there before: one native query of version 2
/// would hold the container's kernel in that version for minutes.
fn finish(
    record: &mut Record,
    applying: &mut Applying<'_>,
    launch: &mut Option<ProxyLaunch>,
    dir: &LockedDir,
) -> Result<(), AttachError> {
    if let Some(launch) = launch {
        proxies::go(launch, record)?;
    }
    // What does not need the proxy is done while it installs its rules.
    applying.prepare()?;
    launch.as_mut().map(ProxyLaunch::wait_for_rules).transpose()?;
    // And what needs no more than these while it gives up its privileges.
    applying.activate()?;
    record.proxy = launch.as_mut().map(ProxyLaunch::process).transpose()?;
    record.complete = true;
    dir.write(record)?;
    launch.as_mut().map(ProxyLaunch::wait_until_ready).transpose()?;
    Ok(())
}

/// Another container that lives and is attached in this namespace.
fn attached_in(
    namespace: &NetNs,
    own: &ContainerId,
    store: &Store,
) -> Result<Option<ContainerId>, AttachError> {
    let mut records = store.in_namespace(namespace.id()?)?.into_iter();
    let lives = records.find(|record| record.container != *own && record.init.is_alive());
    Ok(lives.map(|record| record.container))
}

/// The interfaces as they are meant to be, each checked against the administrator's rules.
fn interfaces(
    attachments: Vec<Attachment>,
    admin: &AdminConfig,
) -> Result<Vec<AttachedInterface>, AdminError> {
    let each = attachments.into_iter().enumerate();
    each.map(|(position, attachment)| {
        let EffectiveLimits { policy, rates } = admin.check(&attachment)?;
        Ok(AttachedInterface {
            name: attachment.interface_name(position).to_string(),
            index: 0,
            upstream_index: 0,
            mac: None,
            policy,
            rates,
            attachment,
        })
    })
    .collect()
}

/// Whether an attachment stands as its record says.
fn is_intact(record: &Record, container: &mut RouteSocket) -> bool {
    record.complete
        && record.proxy.is_none_or(ProcessRef::is_alive)
        && record.interfaces.iter().filter(|interface| interface.is_made()).all(|interface| {
            link(container, &interface.name)
                .is_ok_and(|found| found.is_some_and(|found| found.index == interface.index))
        })
}

/// The capabilities without which an attachment fails halfway; asked for at the start, one by one, so
/// that the missing one can be named.
fn check_privileges() -> Result<(), AttachError> {
    const NEEDED: [(Capability, &str); 5] = [
        (Capability::CAP_NET_ADMIN, "CAP_NET_ADMIN"),
        (Capability::CAP_SYS_ADMIN, "CAP_SYS_ADMIN"),
        (Capability::CAP_NET_RAW, "CAP_NET_RAW"),
        (Capability::CAP_SETUID, "CAP_SETUID"),
        (Capability::CAP_SETGID, "CAP_SETGID"),
    ];
    let have = caps::read(None, CapSet::Effective).unwrap_or_default();
    match NEEDED.iter().find(|(capability, _)| !have.contains(capability)) {
        Some((_, name)) => Err(AttachError::Privilege(name)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attachment::parse_spec;

    #[test]
    fn new_interfaces_get_the_first_free_names() {
        let specs = ["parent=eth1", "parent=eth1,name=mc2", "parent=eth2"];
        let attachments = specs.iter().map(|spec| parse_spec(spec).unwrap()).collect();
        let taken = vec!["mc0".to_owned(), "red".to_owned()];
        let named = name_interfaces(attachments, taken);
        let names: Vec<_> = named.iter().map(|a| a.interface_name(9).to_string()).collect();
        assert_eq!(names, ["mc1", "mc2", "mc3"]);
    }
}

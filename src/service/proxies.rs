//! ProxyLaunch, replacing and ending the proxy of a record.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::Duration;

use crate::attachment::{AdminConfig, Driver, EffectiveLimits, IgmpMode};
use crate::oci::ContainerId;
use crate::proxy;
use crate::proxy::{
    CreatedInterface, InterfaceTask, LaunchError, ProxyLaunch, ProxyTask, RelayTask,
    random_packet_mark,
};
use crate::service::AttachError;
use crate::state::{AttachedInterface, LockedDir, Record, StateDirError, Store};
use crate::sys::process::ProcessRef;

/// How long a proxy may take to end before it is killed.
const PATIENCE: Duration = Duration::from_millis(500);

/// Containers whose rules are brought into force at a time: most of it is waiting for old proxies to end.
const AT_A_TIME: usize = 8;

/// Starts a proxy for interfaces that need not be there yet; `None` when all have `igmp=off`.
pub(super) fn begin(interfaces: &[AttachedInterface]) -> Result<Option<ProxyLaunch>, LaunchError> {
    interfaces.iter().any(is_served).then(ProxyLaunch::spawn).transpose()
}

fn is_served(interface: &AttachedInterface) -> bool {
    interface.attachment.igmp != IgmpMode::Off
}

/// Tells a proxy, which may follow an `old` one, what it is to serve: the interfaces of a record, which need
/// not be there yet. The first proxy of a container gets a mark, which the record keeps for those that
/// follow.
pub(super) fn give(
    launch: &mut ProxyLaunch,
    record: &mut Record,
    old: Option<ProcessRef>,
) -> Result<(), AttachError> {
    if record.mark == 0 {
        record.mark = random_packet_mark().map_err(AttachError::Mark)?;
    }
    let interfaces = served(record)
        .map(|interface| InterfaceTask {
            name: interface.name.clone(),
            index: interface.index,
            mac: interface.mac,
            announce: announced(interface),
            parent: interface.attachment.parent.to_string(),
            upstream: interface.attachment.upstream().to_string(),
            upstream_index: interface.upstream_index,
            igmp: interface.attachment.igmp,
            policy: interface.policy.clone(),
            relay: relay(interface),
        })
        .collect();
    launch.send_task(&ProxyTask {
        container: record.container.to_string(),
        pid: record.init.pid,
        pid_start: record.init.start,
        notifications: record.notifications,
        interfaces,
        mark: record.mark,
        takes_over: old.is_some(),
    })?;
    Ok(())
}

/// Tells a proxy that knows its task that the interfaces are there.
pub(super) fn go(launch: &mut ProxyLaunch, record: &Record) -> Result<(), LaunchError> {
    let created = served(record)
        .map(|interface| CreatedInterface { index: interface.index, mac: interface.mac })
        .collect::<Vec<_>>();
    launch.send_interfaces(&created)
}

/// The interfaces that have a proxy.
fn served(record: &Record) -> impl Iterator<Item = &AttachedInterface> {
    record.interfaces.iter().filter(|interface| is_served(interface))
}

/// The addresses that the proxy is to tell the LAN of: those of an interface that is yet to be made.
fn announced(interface: &AttachedInterface) -> Vec<Ipv4Addr> {
    if interface.index != 0 || !interface.attachment.is_announced_by_proxy() {
        return Vec::new();
    }
    let addresses = interface.attachment.ip.addresses().iter();
    addresses
        .filter_map(|net| match net.addr() {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        })
        .collect()
}

/// What the proxy is to carry for an interface whose link carries no multicast.
fn relay(interface: &AttachedInterface) -> Option<RelayTask> {
    let driver = &interface.attachment.driver;
    let task =
        RelayTask { translate: matches!(driver, Driver::Relay { .. }), rates: interface.rates };
    driver.is_relayed().then_some(task)
}

/// Tells a proxy to end, which it does at once; its rules take some milliseconds to go, and nobody
/// needs to wait for that once the links are deleted.
pub(super) fn dismiss(proxy: ProcessRef) -> io::Result<()> {
    match proxy.open() {
        Ok(process) => process.signal(libc::SIGTERM),
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Ends a proxy, and waits until it has.
pub(super) fn end(proxy: ProcessRef) -> io::Result<()> {
    proxy.end(PATIENCE)
}

/// Starts a proxy for the interfaces of a record as they are now, in place of the one it has.
///
/// The new proxy is there before the old one goes: its rules take the container's IGMP from the moment
/// they are installed, and it has joined what the kernel says the container has joined. The host's
/// kernel sees the groups joined by somebody all the time, and says nothing on the LAN.
pub(super) fn replace(record: &mut Record, dir: &LockedDir) -> Result<(), AttachError> {
    let old = record.proxy;
    let mut new = begin(&record.interfaces)?;
    if let Some(new) = &mut new {
        give(new, record, old)?;
        go(new, record)?;
        new.wait_for_rules()?;
        new.wait_until_ready()?;
    }
    record.proxy = new.as_mut().map(ProxyLaunch::process).transpose()?;
    dir.write(record)?;
    if let Some(new) = new {
        new.detach_child();
    }
    retire(old, dir)
}

/// Ends a proxy whose successor, if there is to be one, is at work and on record.
pub(super) fn retire(old: Option<ProcessRef>, dir: &LockedDir) -> Result<(), AttachError> {
    let Some(old) = old else { return Ok(()) };
    // Each packet is carried by one of the two, and none by both. Without a successor there is nobody to
    // carry any; one that does not take over begins anew with the request below.
    let _ = proxy::request_takeover(dir.path());
    end(old)?;
    // What the container said to queries while both were there went to the old one. Without a successor
    // there is nobody to ask.
    let _ = proxy::requery(dir.path());
    Ok(())
}

/// What [`reload`] did about one container.
#[derive(Debug)]
pub struct Reloaded {
    /// Its id.
    pub container: ContainerId,
    /// Whether its proxy was replaced: because the rules in force are others now, or because it
    /// was dead.
    pub result: Result<bool, AttachError>,
}

/// Brings the administrator's rules into force for containers that run, and starts the proxies that are
/// dead.
///
/// # Errors
/// When the state directory cannot be listed, or the administrator's file not be understood.
pub fn reload(store: &Store, admin: &AdminConfig) -> Result<Vec<Reloaded>, StateDirError> {
    let containers = store.list()?;
    let waiting = Mutex::new(containers.iter().enumerate());
    let (done, results) = mpsc::channel();
    let work = |done: mpsc::Sender<_>| {
        let take = || waiting.lock().ok()?.next();
        while let Some((position, container)) = take() {
            let result = match store.lock(container) {
                Ok(Some(dir)) => reload_one(&dir, admin),
                Ok(None) => continue,
                Err(error) => Err(error.into()),
            };
            let container = container.clone();
            // Whoever waits for it is there until the last one is done.
            let _ = done.send((position, Reloaded { container, result }));
        }
    };
    thread::scope(|scope| {
        for done in std::iter::repeat_n(done, AT_A_TIME.min(containers.len())) {
            scope.spawn(|| work(done));
        }
    });
    let mut reloaded: Vec<_> = results.into_iter().collect();
    reloaded.sort_by_key(|(position, _)| *position);
    Ok(reloaded.into_iter().map(|(_, reloaded)| reloaded).collect())
}

fn reload_one(dir: &LockedDir, admin: &AdminConfig) -> Result<bool, AttachError> {
    let Some(mut record) = dir.read()? else { return Ok(false) };
    if !record.complete || !record.init.is_alive() {
        return Ok(false);
    }
    let mut changed = record.proxy.is_some_and(|proxy| !proxy.is_alive());
    for interface in &mut record.interfaces {
        let EffectiveLimits { policy, rates } = admin.check(&interface.attachment)?;
        changed |= (&policy, rates) != (&interface.policy, interface.rates);
        (interface.policy, interface.rates) = (policy, rates);
    }
    changed |= record.proxy.is_some() && record.notifications != admin.notifications();
    record.notifications = admin.notifications();
    if !changed {
        return Ok(false);
    }
    replace(&mut record, dir)?;
    Ok(true)
}

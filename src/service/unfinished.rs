//! What programs that were killed have left of an attachment whose container runs.
//!
//! Each change is recorded before it is made: the record names the interfaces that are added or
//! removed, and both proxies while one replaces the other. Whoever has the lock of the container's
//! directory and finds such a record knows that its writer has ended, and finishes its work.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;

use crate::link::apply::{delete_interfaces, delete_made, keep_multicast_route, release_answers};
use crate::net::netlink::RouteSocket;
use crate::net::netns::NetNs;
use crate::proxy;
use crate::service::namespace::reach_namespace;
use crate::service::proxies::ProxyUsers;
use crate::service::{AttachError, leases, proxies};
use crate::state::{Attached, AttachedInterface, AttachmentRecord, LockedDir, PlannedInterface};
use crate::sys::process::ProcessRef;

/// Finishes what the record of a container that runs says is unfinished. An addition is taken back,
/// a removal and the replacement of a proxy are completed. Returns whether there was anything.
///
/// # Errors
/// What could not be done. The record then still says so.
pub(super) fn finish(
    attached: &mut Attached,
    dir: &LockedDir,
    users: ProxyUsers<'_>,
) -> Result<bool, AttachError> {
    let mut changed = finish_replacement(attached, dir)?;
    let removes = !attached.leaving.is_empty();
    if removes || !attached.adding.is_empty() {
        let namespace = reach_namespace(&attached.container, attached.proxies(), dir);
        let namespace = namespace.ok_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))?;
        leases::release(&attached.leaving);
        delete_links(&namespace, attached.leaving.iter(), &attached.adding)?;
        // Without an interface of mcrun's, rules that stay change nothing.
        let _ = RouteSocket::open_in(&namespace).map(|mut socket| release_answers(&mut socket));
        let first = attached.interfaces.first().and_then(|first| first.index);
        if let Some(index) = first.filter(|_| removes) {
            keep_multicast_route(&mut RouteSocket::open_in(&namespace)?, index)?;
        }
        attached.leaving.clear();
        attached.adding.clear();
        let interfaces = &attached.interfaces;
        attached.host_links.retain(|used| {
            interfaces.iter().any(|i| i.attachment.host_link().as_ref() == Some(&used.link))
        });
        // A proxy that is dead is the business of `mcrun reload`.
        if removes && attached.proxy.is_some_and(ProcessRef::is_alive) {
            proxies::replace(attached, dir, users)?;
        } else {
            dir.write(&AttachmentRecord::Attached(attached.clone()))?;
        }
        changed = true;
    }
    Ok(changed)
}

/// The same, and removes what the record does not name: links that mcrun has made, and those of
/// `running`, the proxies of the host. Returns whether there was anything.
///
/// # Errors
/// What could not be done.
pub(super) fn collect(
    attached: &mut Attached,
    dir: &LockedDir,
    users: ProxyUsers<'_>,
    running: &RunningProxies,
) -> Result<bool, AttachError> {
    let mut changed = finish(attached, dir, users)?;
    if let Some(namespace) = reach_namespace(&attached.container, attached.proxies(), dir) {
        let known = |index| attached.interfaces.iter().any(|i| i.index == Some(index));
        let mut socket = RouteSocket::open_in(&namespace)?;
        changed |= delete_made(&mut socket, |link| !known(link.index))?;
    }
    for process in running.of(dir)? {
        if process.is_alive() && attached.proxies().all(|proxy| proxy != process) {
            proxies::end(process)?;
            changed = true;
        }
    }
    Ok(changed)
}

/// The proxies of a container whose record is being replaced: decides which one serves.
fn finish_replacement(attached: &mut Attached, dir: &LockedDir) -> Result<bool, AttachError> {
    let Some(old) = attached.replaced else { return Ok(false) };
    let kept = |process: ProcessRef| {
        // A new proxy that was not told to stay does not answer: it is about to end. One whose
        // socket has its place was told.
        process.is_alive()
            && (!proxy::has_successor_socket(dir.path()) || proxy::successor_answers(dir.path()))
    };
    match attached.proxy {
        Some(new) if old.process.is_alive() && !kept(new) => {
            proxies::end(new)?;
            attached.proxy = Some(old.process);
            attached.proxy_user = old.user;
            attached.replaced = None;
            if let Some(user) = old.user {
                dir.hand_to_proxy(user)?;
            }
            dir.write(&AttachmentRecord::Attached(attached.clone()))?;
        }
        _ => proxies::complete_replacement(attached, dir)?,
    }
    Ok(true)
}

/// Deletes interfaces of a container, and of the planned ones those that exist and that mcrun has
/// made.
///
/// # Errors
/// The first failure; the others are tried all the same.
pub(super) fn delete_links<'i>(
    namespace: &NetNs,
    interfaces: impl Iterator<Item = &'i AttachedInterface>,
    planned: &[PlannedInterface],
) -> Result<(), AttachError> {
    let mut socket = RouteSocket::open_in(namespace)?;
    let made = interfaces.filter(|i| i.index.is_some() && i.is_made());
    let deleted = delete_interfaces(&mut socket, made.map(|i| (i.name.as_str(), i.mac)));
    if !planned.is_empty() {
        let is_planned = |name: &str| planned.iter().any(|interface| interface.name == name);
        delete_made(&mut socket, |link| is_planned(&link.name))?;
    }
    Ok(deleted?)
}

/// The proxies of the host, whatever the records say of them.
pub(super) struct RunningProxies {
    /// Each with the device and the inode of every directory that it has open.
    directories: Vec<(ProcessRef, (u64, u64))>,
}

impl RunningProxies {
    /// Looks through all processes, which takes some time on a busy host.
    ///
    /// # Errors
    /// If /proc cannot be read.
    pub(super) fn find() -> io::Result<Self> {
        let is_proxy = |pid: i32| {
            let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            comm.trim_end() == proxy::PROGRAM
        };
        let entries = fs::read_dir("/proc")?.flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let mut directories = Vec::new();
        for process in pids.filter(|pid| is_proxy(*pid)).filter_map(|pid| ProcessRef::of(pid).ok())
        {
            // A process that ends meanwhile has none.
            let descriptors = fs::read_dir(format!("/proc/{}/fd", process.pid)).into_iter();
            let open =
                descriptors.flatten().flatten().filter_map(|fd| fs::metadata(fd.path()).ok());
            let open = open.filter(fs::Metadata::is_dir);
            directories.extend(open.map(|meta| (process, (meta.dev(), meta.ino()))));
        }
        Ok(RunningProxies { directories })
    }

    /// Those that have the directory of a container open.
    fn of(&self, dir: &LockedDir) -> io::Result<impl Iterator<Item = ProcessRef>> {
        let meta = fs::metadata(dir.path())?;
        let own = (meta.dev(), meta.ino());
        let of_own = self.directories.iter().filter(move |(_, directory)| *directory == own);
        Ok(of_own.map(|(process, _)| *process))
    }
}

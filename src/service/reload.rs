//! Bringing the administrator's limits, and the installed proxy program, into force for containers
//! that run.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, mpsc};
use std::thread;

use crate::attachment::{AdminConfig, UidRange};
use crate::dhcp;
use crate::oci::ContainerId;
use crate::proxy;
use crate::service::namespace::reach_namespace;
use crate::service::proxies::ProxyUsers;
use crate::service::{AttachError, late, leases, proxies, repair, unfinished, unserved};
use crate::state::{Attached, AttachmentRecord, LockedDir, StateDirError, Store};
use crate::sys::process::ProcessRef;

/// Containers that are reloaded at the same time. Most of the time is spent waiting for old
/// proxies to end.
const AT_A_TIME: usize = 8;

/// What [`reload`] did about one container.
#[derive(Debug)]
pub struct Reloaded {
    /// Its id.
    pub container: ContainerId,
    /// Whether its proxy was replaced.
    pub result: Result<bool, AttachError>,
    /// What the administrator does not allow any more, and is not changed while the container runs:
    /// the name of each interface, and why it would be refused.
    pub refusals: Vec<(String, String)>,
}

/// Replaces the proxies of containers whose limits have changed, whose proxy is dead or does not
/// answer, or whose proxy runs another program file than the installed one, as after an upgrade.
///
/// # Errors
/// If the state directory cannot be listed.
pub fn reload(store: &Store, admin: &AdminConfig) -> Result<Vec<Reloaded>, StateDirError> {
    let installed = Installed::find();
    let containers = store.list()?;
    let waiting = Mutex::new(containers.iter().enumerate());
    let (done, results) = mpsc::channel();
    let work = |done: mpsc::Sender<_>| {
        let take = || waiting.lock().ok()?.next();
        while let Some((position, container)) = take() {
            let mut refusals = Vec::new();
            let result = match store.lock(container) {
                Ok(Some(dir)) => reload_one(&dir, store, admin, installed, &mut refusals),
                Ok(None) => continue,
                Err(error) => Err(error.into()),
            };
            let container = container.clone();
            // The receiver lives until the last sender is done.
            let _ = done.send((position, Reloaded { container, result, refusals }));
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

/// What [`revive`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Revived {
    /// The proxy was dead, and a new one serves.
    Replaced,
    /// The proxy lives, or the container has none. What was unfinished is finished.
    Unchanged,
    /// The container has ended.
    Ended,
}

/// Starts a new proxy in place of a container's dead one. `before` is called with the container's
/// directory, which is locked, when it is certain that the proxy is dead and the container is not.
///
/// If the proxy lives, and the program that was replacing it has died, its work is finished.
///
/// The administrator's limits stay as they are in the record.
///
/// # Errors
/// [`AttachError`]: the container has no proxy then, or a proxy that the record does not name.
pub fn revive<T>(
    id: &ContainerId,
    store: &Store,
    users: UidRange,
    before: impl FnOnce(&Path) -> T,
) -> Result<Revived, AttachError> {
    let Some(dir) = store.lock(id)? else { return Ok(Revived::Ended) };
    let record = dir.read()?.and_then(AttachmentRecord::into_attached);
    let Some(mut attached) = record else { return Ok(Revived::Unchanged) };
    if !attached.container.is_alive() {
        return Ok(Revived::Ended);
    }
    // What is being detached is the business of `mcrun gc`.
    if attached.interfaces.is_empty() {
        return Ok(Revived::Unchanged);
    }
    let users = ProxyUsers { store, range: users };
    if attached.serving_proxy().is_none_or(ProcessRef::is_alive) {
        if attached.replaced.is_some() {
            unfinished::finish(&mut attached, &dir, users)?;
        }
        return Ok(Revived::Unchanged);
    }
    let _stand_in = before(dir.path());
    unfinished::finish(&mut attached, &dir, users)?;
    if attached.proxy.is_some_and(|proxy| !proxy.is_alive()) {
        proxies::find_upstreams(&mut attached);
        proxies::replace(&mut attached, &dir, users)?;
    }
    Ok(Revived::Replaced)
}

fn reload_one(
    dir: &LockedDir,
    store: &Store,
    admin: &AdminConfig,
    installed: Installed,
    refusals: &mut Vec<(String, String)>,
) -> Result<bool, AttachError> {
    let record = dir.read()?.and_then(AttachmentRecord::into_attached);
    let of_running = |attached: &Attached| {
        // What is being detached is the business of `mcrun gc`.
        attached.container.is_alive() && !attached.interfaces.is_empty()
    };
    let Some(mut attached) = record.filter(of_running) else { return Ok(false) };
    // An earlier version made none. What somebody else has is not to be had.
    let _ = store.restore_claims(&AttachmentRecord::Attached(attached.clone()));
    let users = ProxyUsers { store, range: admin.proxy_uids() };
    unfinished::finish(&mut attached, dir, users)?;
    if let Some(namespace) = reach_namespace(&attached.container, attached.proxies(), dir) {
        // Networks may have been connected since.
        late::follow_answers(&attached, &namespace);
        if attached.interfaces.iter().any(|i| !proxies::is_served(&i.attachment)) {
            unserved::limit_existing(&attached.interfaces, &namespace)?;
        }
    }
    // What keeps a link from being made keeps nothing else from being done.
    let repaired = repair::repair_locked(&mut attached, dir, store, admin);
    let is_old = |holder| is_outdated(holder, installed.lease_holder);
    let leases = leases::restart(&mut attached, dir, store, is_old);
    let mut outdated = attached.proxy.is_some_and(|proxy| is_outdated(proxy, installed.proxy));
    outdated |= proxies::find_upstreams(&mut attached);
    outdated |= apply_limits(&mut attached, admin, refusals);
    if !outdated && attached.proxy.is_some_and(|_| is_hung(dir)) {
        // It keeps its memberships until the new one has them, and is killed then.
        outdated = true;
    }
    if outdated {
        proxies::replace(&mut attached, dir, users)?;
    }
    Ok(!repaired?.is_empty() || leases? || outdated)
}

/// Whether the proxy of a container does not answer within 2 s.
fn is_hung(dir: &LockedDir) -> bool {
    proxy::query_all(&[dir.path()]).iter().any(Result::is_err)
}

/// Whether a proxy runs another program file than the installed one, so that [`reload`] replaces it.
pub fn runs_another_program(proxy: ProcessRef) -> bool {
    proxy.is_alive() && is_outdated(proxy, Installed::find().proxy)
}

/// Whether a proxy is dead or runs another program file than the installed one.
fn is_outdated(proxy: ProcessRef, installed: Option<ProgramFile>) -> bool {
    if !proxy.is_alive() {
        return true;
    }
    let running = ProgramFile::of_process(proxy.pid);
    // A proxy whose program cannot be told is left alone.
    matches!((running, installed), (Ok(running), Some(installed)) if running != installed)
}

/// Puts the administrator's limits into the record as far as they go: what a proxy enforces. Returns
/// whether any has changed.
fn apply_limits(
    attached: &mut Attached,
    admin: &AdminConfig,
    refusals: &mut Vec<(String, String)>,
) -> bool {
    let settings = (admin.notifications(), admin.count());
    let mut changed =
        attached.proxy.is_some() && (attached.notifications, attached.count) != settings;
    (attached.notifications, attached.count) = settings;
    for interface in &mut attached.interfaces {
        let (limits, refused) = admin.restrict(&interface.attachment);
        refusals.extend(refused.into_iter().map(|why| (interface.name.clone(), why)));
        changed |= limits != interface.limits;
        interface.limits = limits;
    }
    changed
}

/// A program's file. A file that is replaced by a new one of the same name is another file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ProgramFile {
    device: u64,
    inode: u64,
}

/// The programs that this program launches; `None`: there is none, or its file cannot be told.
#[derive(Debug, Clone, Copy)]
struct Installed {
    proxy: Option<ProgramFile>,
    lease_holder: Option<ProgramFile>,
}

impl Installed {
    fn find() -> Self {
        let of = |path: io::Result<PathBuf>| path.and_then(|path| ProgramFile::at(&path)).ok();
        Installed { proxy: of(proxy::program()), lease_holder: of(dhcp::program()) }
    }
}

impl ProgramFile {
    /// What a process runs, also if the file is deleted.
    fn of_process(pid: i32) -> io::Result<Self> {
        Self::at(format!("/proc/{pid}/exe").as_ref())
    }

    fn at(path: &std::path::Path) -> io::Result<Self> {
        let file = fs::metadata(path)?;
        Ok(ProgramFile { device: file.dev(), inode: file.ino() })
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_program_that_was_replaced_by_one_of_its_name_is_another() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sleep");
        let install = || {
            let new = directory.path().join("new");
            fs::copy("/bin/sleep", &new).unwrap();
            fs::rename(new, &path).unwrap();
        };
        install();
        let mut child = Command::new(&path).arg("100").spawn().unwrap();
        let process = ProcessRef::of(child.id().cast_signed()).unwrap();
        assert!(!is_outdated(process, ProgramFile::at(&path).ok()));
        // /proc/PID/exe reads "... (deleted)" from here on.
        install();
        assert!(is_outdated(process, ProgramFile::at(&path).ok()));
        assert!(!is_outdated(process, None), "without an installed proxy there is nothing newer");
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(is_outdated(process, None));
    }
}

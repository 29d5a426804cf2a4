//! What is held, kept by the service manager as well (`FDSTORE=1`, sd_notify(3)), so that a keeper
//! and a proxy may die at the same time: the next keeper gets it back at its start
//! (sd_listen_fds_with_names(3)).
//!
//! Each descriptor has a name, `KIND.PID.START.CONTAINER`, of the proxy that it came from. The
//! statuses of proxies are in files of memory.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::keeper::notify;
use crate::oci::ContainerId;
use crate::proxy::{HeldKind, HoldStream};
use crate::sys::fd_passing::{MAX_FDS, send_with_fds};
use crate::sys::passed_fds;
use crate::sys::process::ProcessRef;

/// A service manager that does not read is not waited for longer.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);
/// Longest name of a descriptor.
const MAX_NAME: usize = 255;
/// The kind of the file with a proxy's status.
const STATUS: &str = "status";
const KINDS: [(&str, HeldKind); 4] = [
    ("rules", HeldKind::Rules),
    ("join", HeldKind::Join),
    ("relay", HeldKind::Relay),
    ("count", HeldKind::Count),
];

/// The way to the service manager.
#[derive(Debug, Clone)]
pub(super) struct FdStore {
    /// None: there is no service manager.
    socket: Option<Arc<UnixDatagram>>,
}

impl FdStore {
    /// That of `NOTIFY_SOCKET`.
    pub(super) fn from_env() -> Self {
        let socket = notify::connect().and_then(|socket| {
            socket.set_write_timeout(Some(SEND_TIMEOUT)).ok()?;
            Some(Arc::new(socket))
        });
        FdStore { socket }
    }

    /// If it fails, the keeper holds alone.
    fn send(&self, state: &str, descriptors: &[BorrowedFd<'_>]) {
        if let Some(socket) = &self.socket {
            let _ = send_with_fds(socket, state.as_bytes(), descriptors);
        }
    }

    fn put(&self, name: &str, descriptors: &[BorrowedFd<'_>]) {
        // FDPOLL=0: a socket that has an error is held all the same.
        let state = format!("FDSTORE=1\nFDPOLL=0\nFDNAME={name}");
        descriptors.chunks(MAX_FDS).for_each(|some| self.send(&state, some));
    }

    fn remove(&self, name: &str) {
        self.send(&format!("FDSTOREREMOVE=1\nFDNAME={name}"), &[]);
    }
}

/// What the service manager has of one proxy.
#[derive(Debug)]
pub(super) struct Stored {
    store: FdStore,
    container: ContainerId,
    pub(super) process: ProcessRef,
    generation: u64,
    /// Of each kind.
    counts: [usize; KINDS.len()],
    status: Option<(File, u64)>,
}

impl Stored {
    /// Nothing yet, or what is not known exactly.
    pub(super) fn new(store: FdStore, container: ContainerId, process: ProcessRef) -> Self {
        Stored { store, container, process, generation: 0, counts: [0; KINDS.len()], status: None }
    }

    /// Stores what is held now and is not stored yet.
    pub(super) fn update(&mut self, held: &HoldStream) {
        if self.store.socket.is_none() || self.name(STATUS).len() > MAX_NAME {
            return;
        }
        if self.generation != held.generation() {
            self.remove();
            self.generation = held.generation();
        }
        for (position, (kind, of)) in KINDS.iter().enumerate() {
            let all = held.held(*of);
            let new = all.get(self.counts[position]..).unwrap_or_default();
            let new: Vec<_> = new.iter().map(AsFd::as_fd).collect();
            self.store.put(&self.name(kind), &new);
            self.counts[position] = all.len();
        }
        // Without the status a successor serves too, and only forgets ages and counts.
        let _ = self.update_status(held);
    }

    fn update_status(&mut self, held: &HoldStream) -> io::Result<()> {
        let version = held.status_version();
        if self.status.as_ref().is_some_and(|(_, known)| *known == version) {
            return Ok(());
        }
        let text = held.status_text();
        match &mut self.status {
            Some((file, known)) => {
                write_whole(file, &text)?;
                *known = version;
            }
            None => {
                let file = File::from(memfd_create("status", MFdFlags::MFD_CLOEXEC)?);
                write_whole(&file, &text)?;
                self.store.put(&self.name(STATUS), &[file.as_fd()]);
                self.status = Some((file, version));
            }
        }
        Ok(())
    }

    /// Removes what keeps memberships.
    pub(super) fn remove_joins(&self) {
        for kind in ["join", "relay"] {
            self.store.remove(&self.name(kind));
        }
    }

    /// Removes everything.
    pub(super) fn remove(&mut self) {
        for kind in KINDS.iter().map(|(kind, _)| *kind).chain([STATUS]) {
            self.store.remove(&self.name(kind));
        }
        self.counts = [0; KINDS.len()];
        self.status = None;
    }

    fn name(&self, kind: &str) -> String {
        let ProcessRef { pid, start } = self.process;
        format!("{kind}.{pid}.{start}.{}", self.container)
    }
}

fn write_whole(file: &File, text: &[u8]) -> io::Result<()> {
    file.set_len(0)?;
    file.write_all_at(text, 0)
}

/// What the service manager gives back, by container: what is held for each of its proxies.
pub(super) type Restored = HashMap<ContainerId, Vec<(ProcessRef, HoldStream)>>;

/// Takes what the service manager has passed to this process. Call it once, at the start.
pub(super) fn take() -> Restored {
    type Parts = (Vec<(HeldKind, OwnedFd)>, Vec<u8>);
    let mut found: HashMap<(ContainerId, i32, u64), Parts> = HashMap::new();
    for (name, descriptor) in passed_fds::take() {
        let mut parts = name.splitn(4, '.');
        let mut part = || parts.next();
        let parsed = (|| {
            let (kind, pid, start) = (part()?, part()?.parse().ok()?, part()?.parse().ok()?);
            Some((kind, (ContainerId::try_from(part()?.to_owned()).ok()?, pid, start)))
        })();
        // What an earlier version has stored otherwise is closed.
        let Some((kind, of)) = parsed else { continue };
        let (descriptors, status) = found.entry(of).or_default();
        if let Some((_, kind)) = KINDS.iter().find(|(known, _)| *known == kind) {
            descriptors.push((*kind, descriptor));
        } else if kind == STATUS {
            *status = read_whole(&File::from(descriptor)).unwrap_or_default();
        }
    }
    let mut restored = Restored::new();
    for ((container, pid, start), (descriptors, status)) in found {
        if let Ok(stream) = HoldStream::restored(descriptors, &status) {
            let of_container = restored.entry(container).or_default();
            of_container.push((ProcessRef { pid, start }, stream));
        }
    }
    // In the order of their start.
    restored.values_mut().for_each(|proxies| proxies.sort_by_key(|(process, _)| process.start));
    restored
}

fn read_whole(file: &File) -> io::Result<Vec<u8>> {
    let length = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
    let mut text = vec![0; length];
    file.read_exact_at(&mut text, 0)?;
    Ok(text)
}

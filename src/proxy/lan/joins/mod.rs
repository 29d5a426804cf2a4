//! The LAN's side: memberships of plain UDP sockets in the host's namespace.
//!
//! The kernel merges these with every other socket of the host, reports the result as one
//! IGMP host, and takes them back when the process ends, however it ends. The sockets never receive
//! anything: they are bound to no port, and IP_MULTICAST_ALL is off.

mod plan;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::multicast::{FilterMode, SourceFilter};
use crate::net::sysctl::{Sysctls, number};
use crate::proxy::lan::joins::plan::{Limits, Operation, SlotId, Slots};
use crate::sys::sockopt;

/// Named for a moment when a group is joined with an EXCLUDE list, see [`join`]: TEST-NET-1,
/// from which nothing is sent (RFC 5737).
const NOBODY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// A failed join is tried again after this long, then after twice as long, and so on.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);

/// The limits of the host's kernel. They may be raised while a proxy runs, so that they are read again
/// when one stands against a join, and when there is time.
#[derive(Debug, Default)]
pub(crate) struct LimitFiles {
    memberships: Option<File>,
    sources: Option<File>,
    /// As they were read last.
    known: Cell<Limits>,
}

impl LimitFiles {
    /// Opens those of the host; where that fails, defaults hold.
    pub(crate) fn open(host: &Sysctls) -> Self {
        let files = LimitFiles {
            memberships: host.open("ipv4/igmp_max_memberships", false).ok(),
            sources: host.open("ipv4/igmp_max_msf", false).ok(),
            known: Cell::default(),
        };
        files.read();
        files
    }

    fn known(&self) -> Limits {
        self.known.get()
    }

    fn read(&self) -> Limits {
        let default = Limits::default();
        let value = |file: &Option<File>| usize::try_from(number(file.as_ref()?)?).ok();
        let limits = Limits {
            memberships: value(&self.memberships).unwrap_or(default.memberships),
            sources: value(&self.sources).unwrap_or(default.sources),
        };
        self.known.set(limits);
        limits
    }
}

/// The memberships of one interface of the container on its upstream.
///
/// Two interfaces that share an upstream have a pool each: the kernel merges them.
#[derive(Debug)]
pub(crate) struct Pool {
    upstream: u32,
    slots: Slots,
    sockets: BTreeMap<SlotId, Socket>,
    /// For the next slot: to open one takes longer than to join.
    spare: Option<Socket>,
    /// Whether that, and the limits, are as the next join wants them.
    stocked: bool,
    failed: BTreeMap<Ipv4Addr, Failed>,
}

#[derive(Debug)]
struct Failed {
    wanted: SourceFilter,
    reason: String,
    retry: Instant,
    pause: Duration,
}

impl Pool {
    /// A pool that joins on the host's interface of that index.
    pub(crate) fn new(upstream: u32) -> Self {
        Pool {
            upstream,
            slots: Slots::default(),
            sockets: BTreeMap::new(),
            spare: None,
            stocked: false,
            failed: BTreeMap::new(),
        }
    }

    /// Makes the host's reception of `group` what is wanted.
    ///
    /// # Errors
    /// The reason for people, when it is new; the wish is kept and tried again.
    pub(crate) fn set(
        &mut self,
        now: Instant,
        group: Ipv4Addr,
        wanted: SourceFilter,
        limits: &LimitFiles,
    ) -> Result<(), String> {
        self.stocked = false;
        let known = limits.known();
        let reached = self.reach(group, &wanted, known).or_else(|reason| match limits.read() {
            changed if changed != known => self.reach(group, &wanted, changed),
            _ => Err(reason),
        });
        match reached {
            Ok(()) => {
                self.failed.remove(&group);
                Ok(())
            }
            Err(reason) => {
                let earlier = self.failed.get(&group);
                let known = earlier.is_some_and(|f| f.reason == reason);
                let pause =
                    earlier.map_or(FIRST_RETRY, |f| f.pause.saturating_mul(2).min(LAST_RETRY));
                let failed = Failed { wanted, reason: reason.clone(), retry: now + pause, pause };
                self.failed.insert(group, failed);
                if known { Ok(()) } else { Err(reason) }
            }
        }
    }

    /// Joins a group of which nothing is received, and the call `around` that makes the join can do something at
    /// once with what came of it. Where it takes more than one step, or where that fails, nothing changes, and
    /// [`Pool::set`] is to follow.
    pub(crate) fn join_first(
        &mut self,
        group: Ipv4Addr,
        wanted: &SourceFilter,
        limits: &LimitFiles,
        around: impl FnOnce(&mut dyn FnMut() -> io::Result<()>) -> io::Result<()>,
    ) {
        let Some(id) = self.slots.first(group, wanted, limits.known()) else { return };
        let step = Operation::Join(id, wanted.clone());
        if around(&mut || self.perform(group, &step)).is_ok() {
            self.slots.apply(group, &step);
            self.stocked = false;
        }
    }

    /// When to call [`Pool::retry`]; `None`: nothing has failed.
    pub(crate) fn poll_retry(&self) -> Option<Instant> {
        self.failed.values().map(|f| f.retry).min()
    }

    /// Tries again what is due.
    pub(crate) fn retry(&mut self, now: Instant, limits: &LimitFiles) {
        let due: Vec<_> = self
            .failed
            .iter()
            .filter(|(_, f)| f.retry <= now)
            .map(|(&group, f)| (group, f.wanted.clone()))
            .collect();
        for (group, wanted) in due {
            // A new reason shows in the status.
            let _ = self.set(now, group, wanted, limits);
        }
    }

    /// Why the group is not received as wanted.
    pub(crate) fn failure(&self, group: Ipv4Addr) -> Option<&str> {
        self.failed.get(&group).map(|f| f.reason.as_str())
    }

    /// Whether nothing is received of the group yet.
    pub(crate) fn is_new(&self, group: Ipv4Addr) -> bool {
        !self.slots.has(group)
    }

    /// Gets ready for the next join, which may need another socket; to be called when there is time.
    pub(crate) fn stock(&mut self, limits: &LimitFiles) {
        if self.stocked {
            return;
        }
        self.stocked = true;
        limits.read();
        if self.spare.is_none() {
            // Without it the join opens one.
            self.spare = open_socket().ok();
        }
    }

    /// Leaves everything.
    pub(crate) fn clear(&mut self) {
        *self = Pool::new(self.upstream);
    }

    fn reach(
        &mut self,
        group: Ipv4Addr,
        wanted: &SourceFilter,
        limits: Limits,
    ) -> Result<(), String> {
        // Each round either ends or marks one more socket as full.
        for _ in 0..=plan::MAX_SLOTS {
            let steps = self.slots.plan(group, wanted, limits).map_err(|e| e.to_string())?;
            let mut again = false;
            for step in steps {
                match self.perform(group, &step) {
                    Ok(()) => {
                        if self.slots.apply(group, &step)
                            && let Operation::Leave(id) = step
                            && let Some(socket) = self.sockets.remove(&id)
                        {
                            // It has joined nothing any more.
                            self.spare.get_or_insert(socket);
                        }
                    }
                    Err(error) => {
                        let Operation::Join(id, _) = step else {
                            return Err(describe(&error));
                        };
                        let full = error.raw_os_error() == Some(libc::ENOBUFS);
                        if !(full && self.slots.refused(id)) {
                            return Err(describe(&error));
                        }
                        again = true;
                        break;
                    }
                }
            }
            if !again {
                return Ok(());
            }
        }
        Err("no socket takes another group; raise net.ipv4.igmp_max_memberships on the host".into())
    }

    fn perform(&mut self, group: Ipv4Addr, operation: &Operation) -> io::Result<()> {
        match operation {
            Operation::Join(id, filter) => {
                if let Some(socket) = self.sockets.get(id) {
                    return join(socket, self.upstream, group, filter);
                }
                let socket = match self.spare.take() {
                    Some(spare) => spare,
                    None => open_socket()?,
                };
                join(&socket, self.upstream, group, filter)?;
                self.sockets.insert(*id, socket);
                Ok(())
            }
            Operation::Change(id, filter) => {
                sockopt::set_filter(self.socket(*id)?, self.upstream, group, filter)
            }
            Operation::Leave(id) => {
                match sockopt::leave_group(self.socket(*id)?, self.upstream, group) {
                    // The interface has gone, and the membership with it.
                    Err(e)
                        if matches!(e.raw_os_error(), Some(libc::ENODEV | libc::EADDRNOTAVAIL)) =>
                    {
                        Ok(())
                    }
                    other => other,
                }
            }
        }
    }

    fn socket(&self, id: SlotId) -> io::Result<&Socket> {
        self.sockets.get(&id).ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))
    }
}

/// A first join that at no moment receives more than `filter`.
///
/// INCLUDE begins with one source, and the rest is added in place. EXCLUDE of nothing is the
/// plain join. For EXCLUDE of a list the kernel has no single call: a plain join would ask for
/// everything first, so the membership begins as INCLUDE of an address that sends nothing and
/// is changed in place at once. Reports leave some timer ticks after a change, and say what
/// holds then: usually TO_EX of the list is all that is ever seen.
fn join(socket: &Socket, upstream: u32, group: Ipv4Addr, filter: &SourceFilter) -> io::Result<()> {
    let first = match (filter.mode, filter.sources.first()) {
        (FilterMode::Exclude, None) => return sockopt::join_group(socket, upstream, group),
        (FilterMode::Exclude, Some(_)) => NOBODY,
        (FilterMode::Include, Some(&source)) => source,
        (FilterMode::Include, None) => return Ok(()),
    };
    sockopt::join_source_group(socket, upstream, group, first)?;
    if filter.mode == FilterMode::Include && filter.sources.len() == 1 {
        return Ok(());
    }
    let result = sockopt::set_filter(socket, upstream, group, filter);
    if result.is_err() {
        // Nothing half done stays.
        let _ = sockopt::leave_group(socket, upstream, group);
    }
    result
}

fn open_socket() -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    socket.set_multicast_all_v4(false)?;
    // The kernel's smallest.
    socket.set_recv_buffer_size(0)?;
    Ok(socket)
}

fn describe(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENOBUFS) => {
            "the host's kernel has no room for it; see net.ipv4.igmp_max_memberships, \
             net.ipv4.igmp_max_msf and net.core.optmem_max"
                .into()
        }
        Some(libc::ENODEV) => "the upstream interface is gone".into(),
        Some(libc::EMFILE | libc::ENFILE) => "no file descriptor is left for its socket".into(),
        Some(errno) => nix::errno::Errno::from_raw(errno).desc().to_lowercase(),
        None => error.to_string(),
    }
}

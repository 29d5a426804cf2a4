//! The part of a relay that the kernel does: programs that pass packets of the LAN on to the container,
//! and leave to the proxy what they cannot pass on.
//!
//! The container must be at the end of a veth link whose other end is in the host's namespace. Until
//! that end is known, the programs leave everything to the proxy.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use crate::bpf::MappedNumbers;
use crate::bpf::relay::{Counts, DESCRIPTORS, KernelRelayed, RelayPrograms, Settings, Verdict};
use crate::multicast::{FilterMode, SourceFilter};
use crate::primitives::MacAddr;
use crate::proxy::control::status::RelayCounts;
use crate::proxy::relay::rate_limiter::RateLimiter;

/// The ends of a container's veth link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Peer {
    /// Index of the host's end.
    pub(crate) index: u32,
    /// Hardware address of the container's end.
    pub(crate) mac: MacAddr,
    /// MTU of the container's end.
    pub(crate) mtu: u32,
    /// Hardware address of the upstream interface. What is sent by it from other addresses comes from its
    /// macvlan children, of which the host's sockets hear nothing. `None`: that is not relayed.
    pub(crate) upstream_mac: Option<MacAddr>,
}

/// What the kernel relays.
#[derive(Debug)]
pub(super) struct InKernel<A: KernelRelayed> {
    programs: RelayPrograms<A>,
    settings: Settings,
    groups: BTreeMap<A, Entries<A>>,
    /// Packets of the entries that have been removed.
    removed: RelayCounts,
    /// Packets that were counted before the programs were inherited.
    known: RelayCounts,
}

/// The entries of a group, by their source; `None`: each source that has no entry.
#[derive(Debug)]
struct Entries<A> {
    verdicts: BTreeMap<Option<A>, Verdict>,
    /// Packets of the group's entries that have been removed.
    removed: RelayCounts,
    /// Packets that were counted before the programs were inherited.
    known: RelayCounts,
    /// There was no room for the entries: the group's packets are for the proxy.
    is_left_out: bool,
}

impl<A> Default for Entries<A> {
    fn default() -> Self {
        let (removed, known) = (RelayCounts::default(), RelayCounts::default());
        Entries { verdicts: BTreeMap::new(), removed, known, is_left_out: false }
    }
}

impl<A: KernelRelayed> InKernel<A> {
    /// Loads the programs for the upstream interface of this index. They relay nothing yet.
    ///
    /// # Errors
    /// As [`RelayPrograms::load`].
    pub(super) fn load(upstream: u32, rate: &RateLimiter) -> io::Result<Self> {
        Self::of(RelayPrograms::load(upstream)?, rate)
    }

    /// The programs of the proxy that is replaced, whose descriptors these are. What they have counted
    /// so far is known already.
    ///
    /// # Errors
    /// `EINVAL` if they are something else.
    pub(super) fn inherit(
        descriptors: [OwnedFd; DESCRIPTORS],
        rate: &RateLimiter,
    ) -> io::Result<Self> {
        let mut kernel = Self::of(RelayPrograms::inherit(descriptors)?, rate)?;
        let before = kernel.programs.settings()?;
        let settings = &mut kernel.settings;
        (settings.peer, settings.mtu, settings.mac) = (before.peer, before.mtu, before.mac);
        settings.has_upstream_mac = before.has_upstream_mac;
        settings.upstream_mac = before.upstream_mac;
        settings.is_incomplete = before.is_incomplete;
        for (group, source) in kernel.programs.entries() {
            let entries = kernel.groups.entry(group).or_default();
            let counts = relay_counts(kernel.programs.counts(group, source));
            entries.known = entries.known + counts;
            kernel.known = kernel.known + counts;
            if let Some(verdict) = kernel.programs.verdict(group, source) {
                entries.verdicts.insert(source, verdict);
            }
        }
        Ok(kernel)
    }

    fn of(programs: RelayPrograms<A>, rate: &RateLimiter) -> io::Result<Self> {
        let (packets, bytes) = rate.limits();
        let mut settings = Settings::default();
        if let Some(limit) = packets {
            settings.packet_time = (1_000_000_000 / limit.rate).max(1);
            settings.packet_burst = limit.burst;
        }
        if let Some(limit) = bytes {
            (settings.byte_rate, settings.byte_burst) = (limit.rate, limit.burst);
        }
        let groups = BTreeMap::new();
        let (removed, known) = (RelayCounts::default(), RelayCounts::default());
        Ok(InKernel { programs, settings, groups, removed, known })
    }

    /// What another process needs to go on.
    pub(super) fn descriptors(&self) -> [BorrowedFd<'_>; DESCRIPTORS] {
        self.programs.descriptors()
    }

    /// The programs themselves.
    pub(super) fn programs(&self) -> &RelayPrograms<A> {
        &self.programs
    }

    /// The times of the limits.
    ///
    /// # Errors
    /// Those of mmap(2).
    pub(super) fn limits(&self) -> io::Result<MappedNumbers<2>> {
        self.programs.limits()
    }

    /// Relays by this link from now on; `None`: leaves everything to the proxy.
    ///
    /// # Errors
    /// Those of bpf(2).
    pub(super) fn set_peer(&mut self, peer: Option<Peer>) -> io::Result<()> {
        let (index, mtu, mac) = peer.map_or((0, 0, [0; 6]), |p| (p.index, p.mtu, p.mac.octets()));
        (self.settings.peer, self.settings.mtu, self.settings.mac) = (index, mtu, mac);
        let upstream = peer.and_then(|peer| peer.upstream_mac);
        self.settings.has_upstream_mac = u8::from(upstream.is_some());
        self.settings.upstream_mac = upstream.map_or([0; 6], MacAddr::octets);
        self.programs.configure(&self.settings)
    }

    /// The link by which it relays.
    pub(super) fn peer(&self) -> Option<Peer> {
        let Settings { peer: index, mac, mtu, upstream_mac, has_upstream_mac, .. } = self.settings;
        let upstream_mac = (has_upstream_mac != 0).then(|| MacAddr::from(upstream_mac));
        (index != 0).then(|| Peer { index, mac: MacAddr::from(mac), mtu, upstream_mac })
    }

    /// Whether packets are relayed.
    pub(super) fn is_relaying(&self) -> bool {
        self.settings.peer != 0
    }

    /// Sets the source filter of a group.
    ///
    /// # Errors
    /// Those of bpf(2), except for a lack of room: then the group is left to the proxy.
    pub(super) fn set(&mut self, group: A, filter: &SourceFilter<A>) -> io::Result<()> {
        self.set_all([(group, filter)])
    }

    /// Sets the source filters of these groups.
    ///
    /// # Errors
    /// As [`InKernel::set`].
    pub(super) fn set_all<'f>(
        &mut self,
        filters: impl IntoIterator<Item = (A, &'f SourceFilter<A>)>,
    ) -> io::Result<()> {
        for (group, filter) in filters {
            self.set_entries(group, filter)?;
        }
        // Only now is it known that no group is left out.
        let is_left_out = self.groups.values().any(|entries| entries.is_left_out);
        self.set_incomplete(is_left_out)
    }

    /// Says whether packets of unknown groups are for the proxy.
    fn set_incomplete(&mut self, is_incomplete: bool) -> io::Result<()> {
        let is_incomplete = u8::from(is_incomplete);
        if self.settings.is_incomplete == is_incomplete {
            return Ok(());
        }
        self.settings.is_incomplete = is_incomplete;
        self.programs.configure(&self.settings)
    }

    fn set_entries(&mut self, group: A, filter: &SourceFilter<A>) -> io::Result<()> {
        let wanted = wanted(filter);
        let entries = self.groups.entry(group).or_default();
        // What is new comes first, and what is refused before what is admitted: no packet of a source
        // that is not wanted passes meanwhile.
        let mut added: Vec<_> = wanted
            .iter()
            .filter(|(source, verdict)| entries.verdicts.get(source) != Some(verdict))
            .collect();
        added.sort_by_key(|(_, verdict)| **verdict == Verdict::Admit);
        let mut has_room = true;
        for (source, verdict) in added {
            if entries.verdicts.contains_key(source) {
                entries.note(&mut self.removed, self.programs.counts(group, *source));
            }
            match self.programs.set(group, *source, *verdict) {
                Ok(()) => _ = entries.verdicts.insert(*source, *verdict),
                Err(error) if is_lack_of_room(&error) => has_room = false,
                Err(error) => return Err(error),
            }
        }
        if !has_room {
            // Before the entries go, so that the proxy has what the kernel relays no more.
            self.set_incomplete(true)?;
        }
        let Some(entries) = self.groups.get_mut(&group) else { return Ok(()) };
        let stale: Vec<_> = entries
            .verdicts
            .keys()
            .filter(|source| !has_room || !wanted.contains_key(source))
            .copied()
            .collect();
        for source in stale {
            entries.verdicts.remove(&source);
            entries.note(&mut self.removed, self.programs.remove(group, source));
        }
        entries.is_left_out = !has_room;
        if wanted.is_empty() {
            self.groups.remove(&group);
        }
        Ok(())
    }

    /// Removes the groups for which this does not hold.
    pub(super) fn retain(&mut self, is_kept: impl Fn(A) -> bool) {
        let gone: Vec<_> = self.groups.keys().copied().filter(|group| !is_kept(*group)).collect();
        for group in gone {
            // What cannot be removed ends with the programs.
            let _ = self.set(group, &SourceFilter::none());
        }
    }

    /// Packets of a group that the kernel has relayed.
    pub(super) fn counts(&self, group: A) -> RelayCounts {
        self.groups.get(&group).map_or_else(RelayCounts::default, |entries| {
            (entries.removed + self.present(group, entries)).since(entries.known)
        })
    }

    /// Packets of all groups that the kernel has relayed.
    pub(super) fn total(&self) -> RelayCounts {
        let present = self.groups.iter().map(|(group, entries)| self.present(*group, entries));
        present.fold(self.removed, |total, counts| total + counts).since(self.known)
    }

    fn present(&self, group: A, entries: &Entries<A>) -> RelayCounts {
        let counts = |source: &Option<A>| relay_counts(self.programs.counts(group, *source));
        entries.verdicts.keys().map(counts).fold(RelayCounts::default(), |sum, one| sum + one)
    }
}

impl<A> Entries<A> {
    /// An entry with these counts is no more.
    fn note(&mut self, all: &mut RelayCounts, counts: Counts) {
        let counts = relay_counts(counts);
        self.removed = self.removed + counts;
        *all = *all + counts;
    }
}

/// The entries that a source filter needs (RFC 9776 section 3.2).
fn wanted<A: Ord + Copy>(filter: &SourceFilter<A>) -> BTreeMap<Option<A>, Verdict> {
    let (verdict, all) = match filter.mode {
        FilterMode::Include => (Verdict::Admit, None),
        FilterMode::Exclude => (Verdict::Refuse, Some((None, Verdict::Admit))),
    };
    filter.sources.iter().map(|source| (Some(*source), verdict)).chain(all).collect()
}

fn relay_counts(counts: Counts) -> RelayCounts {
    let Counts { relayed, limited, dropped } = counts;
    RelayCounts { relayed, limited, dropped, denied: 0 }
}

fn is_lack_of_room(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::E2BIG | libc::ENOMEM | libc::ENOSPC))
}

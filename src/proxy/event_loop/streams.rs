//! What arrives, as the table of the count has it: for those who ask, and for alarms.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use crate::igmp::router::Status;
use crate::multicast::{FilterMode, SourceFilter};
use crate::proxy::control::status::InterfaceCounts;
use crate::proxy::event_loop::EventLoop;
use crate::proxy::event_loop::interface::Interface;
use crate::proxy::event_loop::queue_watch::Queues;
use crate::proxy::event_loop::resources::DropCounters;
use crate::proxy::event_loop::speakers::Mode;
use crate::proxy::event_loop::stream_watch::{Seen, StreamWatch};
use crate::stream_count::StreamCount;

impl EventLoop {
    /// What has arrived at the interfaces that are counted. The table is read for a client that asks,
    /// and every few seconds for those who follow the events; for nobody else.
    pub(super) fn counts(&mut self, now: Instant) -> Vec<InterfaceCounts> {
        // Without memory nothing is known.
        let counts = self.counter.as_ref().and_then(|counter| counter.read().ok());
        let of = |interface: &Interface| {
            interface.carries_streams().then_some(())?;
            let streams = counts.as_ref()?.of(interface.task.index)?;
            Some(InterfaceCounts { interface: interface.task.name.clone(), streams })
        };
        let counts: Vec<_> = self.interfaces.iter().filter_map(of).collect();
        if self.look_due(now) <= now {
            let counted = || {
                self.interfaces.iter().filter_map(|interface| {
                    let counts = counts.iter().find(|c| c.interface == interface.task.name)?;
                    Some((interface, counts.streams.as_slice()))
                })
            };
            let seen = counted().flat_map(|(interface, streams)| interface.seen(streams));
            if self.streams.look(now, seen) {
                self.holding.note_work();
            }
            let drops = self.container.drops.as_ref();
            let queues = counted().filter_map(|(i, streams)| i.queues(drops?, streams));
            self.queues.look(now, queues);
        }
        counts
    }

    fn look_due(&self, now: Instant) -> Instant {
        let due = self.streams.next_look(now);
        self.queues.next_look().map_or(due, |at| at.min(due))
    }

    /// When what arrives is looked at for those who follow the events; `None` where no group is or
    /// was joined that could be a stream, or nothing is counted.
    pub(super) fn next_look(&self, now: Instant) -> Option<Instant> {
        self.counter.as_ref()?;
        let mut groups = self.interfaces.iter().flat_map(Interface::watched);
        let watches = self.streams.is_watching()
            || self.queues.next_look().is_some()
            || groups.next().is_some();
        watches.then(|| self.look_due(now))
    }
}

impl Interface {
    /// Whether what arrives is counted: by the link itself, or because the kernel relays. What the proxy
    /// relays is in the relay's own counts.
    fn carries_streams(&self) -> bool {
        match &self.mode {
            Mode::Proxied(proxied) => {
                proxied.relay.as_ref().is_none_or(|relay| relay.is_in_kernel())
            }
            Mode::Observed { .. } => self.task.relay.is_none(),
        }
    }

    /// The groups that are joined and can be streams, each with what the container wants of it.
    fn watched(&self) -> impl Iterator<Item = (Ipv4Addr, SourceFilter)> {
        let router = match &self.mode {
            Mode::Proxied(proxied) if self.carries_streams() => Some(&proxied.router),
            Mode::Proxied(_) | Mode::Observed { .. } => None,
        };
        let views = router.into_iter().flat_map(|router| router.groups());
        views
            .filter(|view| view.status == Status::Allowed && StreamWatch::watches(view.group))
            .map(|view| (view.group, view.wanted))
    }

    fn seen(&self, streams: &[StreamCount]) -> impl Iterator<Item = Seen<'_>> {
        let is_down = self.upstream_problem().is_some();
        self.watched().map(move |(group, wanted)| {
            let first = streams.partition_point(|stream| stream.group < group);
            let own = streams[first..].iter().take_while(|stream| stream.group == group);
            let own = own.filter(|stream| {
                wanted.sources.contains(&stream.source) == (wanted.mode == FilterMode::Include)
            });
            let silent = own.map(|stream| Duration::from_millis(stream.last_packet_ms)).min();
            Seen { interface: &self.task.name, group, mode: wanted.mode, silent, is_down }
        })
    }

    /// What the queues between the parent and this interface have lost; `None` where no stream is
    /// joined, or one of the two links is not there.
    fn queues(&self, drops: &DropCounters, streams: &[StreamCount]) -> Option<Queues<'_>> {
        if self.task.relay.is_some() {
            return None;
        }
        let silences = self.seen(streams).map(|seen| seen.silent);
        let silent = silences.reduce(|a, b| a.into_iter().chain(b).min())?;
        let lost = |stream: &StreamCount| stream.rtp.as_ref().map(|rtp| rtp.lost);
        let (interface, parent) = (self.task.name.as_str(), self.task.parent.as_str());
        let on_host = drops.host.dropped(parent).ok()?;
        let inside = drops.container.dropped(interface).ok()?;
        Some(Queues {
            interface,
            parent,
            dropped: on_host.wrapping_add(inside),
            rtp_lost: streams.iter().filter_map(lost).sum(),
            silent,
        })
    }
}

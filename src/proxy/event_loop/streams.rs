//! What arrives, as the table of the count has it: for those who ask, and for alarms.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use crate::igmp::router::Status;
use crate::multicast::{FilterMode, SourceFilter};
use crate::proxy::control::status::InterfaceCounts;
use crate::proxy::event_loop::EventLoop;
use crate::proxy::event_loop::interface::{Interface, Mode};
use crate::proxy::event_loop::stream_watch::{Seen, StreamWatch};
use crate::stream_count::StreamCount;

impl EventLoop {
    /// What has arrived at the interfaces that are counted. The table is read for a client that asks,
    /// and every few seconds for those who follow the events; for nobody else.
    pub(super) fn counts(&mut self, now: Instant) -> Vec<InterfaceCounts> {
        // Without memory nothing is known.
        let counts = self.counter.as_ref().and_then(|counter| counter.read().ok());
        let of = |interface: &Interface| {
            let streams = counts.as_ref()?.of(interface.task.index)?;
            Some(InterfaceCounts { interface: interface.task.name.clone(), streams })
        };
        let counts: Vec<_> = self.interfaces.iter().filter_map(of).collect();
        if self.streams.next_look(now) <= now {
            let each = self.interfaces.iter().filter_map(|interface| {
                let counts = counts.iter().find(|c| c.interface == interface.task.name)?;
                Some(interface.seen(&counts.streams))
            });
            self.streams.look(now, each.flatten());
        }
        counts
    }

    /// When what arrives is looked at for those who follow the events; `None` where no group is or
    /// was joined that could be a stream, or nothing is counted.
    pub(super) fn next_look(&self, now: Instant) -> Option<Instant> {
        self.counter.as_ref()?;
        let mut groups = self.interfaces.iter().flat_map(Interface::watched);
        let watches = self.streams.is_watching() || groups.next().is_some();
        watches.then(|| self.streams.next_look(now))
    }
}

impl Interface {
    /// The groups that are joined and can be streams, each with what the container wants of it.
    fn watched(&self) -> impl Iterator<Item = (Ipv4Addr, SourceFilter)> {
        let router = match &self.mode {
            Mode::Proxied(proxied) if proxied.relay.is_none() => Some(&proxied.router),
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
}

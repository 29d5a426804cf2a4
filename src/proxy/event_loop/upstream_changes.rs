//! Upstream interfaces that go and come again: a network that is configured anew, an adapter that is
//! unplugged, a VLAN interface that is made anew.
//!
//! Memberships and sockets belong to an interface, and a new one of the same name knows nothing of
//! them. So what depends on the interface is made again when it is there again. Until then, and
//! while the interface is down, the groups are not shown as joined.
//!
//! An interface that comes back from another network namespace has its index, and has lost its
//! memberships (`ip_mc_destroy_dev` in net/ipv4/igmp.c): so /proc/net/igmp is compared with what is
//! to be joined.

use std::collections::BTreeSet;
use std::io;
use std::time::Instant;

use crate::igmp::Igmp;
use crate::mld::Mld;
use crate::net::route_query::RouteQuery;
use crate::notice::Notice;
use crate::proxy::event_loop::event_source::{EventSource, RelaySocket};
use crate::proxy::event_loop::interface::Interface;
use crate::proxy::event_loop::pause::Pause;
use crate::proxy::event_loop::speakers::Speaker;
use crate::proxy::event_loop::upstreams::Upstream;
use crate::proxy::event_loop::{EventLoop, Phase, watch};
use crate::proxy::lan::hearing::Hearing;
use crate::proxy::process::log::Log;

/// What an interface needs to be of use.
const UP: u32 = (libc::IFF_UP | libc::IFF_RUNNING).cast_unsigned();

/// What is known of an upstream's link.
#[derive(Clone, Copy, PartialEq, Eq)]
struct LinkState {
    flags: u32,
    /// Index of the bridge, bond or team whose port it is.
    port_of: Option<u32>,
}

impl LinkState {
    /// As it is now; none if there is no such interface.
    fn of(upstream: &Upstream, links: Option<&RouteQuery>) -> Option<Self> {
        let mut flags = upstream.query_socket.flags_now()?;
        if !upstream.link_watch.has_carrier() {
            flags &= !libc::IFF_RUNNING.cast_unsigned();
        }
        let port_of = links.and_then(|links| links.link(upstream.index()).ok()?.port_of);
        Some(LinkState { flags, port_of })
    }

    /// The same; from now on the upstream's watch tells of another one.
    fn watched(upstream: &Upstream, links: Option<&RouteQuery>) -> Option<Self> {
        let mut state = LinkState::of(upstream, links)?;
        loop {
            let known = Some((state.flags, state.port_of.is_some()));
            // Where this fails, what is known already is told too.
            let _ = upstream.link_watch.follow(upstream.index(), known);
            // It may have changed meanwhile.
            match LinkState::of(upstream, links)? {
                same if same == state => return Some(state),
                other => state = other,
            }
        }
    }
}

impl EventLoop {
    /// The link of the upstream at this position may have changed.
    pub(super) fn handle_upstream_change(&mut self, now: Instant, position: u32, log: &mut Log) {
        let Some(upstream) = self.upstreams.list.get_mut(position as usize) else { return };
        upstream.link_watch.drain();
        let index = upstream.index();
        let is_known_gone = matches!(upstream.problem, Some(Notice::UpstreamGone { .. }));
        let name = upstream.query_socket.name().to_owned();
        match upstream.query_socket.index_now() {
            Some(now_index) if now_index == index => self.look_at_upstream(now, position, log),
            // The child links have gone with it. Another proxy serves those that are made anew.
            Some(_) if self.are_lost(index) => {}
            Some(new) => self.follow_upstream(now, position, new, log),
            None if is_known_gone => {}
            None => {
                let upstreams = &mut self.upstreams.list;
                upstreams[position as usize].firewall.drops_queries = false;
                let problem = Notice::UpstreamGone { upstream: name };
                self.set_upstream_problem(now, position, problem, log);
                self.rejoin(now, index, index);
            }
        }
    }

    /// Somebody wants to know what is joined: what the kernel has not told yet of a carrier is asked
    /// for.
    pub(super) fn look_at_carriers(&mut self, now: Instant, log: &mut Log) {
        for (position, at) in (0..self.upstreams.list.len()).zip(0..) {
            if self.upstreams.list[position].link_watch.has_news() {
                self.handle_upstream_change(now, at, log);
            }
        }
    }

    /// Whether all interfaces of the container on an upstream are gone that were made for it.
    fn are_lost(&self, upstream: u32) -> bool {
        let mut own = self.interfaces.iter().filter(|i| i.task.upstream_index == upstream);
        own.all(Interface::is_lost)
    }

    /// The interface is there: it may have come up or gone down, or have come back with its index.
    fn look_at_upstream(&mut self, now: Instant, position: u32, log: &mut Log) {
        let Some(upstream) = self.upstreams.list.get(position as usize) else { return };
        let name = upstream.query_socket.name().to_owned();
        let index = upstream.index();
        let Some(state) = LinkState::watched(upstream, self.upstreams.links.as_ref()) else {
            return;
        };
        for interface in self.interfaces.iter_mut().filter(|i| i.task.upstream_index == index) {
            // Its hardware address may be another one.
            interface.needs_look |= interface.task.relay.is_some();
            if let Some(relay) = interface.relay::<Igmp>() {
                relay.forget_link_facts();
            }
            if let Some(relay) = interface.relay::<Mld>() {
                relay.forget_link_facts();
            }
            let is_up = state.flags & libc::IFF_UP.cast_unsigned() != 0;
            if let Some(proxied) = interface.proxied() {
                proxied.set_upstream_up(now, is_up, &self.upstreams);
            }
            if let Some(mld) = &mut interface.mld {
                mld.set_upstream_up(now, is_up, &self.upstreams);
            }
        }
        if state.flags & UP != UP {
            let problem = Notice::UpstreamDown { upstream: name };
            return self.set_upstream_problem(now, position, problem, log);
        }
        // The bridge takes everything that arrives, before the host's own sockets see it.
        if let Some(bridge) = state.port_of {
            let bridge = upstream.query_socket.name_of(bridge);
            let problem = Notice::UpstreamBridged { upstream: name, bridge };
            return self.set_upstream_problem(now, position, problem, log);
        }
        let Some(upstream) = self.upstreams.list.get_mut(position as usize) else { return };
        // The switch has forgotten what was joined, and the kernel has not noticed.
        let has_flapped = upstream.link_watch.take_flap();
        let was_away = upstream.problem.is_some();
        if was_away {
            self.clear_upstream_problem(now, position, log);
        }
        self.rejoin_missing::<Igmp>(now, index);
        self.rejoin_missing::<Mld>(now, index);
        if has_flapped || was_away {
            self.report_again(now, position);
        }
    }

    /// Joins again what the host's kernel has lost. Where its file cannot be read, the next change of
    /// the link shows the difference.
    fn rejoin_missing<P: Speaker>(&mut self, now: Instant, index: u32) {
        let EventLoop { interfaces, upstreams, .. } = self;
        let Some(files) = P::host_groups(upstreams) else { return };
        let on_upstream = |interface: &&mut Interface| interface.task.upstream_index == index;
        let wanted: BTreeSet<_> = interfaces
            .iter_mut()
            .filter(on_upstream)
            .flat_map(|interface| interface.wanted_groups::<P>())
            .collect();
        // A new proxy wants nothing yet, and need not read what all others have joined.
        if wanted.is_empty() {
            return;
        }
        let Ok(missing) = files.missing_on(index, wanted) else { return };
        if missing.is_empty() {
            return;
        }
        for interface in interfaces.iter_mut().filter(on_upstream) {
            interface.rejoin_missing::<P>(now, &missing, upstreams);
        }
    }

    /// The interface has come again, with another index.
    fn follow_upstream(&mut self, now: Instant, position: u32, index: u32, log: &mut Log) {
        self.holding.note_relays(now);
        let Some(upstream) = self.upstreams.list.get_mut(position as usize) else { return };
        let name = upstream.query_socket.name().to_owned();
        let old = upstream.index();
        upstream.report_on(now, index);
        upstream.firewall.close_probe();
        let followed = upstream.query_socket.follow(index).and_then(|()| {
            // The new socket is watched from the start.
            upstream.query_pause = Pause::default();
            let source = EventSource::QuerySocket(position);
            watch(&self.epoll, &upstream.query_socket, source)?;
            upstream.link_watch.follow(index, None)?;
            if let Some(tap) = upstream.firewall.tap.as_mut().filter(|tap| tap.is_listening()) {
                tap.listen(index)?;
            }
            if let Some(mld) = &mut upstream.mld {
                mld.query_pause = Pause::default();
                mld.query_socket.follow(&name)?;
                watch(&self.epoll, &mld.query_socket, EventSource::MldQuerySocket(position))?;
            }
            Ok(())
        });
        let followed = followed
            .and_then(|()| self.follow_relays::<Igmp>(old, index))
            .and_then(|()| self.follow_relays::<Mld>(old, index));
        if let Err(error) = followed {
            let error = error.to_string();
            let problem = Notice::UpstreamNotFollowed { upstream: name, error };
            self.set_upstream_problem(now, position, problem, log);
            return;
        }
        self.rejoin(now, old, index);
        // It may be down still.
        self.look_at_upstream(now, position, log);
    }

    /// The relays by an upstream turn to the interface of another index.
    fn follow_relays<P: Speaker>(&mut self, old: u32, index: u32) -> io::Result<()> {
        let relays = (0..).zip(&mut self.interfaces);
        for (position, interface) in relays.filter(|(_, i)| i.task.upstream_index == old) {
            let Some(relay) = interface.relay::<P>() else { continue };
            relay.follow(index)?;
            if matches!(self.phase, Phase::Serving) {
                let (interface, family) = (position, P::FAMILY);
                let socket = RelaySocket::Receiver;
                let source = EventSource::Relay { interface, family, socket };
                watch(&self.epoll, relay.receiver(), source)?;
            }
        }
        Ok(())
    }

    /// Nothing is wrong with an upstream any more.
    fn clear_upstream_problem(&mut self, now: Instant, position: u32, log: &mut Log) {
        let Some(upstream) = self.upstreams.list.get_mut(position as usize) else { return };
        let index = upstream.index();
        if upstream.problem.take().is_some() {
            let upstream = upstream.query_socket.name().to_owned();
            log.notice(now, Notice::UpstreamBack { upstream });
        }
        for interface in self.interfaces.iter_mut().filter(|i| i.task.upstream_index == index) {
            interface.set_upstream_problem(None);
        }
    }

    /// Remembers what is wrong with an upstream, and tells of it.
    fn set_upstream_problem(
        &mut self,
        now: Instant,
        position: u32,
        problem: Notice,
        log: &mut Log,
    ) {
        let Some(upstream) = self.upstreams.list.get_mut(position as usize) else { return };
        if upstream.problem.as_ref() != Some(&problem) {
            upstream.problem = Some(problem.clone());
            upstream.firewall.hearing = Hearing::default();
            let index = upstream.index();
            for interface in self.interfaces.iter_mut().filter(|i| i.task.upstream_index == index) {
                interface.set_upstream_problem(Some(problem.to_string()));
            }
            log.notice(now, problem);
        }
    }

    /// Joins all groups again, on another upstream interface.
    fn rejoin(&mut self, now: Instant, old: u32, new: u32) {
        let EventLoop { interfaces, upstreams, .. } = self;
        let own = |interface: &&mut Interface| interface.task.upstream_index == old;
        for interface in interfaces.iter_mut().filter(own) {
            interface.rejoin(now, new, upstreams);
        }
    }
}

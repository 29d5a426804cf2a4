//! Upstream interfaces that go and come again: a network that is configured anew, an adapter that is
//! unplugged, a VLAN interface that is made anew.
//!
//! Memberships and sockets belong to an interface, and a new one of the same name knows nothing of
//! them. So what depends on the interface is made again when it is there again. Until then the
//! groups are not shown as joined.

use std::time::Instant;

use crate::notice::Notice;
use crate::proxy::event_loop::event_source::{EventSource, RelaySocket};
use crate::proxy::event_loop::interface::Interface;
use crate::proxy::event_loop::pause::Pause;
use crate::proxy::event_loop::{EventLoop, Phase, watch};
use crate::proxy::process::log::Log;

impl EventLoop {
    /// The link of the upstream at this position may have changed.
    pub(super) fn handle_upstream_change(&mut self, now: Instant, position: u32, log: &mut Log) {
        let Some(upstream) = self.upstreams.list.get_mut(position as usize) else { return };
        if let Some(watch) = &upstream.link_watch {
            watch.drain();
        }
        let index = upstream.index();
        match upstream.query_socket.index_now() {
            Some(now_index) if now_index == index => {}
            Some(new) => self.follow_upstream(now, position, new, log),
            None if upstream.problem.is_some() => {}
            None => {
                let name = upstream.query_socket.name().to_owned();
                // What it knows of the interface is past.
                upstream.reporter = None;
                upstream.report_socket = None;
                upstream.firewall.close_probe();
                self.set_upstream_problem(
                    now,
                    position,
                    Notice::UpstreamGone { upstream: name },
                    log,
                );
                self.rejoin(now, index, index);
            }
        }
    }

    /// The interface has come again, with another index.
    fn follow_upstream(&mut self, now: Instant, position: u32, index: u32, log: &mut Log) {
        self.holding.note_relays(now);
        let Some(upstream) = self.upstreams.list.get_mut(position as usize) else { return };
        let name = upstream.query_socket.name().to_owned();
        let old = upstream.index();
        upstream.reporter = None;
        upstream.report_socket = None;
        upstream.firewall.close_probe();
        let followed = upstream.query_socket.follow(index).and_then(|()| {
            // The new socket is watched from the start.
            upstream.query_pause = Pause::default();
            let source = EventSource::QuerySocket(position);
            watch(&self.epoll, &upstream.query_socket, source)?;
            upstream.link_watch.iter().try_for_each(|watch| watch.follow(index))?;
            let relays = (0..).zip(&mut self.interfaces);
            for (position, interface) in relays.filter(|(_, i)| i.task.upstream_index == old) {
                let Some(relay) = interface.relay() else { continue };
                relay.follow(index)?;
                if matches!(self.phase, Phase::Serving) {
                    let socket = RelaySocket::Receiver;
                    let source = EventSource::Relay { interface: position, socket };
                    watch(&self.epoll, relay.receiver(), source)?;
                }
            }
            Ok(())
        });
        if let Err(error) = followed {
            let error = error.to_string();
            let problem = Notice::UpstreamNotFollowed { upstream: name, error };
            self.set_upstream_problem(now, position, problem, log);
            return;
        }
        upstream.problem = None;
        log.notice(now, Notice::UpstreamBack { upstream: name });
        self.rejoin(now, old, index);
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
            log.notice(now, problem);
        }
    }

    /// Joins all groups again, on another upstream interface.
    fn rejoin(&mut self, now: Instant, old: u32, new: u32) {
        let EventLoop { interfaces, upstreams, .. } = self;
        let own = |interface: &&mut Interface| interface.task.upstream_index == old;
        for interface in interfaces.iter_mut().filter(own) {
            interface.rejoin(now, new, &upstreams.limits);
        }
    }
}

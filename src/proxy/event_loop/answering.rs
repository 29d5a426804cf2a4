//! The host's firewall: queries that it drops are heard on the container's own link, and answered by
//! the proxy for what the proxy has joined. Reports that it drops are told of.
//!
//! Where the host hears a query, its kernel answers, and the proxy sends nothing.

use std::net::Ipv4Addr;
use std::time::Instant;

use rustix::rand::{GetRandomFlags, getrandom};

use crate::igmp::responder::Memberships;
use crate::igmp::wire::Query;
use crate::multicast::SourceFilter;
use crate::notice::Notice;
use crate::proxy::event_loop::event_source::EventSource;
use crate::proxy::event_loop::interface::Interface;
use crate::proxy::event_loop::speakers::Mode;
use crate::proxy::event_loop::upstreams::{Upstream, Upstreams};
use crate::proxy::event_loop::{DATAGRAMS_PER_TURN, EventLoop, QUERY_PAUSE, watch};
use crate::proxy::lan::hearing::HOST_DELAY;
use crate::proxy::process::log::Log;

impl Upstream {
    /// What is wrong with the host's firewall here.
    pub(super) fn firewall_notices(&self, now: Instant) -> impl Iterator<Item = Notice> {
        let upstream = || self.query_socket.name().to_owned();
        let querier = self.firewall.hearing.unheard_querier(now);
        let queries = querier.map(|querier| queries_filtered(upstream(), querier));
        let drops = self.firewall.drops_reports;
        let reports = drops.then(|| Notice::ReportsFiltered { upstream: upstream() });
        let arrivals = self.firewall.drops_queries;
        let arrivals = arrivals.then(|| Notice::ArrivalsFiltered { upstream: upstream() });
        queries.into_iter().chain(reports).chain(arrivals)
    }

    /// All that is joined here is told, in the version that the host's kernel speaks.
    fn report_all(&mut self, now: Instant, interfaces: &[Interface]) {
        if let Some(reporter) = &self.reporter {
            self.firewall.responder.follow_version(now, reporter.version(now));
        }
        self.firewall.responder.report_all(now, &memberships(interfaces, self.index()));
    }
}

impl Upstreams {
    /// The link of the container has heard a query of the upstream of this index.
    pub(super) fn hear_on_link(
        &mut self,
        now: Instant,
        index: u32,
        source: Ipv4Addr,
        query: Query,
    ) {
        // A host that has lost its interface hears nothing, and its firewall is not the reason.
        let is_there = |upstream: &&mut Upstream| upstream.problem.is_none();
        let mut upstreams = self.list.iter_mut().filter(is_there);
        if let Some(upstream) = upstreams.find(|upstream| upstream.index() == index) {
            upstream.firewall.hearing.heard_on_link(now, source, query);
        }
    }

    /// Something is joined on the upstream of this index.
    pub(super) fn want_check(&self, index: u32) {
        if let Some(upstream) = self.list.iter().find(|upstream| upstream.index() == index) {
            upstream.firewall.want_check();
        }
    }
}

impl EventLoop {
    /// Somebody wants to know what is wrong.
    pub(super) fn check_firewall_now(&mut self, now: Instant, log: &mut Log) {
        self.upstreams.list.iter().for_each(|upstream| upstream.firewall.want_check());
        self.handle_firewall(now, log);
    }

    /// Does what is due: checks the firewall, and answers queries that it drops.
    pub(super) fn handle_firewall(&mut self, now: Instant, log: &mut Log) {
        for position in 0..self.upstreams.list.len() {
            let firewall = &self.upstreams.list[position].firewall;
            let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
            if !is_due(firewall.poll_timeout(now)) {
                continue;
            }
            if is_due(firewall.hearing.poll_timeout()) {
                // What the host has heard by now is not read yet.
                self.receive_queries(now, position as u32, log);
                self.take_unheard(now, position, log);
            }
            if is_due(self.upstreams.list[position].firewall.check_at(now)) {
                self.check_firewall(now, position, log);
            }
            let EventLoop { upstreams, interfaces, .. } = &mut *self;
            let upstream = &mut upstreams.list[position];
            if upstream.firewall.take_repeat(now) {
                upstream.report_all(now, interfaces);
            }
            self.send_answers(now, position);
        }
    }

    /// The LAN may have forgotten the host: a switch port that was down has. The kernel tells of its
    /// memberships when the interface is set up, and not when a carrier is there again
    /// (`inetdev_event` in net/ipv4/devinet.c). A switch that does not ask would not forward until
    /// the querier's next query.
    pub(super) fn report_again(&mut self, now: Instant, position: u32) {
        let EventLoop { upstreams, interfaces, .. } = self;
        if let Some(upstream) = upstreams.list.get_mut(position as usize) {
            upstream.report_all(now, interfaces);
            upstream.firewall.repeat(now);
            upstream.firewall.want_check();
        }
    }

    /// Hears the LAN at the link of an upstream from now on, if that can be.
    fn listen_at_link(&mut self, position: usize) {
        let upstream = &mut self.upstreams.list[position];
        let index = upstream.index();
        let Some(tap) = upstream.firewall.tap.as_mut().filter(|tap| !tap.is_listening()) else {
            return;
        };
        // Where this fails, the next check tries it again.
        if tap.listen(index).is_ok() {
            let _ = watch(&self.epoll, &*tap, EventSource::QueryTap(position as u32));
        }
    }

    /// Receives the queries that a tap has heard, at the same rate as those that the host hears.
    pub(super) fn receive_tapped(&mut self, now: Instant, position: u32) {
        let EventLoop { epoll, upstreams, buffer, .. } = self;
        let Some(upstream) = upstreams.list.get_mut(position as usize) else { return };
        for _ in 0..DATAGRAMS_PER_TURN {
            let takes_query = upstream.takes_query(now);
            let Some(tap) = &upstream.firewall.tap else { return };
            if !takes_query {
                // The switch asks again.
                upstream.tap_pause.begin(epoll, tap, now, QUERY_PAUSE);
                return;
            }
            match tap.receive(buffer) {
                Ok(Some((source, query))) if upstream.problem.is_none() => {
                    upstream.firewall.hearing.heard_on_link(now, source, query);
                }
                Ok(_) => {}
                // None is waiting, or the interface is down: another event follows.
                Err(_) => return,
            }
        }
    }

    /// Takes the queries that the host has not heard for heard.
    fn take_unheard(&mut self, now: Instant, position: usize, log: &mut Log) {
        let EventLoop { upstreams, interfaces, .. } = self;
        let upstream = &mut upstreams.list[position];
        let was_known = upstream.firewall.hearing.unheard_querier(now).is_some();
        while let Some((source, query)) = upstream.firewall.hearing.take_unheard(now) {
            upstream.handle_query(now, &query);
            deliver_query(now, upstream, interfaces, source, &query);
            let memberships = memberships(interfaces, upstream.index());
            let max_resp = query.max_resp.saturating_sub(HOST_DELAY);
            let query = Query { max_resp, ..query };
            upstream.firewall.responder.receive_query(now, &query, &memberships, random);
        }
        if !was_known && let Some(querier) = upstream.firewall.hearing.unheard_querier(now) {
            let name = upstream.query_socket.name().to_owned();
            log.notice(now, queries_filtered(name, querier));
        }
    }

    /// Checks what gets through. What was joined while no report got out is told when one does; and
    /// where no query gets in, what is joined is told again and again, as the answers to queries
    /// would.
    fn check_firewall(&mut self, now: Instant, position: usize, log: &mut Log) {
        let dropped_queries = self.upstreams.list[position].firewall.drops_queries;
        let drops_queries = self.upstreams.list[position].firewall.check_input(now);
        if drops_queries {
            self.listen_at_link(position);
        }
        let EventLoop { upstreams, interfaces, .. } = self;
        let Upstream { query_socket, firewall, .. } = &mut upstreams.list[position];
        let index = query_socket.index;
        let upstream = || query_socket.name().to_owned();
        if drops_queries {
            firewall.responder.report_all(now, &memberships(interfaces, index));
            if !dropped_queries {
                log.notice(now, Notice::ArrivalsFiltered { upstream: upstream() });
            }
        }
        let drops_reports = !query_socket.may_report();
        if firewall.drops_reports == drops_reports {
            return;
        }
        firewall.drops_reports = drops_reports;
        if drops_reports {
            log.notice(now, Notice::ReportsFiltered { upstream: upstream() });
        } else {
            firewall.responder.report_all(now, &memberships(interfaces, index));
        }
        for interface in interfaces.iter_mut().filter(|i| i.task.upstream_index == index) {
            interface.set_reports_filtered(drops_reports);
        }
    }

    /// Sends the answers that are due.
    fn send_answers(&mut self, now: Instant, position: usize) {
        let EventLoop { upstreams, interfaces, .. } = self;
        let upstream = &mut upstreams.list[position];
        if upstream.firewall.responder.poll_timeout().is_none_or(|at| at > now) {
            return;
        }
        let memberships = memberships(interfaces, upstream.index());
        let Upstream { firewall, reporter, report_socket, .. } = upstream;
        let socket = reporter.as_ref().map(|reporter| reporter.socket()).or(report_socket.as_ref());
        firewall.responder.handle_timeout(now, &memberships, |message| {
            if let Some(socket) = socket {
                socket.send(message);
            }
        });
    }
}

/// Tells the routers of the upstream of a query.
pub(super) fn deliver_query(
    now: Instant,
    upstream: &Upstream,
    interfaces: &mut [Interface],
    source: Ipv4Addr,
    query: &Query,
) {
    upstream.firewall.want_check();
    for interface in interfaces {
        if interface.task.upstream_index == upstream.index()
            && let Some(router) = interface.router()
        {
            router.handle_lan_query(now, source, query);
        }
    }
}

/// What the proxy has joined on the upstream of this index.
fn memberships(interfaces: &[Interface], index: u32) -> Memberships {
    let mut all = Memberships::new();
    for interface in interfaces.iter().filter(|i| i.task.upstream_index == index) {
        let Mode::Proxied(proxied) = &interface.mode else { continue };
        for view in proxied.router.groups() {
            if !view.upstream.is_none() && proxied.joins.failure(view.group).is_none() {
                let other = all.remove(&view.group).unwrap_or_else(SourceFilter::none);
                all.insert(view.group, other.merged(&view.upstream));
            }
        }
    }
    all
}

fn queries_filtered(upstream: String, querier: Ipv4Addr) -> Notice {
    Notice::QueriesFiltered { upstream, querier: querier.into() }
}

/// A random number from 0 up to 1.
fn random() -> f64 {
    let mut bytes = [0u8; 4];
    // If it fails, the answer is sent at once.
    let _ = getrandom(&mut bytes, GetRandomFlags::empty());
    f64::from(u32::from_ne_bytes(bytes)) / f64::from(u32::MAX)
}

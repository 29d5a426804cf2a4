//! Relays to the bridge that the container is on: a mistake that the hook refuses where the
//! interface exists when it is called, and that is seen here where the interface comes later.

use std::time::Instant;

use crate::net::route_query::RouteQuery;
use crate::proxy::event_loop::EventLoop;
use crate::proxy::process::log::Log;

impl EventLoop {
    /// Looks at interfaces that have come or come up: one that is on the upstream bridge itself has
    /// its packets relayed in one direction only.
    pub(super) fn check_own_bridges(&mut self, now: Instant, log: &mut Log) {
        let (Some(host), Some(container)) = (&self.upstreams.links, &self.container.routes) else {
            return;
        };
        for interface in &mut self.interfaces {
            if !std::mem::take(&mut interface.has_come) {
                continue;
            }
            let (index, upstream) = (interface.task.index, interface.task.upstream_index);
            let Some(relay) = interface.relay() else { continue };
            let is_on_upstream = bridge(container, host, index) == Some(upstream);
            if is_on_upstream != relay.is_on_upstream() {
                relay.set_on_upstream(is_on_upstream);
                if let Some(notice) = interface.own_bridge_notice() {
                    log.notice(now, notice);
                }
            }
        }
    }
}

/// Index of the host's bridge that a container's interface is on, as
/// [`bridge_of`](crate::net::bridge_port::bridge_of) has it for the hook.
fn bridge(container: &RouteQuery, host: &RouteQuery, index: u32) -> Option<u32> {
    let other_end = host.link(container.link(index).ok()?.parent?).ok()?;
    other_end.port_of.filter(|_| other_end.is_veth)
}

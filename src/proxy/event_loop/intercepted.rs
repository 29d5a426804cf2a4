//! The container's own IGMP and MLD, and the queries that its links hear, as the rules log them.

use std::time::Instant;

use crate::notice::Notice;
use crate::proxy::event_loop::{DATAGRAMS_PER_TURN, EventLoop, Interception, REPORT_PAUSE};
use crate::proxy::lan::query_socket::parse_query;
use crate::proxy::process::log::Log;

impl EventLoop {
    /// Receives the container's IGMP and MLD, at a limited rate.
    pub(super) fn receive_intercepted(&mut self, now: Instant, log: &mut Log) {
        let EventLoop { interception: Some(interception), interfaces, buffer, .. } = self else {
            return;
        };
        let EventLoop { epoll, reports, report_pause, upstreams, .. } = self;
        let Interception { nflog: Some(nflog), .. } = interception else { return };
        for _ in 0..DATAGRAMS_PER_TURN {
            if !reports.take(now) {
                if report_pause.begin(epoll, &*nflog, now, REPORT_PAUSE)
                    && let Some(interface) = interfaces.first()
                {
                    let interface = interface.task.name.clone();
                    log.notice(now, Notice::ChangesDelayed { interface });
                }
                return;
            }
            let result = nflog.receive(buffer, |packet| {
                let interface = interfaces.iter_mut().find(|i| i.task.index == packet.interface);
                let Some(interface) = interface else { return };
                if packet.is_ipv6 {
                    if let Some(mld) = interface.mld.as_mut().filter(|_| !packet.has_arrived) {
                        mld.router.handle_packet(now, packet.bytes);
                        interface.has_changed = true;
                    }
                } else if packet.has_arrived {
                    if let Some((source, query)) = parse_query(packet.bytes) {
                        let index = interface.task.upstream_index;
                        upstreams.hear_on_link(now, index, source, query);
                    }
                } else if let Some(router) = interface.router() {
                    router.handle_packet(now, packet.bytes);
                }
            });
            match result {
                Ok(true) => {}
                Ok(false) => return,
                // Packets were lost: the container reports all groups again.
                Err(_) => {
                    self.requery(now);
                    return;
                }
            }
        }
    }

    /// Has the container report all its groups.
    pub(super) fn requery(&mut self, now: Instant) {
        for interface in &mut self.interfaces {
            if let Some(router) = interface.router() {
                router.requery(now);
            }
            if let Some(mld) = &mut interface.mld {
                mld.router.requery(now);
            }
        }
    }
}

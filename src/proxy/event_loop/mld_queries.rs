//! The queries of the LAN's MLD querier.

use std::time::Instant;

use crate::notice::Notice;
use crate::proxy::event_loop::{DATAGRAMS_PER_TURN, EventLoop, QUERY_PAUSE};
use crate::proxy::process::log::Log;

impl EventLoop {
    /// Receives MLD queries of the LAN, at a limited rate.
    pub(super) fn receive_mld_queries(&mut self, now: Instant, position: u32, log: &mut Log) {
        let EventLoop { epoll, upstreams, interfaces, buffer, .. } = self;
        let Some(upstream) = upstreams.list.get_mut(position as usize) else { return };
        let index = upstream.index();
        let Some(mld) = &mut upstream.mld else { return };
        for _ in 0..DATAGRAMS_PER_TURN {
            if !mld.takes_query(now) {
                if mld.query_pause.begin(epoll, &mld.query_socket, now, QUERY_PAUSE) {
                    let upstream = upstream.query_socket.name().to_owned();
                    log.notice(now, Notice::QueriesIgnored { upstream });
                }
                return;
            }
            let (source, query) = match mld.query_socket.receive(buffer) {
                Ok(Some(heard)) => heard,
                // A packet that is no valid query.
                Ok(None) => continue,
                // None is waiting, or the interface is down: another event follows.
                Err(_) => return,
            };
            if let Some(reporter) = &mut mld.reporter {
                reporter.receive_query(now, &query);
            }
            for interface in interfaces.iter_mut().filter(|i| i.task.upstream_index == index) {
                if let Some(mld) = &mut interface.mld {
                    mld.router.handle_lan_query(now, source, &query);
                    interface.has_changed = true;
                }
            }
        }
    }
}

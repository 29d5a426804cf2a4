//! The container's own IGMP, as the rules log it.

use std::time::Instant;

use crate::multicast::SourceFilter;
use crate::notice::Notice;
use crate::proxy::event_loop::interface::Interface;
use crate::proxy::event_loop::{DATAGRAMS_PER_TURN, EventLoop, Interception, REPORT_PAUSE};
use crate::proxy::process::log::Log;

/// Datagrams that are discarded at once: more than fit into the receive buffer.
const MAX_DISCARDED: usize = 1024;

impl EventLoop {
    /// Receives the container's IGMP, at a limited rate.
    pub(super) fn receive_intercepted(&mut self, now: Instant, log: &mut Log) {
        let EventLoop { interception: Some(interception), interfaces, buffer, .. } = self else {
            return;
        };
        let EventLoop { epoll, reports, report_pause, .. } = self;
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
                if let Some(router) = interface.and_then(Interface::router) {
                    router.handle_packet(now, packet.bytes);
                }
            });
            match result {
                Ok(true) => {}
                Ok(false) => return,
                // Packets were lost.
                Err(_) => {
                    self.make_up_for_lost_reports(now);
                    return;
                }
            }
        }
    }

    /// Reports were lost, or may have been: the kernel does not tell of what it has dropped while
    /// none was read. What is left of them is not worth reading. The container is asked for what it
    /// has joined. What it has left, or what a process has only claimed to have joined, goes at
    /// once: without a report it would stay for the group membership interval (RFC 9776 §8.4),
    /// which is minutes.
    pub(super) fn make_up_for_lost_reports(&mut self, now: Instant) {
        if let Some(Interception { nflog: Some(nflog), .. }) = &self.interception {
            // As many as the socket holds. More may come meanwhile.
            for _ in 0..MAX_DISCARDED {
                if matches!(nflog.receive(&mut self.buffer, |_| ()), Ok(false)) {
                    break;
                }
            }
        }
        let files = &self.container.membership_files;
        // A list that changes while it is read can lack a group. The second one decides.
        let first = files.memberships();
        let lists = first.and_then(|first| Ok([first, files.memberships()?]));
        for interface in &mut self.interfaces {
            let index = interface.task.index;
            let Some(router) = interface.router() else { continue };
            if let Ok(lists) = &lists {
                let is_listed = |group| lists.iter().any(|list| list.contains_key(&(index, group)));
                let known = router.groups().map(|view| view.group);
                let gone: Vec<_> = known.filter(|group| !is_listed(*group)).collect();
                for group in gone {
                    router.handle_membership(now, group, &SourceFilter::none());
                }
            }
            router.requery(now);
        }
    }

    /// Has the container report all its groups.
    pub(super) fn requery(&mut self, now: Instant) {
        for router in self.interfaces.iter_mut().filter_map(Interface::router) {
            router.requery(now);
        }
    }
}

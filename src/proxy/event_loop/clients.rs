//! The clients of the control socket, as the event loop serves them.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::time::{Instant, SystemTime};

use nix::sys::epoll::{EpollEvent, EpollFlags};

use crate::proxy::container::membership_files::KernelMembership;
use crate::proxy::control::event::{Event, TimedEvent};
use crate::proxy::control::protocol::{
    ControlRequest, empty_answer, namespace_answer, status_answer,
};
use crate::proxy::control::status::{ProxyState, ProxyStatus};
use crate::proxy::event_loop::membership_events::PublishedGroups;
use crate::proxy::event_loop::{Loop, MAX_OBSERVED, token};
use crate::proxy::process::log::Log;

impl Loop {
    pub(super) fn accept_client(&mut self, now: Instant) {
        if let Some((id, client)) = self.control.accept(now) {
            // The server reads and writes until EAGAIN, so that no client is to be watched anew
            // when its direction changes.
            let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET;
            let event = EpollEvent::new(flags, token::CLIENT + u64::from(id));
            // A client that is not waited for is closed when its time is over.
            let _ = self.epoll.add(client, event);
        }
    }

    pub(super) fn serve_client(&mut self, now: Instant, id: u32, log: &mut Log) {
        let Some((request, format)) = self.control.handle_ready(id) else { return };
        match request {
            ControlRequest::Status => {
                let answer = status_answer(&self.status(now), format);
                self.control.answer(id, answer);
            }
            ControlRequest::Requery => {
                // Relays that could not be taken over begin anew: the other proxy has ended.
                if self.takes_over && self.begin_relaying().is_err() {
                    self.takes_over = true;
                }
                self.requery(now);
                self.control.answer(id, empty_answer(format));
            }
            ControlRequest::Namespace => {
                let namespace = [self.namespace.as_fd()];
                self.control.answer_with_descriptors(id, namespace_answer(format), &namespace);
            }
            ControlRequest::Takeover => {
                self.take_over_relays(now);
                self.control.answer(id, empty_answer(format));
            }
            ControlRequest::Handover => self.hand_over_relays(id, format),
            ControlRequest::Subscribe => {
                // The events begin at the status, for this subscriber and for those before it.
                self.publish_changes(now, log);
                let status = self.status(now);
                let interfaces = status.interfaces.iter();
                self.published = interfaces.map(|i| PublishedGroups::new(&i.groups)).collect();
                self.control.subscribe(id, status_answer(&status, format));
                log.set_copying(self.control.has_subscribers());
            }
        }
    }

    /// Sends the changes since the last call to the subscribers.
    pub(super) fn publish_changes(&mut self, now: Instant, log: &mut Log) {
        let notices = log.take_copies();
        if !self.control.has_subscribers() {
            self.published.clear();
            log.set_copying(false);
            return;
        }
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let time_ms = since_1970.map_or(0, |time| time.as_millis() as u64);
        let mut events = Vec::new();
        let has_changed = |i: &super::Interface| i.has_changed && !i.is_served();
        let observed = match self.interfaces.iter().any(has_changed) {
            true => self.observe(now),
            false => BTreeMap::new(),
        };
        for (interface, published) in self.interfaces.iter_mut().zip(&mut self.published) {
            if std::mem::take(&mut interface.has_changed) {
                let groups = interface.groups(now, &observed);
                events.extend(published.update(&interface.config.name, groups));
            }
        }
        events.extend(notices.into_iter().map(Event::Notice));
        for event in events {
            self.control.publish(now, &TimedEvent { time_ms, event });
        }
    }

    fn status(&mut self, now: Instant) -> ProxyStatus {
        let observed = self.observe(now);
        let mut notices = self.notices.clone();
        notices.extend(self.interfaces.iter().filter_map(|i| i.querier_notice(now)));
        ProxyStatus {
            container: self.config.container.clone(),
            version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            pid: std::process::id().cast_signed(),
            state: if self.degraded { ProxyState::Degraded } else { ProxyState::Running },
            notices,
            interfaces: self.interfaces.iter().map(|i| i.status(now, &observed)).collect(),
        }
    }

    /// The groups of interfaces that are only observed, and when each was first seen.
    fn observe(&mut self, now: Instant) -> BTreeMap<(u32, Ipv4Addr), (KernelMembership, Instant)> {
        if !self.observing {
            return BTreeMap::new();
        }
        let groups = self.membership_files.memberships().unwrap_or_default();
        self.seen.retain(|key, _| groups.contains_key(key));
        let mut observed = BTreeMap::new();
        for (key, group) in groups.into_iter().take(MAX_OBSERVED) {
            let since = *self.seen.entry(key).or_insert(now);
            observed.insert(key, (group, since));
        }
        observed
    }
}

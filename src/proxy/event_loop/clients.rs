//! The clients of the control socket, as the event loop serves them.

use std::os::fd::AsFd;
use std::time::{Duration, Instant, SystemTime};

use nix::sys::epoll::{EpollEvent, EpollFlags};

use crate::notice::Notice;
use crate::proxy::control::changes::{PublishedGroups, PublishedState};
use crate::proxy::control::event::{Event, TimedEvent};
use crate::proxy::control::protocol::{
    ControlRequest, count_answer, empty_answer, namespace_answer, status_answer,
};
use crate::proxy::control::status::ProxyStatus;
use crate::proxy::event_loop::counting::hand_over;
use crate::proxy::event_loop::event_source::EventSource;
use crate::proxy::event_loop::status::{KernelMemberships, STATE_INTERVAL};
use crate::proxy::event_loop::{EventLoop, Phase};
use crate::proxy::process::log::Log;

/// Errors of accept(2) that stay for a while.
const IS_SHORT: [i32; 4] = [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::ENOBUFS];
/// Time until a client is accepted again after one of them.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

impl EventLoop {
    pub(super) fn accept_client(&mut self, now: Instant, log: &mut Log) {
        match self.control.accept(now) {
            Ok(Some((id, client))) => {
                // The server reads and writes until EAGAIN, so that no client is to be watched anew
                // when its direction changes.
                let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET;
                let event = EpollEvent::new(flags, EventSource::Client(id).to_data());
                // A client that is not waited for is closed when its time is over.
                let _ = self.epoll.add(client, event);
            }
            Ok(None) => {}
            Err(error) if IS_SHORT.contains(&error.raw_os_error().unwrap_or(0)) => {
                let listener = self.control.listener();
                if self.accept_pause.begin(&self.epoll, listener, now, ACCEPT_PAUSE) {
                    let error = error.to_string();
                    log.notice(now, Notice::DescriptorsShort { error });
                }
            }
            // The client has gone.
            Err(_) => {}
        }
    }

    pub(super) fn serve_client(&mut self, now: Instant, id: u32, log: &mut Log) {
        let request = self.control.handle_ready(id);
        if let Some(question) = self.control.take_question() {
            self.holding.ask(question, now);
        }
        let Some((request, format)) = request else { return };
        self.memory.note_use(now);
        match request {
            ControlRequest::Status => {
                self.look_at_carriers(now, log);
                self.check_relay_links_now(now, log);
                self.check_firewall_now(now, log);
                let counts = self.counts(now);
                let status = ProxyStatus { counts, ..self.status(now) };
                let answer = status_answer(&status, format);
                self.control.answer(id, answer);
            }
            ControlRequest::Requery => {
                // Relays that could not be taken over begin anew: the other proxy has ended.
                if let Phase::WaitingForPredecessor(_) = self.phase {
                    // If this fails, the next request tries again.
                    let _ = self.start_relaying();
                    self.check_relay_links(now, log);
                }
                self.requery(now);
                // What the other proxy has joined is let go of. Where the interface had gone and come
                // again meanwhile, that counts for what this one has joined (`ip_mc_drop_socket` in
                // net/ipv4/igmp.c).
                for position in (0..).take(self.upstreams.list.len()) {
                    self.handle_upstream_change(now, position, log);
                }
                self.control.answer(id, empty_answer(format));
            }
            ControlRequest::Namespace => {
                let namespace = [self.container.namespace.as_fd()];
                self.control.answer_with_descriptors(id, namespace_answer(format), &namespace);
            }
            ControlRequest::Takeover => {
                self.take_over_relays(now);
                self.check_relay_links(now, log);
                self.control.answer(id, empty_answer(format));
            }
            ControlRequest::Handover => self.hand_over_relays(id, format),
            ControlRequest::Count => {
                let counter = self.counter.as_ref();
                let (count, descriptors) = counter.map(hand_over).unwrap_or_default();
                self.control.answer_with_descriptors(id, count_answer(&count), &descriptors);
            }
            // What there is is sent before the next event is waited for.
            ControlRequest::Hold => self.control.hold(id),
            ControlRequest::Subscribe => {
                // The events begin at the status, for this subscriber and for those before it.
                self.publish_changes(now, log);
                // What has stopped while nobody looked is part of the status.
                let _ = self.counts(now);
                let status = self.status(now);
                let interfaces = status.interfaces.iter();
                self.published = interfaces.map(|i| PublishedGroups::new(&i.groups)).collect();
                self.published_state = PublishedState::new(&status);
                self.state_due = Some(now + STATE_INTERVAL);
                self.control.subscribe(id, status_answer(&status, format));
                log.set_copying(self.control.has_subscribers());
            }
        }
    }

    /// Something has happened: queriers and alarms may be others.
    pub(super) fn note_state(&mut self, now: Instant) {
        if self.control.has_subscribers() {
            let due = now + STATE_INTERVAL;
            self.state_due = Some(self.state_due.map_or(due, |at| at.min(due)));
        }
    }

    /// Sends the changes since the last call to the subscribers.
    pub(super) fn publish_changes(&mut self, now: Instant, log: &mut Log) {
        let notices = log.take_copies();
        if !self.control.has_subscribers() {
            self.published.clear();
            self.state_due = None;
            log.set_copying(false);
            return;
        }
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let time_ms = since_1970.map_or(0, |time| time.as_millis() as u64);
        let mut events = Vec::new();
        let needs_files = |i: &super::Interface| i.has_changed && !i.is_proxied();
        let memberships = match self.interfaces.iter().any(needs_files) {
            true => self.container.membership_files.igmp.memberships().unwrap_or_default(),
            false => KernelMemberships::new(),
        };
        for (interface, published) in self.interfaces.iter_mut().zip(&mut self.published) {
            if std::mem::take(&mut interface.has_changed) {
                let groups = interface.groups(now, &memberships);
                events.extend(published.update(&interface.task.name, groups));
            }
        }
        if self.state_due.is_some_and(|due| due <= now) {
            if self.next_look(now).is_some_and(|due| due <= now) {
                let _ = self.counts(now);
            }
            self.state_due = self.next_state(now);
            let (queriers, alarms) = (self.queriers(now), self.standing_notices(now));
            let queriers: Vec<_> = queriers.collect();
            let streams = self.interfaces.iter().flat_map(|interface| {
                let name = &interface.task.name;
                let streams = self.streams.steady(now, name).into_iter();
                streams.map(|stream| (name.clone(), stream))
            });
            let changes = self.published_state.update(queriers.into_iter(), streams, &alarms);
            if !changes.is_empty() {
                self.holding.note_work();
            }
            events.extend(changes);
        }
        events.extend(notices.into_iter().map(Event::Notice));
        for event in events {
            self.control.publish(now, &TimedEvent { time_ms, event });
        }
    }
}

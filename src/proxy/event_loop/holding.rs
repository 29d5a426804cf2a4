//! What a keeper holds for this proxy: descriptors of all that must outlive it, and its status.
//!
//! A keeper (`mcrun keep`) asks with `hold`. It gets everything at once, and then what is added: a
//! spare join socket before it is used, new sockets of relays, the status when memberships have
//! changed. No join waits for the keeper.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use crate::igmp::Igmp;
use crate::mld::Mld;
use crate::notice::Notice;
use crate::proxy::control::protocol::{HeldKind, HoldPayload, HoldQuestion, hold_line};
use crate::proxy::control::status::ProxyStatus;
use crate::proxy::event_loop::counting::hand_over;
use crate::proxy::event_loop::handover::AllRelays;
use crate::proxy::event_loop::interface::Interface;
use crate::proxy::event_loop::speakers::Speaker;
use crate::proxy::event_loop::{EventLoop, Phase};
use crate::proxy::process::log::Log;
use crate::proxy::relay::{Batch, RelayHandover};
use crate::sys::fd_passing::MAX_FDS;

type Line = HoldPayload<ProxyStatus, RelayHandover>;

/// Descriptors of one line.
const PER_LINE: usize = 64;
/// Time from a change of memberships to the status for the keeper. Further changes are told
/// together with it.
const STATUS_DELAY: Duration = Duration::from_millis(20);
/// Time from a change of a relay's ports to its sockets for the keeper.
const RELAY_DELAY: Duration = Duration::from_millis(20);
/// Time after which a keeper that has not read is sent everything anew.
const RETRY: Duration = Duration::from_millis(200);

/// What the keeper has been sent.
#[derive(Default)]
pub(super) struct Holding {
    /// Client of the control socket.
    keeper: Option<u32>,
    /// Whether the keeper has everything, except what the fields below say.
    is_complete: bool,
    /// When everything is sent, while it is not complete.
    retry_at: Option<Instant>,
    status_at: Option<Instant>,
    /// The keeper has asked whether the proxy answers.
    is_asked: bool,
    /// Whether the proxy may have done anything since the last status: counters, times and all else
    /// that is shown change with an event only.
    is_stale: bool,
    relays_at: Option<Instant>,
}

impl Holding {
    /// Whether the proxy may die without a loss.
    pub(super) fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// The ports or the sockets of a relay have changed.
    pub(super) fn note_relays(&mut self, now: Instant) {
        if self.is_complete && self.relays_at.is_none() {
            self.relays_at = Some(now + RELAY_DELAY);
        }
    }

    /// The memberships may have changed.
    fn note_status(&mut self, now: Instant) {
        if self.is_complete && self.status_at.is_none() {
            self.status_at = Some(now + STATUS_DELAY);
        }
    }

    /// The event loop has woken for something else than the keeper.
    pub(super) fn note_work(&mut self) {
        self.is_stale = true;
    }

    pub(super) fn ask(&mut self, question: HoldQuestion, now: Instant) {
        match question {
            HoldQuestion::Alive if !self.is_stale => self.is_asked = true,
            HoldQuestion::Alive | HoldQuestion::Status => self.status_at = Some(now),
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        [self.retry_at, self.status_at, self.relays_at].into_iter().flatten().min()
    }

    fn reset(&mut self, keeper: Option<u32>, now: Instant) {
        *self = Holding { keeper, retry_at: keeper.map(|_| now), ..Holding::default() };
    }

    fn is_due(at: Option<Instant>, now: Instant) -> bool {
        at.is_some_and(|at| at <= now)
    }
}

impl EventLoop {
    /// Sends the keeper what it does not have.
    pub(super) fn update_keeper(&mut self, now: Instant, log: &mut Log) {
        let keeper = self.control.keeper();
        if keeper != self.holding.keeper {
            let was_complete = self.holding.is_complete;
            self.holding.reset(keeper, now);
            self.set_joins_not_held();
            if was_complete && keeper.is_none() {
                log.notice(now, Notice::KeeperGone {});
            }
        }
        if keeper.is_none() || matches!(self.phase, Phase::Draining { .. }) {
            return;
        }
        if !self.holding.is_complete {
            if Holding::is_due(self.holding.retry_at, now) {
                self.send_all(now, log);
            }
            return;
        }
        if self.interfaces.iter().any(|interface| interface.has_changed) {
            self.holding.note_status(now);
            // Subscribers are told of changes by another way, which resets the mark itself.
            if !self.control.has_subscribers() {
                self.interfaces.iter_mut().for_each(|interface| interface.has_changed = false);
            }
        }
        let relays = Holding::is_due(self.holding.relays_at, now);
        let status = Holding::is_due(self.holding.status_at, now);
        let is_sent = self.send_join_sockets()
            && (!relays || self.send_relays())
            && match (status, self.holding.is_asked) {
                (true, _) => self.send_status(false),
                (false, true) => self.control.push(hold_line(&Line::default()), &[]),
                (false, false) => true,
            };
        if !is_sent {
            self.holding.is_complete = false;
            self.holding.retry_at = Some(now + RETRY);
            return;
        }
        self.holding.is_asked = false;
        if relays {
            self.holding.relays_at = None;
        }
        if status {
            self.holding.status_at = None;
        }
    }

    fn set_joins_not_held(&mut self) {
        for interface in &mut self.interfaces {
            if let Some(joins) = interface.joins::<Igmp>() {
                joins.set_not_held();
            }
            if let Some(joins) = interface.joins::<Mld>() {
                joins.set_not_held();
            }
        }
    }

    /// Sends everything. What cannot be sent now is sent anew later.
    fn send_all(&mut self, now: Instant, log: &mut Log) {
        self.set_joins_not_held();
        self.holding.reset(self.holding.keeper, now);
        let is_sent = self.send_status(true)
            && self.send_rules()
            && self.send_join_sockets()
            && self.send_relays()
            && self.send_counter()
            && self.control.push(hold_line(&Line { is_complete: true, ..Line::default() }), &[]);
        self.holding.is_complete = is_sent;
        self.holding.retry_at = (!is_sent).then_some(now + RETRY);
        if is_sent {
            log.notice(now, Notice::KeeperHolds {});
        }
    }

    fn send_status(&mut self, begins: bool) -> bool {
        let now = Instant::now();
        self.memory.note_use(now);
        let status = Some(self.status(now));
        // Nobody tells what the container's kernel does on an interface that is only observed.
        self.holding.is_stale = !self.interfaces.iter().all(Interface::is_proxied);
        self.control.push(hold_line(&Line { begins, status, ..Line::default() }), &[])
    }

    fn send_rules(&mut self) -> bool {
        let Some(interception) = &self.interception else { return true };
        let line = Line { held: vec![HeldKind::Rules], ..Line::default() };
        self.control.push(hold_line(&line), &[interception.rules.as_fd()])
    }

    /// Sends the join sockets that the keeper does not have.
    fn send_join_sockets(&mut self) -> bool {
        self.send_join_sockets_of::<Igmp>() && self.send_join_sockets_of::<Mld>()
    }

    fn send_join_sockets_of<P: Speaker>(&mut self) -> bool {
        let EventLoop { interfaces, control, .. } = self;
        for joins in interfaces.iter_mut().filter_map(Interface::joins::<P>) {
            let sockets: Vec<BorrowedFd<'_>> = joins.not_held().collect();
            if sockets.is_empty() {
                continue;
            }
            for sockets in sockets.chunks(PER_LINE) {
                let held = vec![HeldKind::Join; sockets.len()];
                if !control.push(hold_line(&Line { held, ..Line::default() }), sockets) {
                    return false;
                }
            }
            joins.set_held();
        }
        true
    }

    /// Sends what counts, which stays the same.
    fn send_counter(&mut self) -> bool {
        let Some(counter) = &self.counter else { return true };
        let (count, descriptors) = hand_over(counter);
        let held = vec![HeldKind::Count; descriptors.len()];
        let line = Line { held, count: Some(count), ..Line::default() };
        self.control.push(hold_line(&line), &descriptors)
    }

    /// Sends all relays, and the file of what they have in hand.
    fn send_relays(&mut self) -> bool {
        let EventLoop { interfaces, control, relay_batches, .. } = self;
        let relays = AllRelays::of(interfaces);
        let (handovers, mut sockets) = relays.hand_over();
        // A proxy that relays no IPv6 takes the first for what the killed one had in hand.
        let ipv4 = relay_batches.ipv4.as_ref().and_then(Batch::file);
        let ipv6 = relay_batches.ipv6.as_ref().and_then(Batch::file);
        sockets.extend(ipv4.into_iter().chain(ipv6).filter(|_| !relays.is_empty()));
        debug_assert!(sockets.len() <= MAX_FDS);
        let held = vec![HeldKind::Relay; sockets.len()];
        let line = Line { held, relays: Some(handovers), ..Line::default() };
        control.push(hold_line(&line), &sockets)
    }
}

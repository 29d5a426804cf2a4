//! What the kernel tells of the container's interfaces: links that come and go, and joins, which are
//! followed before the container's kernel reports them.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use super::{Loop, MAX_OBSERVED, TURN};
use crate::igmp::{Filter, is_ssm};
use crate::proxy::links::LinkEvent;
use crate::proxy::log::{Level, Log};
use crate::proxy::native::SourceLists;
use crate::proxy::served::Interface;

/// How often what has changed while it was looked at is looked at again at once.
const ROUNDS: usize = 8;

/// How long a leave waits for a join: what a program takes from one system call to the next, several times. The
/// proxy would else be at the leave when the join comes.
const LEAVE_WAITS: Duration = Duration::from_micros(200);

/// To close what an address was announced with takes the kernel some tens of milliseconds, and the first joins of a
/// container come at once.
const ANNOUNCER_LINGERS: Duration = Duration::from_secs(2);

/// What the kernel has told last of groups on interfaces: whether they are joined.
type Memberships = BTreeMap<(u32, Ipv4Addr), bool>;

impl Loop {
    pub(super) fn hear_links(&mut self, now: Instant, log: &mut Log) {
        let mut changed = Memberships::new();
        // Who joins one group need not wait until it is clear that there is nothing else.
        self.take_link_events(now, log, 1, &mut changed);
        let is_joined = |changed: &Memberships| changed.values().any(|joined| *joined);
        // Behind a leave there may be a join, now or when whoever zaps has the processor again.
        let until = now + LEAVE_WAITS;
        while !changed.is_empty() && !is_joined(&changed) && self.links.wait(until) {
            self.take_link_events(now, log, TURN, &mut changed);
        }
        for _ in 0..ROUNDS {
            if changed.is_empty() {
                return;
            }
            let wanted = self.wanted(&changed).unwrap_or_default();
            // What has changed again by now is for the next round.
            let mut later = Memberships::new();
            self.take_link_events(now, log, TURN, &mut later);
            changed.retain(|membership, _| !later.contains_key(membership));
            self.follow(now, log, &changed, wanted);
            changed = later;
        }
        // The container's reports tell of the rest.
    }

    /// Lets what can send any frame to the LAN be closed once it has served; but a relay may not stand still for so
    /// long.
    pub(super) fn end_announcing(&mut self, now: Instant) {
        let relaying = self.batch.is_some();
        let announced = self.interfaces.iter().all(Interface::is_announced);
        if self.announcer.is_some() && announced && !relaying {
            self.announcer_ends.get_or_insert(now + ANNOUNCER_LINGERS);
        }
    }

    /// What is wanted of groups that were joined, as far as the kernel's files leave no doubt; `None`
    /// where they cannot be read.
    fn wanted(&self, changed: &Memberships) -> Option<BTreeMap<(u32, Ipv4Addr), Filter>> {
        let joined = || changed.iter().filter(|(_, joined)| **joined).map(|(at, _)| *at);
        if joined().next().is_none() {
            return Some(BTreeMap::new());
        }
        // A source-specific join under way looks like one from any source. In the range where all joins
        // are such the source is mostly there by now.
        let specific = joined().all(|(_, group)| is_ssm(group));
        let mut settled = !specific && self.barrier.pass();
        let mut lists = self.proc_net.source_lists().ok()?;
        let is_any = |lists: &SourceLists, (index, group)| {
            lists.of_joined(index, group).is_some_and(|filter| filter == Filter::any())
        };
        if !settled && joined().any(|at| is_any(&lists, at)) {
            settled = self.barrier.pass();
            lists = self.proc_net.source_lists().ok()?;
        }
        let mut groups = None;
        let wanted = joined().filter_map(|(index, group)| {
            let filter = match lists.of_joined(index, group) {
                Some(filter) if settled || filter != Filter::any() => filter,
                Some(_) => return None,
                None => {
                    let groups =
                        groups.get_or_insert_with(|| self.proc_net.read().unwrap_or_default());
                    groups.get(&(index, group))?.exact()?.clone()
                }
            };
            Some(((index, group), filter))
        });
        Some(wanted.collect())
    }

    /// Follows joins and leaves as soon as the kernel tells of them, instead of waiting for the report
    /// that it sends some timer ticks later. Where there is a doubt what was asked for, that report decides.
    fn follow(
        &mut self,
        now: Instant,
        log: &mut Log,
        changed: &Memberships,
        mut wanted: BTreeMap<(u32, Ipv4Addr), Filter>,
    ) {
        let Loop { interfaces, limits, reporters, .. } = self;
        for interface in interfaces {
            let index = interface.config.index;
            let own = || {
                let range = (index, Ipv4Addr::UNSPECIFIED)..=(index, Ipv4Addr::BROADCAST);
                changed.range(range).map(|((_, group), joined)| (*group, *joined))
            };
            // Who zaps waits for the join. A leave goes first where it has to make room.
            let joins = own().filter(|(_, joined)| *joined).count();
            let Some(router) = interface.router() else { continue };
            let first = router.has_room_for(joins);
            for turn in [first, !first] {
                let Some(router) = interface.router() else { continue };
                for (group, _) in own().filter(|(_, joined)| *joined == turn) {
                    let filter = match turn {
                        true => wanted.remove(&(index, group)),
                        false => Some(Filter::none()),
                    };
                    if let Some(filter) = filter {
                        router.handle_membership(now, group, &filter);
                    }
                }
                interface.pump(now, limits, reporters, log);
            }
        }
    }

    /// Takes so many notifications at most, or all that there are.
    fn take_link_events(
        &mut self,
        now: Instant,
        log: &mut Log,
        most: usize,
        changed: &mut Memberships,
    ) {
        for _ in 0..most {
            let (interfaces, seen) = (&mut self.interfaces, &mut self.seen);
            let (announcer, observing) = (self.announcer.as_ref(), self.observing);
            let result = self.links.receive_named(&mut self.buffer, |event, name| {
                let index = event.index();
                let known = interfaces.iter().position(|i| i.config.index == index);
                let Some(at) = known.or_else(|| {
                    // One that was yet to come.
                    let new = |i: &Interface| {
                        i.config.index == 0 && name == Some(i.config.name.as_bytes())
                    };
                    let at = interfaces.iter().position(new)?;
                    let result = interfaces[at].appear(index);
                    if let Err(error) = &result {
                        let text =
                            format!("cannot relay to {}: {error}", interfaces[at].config.name);
                        log.line(now, Level::Warning, &text);
                    }
                    result.is_ok().then_some(at)
                }) else {
                    return;
                };
                match event {
                    LinkEvent::Up(_) => interfaces[at].link_up(now, announcer),
                    LinkEvent::Down(_) => interfaces[at].link_down(),
                    LinkEvent::Gone(_) => {
                        interfaces[at].gone(now);
                        let text = format!("{} is gone", interfaces[at].config.name);
                        log.line(now, Level::Info, &text);
                    }
                    LinkEvent::Joined(_, group) => {
                        if interfaces[at].concerns(group) {
                            changed.insert((index, group), true);
                        }
                        if observing && seen.len() < MAX_OBSERVED {
                            seen.insert((index, group), now);
                        }
                    }
                    LinkEvent::Left(_, group) => {
                        if interfaces[at].concerns(group) {
                            changed.insert((index, group), false);
                        }
                        seen.remove(&(index, group));
                    }
                }
            });
            match result {
                Ok(true) => {}
                Ok(false) => return,
                Err(_) => {
                    for interface in &self.interfaces {
                        // If even that fails, the next notification tells.
                        let _ = self.links.ask(interface.config.index);
                    }
                    return;
                }
            }
        }
    }
}

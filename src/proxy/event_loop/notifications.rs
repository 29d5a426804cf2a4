//! What the kernel tells of the container's interfaces: link_monitor that come and go, and joins, which are
//! followed before the container's kernel reports them.

use std::io;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use crate::multicast::{Address, SourceFilter};
use crate::net::link_monitor::LinkEvent;
use crate::notice::Notice;
use crate::proxy::container::membership_files::KernelMembership;
use crate::proxy::event_loop::interface::Interface;
use crate::proxy::event_loop::{Loop, MAX_OBSERVED, TURN};
use crate::proxy::process::log::Log;

/// How often what has changed while it was looked at is looked at again at once.
const ROUNDS: usize = 8;

/// How long a leave waits for a join: what a program takes from one system call to the next, several times. The
/// proxy would else be at the leave when the join comes.
const LEAVE_WAITS: Duration = Duration::from_micros(200);

/// To close what an address was announced with takes the kernel some tens of milliseconds, and the first joins of a
/// container come at once.
const ANNOUNCER_LINGERS: Duration = Duration::from_secs(2);

/// What the kernel has told last of a group on an interface.
struct Told {
    index: u32,
    group: Ipv4Addr,
    joined: bool,
    /// What is wanted of it, where that is known.
    wanted: Option<SourceFilter>,
}

/// One for each group, in the order in which they came; there are as many as came at once.
#[derive(Default)]
struct Memberships(Vec<Told>);

impl Memberships {
    fn tell(&mut self, index: u32, group: Ipv4Addr, joined: bool) {
        match self.0.iter_mut().find(|told| told.is_about(index, group)) {
            Some(told) => told.joined = joined,
            None => self.0.push(Told { index, group, joined, wanted: None }),
        }
    }

    fn joins(&self) -> impl Iterator<Item = &Told> {
        self.0.iter().filter(|told| told.joined)
    }
}

impl Told {
    fn is_about(&self, index: u32, group: Ipv4Addr) -> bool {
        (self.index, self.group) == (index, group)
    }
}

impl Loop {
    pub(super) fn hear_links(&mut self, now: Instant, log: &mut Log) {
        let mut changed = Memberships::default();
        // Who joins one group need not wait until it is clear that there is nothing else.
        self.take_link_events(now, log, 1, &mut changed);
        // Behind a leave there may be a join, now or when whoever zaps has the processor again.
        let until = now + LEAVE_WAITS;
        let is_all =
            |changed: &Memberships| changed.0.is_empty() || changed.joins().next().is_some();
        while !is_all(&changed) && self.link_monitor.wait_until(until) {
            self.take_link_events(now, log, TURN, &mut changed);
        }
        for _ in 0..ROUNDS {
            if changed.0.is_empty() {
                return;
            }
            // Where it cannot be read, the container's reports tell.
            let _ = self.look_up(&mut changed);
            // What has changed again by now is for the next round.
            let mut later = Memberships::default();
            self.take_link_events(now, log, TURN, &mut later);
            let again = |told: &Told| later.0.iter().any(|l| l.is_about(told.index, told.group));
            changed.0.retain(|told| !again(told));
            self.follow(now, log, &mut changed);
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

    /// Looks up what is wanted of groups that were joined, as far as the kernel's files leave no doubt.
    ///
    /// # Errors
    /// When they cannot be read.
    fn look_up(&mut self, changed: &mut Memberships) -> io::Result<()> {
        if changed.joins().next().is_none() {
            return Ok(());
        }
        // A source-specific join under way looks like one from any source. In the range where all joins
        // are such the source is mostly there by now.
        let specific = changed.joins().all(|told| told.group.is_ssm());
        let mut settled = !specific && self.barrier.wait();
        let mut lists = self.membership_files.source_entries(&mut self.buffer)?;
        let any = Some(SourceFilter::any());
        if !settled
            && changed.joins().any(|told| lists.filter_of_joined(told.index, told.group) == any)
        {
            settled = self.barrier.wait();
            lists = self.membership_files.source_entries(&mut self.buffer)?;
        }
        let mut groups = None;
        for told in changed.0.iter_mut().filter(|told| told.joined) {
            let listed = lists.filter_of_joined(told.index, told.group);
            told.wanted = if listed.is_none() {
                let groups = groups
                    .get_or_insert_with(|| self.membership_files.memberships().unwrap_or_default());
                groups
                    .get(&(told.index, told.group))
                    .and_then(KernelMembership::exact_filter)
                    .cloned()
            } else {
                listed.filter(|filter| settled || *filter != SourceFilter::any())
            };
        }
        Ok(())
    }

    /// Follows joins and leaves as soon as the kernel tells of them, instead of waiting for the report
    /// that it sends some timer ticks later. Where there is a doubt what was asked for, that report decides.
    fn follow(&mut self, now: Instant, log: &mut Log, changed: &mut Memberships) {
        let Loop { interfaces, limits, reporters, .. } = self;
        for interface in interfaces {
            let index = interface.config.index;
            let joins = changed.joins().filter(|told| told.index == index).count();
            let Some(router) = interface.router() else { continue };
            // Who zaps waits for the join. A leave goes first where it has to make room.
            let first = router.has_room_for(joins);
            for turn in [first, !first] {
                let own = |told: &&mut Told| told.index == index && told.joined == turn;
                for told in changed.0.iter_mut().filter(own) {
                    let left = (!turn).then(SourceFilter::none);
                    if let Some(filter) = told.wanted.take().or(left) {
                        interface.follow(now, (told.group, &filter), limits, reporters, log);
                    }
                }
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
            let result = self.link_monitor.receive_named(&mut self.buffer, |event, name| {
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
                        let interface = interfaces[at].config.name.clone();
                        let error = error.to_string();
                        log.notice(now, Notice::RelayFailed { interface, error });
                    }
                    result.is_ok().then_some(at)
                }) else {
                    return;
                };
                match event {
                    LinkEvent::Up(_) => interfaces[at].link_up(now, announcer),
                    LinkEvent::Down(_) => interfaces[at].link_down(),
                    LinkEvent::Removed(_) => {
                        interfaces[at].gone(now);
                        let interface = interfaces[at].config.name.clone();
                        log.notice(now, Notice::InterfaceGone { interface });
                    }
                    LinkEvent::Joined(_, group) => {
                        interfaces[at].joined();
                        if interfaces[at].concerns(group) {
                            changed.tell(index, group, true);
                        }
                        if observing && seen.len() < MAX_OBSERVED {
                            seen.insert((index, group), now);
                        }
                    }
                    LinkEvent::Left(_, group) => {
                        interfaces[at].left(now);
                        if interfaces[at].concerns(group) {
                            changed.tell(index, group, false);
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
                        let _ = self.link_monitor.request_link_state(interface.config.index);
                    }
                    return;
                }
            }
        }
    }
}

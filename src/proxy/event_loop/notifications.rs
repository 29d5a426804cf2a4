//! Notifications of the container's kernel: links that change, and joins, which the proxy carries
//! out before the container's kernel reports them.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use crate::igmp::Igmp;
use crate::mld::Mld;
use crate::multicast::{Address, SourceFilter};
use crate::net::link_monitor::LinkEvent;
use crate::notice::Notice;
use crate::primitives::token_bucket::TokenBucket;
use crate::proxy::container::membership_files::KernelMembership;
use crate::proxy::event_loop::interface::Interface;
use crate::proxy::event_loop::speakers::Speaker;
use crate::proxy::event_loop::{DATAGRAMS_PER_TURN, EventLoop};
use crate::proxy::process::log::Log;

/// How often memberships that changed while they were looked up are looked up again at once.
const MAX_ROUNDS: usize = 8;

/// How long a leave waits for a join that may follow: several times what a program takes from one
/// system call to the next. Without the wait the proxy would still process the leave when the join
/// arrives.
const LEAVE_DELAY: Duration = Duration::from_micros(200);

/// Joins and leaves that are handled at once: those of a thousand groups that are joined, left, and
/// joined and left again.
const NOTIFICATION_BURST: u32 = 4096;
/// Time after which one more is handled.
const NOTIFICATION_INTERVAL: Duration = Duration::from_millis(10);
/// Time for which the container's reports are awaited instead, after too many.
const SUSPENSION: Duration = Duration::from_secs(1);
/// After so long without a suspension people are told of the next one.
const NOTICE_SPACING: Duration = Duration::from_secs(60);

/// How many notifications of joins and leaves the proxy handles. A notification costs more than a
/// report, which tells of all changes since the last one. A container that joins and leaves without
/// end is served by its reports.
pub(super) struct NotificationPace {
    bucket: TokenBucket,
    /// Notifications are not received until then.
    suspended_until: Option<Instant>,
    /// When people were told last, or would have been.
    noticed: Option<Instant>,
}

impl NotificationPace {
    pub(super) fn new(now: Instant) -> Self {
        let bucket = TokenBucket::new(NOTIFICATION_BURST, NOTIFICATION_INTERVAL, now);
        NotificationPace { bucket, suspended_until: None, noticed: None }
    }

    /// When to call [`EventLoop::resume_notifications`].
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.suspended_until
    }
}

/// The latest notification of a group on an interface.
struct MembershipChange<A> {
    index: u32,
    group: A,
    joined: bool,
    /// The source filter of a join, once it is known.
    filter: Option<SourceFilter<A>>,
}

/// One change for each group, in the order of the first notifications.
struct MembershipChanges<A>(Vec<MembershipChange<A>>);

/// The changes of both families.
#[derive(Default)]
struct AllChanges {
    igmp: MembershipChanges<Ipv4Addr>,
    mld: MembershipChanges<Ipv6Addr>,
}

impl AllChanges {
    fn has_joins(&self) -> bool {
        self.igmp.has_joins() || self.mld.has_joins()
    }

    fn is_empty(&self) -> bool {
        self.igmp.0.is_empty() && self.mld.0.is_empty()
    }
}

impl<A> Default for MembershipChanges<A> {
    fn default() -> Self {
        MembershipChanges(Vec::new())
    }
}

impl<A: Address> MembershipChanges<A> {
    fn record(&mut self, index: u32, group: A, joined: bool) {
        match self.0.iter_mut().find(|change| change.is_about(index, group)) {
            Some(change) => change.joined = joined,
            None => self.0.push(MembershipChange { index, group, joined, filter: None }),
        }
    }

    fn joins(&self) -> impl Iterator<Item = &MembershipChange<A>> {
        self.0.iter().filter(|change| change.joined)
    }

    fn has_joins(&self) -> bool {
        self.joins().next().is_some()
    }

    /// Leaves out what has changed again since.
    fn drop_older(&mut self, later: &Self) {
        let changed_again = |change: &MembershipChange<A>| {
            later.0.iter().any(|l| l.is_about(change.index, change.group))
        };
        self.0.retain(|change| !changed_again(change));
    }
}

impl<A: Address> MembershipChange<A> {
    fn is_about(&self, index: u32, group: A) -> bool {
        (self.index, self.group) == (index, group)
    }
}

impl EventLoop {
    /// Receives the notifications that are queued, and carries out what they tell.
    pub(super) fn handle_notifications(&mut self, now: Instant, log: &mut Log) {
        if !self.notification_pace.bucket.is_ready(now) {
            self.suspend_notifications(now, log);
        }
        let mut changes = AllChanges::default();
        // One datagram first: a single join does not wait until the queue is known to be empty.
        self.receive_notifications(now, log, 1, &mut changes);
        // After a leave a join may follow as soon as the program that left has the processor again.
        let deadline = now + LEAVE_DELAY;
        while !changes.is_empty()
            && !changes.has_joins()
            && self.container.link_monitor.wait_until(deadline)
        {
            self.receive_notifications(now, log, DATAGRAMS_PER_TURN, &mut changes);
        }
        for _ in 0..MAX_ROUNDS {
            if changes.is_empty() {
                return;
            }
            // Where the files cannot be read, the container's reports start the joins.
            let _ = self.look_up_filters::<Igmp>(&mut changes.igmp);
            let _ = self.look_up_filters::<Mld>(&mut changes.mld);
            // What has changed again in the meantime is handled in the next round.
            let mut later = AllChanges::default();
            self.receive_notifications(now, log, DATAGRAMS_PER_TURN, &mut later);
            changes.igmp.drop_older(&later.igmp);
            changes.mld.drop_older(&later.mld);
            self.carry_out_changes::<Igmp>(now, log, &mut changes.igmp);
            self.carry_out_changes::<Mld>(now, log, &mut changes.mld);
            changes = later;
        }
        // The container's reports show what is left.
    }

    /// Stops to receive joins and leaves: the container's reports tell of them, some timer ticks
    /// later.
    fn suspend_notifications(&mut self, now: Instant, log: &mut Log) {
        let monitor = &self.container.link_monitor;
        if self.notification_pace.suspended_until.is_none()
            && monitor.reports_memberships()
            && monitor.unsubscribe_memberships().is_ok()
        {
            self.notification_pace.suspended_until = Some(now + SUSPENSION);
            self.interfaces.iter_mut().for_each(|i| i.set_notifies_leaves(false));
            let last = self.notification_pace.noticed.replace(now);
            if last.is_none_or(|at| now >= at + NOTICE_SPACING)
                && let Some(interface) = self.interfaces.first()
            {
                let interface = interface.task.name.clone();
                log.notice(now, Notice::ChangesDelayed { interface });
            }
        }
    }

    /// Receives joins and leaves again, if it is time to.
    pub(super) fn resume_notifications(&mut self, now: Instant) {
        if self.notification_pace.suspended_until.take_if(|until| *until <= now).is_some()
            && self.container.link_monitor.subscribe_memberships().is_ok()
        {
            self.interfaces.iter_mut().for_each(|i| i.set_notifies_leaves(true));
            // What was missed without a report, because the container's kernel has lost it.
            self.requery(now);
        }
    }

    /// Looks up the source filters of groups that were joined, as far as the kernel's files show
    /// them exactly.
    ///
    /// # Errors
    /// When the files cannot be read.
    fn look_up_filters<P: Speaker>(
        &mut self,
        changes: &mut MembershipChanges<P::Address>,
    ) -> io::Result<()> {
        if !changes.has_joins() {
            return Ok(());
        }
        let Some(files) = P::membership_files(&self.container.membership_files) else {
            return Ok(());
        };
        let wait = || P::wait_for_joins(&self.container.link_monitor, &self.container.rtnl_barrier);
        // A source-specific join that is not complete looks like a join from any source. In the SSM
        // range every join has a source, which is mostly there by now, so there the barrier may not
        // be needed.
        let specific = changes.joins().all(|change| change.group.is_ssm());
        let mut complete = !specific && wait();
        let mut entries = files.source_entries(&mut self.buffer)?;
        if !complete && changes.joins().any(|c| entries.has_none_of(c.index, c.group)) {
            complete = wait();
            entries = files.source_entries(&mut self.buffer)?;
        }
        let mut memberships = None;
        for change in changes.0.iter_mut().filter(|change| change.joined) {
            let (index, group) = (change.index, change.group);
            let filter = match entries.filter_of_joined(index, group) {
                Some(filter) => Some(filter),
                None => memberships
                    .get_or_insert_with(|| files.memberships().unwrap_or_default())
                    .get(&(index, group))
                    .and_then(KernelMembership::exact_filter)
                    .cloned(),
            };
            change.filter = filter.filter(|filter| complete || *filter != SourceFilter::any());
        }
        Ok(())
    }

    /// Tells the routers of joins and leaves, instead of waiting for the report that the
    /// container's kernel sends some timer ticks later. A join whose source filter is not known
    /// waits for that report.
    fn carry_out_changes<P: Speaker>(
        &mut self,
        now: Instant,
        log: &mut Log,
        changes: &mut MembershipChanges<P::Address>,
    ) {
        if changes.0.is_empty() {
            return;
        }
        let EventLoop { interfaces, upstreams, .. } = self;
        for interface in interfaces {
            let index = interface.task.index;
            let joins = changes.joins().filter(|change| change.index == index).count();
            let Some(proxied) = interface.speaker::<P>() else { continue };
            // Joins go first, because a program waits for their data. Leaves go first where the
            // joins need the room that they leave.
            let joins_first = proxied.router.has_room_for(joins);
            for joined in [joins_first, !joins_first] {
                let own =
                    |c: &&mut MembershipChange<P::Address>| c.index == index && c.joined == joined;
                for change in changes.0.iter_mut().filter(own) {
                    let left = (!joined).then(SourceFilter::none);
                    if let Some(filter) = change.filter.take().or(left) {
                        let change = (change.group, &filter);
                        interface.handle_membership::<P>(now, change, upstreams, log);
                    }
                }
            }
        }
    }

    /// Receives datagrams until none is waiting, and at most `max`. Changes of links take effect at
    /// once, changes of memberships are added to `changes`.
    fn receive_notifications(
        &mut self,
        now: Instant,
        log: &mut Log,
        max: usize,
        changes: &mut AllChanges,
    ) {
        let EventLoop { container, interfaces, announcer, buffer, notification_pace, .. } = self;
        let upstreams = &self.upstreams;
        for _ in 0..max {
            let result = container.link_monitor.receive_named(buffer, |event, name| {
                let Some(interface) = interface_of(interfaces, event.index(), name, now, log)
                else {
                    return;
                };
                match event {
                    LinkEvent::Up(_) => interface.handle_link_up(now, announcer.sockets()),
                    LinkEvent::Down(_) => interface.handle_link_down(),
                    LinkEvent::Removed(_) => {
                        interface.handle_removal(now, upstreams);
                        let interface = interface.task.name.clone();
                        log.notice(now, Notice::InterfaceGone { interface });
                    }
                    LinkEvent::Joined(index, IpAddr::V4(group)) => {
                        notification_pace.bucket.take(now);
                        if interface.handle_join(now, group) {
                            changes.igmp.record(index, group, true);
                        }
                    }
                    LinkEvent::Left(index, IpAddr::V4(group)) => {
                        notification_pace.bucket.take(now);
                        if interface.handle_leave(now, group) {
                            changes.igmp.record(index, group, false);
                        }
                    }
                    LinkEvent::Joined(index, IpAddr::V6(group)) => {
                        notification_pace.bucket.take(now);
                        if interface.handle_mld_change(now, group, true) {
                            changes.mld.record(index, group, true);
                        }
                    }
                    LinkEvent::Left(index, IpAddr::V6(group)) => {
                        notification_pace.bucket.take(now);
                        if interface.handle_mld_change(now, group, false) {
                            changes.mld.record(index, group, false);
                        }
                    }
                }
            });
            match result {
                Ok(true) => {}
                Ok(false) => return,
                // Notifications were lost.
                Err(_) => {
                    for interface in interfaces.iter() {
                        // If this fails too, the state is known at the next notification.
                        let _ = container.link_monitor.request_link_state(interface.task.index);
                    }
                    return;
                }
            }
        }
    }

    /// Closes the announcing sockets later, if all addresses are announced. Where data is relayed
    /// they stay open, because to close them would interrupt the relay for some tens of
    /// milliseconds.
    pub(super) fn end_announcing(&mut self, now: Instant) {
        let is_relaying = self.relay_batches.ipv4.is_some();
        if !is_relaying && self.interfaces.iter().all(Interface::is_announced) {
            self.announcer.close_later(now);
        }
    }
}

/// The interface of this index. One that did not exist before is found by its name, and gets the
/// index.
fn interface_of<'i>(
    interfaces: &'i mut [Interface],
    index: u32,
    name: Option<&[u8]>,
    now: Instant,
    log: &mut Log,
) -> Option<&'i mut Interface> {
    let known = interfaces.iter().position(|interface| interface.task.index == index);
    if let Some(position) = known {
        return interfaces.get_mut(position);
    }
    let interface = interfaces.iter_mut().find(|interface| {
        interface.task.index == 0 && name == Some(interface.task.name.as_bytes())
    })?;
    match interface.set_index(index) {
        Ok(()) => Some(interface),
        Err(error) => {
            let (interface, error) = (interface.task.name.clone(), error.to_string());
            log.notice(now, Notice::RelayFailed { interface, error });
            None
        }
    }
}

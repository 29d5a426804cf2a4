//! Memberships that nobody has reported for the membership interval: before they expire, the
//! container's kernel is asked for them.
//!
//! The container's firewall may drop the queries that its kernel would answer. What its kernel has
//! joined is in `/proc/net/igmp` and `igmp6` all the same.

use std::time::Instant;

use crate::igmp::Igmp;
use crate::mld::Mld;
use crate::proxy::event_loop::EventLoop;
use crate::proxy::event_loop::family::MembershipsOf;
use crate::proxy::event_loop::interface::Interface;
use crate::proxy::event_loop::speakers::Speaker;

impl EventLoop {
    /// Keeps what the container's kernel has joined. Call it before anything that happens now: what
    /// is due expires with the next event.
    pub(super) fn confirm_memberships(&mut self, now: Instant) {
        self.confirm_memberships_in::<Igmp>(now);
        self.confirm_memberships_in::<Mld>(now);
    }

    fn confirm_memberships_in<P: Speaker>(&mut self, now: Instant) {
        if !self.interfaces.iter().any(|interface| interface.is_membership_due::<P>(now)) {
            return;
        }
        // If the files cannot be read, only reports count.
        let files = P::membership_files(&self.container.membership_files);
        let Some(Ok(memberships)) = files.map(|files| files.memberships_with_lists()) else {
            return;
        };
        for interface in &mut self.interfaces {
            interface.confirm_memberships::<P>(now, &memberships);
        }
    }
}

impl Interface {
    /// Whether something of the router is due, which may be a membership.
    fn is_membership_due<P: Speaker>(&self, now: Instant) -> bool {
        self.speaker::<P>().is_some_and(|proxied| {
            proxied.router.poll_timeout().is_some_and(|at| at <= now)
                && !proxied.router.expiring(now).is_empty()
        })
    }

    /// Keeps the groups that are among the memberships of the container's kernel.
    fn confirm_memberships<P: Speaker>(&mut self, now: Instant, memberships: &MembershipsOf<P>) {
        let index = self.task.index;
        let Some(proxied) = self.speaker_mut::<P>() else { return };
        for (group, known) in proxied.router.expiring(now) {
            if let Some(membership) = memberships.get(&(index, group)) {
                let filter = membership.filter_after(group, Some(&known));
                proxied.router.confirm(now, group, &filter);
            }
        }
    }
}

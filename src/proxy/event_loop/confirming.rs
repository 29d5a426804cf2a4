//! Memberships that nobody has reported for the membership interval: before they expire, the
//! container's kernel is asked for them.
//!
//! The container's firewall may drop the queries that its kernel would answer. What its kernel has
//! joined is in `/proc/net/igmp` all the same.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Instant;

use crate::proxy::container::membership_files::KernelMembership;
use crate::proxy::event_loop::EventLoop;
use crate::proxy::event_loop::interface::{Interface, Mode};

impl EventLoop {
    /// Keeps what the container's kernel has joined. Call it before anything that happens now: what
    /// is due expires with the next event.
    pub(super) fn confirm_memberships(&mut self, now: Instant) {
        if !self.interfaces.iter().any(|interface| interface.is_membership_due(now)) {
            return;
        }
        // If the files cannot be read, only reports count.
        let Ok(memberships) = self.container.membership_files.memberships_with_lists() else {
            return;
        };
        for interface in &mut self.interfaces {
            interface.confirm_memberships(now, &memberships);
        }
    }
}

impl Interface {
    /// Whether something of the router is due, which may be a membership.
    fn is_membership_due(&self, now: Instant) -> bool {
        match &self.mode {
            Mode::Proxied(proxied) => {
                proxied.router.poll_timeout().is_some_and(|at| at <= now)
                    && !proxied.router.expiring(now).is_empty()
            }
            Mode::Observed { .. } => false,
        }
    }

    /// Keeps the groups that are among the memberships of the container's kernel.
    fn confirm_memberships(
        &mut self,
        now: Instant,
        memberships: &BTreeMap<(u32, Ipv4Addr), KernelMembership>,
    ) {
        let index = self.task.index;
        let Mode::Proxied(proxied) = &mut self.mode else { return };
        for (group, known) in proxied.router.expiring(now) {
            if let Some(membership) = memberships.get(&(index, group)) {
                let filter = membership.filter_after(group, Some(&known));
                proxied.router.confirm(now, group, &filter);
            }
        }
    }
}

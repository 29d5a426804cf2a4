//! How fast changes may go upstream: what one container does must not cost its host and the LAN
//! much.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::igmp::router::RouterConfig;
use crate::multicast::Address;
use crate::primitives::token_bucket::TokenBucket;

/// Changes of one group that are not counted as repeated ones: a join, a leave and another join.
const FREE_CHANGES: u32 = 3;
/// The number of groups from which on those that changed long ago are forgotten.
const FORGET_FROM: usize = 512;
/// The least time between two notices of delayed changes.
const NOTICE_SPACING: Duration = Duration::from_secs(60);

/// The pace of the changes of one container.
///
/// All changes together have a bucket that is large enough for a container that joins a thousand
/// groups, leaves them and joins them again. A group that changes more often than that in a short
/// time is flapping. Such changes have a second, smaller bucket.
#[derive(Debug, Clone)]
pub(super) struct Pace<A> {
    changes: TokenBucket,
    repeats: TokenBucket,
    repeat_window: Duration,
    /// The groups that have changed, for at least the window.
    changed: BTreeMap<A, Changed>,
    forget_from: usize,
    noticed: Option<Instant>,
}

/// The changes of one group.
#[derive(Debug, Clone, Copy)]
struct Changed {
    last: Instant,
    /// Number of changes, each within the window of the one before it.
    count: u32,
}

impl<A: Address> Pace<A> {
    pub(super) fn new(config: &RouterConfig<A>, now: Instant) -> Self {
        Pace {
            changes: TokenBucket::new(config.change_burst, config.change_interval, now),
            repeats: TokenBucket::new(config.repeat_burst, config.repeat_interval, now),
            repeat_window: config.repeat_window,
            changed: BTreeMap::new(),
            forget_from: FORGET_FROM,
            noticed: None,
        }
    }

    /// Whether a change of this group may go upstream.
    pub(super) fn is_ready(&self, now: Instant, group: A) -> bool {
        let is_held = || self.is_repeat(now, group) && !self.repeats.is_ready(now);
        self.changes.is_ready(now) && !is_held()
    }

    /// Notes that a change of this group goes upstream now, if it may.
    pub(super) fn take(&mut self, now: Instant, group: A) -> bool {
        let is_ready = self.is_ready(now, group);
        if is_ready {
            if self.is_repeat(now, group) {
                self.repeats.take(now);
            }
            self.changes.take(now);
            let count = self.recent(now, group).map_or(0, |changed| changed.count);
            let changed = Changed { last: now, count: count.saturating_add(1) };
            self.changed.insert(group, changed);
            if self.changed.len() >= self.forget_from {
                let window = self.repeat_window;
                self.changed
                    .retain(|_, changed| now.saturating_duration_since(changed.last) < window);
                self.forget_from = (self.changed.len() * 2).max(FORGET_FROM);
            }
        }
        is_ready
    }

    /// When a change of this group may go upstream. `None`: it may have for long.
    pub(super) fn ready_at(&self, now: Instant, group: A) -> Option<Instant> {
        let repeat = self.is_repeat(now, group).then(|| self.repeats.ready_at()).flatten();
        self.changes.ready_at().max(repeat)
    }

    /// Whether people are to be told that changes are delayed. The answer is yes once a minute at
    /// most.
    pub(super) fn takes_notice(&mut self, now: Instant) -> bool {
        let is_due = self.noticed.is_none_or(|at| now >= at + NOTICE_SPACING);
        if is_due {
            self.noticed = Some(now);
        }
        is_due
    }

    fn is_repeat(&self, now: Instant, group: A) -> bool {
        self.recent(now, group).is_some_and(|changed| changed.count >= FREE_CHANGES)
    }

    fn recent(&self, now: Instant, group: A) -> Option<&Changed> {
        let is_recent =
            |changed: &&Changed| now.saturating_duration_since(changed.last) < self.repeat_window;
        self.changed.get(&group).filter(is_recent)
    }
}

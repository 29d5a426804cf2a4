//! The groups of one container: their states, what policy and limits decide about them, and the
//! source filters for upstream.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::igmp::group::{GroupConfig, SpecificQuery};
use crate::igmp::message::{RecordType, Version};
use crate::igmp::router::Context;
use crate::igmp::router::changes::ChangeQueue;
use crate::igmp::router::diagnostics::counter;
use crate::igmp::router::entry::{
    Admission, Entry, GroupMessage, GroupView, Status, joins, translate,
};
use crate::igmp::router::settling::Settling;
use crate::multicast::{Address, FilterMode, GroupPolicy, SourceFilter};
use crate::notice::Notice;

/// All groups of one container.
#[derive(Debug, Clone)]
pub(super) struct Table<A> {
    policy: GroupPolicy,
    /// Boxed: the map has room for eleven from the first one on, and most containers have few.
    entries: BTreeMap<A, Box<Entry<A>>>,
    /// The number of entries that are [`Admission::Admitted`].
    admitted: usize,
    /// Entries that are [`Admission::Waiting`], oldest first.
    waiting: BTreeSet<(Instant, A)>,
    /// The first timer of each entry.
    deadlines: BTreeSet<(Instant, A)>,
    changes: ChangeQueue<A>,
    /// Last-member queries to be sent.
    queries: Vec<(A, SpecificQuery<A>)>,
    settling: Settling<A>,
}

impl<A: Address> Table<A> {
    pub(super) fn new(policy: GroupPolicy) -> Self {
        Table {
            policy,
            entries: BTreeMap::new(),
            admitted: 0,
            waiting: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            changes: ChangeQueue::new(),
            queries: Vec::new(),
            settling: Settling::new(),
        }
    }

    /// Applies a message, or one record of it, to its group.
    pub(super) fn receive(
        &mut self,
        cx: &mut Context<'_, A>,
        group: A,
        message: GroupMessage<'_, A>,
    ) {
        if !self.accepts(cx, group, &message) {
            return;
        }
        let now = cx.now;
        let known = self.entries.get(&group);
        let is_known = known.is_some();
        let version = known.map_or(Version::V3, |entry| entry.version(now));
        let Some((kind, list)) = translate(version, message) else {
            cx.diagnostics.count(counter::COMPATIBILITY_MODE);
            return;
        };
        if !is_known && !joins(kind, list) {
            return;
        }
        let mut entry = self.take(now, group);
        let until = now + cx.config.timing.older_host_present_interval();
        match message {
            GroupMessage::ReportV1 => entry.v1_host_until = Some(until),
            GroupMessage::ReportV2 => entry.v2_host_until = Some(until),
            GroupMessage::LeaveV2 | GroupMessage::Record(..) => {}
        }
        let sources = self.limit_sources(cx, group, &mut entry, kind, list);
        if cx.config.fast_leave && version == Version::V3 {
            match is_known {
                true => self.note_change(now, group, &mut entry, kind, &sources),
                // It may be from before a leave that is known by a notification.
                false if self.settling.was_left(now, &group) => self.settling.note(now, group),
                false => {}
            }
        }
        entry.state.apply(now, &group_config(cx), kind, &sources);
        self.store(cx, group, entry);
    }

    /// Notes that records of changes of a source list may not add up.
    fn note_change(
        &mut self,
        now: Instant,
        group: A,
        entry: &mut Entry<A>,
        kind: RecordType,
        sources: &BTreeSet<A>,
    ) {
        let is_change = matches!(
            kind,
            RecordType::ToIn | RecordType::ToEx | RecordType::Allow | RecordType::Block
        );
        let has_sources = !sources.is_empty() || entry.state.source_count() > 0;
        entry.is_fresh &= !is_change || entry.state.confirms(kind, sources);
        if is_change && has_sources && !entry.is_fresh {
            self.settling.note(now, group);
        }
    }

    /// The groups that the container is to be asked for now.
    pub(super) fn take_unsettled(&mut self, now: Instant) -> Vec<A> {
        self.settling.take_due(now, |group| self.entries.contains_key(group))
    }

    /// The container is asked for a group, and answers within this time if it has joined the group.
    pub(super) fn expect_answer(&mut self, cx: &mut Context<'_, A>, group: A, within: Duration) {
        if let Some(mut entry) = self.entries.remove(&group) {
            entry.state.expire_by(cx.now + within);
            self.store(cx, group, entry);
        }
    }

    /// When [`take_unsettled`](Self::take_unsettled) gives something.
    pub(super) fn poll_settling(&self) -> Option<Instant> {
        self.settling.poll_timeout()
    }

    /// The LAN asks for sources of a group.
    pub(super) fn note_partial_query(&mut self, now: Instant, group: A, max_resp: Duration) {
        self.settling.note_partial_query(now, group, max_resp);
    }

    /// The type of a record: where the whole list of a group is awaited, what is current is what the
    /// group has changed to (RFC 9776 §4.2.13).
    pub(super) fn kind_of(&mut self, group: A, kind: RecordType) -> RecordType {
        let changed_to = match kind {
            RecordType::IsIn => RecordType::ToIn,
            RecordType::IsEx => RecordType::ToEx,
            _ => return kind,
        };
        if !self.settling.take_answer(&group) {
            return kind;
        }
        if let Some(entry) = self.entries.get_mut(&group) {
            entry.is_fresh = true;
        }
        changed_to
    }

    /// Whether the records of the group mean what they say (RFC 9776 §7.3.2).
    pub(super) fn is_v3(&self, now: Instant, group: A) -> bool {
        self.entries.get(&group).is_none_or(|entry| entry.version(now) == Version::V3)
    }

    /// Replaces the state of a group by the filter that the container's kernel has. `is_change`: it may
    /// have another filter than before.
    pub(super) fn set_membership(
        &mut self,
        cx: &mut Context<'_, A>,
        group: A,
        filter: &SourceFilter<A>,
        is_change: bool,
    ) {
        let (kind, sources) = match filter.mode {
            FilterMode::Include => (RecordType::ToIn, &filter.sources),
            FilterMode::Exclude => (RecordType::ToEx, &filter.sources),
        };
        let list: Vec<A> = sources.iter().copied().collect();
        if !self.accepts(cx, group, &GroupMessage::Record(kind, &list)) {
            return;
        }
        if filter.is_none() {
            self.settling.note_leave(cx.now, group);
            if !self.entries.contains_key(&group) {
                return;
            }
        }
        let is_known = self.entries.contains_key(&group);
        let mut entry = self.take(cx.now, group);
        let sources = self.limit_sources(cx, group, &mut entry, kind, &list);
        if is_known && is_change && cx.config.fast_leave {
            self.note_change(cx.now, group, &mut entry, kind, &sources);
        }
        entry.state.replace(
            cx.now,
            &group_config(cx),
            &SourceFilter { mode: filter.mode, sources },
        );
        self.store(cx, group, entry);
    }

    /// The container has joined a group at this time already.
    pub(super) fn set_since(&mut self, group: A, since: Instant) {
        let Some(entry) = self.entries.get_mut(&group) else { return };
        if self.waiting.remove(&(entry.since, group)) {
            self.waiting.insert((since, group));
        }
        entry.since = since;
    }

    /// The source filter for upstream that follows from [`set_membership`](Self::set_membership),
    /// if the group is new and no limit applies.
    pub(super) fn predict_join(
        &self,
        group: A,
        filter: &SourceFilter<A>,
    ) -> Option<SourceFilter<A>> {
        let is_plain = group.is_group()
            && group.needs_report()
            && filter.sources.len() <= self.max_sources()
            && filter.sources.iter().all(|source| source.is_possible_source());
        let is_new = is_plain && self.has_room() && !self.entries.contains_key(&group);
        let allowed = is_new.then(|| self.policy.apply(group, filter).ok())??;
        (!allowed.is_none()).then_some(allowed)
    }

    /// The groups whose first timer has ended, with their source filters.
    pub(super) fn expiring(&self, now: Instant) -> Vec<(A, SourceFilter<A>)> {
        let due = self.deadlines.iter().take_while(|(at, _)| *at <= now);
        due.filter_map(|(_, group)| Some((*group, self.entries.get(group)?.state.filter())))
            .collect()
    }

    /// Expires the timers of groups.
    pub(super) fn handle_timeout(&mut self, cx: &mut Context<'_, A>) {
        while let Some(&(at, group)) = self.deadlines.first()
            && at <= cx.now
        {
            self.deadlines.pop_first();
            if let Some(mut entry) = self.entries.remove(&group) {
                entry.deadline = None;
                entry.state.handle_timeout(cx.now, &group_config(cx));
                self.store(cx, group, entry);
            }
        }
    }

    /// Applies another policy to all groups. Of those that it allows, groups that were admitted
    /// before come first, then the oldest.
    pub(super) fn set_policy(&mut self, cx: &mut Context<'_, A>, policy: GroupPolicy) {
        self.policy = policy;
        let mut order: Vec<_> = self
            .entries
            .iter()
            .map(|(group, e)| (e.admission != Admission::Admitted, e.since, *group))
            .collect();
        order.sort_unstable();
        self.admitted = 0;
        self.waiting.clear();
        for (_, since, group) in order {
            if let Some(mut entry) = self.entries.remove(&group) {
                // Each group is decided about as if it had waited, and none were admitted yet.
                entry.admission = Admission::Waiting;
                self.waiting.insert((since, group));
                self.store(cx, group, entry);
            }
        }
    }

    /// The first timer of any group.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    pub(super) fn take_queries(&mut self) -> Vec<(A, SpecificQuery<A>)> {
        std::mem::take(&mut self.queries)
    }

    /// Whether a change waits to go upstream.
    pub(super) fn has_changes(&self) -> bool {
        !self.changes.is_empty()
    }

    /// The group whose change goes upstream next.
    pub(super) fn next_change(&self) -> Option<A> {
        self.changes.first()
    }

    /// The next change that goes upstream.
    pub(super) fn poll_change(&mut self) -> Option<(A, SourceFilter<A>)> {
        let group = self.changes.pop()?;
        let filter = self.upstream(group);
        self.changes.mark_sent(group, &filter);
        Some((group, filter))
    }

    /// All groups, for people.
    pub(super) fn views(&self, now: Instant) -> impl Iterator<Item = GroupView<A>> + '_ {
        self.entries.iter().map(move |(group, entry)| GroupView {
            group: *group,
            wanted: entry.state.filter(),
            upstream: self.upstream(*group),
            version: entry.version(now),
            since: entry.since,
            status: match &entry.admission {
                Admission::Denied(rule) => Status::Denied(rule.clone()),
                Admission::Waiting | Admission::Undecided => Status::Limited(self.groups_limit()),
                Admission::Admitted if entry.is_truncated => Status::Limited(self.sources_limit()),
                Admission::Admitted => Status::Allowed,
            },
        })
    }

    /// Whether the message may change the table. Counts why not.
    fn accepts(&self, cx: &mut Context<'_, A>, group: A, message: &GroupMessage<'_, A>) -> bool {
        if let GroupMessage::Record(RecordType::Unknown(_), _) = message {
            cx.diagnostics.count(counter::UNKNOWN_RECORD_TYPE);
            return false;
        }
        if !group.is_group() {
            cx.diagnostics.count(counter::BAD_RECORD_GROUP);
            return false;
        }
        let is_kept = match cx.config.link_scope && group.is_link_scope() {
            true => self.policy.relays_link_scope(group),
            false => group.needs_report(),
        };
        if !is_kept {
            cx.diagnostics.count(counter::LINK_LOCAL);
            return false;
        }
        let any_source = !matches!(
            message,
            GroupMessage::Record(
                RecordType::IsIn | RecordType::ToIn | RecordType::Allow | RecordType::Block,
                _
            )
        );
        if group.is_ssm() && any_source {
            cx.diagnostics.count(counter::SSM_ANY_SOURCE);
            // RFC 4604 §2.2.1: such a join leaves the channels as they are. Where there are none, it
            // is shown as denied.
            let joined = self.entries.get(&group).is_some_and(|e| !e.allowed.is_none());
            if joined && self.policy.denies_any_source(group) {
                let (interface, group) = (cx.config.interface.clone(), group.into());
                cx.diagnostics.notice(cx.now, Notice::AnySourceJoinIgnored { interface, group });
                return false;
            }
        }
        true
    }

    /// The sources of a record within `max_sources`. Sources that the group has already come first.
    ///
    /// A record that adds to the source list may fill it up to the limit. A record that replaces
    /// the list may be as long as the limit, beside sources that are still queried for.
    fn limit_sources(
        &self,
        cx: &mut Context<'_, A>,
        group: A,
        entry: &mut Entry<A>,
        kind: RecordType,
        list: &[A],
    ) -> BTreeSet<A> {
        let max = self.max_sources();
        let (mut known, mut new) = (BTreeSet::new(), BTreeSet::new());
        let mut bad = 0;
        for source in list {
            match source.is_possible_source() {
                false => bad += 1,
                true if entry.state.has_source(source) => _ = known.insert(*source),
                true => _ = new.insert(*source),
            }
        }
        cx.diagnostics.add(counter::BAD_SOURCE, bad);

        let adds = matches!(kind, RecordType::IsIn | RecordType::Allow | RecordType::Block);
        let count = entry.state.source_count();
        let room = if adds {
            max.saturating_sub(count)
        } else {
            max.saturating_sub(known.len()).min(max.saturating_mul(2).saturating_sub(count))
        };
        let is_truncated = new.len() > room;
        if is_truncated {
            new = new.into_iter().take(room).collect();
            cx.diagnostics.count(counter::SOURCES_LIMITED);
            let (interface, limit) = (cx.config.interface.clone(), self.sources_limit());
            let notice = Notice::SourcesLimited { interface, group: group.into(), limit };
            cx.diagnostics.notice(cx.now, notice);
        }
        // ALLOW and BLOCK change the list. All other records are the whole list.
        let is_whole = !matches!(kind, RecordType::Allow | RecordType::Block);
        entry.is_truncated = is_truncated || entry.is_truncated && !is_whole;
        known.append(&mut new);
        known
    }

    /// Takes the entry of a group out of the table, or a new one. [`store`](Self::store) is to
    /// follow.
    fn take(&mut self, now: Instant, group: A) -> Box<Entry<A>> {
        self.entries.remove(&group).unwrap_or_else(|| Box::new(Entry::new(now)))
    }

    /// Stores an entry whose state has changed, and updates admission, timers and changes.
    fn store(&mut self, cx: &mut Context<'_, A>, group: A, mut entry: Box<Entry<A>>) {
        while let Some(query) = entry.state.poll_query() {
            self.queries.push((group, query));
        }
        if let Some(at) = entry.deadline.take() {
            self.deadlines.remove(&(at, group));
        }
        let before = std::mem::replace(&mut entry.admission, Admission::Undecided);
        self.release(group, entry.since, &before);
        if entry.state.is_empty() {
            self.update_change(group);
            self.admit_waiting();
            return;
        }
        // The limit comes before the policy, so that sources that the policy excludes stay.
        let mut wanted = entry.state.filter();
        if wanted.sources.len() > self.max_sources() {
            wanted.sources = wanted.sources.into_iter().take(self.max_sources()).collect();
            entry.is_truncated = true;
        }
        (entry.admission, entry.allowed) = match self.policy.apply(group, &wanted) {
            Err(rule) => (Admission::Denied(rule), SourceFilter::none()),
            Ok(filter) if self.has_room() => (Admission::Admitted, filter),
            Ok(filter) => (Admission::Waiting, filter),
        };
        if before == Admission::Undecided && entry.admission != Admission::Admitted {
            self.note_refusal(cx, group, &entry.admission);
            if self.entries.len() - self.admitted >= cx.config.max_refused {
                cx.diagnostics.count(counter::REFUSED_FORGOTTEN);
                return;
            }
        }
        if before == Admission::Undecided && is_any_source(group, &entry) {
            let (interface, group) = (cx.config.interface.clone(), group.into());
            cx.diagnostics.notice(cx.now, Notice::AnySourceJoin { interface, group });
        }
        match entry.admission {
            Admission::Admitted => self.admitted += 1,
            Admission::Waiting => _ = self.waiting.insert((entry.since, group)),
            Admission::Denied(_) | Admission::Undecided => {}
        }
        entry.deadline = entry.state.poll_timeout();
        self.deadlines.extend(entry.deadline.map(|at| (at, group)));
        self.entries.insert(group, entry);
        self.update_change(group);
        self.admit_waiting();
    }

    fn note_refusal(&self, cx: &mut Context<'_, A>, group: A, admission: &Admission) {
        let (interface, group) = (cx.config.interface.clone(), group.into());
        let (name, notice) = match admission {
            Admission::Admitted | Admission::Undecided => return,
            Admission::Denied(rule) => {
                (counter::DENIED, Notice::JoinDenied { interface, group, rule: rule.clone() })
            }
            Admission::Waiting => {
                let limit = self.groups_limit();
                (counter::GROUPS_LIMITED, Notice::JoinLimited { interface, group, limit })
            }
        };
        cx.diagnostics.count(name);
        cx.diagnostics.notice(cx.now, notice);
    }

    fn has_room(&self) -> bool {
        self.has_room_for(1)
    }

    /// Whether this number of groups may be joined in addition.
    pub(super) fn has_room_for(&self, groups: usize) -> bool {
        let most = usize::try_from(self.policy.max_groups).unwrap_or(usize::MAX);
        self.admitted.saturating_add(groups) <= most
    }

    /// Takes a group out of the count of admitted groups, or out of the waiting ones.
    fn release(&mut self, group: A, since: Instant, admission: &Admission) {
        match admission {
            Admission::Admitted => self.admitted -= 1,
            Admission::Waiting => _ = self.waiting.remove(&(since, group)),
            Admission::Denied(_) | Admission::Undecided => {}
        }
    }

    /// Admits waiting groups while there is room, oldest first.
    fn admit_waiting(&mut self) {
        while self.has_room()
            && let Some((_, group)) = self.waiting.pop_first()
        {
            if let Some(entry) = self.entries.get_mut(&group) {
                entry.admission = Admission::Admitted;
                self.admitted += 1;
                self.update_change(group);
            }
        }
    }

    /// The source filter of a group for upstream.
    fn upstream(&self, group: A) -> SourceFilter<A> {
        match self.entries.get(&group) {
            Some(entry) if entry.admission == Admission::Admitted => entry.allowed.clone(),
            _ => SourceFilter::none(),
        }
    }

    /// Queues a change of a group if there is one.
    fn update_change(&mut self, group: A) {
        let wanted = self.upstream(group);
        self.changes.update(group, &wanted);
    }

    fn max_sources(&self) -> usize {
        usize::try_from(self.policy.max_sources).unwrap_or(usize::MAX)
    }

    fn groups_limit(&self) -> String {
        format!("max-groups={}", self.policy.max_groups)
    }

    fn sources_limit(&self) -> String {
        format!("max-sources={}", self.policy.max_sources)
    }
}

/// Whether the entry is joined from any source although its group is in the range of source-specific
/// multicast.
fn is_any_source<A: Address>(group: A, entry: &Entry<A>) -> bool {
    let is_joined = entry.admission == Admission::Admitted;
    is_joined && group.is_ssm() && entry.allowed.mode == FilterMode::Exclude
}

fn group_config<A>(cx: &Context<'_, A>) -> GroupConfig {
    GroupConfig { timing: cx.config.timing, fast_leave: cx.config.fast_leave }
}

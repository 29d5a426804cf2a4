//! The groups of one container: their state, what the policy and the limits make of it, and
//! what upstream was told.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Instant;

use crate::igmp::group::{GroupConfig, SpecificQuery};
use crate::igmp::router::Context;
use crate::igmp::router::changes::Changes;
use crate::igmp::router::entry::{Entry, GroupView, Said, Standing, Status, joins, translate};
use crate::igmp::router::journal::counter;
use crate::igmp::wire::{RecordType, Version};
use crate::multicast::{Address, FilterMode, GroupPolicy, SourceFilter};
use crate::notice::Notice;

/// All groups of one container.
#[derive(Debug, Clone)]
pub(super) struct Table {
    policy: GroupPolicy,
    entries: BTreeMap<Ipv4Addr, Entry>,
    /// Entries that are [`Standing::Admitted`].
    admitted: usize,
    /// Entries that are [`Standing::Waiting`], oldest first.
    waiting: BTreeSet<(Instant, Ipv4Addr)>,
    /// The first timer of each entry.
    deadlines: BTreeSet<(Instant, Ipv4Addr)>,
    changes: Changes,
    /// Last-member queries to be sent.
    queries: Vec<(Ipv4Addr, SpecificQuery<Ipv4Addr>)>,
}

impl Table {
    pub(super) fn new(policy: GroupPolicy) -> Self {
        Table {
            policy,
            entries: BTreeMap::new(),
            admitted: 0,
            waiting: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            changes: Changes::default(),
            queries: Vec::new(),
        }
    }

    /// Takes what one message, or one record of it, says of `group`.
    pub(super) fn hear(&mut self, cx: &mut Context<'_>, group: Ipv4Addr, said: Said<'_>) {
        if !self.concerns_us(cx, group, &said) {
            return;
        }
        let now = cx.now;
        let known = self.entries.get(&group);
        let is_known = known.is_some();
        let version = known.map_or(Version::V3, |entry| entry.version(now));
        let Some((kind, list)) = translate(version, said) else {
            cx.journal.count(counter::COMPATIBILITY_MODE);
            return;
        };
        if !is_known && !joins(kind, list) {
            return;
        }
        let mut entry = self.take(now, group);
        let until = now + cx.config.timing.older_host_present_interval();
        match said {
            Said::ReportV1 => entry.v1_until = Some(until),
            Said::ReportV2 => entry.v2_until = Some(until),
            Said::LeaveV2 | Said::Record(..) => {}
        }
        let sources = self.admissible(cx, group, &mut entry, kind, list);
        entry.state.apply(now, &group_config(cx), kind, &sources);
        self.put(cx, group, entry);
    }

    /// Takes what is known of the container's own state from elsewhere than its reports.
    pub(super) fn learn(&mut self, cx: &mut Context<'_>, group: Ipv4Addr, filter: &SourceFilter) {
        let (kind, sources) = match filter.mode {
            FilterMode::Include => (RecordType::ToIn, &filter.sources),
            FilterMode::Exclude => (RecordType::ToEx, &filter.sources),
        };
        let list: Vec<Ipv4Addr> = sources.iter().copied().collect();
        if !self.concerns_us(cx, group, &Said::Record(kind, &list)) {
            return;
        }
        if filter.is_none() && !self.entries.contains_key(&group) {
            return;
        }
        let mut entry = self.take(cx.now, group);
        let sources = self.admissible(cx, group, &mut entry, kind, &list);
        entry.state.replace(
            cx.now,
            &group_config(cx),
            &SourceFilter { mode: filter.mode, sources },
        );
        self.put(cx, group, entry);
    }

    /// What [`learn`](Self::learn) makes of this, where the group is new, and no limit stands against it.
    pub(super) fn foresee(&self, group: Ipv4Addr, filter: &SourceFilter) -> Option<SourceFilter> {
        let is_plain = group.is_multicast()
            && group.needs_report()
            && filter.sources.len() <= self.max_sources()
            && filter.sources.iter().all(|source| source.is_possible_source());
        let is_new = is_plain && self.has_room() && !self.entries.contains_key(&group);
        let judged = is_new.then(|| self.judge(group, filter).ok())??;
        (!judged.is_none()).then_some(judged)
    }

    /// Lets the timers of groups end.
    pub(super) fn handle_timeout(&mut self, cx: &mut Context<'_>) {
        while let Some(&(at, group)) = self.deadlines.first()
            && at <= cx.now
        {
            self.deadlines.pop_first();
            if let Some(mut entry) = self.entries.remove(&group) {
                entry.deadline = None;
                entry.state.handle_timeout(cx.now, &group_config(cx));
                self.put(cx, group, entry);
            }
        }
    }

    /// Judges everything anew. Of what is allowed, groups that were joined go first, then the
    /// oldest.
    pub(super) fn set_policy(&mut self, cx: &mut Context<'_>, policy: GroupPolicy) {
        self.policy = policy;
        let mut order: Vec<_> = self
            .entries
            .iter()
            .map(|(group, e)| (e.standing != Standing::Admitted, e.since, *group))
            .collect();
        order.sort_unstable();
        self.admitted = 0;
        self.waiting.clear();
        for (_, since, group) in order {
            if let Some(mut entry) = self.entries.remove(&group) {
                // As one that has waited, with nothing else there yet.
                entry.standing = Standing::Waiting;
                self.waiting.insert((since, group));
                self.put(cx, group, entry);
            }
        }
    }

    /// The first timer of any group.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    pub(super) fn take_queries(&mut self) -> Vec<(Ipv4Addr, SpecificQuery<Ipv4Addr>)> {
        std::mem::take(&mut self.queries)
    }

    /// Whether upstream has something to be told.
    pub(super) fn has_changes(&self) -> bool {
        !self.changes.is_empty()
    }

    /// The next thing to tell upstream.
    pub(super) fn poll_change(&mut self) -> Option<(Ipv4Addr, SourceFilter)> {
        let group = self.changes.next()?;
        let filter = self.upstream(group);
        self.changes.told(group, &filter);
        Some((group, filter))
    }

    /// All groups, as they are to be shown.
    pub(super) fn views(&self, now: Instant) -> impl Iterator<Item = GroupView> + '_ {
        self.entries.iter().map(move |(group, entry)| GroupView {
            group: *group,
            wanted: entry.state.filter(),
            upstream: self.upstream(*group),
            version: entry.version(now),
            since: entry.since,
            status: match &entry.standing {
                Standing::Denied(rule) => Status::Denied(rule.clone()),
                Standing::Waiting | Standing::New => Status::Limited(self.groups_limit()),
                Standing::Admitted if entry.cut => Status::Limited(self.sources_limit()),
                Standing::Admitted => Status::Allowed,
            },
        })
    }

    /// Whether the message is about a group of the table at all.
    fn concerns_us(&self, cx: &mut Context<'_>, group: Ipv4Addr, said: &Said<'_>) -> bool {
        if let Said::Record(RecordType::Unknown(_), _) = said {
            cx.journal.count(counter::UNKNOWN_RECORD_TYPE);
            return false;
        }
        if !group.is_multicast() {
            cx.journal.count(counter::BAD_RECORD_GROUP);
            return false;
        }
        let named = cx.config.link_local && self.policy.relays_link_scope(group);
        if !group.needs_report() && !named {
            cx.journal.count(counter::LINK_LOCAL);
            return false;
        }
        // RFC 4604 §2.2.1. Where the policy turns a join from any source into named ones, the
        // join is as good as source-specific.
        let any_source = !matches!(
            said,
            Said::Record(
                RecordType::IsIn | RecordType::ToIn | RecordType::Allow | RecordType::Block,
                _
            )
        );
        if group.is_ssm() && any_source && !self.policy.allows_named_sources_only(group) {
            cx.journal.count(counter::SSM_ANY_SOURCE);
            let (interface, group) = (cx.config.interface.clone(), group.into());
            cx.journal.notice(cx.now, Notice::AnySourceJoinIgnored { interface, group });
            return false;
        }
        true
    }

    /// The sources of a record that its group has room for: those it has already first.
    ///
    /// A record that adds to the list may fill it up to the limit. One that replaces it may be
    /// as long as the limit, next to sources still being queried for.
    fn admissible(
        &self,
        cx: &mut Context<'_>,
        group: Ipv4Addr,
        entry: &mut Entry,
        kind: RecordType,
        list: &[Ipv4Addr],
    ) -> BTreeSet<Ipv4Addr> {
        let max = self.max_sources();
        let (mut kept, mut fresh) = (BTreeSet::new(), BTreeSet::new());
        let mut bad = 0;
        for source in list {
            match source.is_possible_source() {
                false => bad += 1,
                true if entry.state.knows(source) => _ = kept.insert(*source),
                true => _ = fresh.insert(*source),
            }
        }
        cx.journal.add(counter::BAD_SOURCE, bad);

        let adds = matches!(kind, RecordType::IsIn | RecordType::Allow | RecordType::Block);
        let count = entry.state.source_count();
        let room = if adds {
            max.saturating_sub(count)
        } else {
            max.saturating_sub(kept.len()).min(max.saturating_mul(2).saturating_sub(count))
        };
        let cut = fresh.len() > room;
        if cut {
            fresh = fresh.into_iter().take(room).collect();
            cx.journal.count(counter::SOURCES_LIMITED);
            let (interface, limit) = (cx.config.interface.clone(), self.sources_limit());
            let notice = Notice::SourcesLimited { interface, group: group.into(), limit };
            cx.journal.notice(cx.now, notice);
        }
        // BLOCK and ALLOW tell a difference, all others the whole list.
        let whole = !matches!(kind, RecordType::Allow | RecordType::Block);
        entry.cut = cut || entry.cut && !whole;
        kept.append(&mut fresh);
        kept
    }

    /// Takes the entry of a group out of the table, to be changed and [`put`](Self::put) back.
    fn take(&mut self, now: Instant, group: Ipv4Addr) -> Entry {
        self.entries.remove(&group).unwrap_or_else(|| Entry::new(now))
    }

    /// Stores an entry whose state has changed, and all that follows from it.
    fn put(&mut self, cx: &mut Context<'_>, group: Ipv4Addr, mut entry: Entry) {
        while let Some(query) = entry.state.poll_query() {
            self.queries.push((group, query));
        }
        if let Some(at) = entry.deadline.take() {
            self.deadlines.remove(&(at, group));
        }
        let before = std::mem::replace(&mut entry.standing, Standing::New);
        self.leave_standing(group, entry.since, &before);
        if entry.state.is_empty() {
            self.mark(group);
            self.admit_waiting();
            return;
        }
        // Cut before it is judged: what the policy adds to the excluded sources stays.
        let mut wish = entry.state.filter();
        if wish.sources.len() > self.max_sources() {
            wish.sources = wish.sources.into_iter().take(self.max_sources()).collect();
            entry.cut = true;
        }
        (entry.standing, entry.judged) = match self.judge(group, &wish) {
            Err(rule) => (Standing::Denied(rule), SourceFilter::none()),
            Ok(filter) if self.has_room() => (Standing::Admitted, filter),
            Ok(filter) => (Standing::Waiting, filter),
        };
        if before == Standing::New && entry.standing != Standing::Admitted {
            self.tell_refused(cx, group, &entry.standing);
            if self.entries.len() - self.admitted >= cx.config.max_refused {
                cx.journal.count(counter::REFUSED_FORGOTTEN);
                return;
            }
        }
        match entry.standing {
            Standing::Admitted => self.admitted += 1,
            Standing::Waiting => _ = self.waiting.insert((entry.since, group)),
            Standing::Denied(_) | Standing::New => {}
        }
        entry.deadline = entry.state.poll_timeout();
        self.deadlines.extend(entry.deadline.map(|at| (at, group)));
        self.entries.insert(group, entry);
        self.mark(group);
        self.admit_waiting();
    }

    /// What the policy leaves of a wish; never a join from any source in the SSM range.
    fn judge(&self, group: Ipv4Addr, wish: &SourceFilter) -> Result<SourceFilter, String> {
        let filter = self.policy.apply(group, wish)?;
        if group.is_ssm() && filter.mode == FilterMode::Exclude {
            return Err("232.0.0.0/8 is for joins that name their sources".into());
        }
        Ok(filter)
    }

    fn tell_refused(&self, cx: &mut Context<'_>, group: Ipv4Addr, standing: &Standing) {
        let (interface, group) = (cx.config.interface.clone(), group.into());
        let (name, notice) = match standing {
            Standing::Admitted | Standing::New => return,
            Standing::Denied(rule) => {
                (counter::DENIED, Notice::JoinDenied { interface, group, rule: rule.clone() })
            }
            Standing::Waiting => {
                let limit = self.groups_limit();
                (counter::GROUPS_LIMITED, Notice::JoinLimited { interface, group, limit })
            }
        };
        cx.journal.count(name);
        cx.journal.notice(cx.now, notice);
    }

    fn has_room(&self) -> bool {
        self.has_room_for(1)
    }

    /// Whether so many groups more may be joined.
    pub(super) fn has_room_for(&self, groups: usize) -> bool {
        let most = usize::try_from(self.policy.max_groups).unwrap_or(usize::MAX);
        self.admitted.saturating_add(groups) <= most
    }

    fn leave_standing(&mut self, group: Ipv4Addr, since: Instant, standing: &Standing) {
        match standing {
            Standing::Admitted => self.admitted -= 1,
            Standing::Waiting => _ = self.waiting.remove(&(since, group)),
            Standing::Denied(_) | Standing::New => {}
        }
    }

    /// Room has come: the oldest of those that wait for it get it.
    fn admit_waiting(&mut self) {
        while self.has_room()
            && let Some((_, group)) = self.waiting.pop_first()
        {
            if let Some(entry) = self.entries.get_mut(&group) {
                entry.standing = Standing::Admitted;
                self.admitted += 1;
                self.mark(group);
            }
        }
    }

    /// What is wanted upstream for a group.
    fn upstream(&self, group: Ipv4Addr) -> SourceFilter {
        match self.entries.get(&group) {
            Some(entry) if entry.standing == Standing::Admitted => entry.judged.clone(),
            _ => SourceFilter::none(),
        }
    }

    /// Notes whether there is something to tell upstream of a group.
    fn mark(&mut self, group: Ipv4Addr) {
        let wanted = self.upstream(group);
        self.changes.mark(group, &wanted);
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

fn group_config(cx: &Context<'_>) -> GroupConfig {
    GroupConfig { timing: cx.config.timing, fast_leave: cx.config.fast_leave }
}

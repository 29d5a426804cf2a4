//! What is known of the host's firewall on one upstream.

use std::cell::Cell;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use crate::igmp::Timing;
use crate::igmp::responder::Responder;
use crate::igmp::wire::Query;
use crate::proxy::lan::hearing::Hearing;
use crate::proxy::lan::input_probe::InputProbe;
use crate::proxy::lan::query_tap::QueryTap;

/// The least time between two checks of what gets out, which take some microseconds.
const CHECK_SPACING: Duration = Duration::from_millis(250);
/// The least time between two checks of what gets in, which wait for a packet that does not.
const INPUT_SPACING: Duration = Duration::from_secs(1);
/// Time between two checks while something is dropped. What is joined is told as soon as reports
/// get out, and again and again where no query comes in.
const RECHECK: Duration = Duration::from_secs(5);
/// Time between two checks of a relay whose host lets IGMP in.
const WATCH: Duration = Duration::from_secs(20);

/// Time after which what is told unasked is told once more (RFC 9776 §8.10): a switch port that has
/// just come up may not learn yet.
const REPEAT: Duration = Duration::from_secs(1);

/// What the host's firewall lets through.
pub(super) struct Firewall {
    pub(super) hearing: Hearing,
    pub(super) responder: Responder,
    /// When all is told again.
    repeat_at: Option<Instant>,
    /// Where data is relayed, so that no link of the container hears the LAN.
    input_probe: Option<InputProbe>,
    /// Hears the LAN there, where the host does not.
    pub(super) tap: Option<QueryTap>,
    /// When the host has heard a query.
    heard: Option<Instant>,
    /// The input probe was lost while queries arrived: rules tell the two apart.
    is_probe_wrong: bool,
    /// Whether somebody wants to know what gets through.
    check_wanted: Cell<bool>,
    checked: Option<Instant>,
    input_checked: Option<Instant>,
    /// The check of what gets in was too soon.
    is_input_due: bool,
    pub(super) drops_reports: bool,
    /// Queries are dropped, and no link of the container hears them.
    pub(super) drops_queries: bool,
}

impl Firewall {
    pub(super) fn new(
        input_probe: Option<InputProbe>,
        tap: Option<QueryTap>,
        now: Instant,
    ) -> Self {
        Firewall {
            hearing: Hearing::default(),
            responder: Responder::new(now),
            repeat_at: None,
            input_probe,
            tap,
            heard: None,
            is_probe_wrong: false,
            check_wanted: Cell::new(false),
            checked: None,
            input_checked: None,
            is_input_due: false,
            drops_reports: false,
            drops_queries: false,
        }
    }

    /// The host has heard a query.
    pub(super) fn heard_by_host(&mut self, now: Instant, source: Ipv4Addr, query: &Query) {
        self.hearing.heard_by_host(now, source, query);
        self.heard = Some(now);
        self.is_probe_wrong |= std::mem::take(&mut self.drops_queries);
    }

    /// All that is told now is told once more.
    pub(super) fn repeat(&mut self, now: Instant) {
        self.repeat_at = Some(now + REPEAT);
    }

    /// Whether to tell all once more.
    pub(super) fn take_repeat(&mut self, now: Instant) -> bool {
        self.repeat_at.take_if(|at| *at <= now).is_some()
    }

    /// Something is reported or asked now: a check is due.
    pub(super) fn want_check(&self) {
        self.check_wanted.set(true);
    }

    /// Makes a check. Tells whether queries are dropped that no link hears; not where the last check
    /// was a moment ago.
    pub(super) fn check_input(&mut self, now: Instant) -> bool {
        self.check_wanted.set(false);
        self.checked = Some(now);
        let is_too_soon = self.input_checked.is_some_and(|last| now < last + INPUT_SPACING);
        self.is_input_due = is_too_soon && self.input_probe.is_some();
        if is_too_soon {
            return false;
        }
        self.input_checked = Some(now);
        let gone = Timing::default().other_querier_present_interval();
        let is_silent = self.heard.is_none_or(|heard| heard + gone <= now);
        let may_judge = is_silent || !self.is_probe_wrong;
        let arrives = self.input_probe.as_ref().filter(|_| may_judge).map(InputProbe::arrives);
        if let Some(Some(arrives)) = arrives {
            self.drops_queries = !arrives;
        }
        self.drops_queries
    }

    /// The interface has gone.
    pub(super) fn close_probe(&mut self) {
        self.input_probe = None;
        self.is_input_due = false;
        self.drops_queries = false;
    }

    /// When a check is due.
    pub(super) fn check_at(&self, now: Instant) -> Option<Instant> {
        let spacing = match self.check_wanted.get() {
            true => Some(CHECK_SPACING),
            false if self.drops_reports || self.drops_queries => Some(RECHECK),
            false if self.input_probe.is_some() && self.checked.is_some() => Some(WATCH),
            false => None,
        };
        let after = |last: Option<Instant>, spacing| last.map_or(now, |last| last + spacing);
        let input = self.is_input_due.then(|| after(self.input_checked, INPUT_SPACING));
        let any = spacing.map(|spacing| after(self.checked, spacing));
        any.into_iter().chain(input).min()
    }

    /// When something is due.
    pub(super) fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        let Firewall { hearing, responder, repeat_at, .. } = self;
        [hearing.poll_timeout(), responder.poll_timeout(), *repeat_at, self.check_at(now)]
            .into_iter()
            .flatten()
            .min()
    }
}

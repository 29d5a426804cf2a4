//! What is known of the host's firewall on one upstream.

use std::cell::Cell;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use crate::igmp::Timing;
use crate::igmp::responder::Responder;
use crate::igmp::wire::Query;
use crate::proxy::lan::hearing::Hearing;
use crate::proxy::lan::input_probe::InputProbe;

/// The least time between two checks.
const CHECK_SPACING: Duration = Duration::from_secs(1);
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
    /// When the host has heard a query.
    heard: Option<Instant>,
    /// The input probe was lost while queries arrived: rules tell the two apart.
    is_probe_wrong: bool,
    /// Whether somebody wants to know what gets through.
    check_wanted: Cell<bool>,
    checked: Option<Instant>,
    pub(super) drops_reports: bool,
    /// Queries are dropped, and no link of the container hears them.
    pub(super) drops_queries: bool,
}

impl Firewall {
    pub(super) fn new(input_probe: Option<InputProbe>, now: Instant) -> Self {
        Firewall {
            hearing: Hearing::default(),
            responder: Responder::new(now),
            repeat_at: None,
            input_probe,
            heard: None,
            is_probe_wrong: false,
            check_wanted: Cell::new(false),
            checked: None,
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

    /// Makes a check. Tells whether queries are dropped that no link hears.
    pub(super) fn check_input(&mut self, now: Instant) -> bool {
        self.check_wanted.set(false);
        self.checked = Some(now);
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
        self.drops_queries = false;
    }

    /// When a check is due.
    pub(super) fn check_at(&self, now: Instant) -> Option<Instant> {
        let spacing = match self.check_wanted.get() {
            true => CHECK_SPACING,
            false if self.drops_reports || self.drops_queries => RECHECK,
            false if self.input_probe.is_some() && self.checked.is_some() => WATCH,
            false => return None,
        };
        Some(self.checked.map_or(now, |last| last + spacing))
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

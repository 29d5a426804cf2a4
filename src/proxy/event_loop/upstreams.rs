//! The host interfaces on which the proxy joins, each with its sockets.

use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use crate::igmp::wire::Query;
use crate::net::link_watch::LinkWatch;
use crate::net::route_query::RouteQuery;
use crate::notice::Notice;
use crate::primitives::token_bucket::TokenBucket;
use crate::proxy::event_loop::firewall::Firewall;
use crate::proxy::event_loop::pause::Pause;
use crate::proxy::lan::early_report::EarlyReporter;
use crate::proxy::lan::host_groups::HostGroups;
use crate::proxy::lan::input_probe::InputProbe;
use crate::proxy::lan::joins::LimitFiles;
use crate::proxy::lan::mld_query_socket::MldQuerySocket;
use crate::proxy::lan::query_socket::QuerySocket;
use crate::proxy::lan::query_tap::QueryTap;
use crate::proxy::lan::report_socket::{ReportSocket, SpareReportSocket};

/// Queries that are read at once. A switch sends two for each group that is left.
const QUERY_BURST: u32 = 256;
/// Time after which one more is read.
const QUERY_INTERVAL: Duration = Duration::from_millis(10);

/// One upstream. Several interfaces of the container may have the same.
pub(crate) struct Upstream {
    /// Receives the queries of the LAN.
    pub(crate) query_socket: QuerySocket,
    /// Sends early reports; `None` where the kernel does not notify of joins.
    pub(crate) reporter: Option<EarlyReporter>,
    /// For MLD; `None`: the proxy speaks it for no interface here.
    pub(crate) mld: Option<MldUpstream>,
    /// Answers queries where there is no reporter.
    pub(crate) report_socket: Option<ReportSocket>,
    /// Send reports when the interface has come again.
    pub(crate) spare_report_sockets: Vec<SpareReportSocket>,
    /// What the host's firewall lets through.
    pub(super) firewall: Firewall,
    /// Tells when the interface has changed.
    pub(crate) link_watch: LinkWatch,
    /// Why nothing is joined there now; `None`: nothing is wrong.
    pub(super) problem: Option<Notice>,
    /// Any station of the LAN can send queries, and every proxy of the host reads them.
    queries: TokenBucket,
    /// While too many arrive, the socket is not watched, and the kernel drops what does not fit.
    pub(super) query_pause: Pause,
    /// The same for what is heard at the link.
    pub(super) tap_pause: Pause,
}

impl Upstream {
    /// An upstream with these sockets.
    pub(crate) fn new(
        query_socket: QuerySocket,
        (reporter, report_socket): (Option<EarlyReporter>, Option<ReportSocket>),
        input_probe: Option<InputProbe>,
        tap: Option<QueryTap>,
        link_watch: LinkWatch,
        now: Instant,
    ) -> Self {
        let queries = TokenBucket::new(QUERY_BURST, QUERY_INTERVAL, now);
        let query_pause = Pause::default();
        Upstream {
            query_socket,
            reporter,
            mld: None,
            report_socket,
            spare_report_sockets: Vec::new(),
            firewall: Firewall::new(input_probe, tap, now),
            link_watch,
            problem: None,
            queries,
            query_pause,
            tap_pause: Pause::default(),
        }
    }

    /// Reports on the interface of this index from now on, which has come again under the same name.
    /// Where that cannot be, the kernel's reports alone are sent.
    pub(super) fn report_on(&mut self, now: Instant, index: u32) {
        let name = self.query_socket.name();
        let spare = self.spare_report_sockets.pop();
        let socket = spare.and_then(|spare| spare.turn_to(name, index).ok());
        match (&mut self.reporter, socket) {
            (Some(reporter), Some(socket)) => reporter.follow(now, socket, index),
            (_, socket) => (self.reporter, self.report_socket) = (None, socket),
        }
        if let Some(mld) = &mut self.mld {
            mld.report_on(now, self.query_socket.name(), index);
        }
    }

    /// Whether one more query may be read.
    pub(super) fn takes_query(&mut self, now: Instant) -> bool {
        self.queries.take(now)
    }

    /// Interface index on the host.
    pub(super) fn index(&self) -> u32 {
        self.query_socket.index
    }

    /// Whether the interface is there and administratively up at this moment. A notification of a
    /// change may not be read yet.
    pub(super) fn is_up(&self) -> bool {
        let up = libc::IFF_UP.cast_unsigned();
        self.query_socket.flags_now().is_some_and(|flags| flags & up != 0)
    }

    /// When to call [`handle_timeout`](Self::handle_timeout).
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let reporter = self.reporter.as_ref().and_then(EarlyReporter::poll_timeout);
        let mld = self.mld.as_ref().and_then(|mld| mld.query_pause.poll_timeout());
        let pauses = [self.query_pause.poll_timeout(), self.tap_pause.poll_timeout(), mld];
        pauses.into_iter().chain([reporter]).flatten().min()
    }

    /// Does what is due, except what ends pauses.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if let Some(reporter) = &mut self.reporter {
            reporter.handle_timeout(now);
        }
    }

    /// Takes note of a query: the version of reports follows the querier's.
    pub(super) fn handle_query(&mut self, now: Instant, query: &Query) {
        if let Some(reporter) = &mut self.reporter {
            reporter.receive_query(now, query);
        }
        self.firewall.responder.follow_version(now, query.version);
    }
}

/// An upstream's sockets for MLD.
pub(crate) struct MldUpstream {
    /// Receives the queries of the LAN.
    pub(crate) query_socket: MldQuerySocket,
    /// Sends early reports; `None` where the kernel does not notify of joins.
    pub(crate) reporter: Option<EarlyReporter<Ipv6Addr>>,
    /// Send reports when the interface has come again.
    pub(crate) spare_report_sockets: Vec<SpareReportSocket<Ipv6Addr>>,
    queries: TokenBucket,
    pub(super) query_pause: Pause,
}

impl MldUpstream {
    /// One with these sockets.
    pub(crate) fn new(
        query_socket: MldQuerySocket,
        reporter: Option<EarlyReporter<Ipv6Addr>>,
        now: Instant,
    ) -> Self {
        let queries = TokenBucket::new(QUERY_BURST, QUERY_INTERVAL, now);
        let (spare_report_sockets, query_pause) = (Vec::new(), Pause::default());
        MldUpstream { query_socket, reporter, spare_report_sockets, queries, query_pause }
    }

    /// As [`Upstream::report_on`].
    fn report_on(&mut self, now: Instant, name: &str, index: u32) {
        let spare = self.spare_report_sockets.pop();
        let socket = spare.and_then(|spare| spare.turn_to(name, index).ok());
        match (&mut self.reporter, socket) {
            (Some(reporter), Some(socket)) => reporter.follow(now, socket, index),
            _ => self.reporter = None,
        }
    }

    /// Whether one more query may be read.
    pub(super) fn takes_query(&mut self, now: Instant) -> bool {
        self.queries.take(now)
    }
}

/// What the host's kernel allows to join in IPv6, and has joined.
pub(crate) struct MldLimits {
    pub(crate) limits: LimitFiles<Ipv6Addr>,
    /// `None` where that cannot be read.
    pub(crate) host_groups: Option<HostGroups<Ipv6Addr>>,
}

/// All upstreams, and what the host's kernel allows to join on them.
pub(crate) struct Upstreams {
    pub(crate) list: Vec<Upstream>,
    pub(crate) limits: LimitFiles,
    /// Asks for the host's links; `None`: nothing is relayed.
    pub(crate) links: Option<RouteQuery>,
    /// What the host's kernel has joined; `None` where that cannot be read.
    pub(crate) host_groups: Option<HostGroups>,
    /// `None`: the proxy speaks MLD for no interface.
    pub(crate) mld: Option<MldLimits>,
}

impl Upstreams {
    /// Another proxy knew that what is reported on the upstream of this index is dropped. All is told
    /// as soon as a check finds that reports get out: what was joined meanwhile, nobody has heard.
    pub(super) fn inherit_filtered_reports(&mut self, index: u32) {
        if let Some(upstream) = self.list.iter_mut().find(|upstream| upstream.index() == index) {
            upstream.firewall.drops_reports = true;
            upstream.firewall.want_check();
        }
    }

    /// Whether the upstream of this index is down at this moment.
    pub(super) fn is_down(&self, index: u32) -> bool {
        let upstream = self.list.iter().find(|upstream| upstream.index() == index);
        upstream.is_some_and(|upstream| !upstream.is_up())
    }
}

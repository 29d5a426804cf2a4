//! The host interfaces on which the proxy joins, each with its sockets.

use std::time::Instant;

use crate::igmp::wire::Query;
use crate::proxy::lan::early_report::EarlyReporter;
use crate::proxy::lan::joins::LimitFiles;
use crate::proxy::lan::query_socket::QuerySocket;

/// One upstream. Several interfaces of the container may have the same.
pub(crate) struct Upstream {
    /// Receives the queries of the LAN.
    pub(crate) query_socket: QuerySocket,
    /// Sends early reports; `None` where the kernel does not notify of joins.
    pub(crate) reporter: Option<EarlyReporter>,
}

impl Upstream {
    /// Interface index on the host.
    pub(super) fn index(&self) -> u32 {
        self.query_socket.index
    }

    /// Takes note of a query: the version of early reports follows the querier's.
    pub(super) fn handle_query(&mut self, now: Instant, query: &Query) {
        if let Some(reporter) = &mut self.reporter {
            reporter.receive_query(now, query);
        }
    }
}

/// All upstreams, and what the host's kernel allows to join on them.
pub(crate) struct Upstreams {
    pub(crate) list: Vec<Upstream>,
    pub(crate) limits: LimitFiles,
}

impl Upstreams {
    /// The sender of early reports on the upstream of this index, if it has one.
    pub(super) fn reporter(&self, index: u32) -> Option<&EarlyReporter> {
        let upstream = self.list.iter().find(|upstream| upstream.index() == index)?;
        upstream.reporter.as_ref()
    }
}

//! The timers and counts of RFC 9776 §8. Those of MLD have the same defaults (RFC 9777 §9).

use std::time::Duration;

use crate::igmp::wire::code;

/// The configurable values, checked, and those that follow from them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    robustness: u8,
    query_interval: Duration,
    query_response_interval: Duration,
    last_member_query_interval: Duration,
}

/// Why values can't be used together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TimingError {
    /// RFC 9776 §8.1.
    #[error("robustness {0}; it must be 1 to 7")]
    Robustness(u8),
    /// RFC 9776 §8.2; 31744 s is the most a query can tell.
    #[error("query interval {0:?}; it must be 1 s to 31744 s")]
    QueryInterval(Duration),
    /// RFC 9776 §8.3.
    #[error(
        "query response interval {0:?}; it must be 0.1 s to 3174.4 s and below the query interval"
    )]
    QueryResponseInterval(Duration),
    /// RFC 9776 §8.8.
    #[error("last member query interval {0:?}; it must be 0.1 s to 3174.4 s")]
    LastMemberQueryInterval(Duration),
}

impl Default for Timing {
    fn default() -> Self {
        Timing {
            robustness: 2,
            query_interval: Duration::from_secs(125),
            query_response_interval: Duration::from_secs(10),
            last_member_query_interval: Duration::from_secs(1),
        }
    }
}

impl Timing {
    /// The given values, if they can be used together.
    ///
    /// # Errors
    /// The first value that can't be used.
    pub fn new(
        robustness: u8,
        query_interval: Duration,
        query_response_interval: Duration,
        last_member_query_interval: Duration,
    ) -> Result<Self, TimingError> {
        let tenth = Duration::from_millis(100);
        let max = u64::from(code::MAX);
        if !(1..=7).contains(&robustness) {
            return Err(TimingError::Robustness(robustness));
        }
        if !(Duration::from_secs(1)..=Duration::from_secs(max)).contains(&query_interval) {
            return Err(TimingError::QueryInterval(query_interval));
        }
        let response = tenth..=Duration::from_millis(max * 100);
        if !response.contains(&query_response_interval) || query_response_interval >= query_interval
        {
            return Err(TimingError::QueryResponseInterval(query_response_interval));
        }
        if !response.contains(&last_member_query_interval) {
            return Err(TimingError::LastMemberQueryInterval(last_member_query_interval));
        }
        Ok(Timing {
            robustness,
            query_interval,
            query_response_interval,
            last_member_query_interval,
        })
    }

    /// The defaults with another query interval. Where the response interval is not below it, that is
    /// half of it.
    ///
    /// An interval that [`new`](Self::new) refuses gives the defaults.
    pub fn of_interval(query_interval: Duration) -> Self {
        let default = Timing::default();
        let response = default.query_response_interval.min(query_interval / 2);
        let last_member = default.last_member_query_interval;
        Timing::new(default.robustness, query_interval, response, last_member).unwrap_or(default)
    }

    /// RV: how many losses in a row are survived (§8.1).
    pub fn robustness(&self) -> u8 {
        self.robustness
    }

    /// QI: between general queries (§8.2).
    pub fn query_interval(&self) -> Duration {
        self.query_interval
    }

    /// QRI: the response time that general queries allow (§8.3).
    pub fn query_response_interval(&self) -> Duration {
        self.query_response_interval
    }

    /// GMI: without a report for this long there are no members (§8.4): RV * QI + 2 * QRI.
    pub fn group_membership_interval(&self) -> Duration {
        self.query_interval * self.robustness.into() + self.query_response_interval * 2
    }

    /// Without a query of another querier for this long there is none (§8.5):
    /// RV * QI + QRI / 2.
    pub fn other_querier_present_interval(&self) -> Duration {
        self.query_interval * self.robustness.into() + self.query_response_interval / 2
    }

    /// Between the queries at startup (§8.6): QI / 4.
    pub fn startup_query_interval(&self) -> Duration {
        self.query_interval / 4
    }

    /// Queries at startup (§8.7): RV.
    pub fn startup_query_count(&self) -> u8 {
        self.robustness
    }

    /// LMQI: between specific queries, and the response time they allow (§8.8).
    pub fn last_member_query_interval(&self) -> Duration {
        self.last_member_query_interval
    }

    /// LMQC: specific queries before a member counts as gone (§8.9): RV.
    pub fn last_member_query_count(&self) -> u8 {
        self.robustness
    }

    /// LMQT: LMQI * LMQC (§8.10).
    pub fn last_member_query_time(&self) -> Duration {
        self.last_member_query_interval * self.last_member_query_count().into()
    }

    /// A group whose last v1 or v2 report is younger than this is in that version's mode
    /// (§8.13): RV * QI + QRI.
    pub fn older_host_present_interval(&self) -> Duration {
        self.query_interval * self.robustness.into() + self.query_response_interval
    }
}

#[cfg(test)]
mod tests;

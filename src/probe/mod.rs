//! RTP-aware multicast sender and receiver.
//!
//! [`receive`] and [`send`] hold the sockets and the clock. What they count with does not:
//! datagrams go into a [`GroupStats`], and a [`GroupReport`] comes out.

mod arrival;
mod batch;
mod listen;
mod mdi;
mod recv;
mod report;
mod rtp;
mod send;
mod sequence;
mod signals;
mod source;
mod stats;
mod units;

use std::io;

pub use crate::probe::arrival::Arrival;
pub use crate::probe::listen::{ListenOptions, Listener, Measured, Total};
pub use crate::probe::recv::{Joined, ReceiveOptions, Thresholds, receive};
pub use crate::probe::report::{
    Ended, GroupReport, Interval, IntervalLine, Line, PerGroup, ReceiveResult, SendReport,
    SendResult, SourceReport,
};
pub use crate::probe::rtp::{HEADER, Header, SENDER_INFO, SenderInfo};
pub use crate::probe::send::{MAX_PAYLOAD, SendOptions, max_payload, send};
pub use crate::probe::sequence::Sequence;
pub use crate::probe::signals::Signals;
pub use crate::probe::stats::GroupStats;
pub use crate::probe::units::{
    DEFAULT_PORT, Destination, LossLimit, Target, parse_duration, parse_positive_duration,
};

/// Why a measurement could not be made.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct ProbeError {
    what: String,
    source: io::Error,
}

impl ProbeError {
    fn new(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| ProbeError { what, source }
    }
}

/// What helps where `error` says that the kernel found no way to the group.
fn route_hint(error: &io::Error, ifindex: u32) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENODEV | libc::ENETUNREACH) if ifindex == 0 => {
            " without a route to it: name the interface with --interface"
        }
        _ => "",
    }
}

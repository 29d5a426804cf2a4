//! IGMPv1, v2 and v3 (RFC 1112, RFC 2236, RFC 9776) without sockets and without a clock.
//!
//! Bytes come in, messages, queries to send and wanted upstream filters go out; the time is
//! an argument. Nothing here knows netlink, nix or a file descriptor.
//!
//! [`wire`] reads and writes messages, [`group`] is the state of one group (the table of
//! RFC 9776 §6.4), and [`router`] is the querier of one container interface that puts them
//! together with the policy, the LAN's querier and the limits.

pub mod group;
pub mod router;
mod timing;
pub mod wire;

pub use router::Router;
pub use timing::{Timing, TimingError};

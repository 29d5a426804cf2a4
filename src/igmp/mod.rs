//! IGMPv1, v2 and v3 (RFC 1112, RFC 2236, RFC 9776) without sockets and without a clock.
//!
//! Packets come in. Queries to send and source filters for upstream go out. The time is an
//! argument. Nothing here does a system call.
//!
//! [`wire`] parses and emits packets. [`group`] is the state of one group (the table of
//! RFC 9776 §6.4). [`router`] is the router of one container interface: it applies the messages
//! to the groups within the policy and the limits, and is the querier. [`responder`] is the host
//! towards the LAN.
//!
//! Everything except [`wire`], [`responder`] and [`Igmp`] is generic over the address family: a
//! [`Protocol`] supplies the packets. [`mld`](crate::mld) has another one.

pub mod group;
pub(crate) mod lists;
pub mod message;
pub(crate) mod packing;
mod protocol;
pub mod responder;
pub mod router;
mod timing;
pub mod wire;

use std::net::Ipv4Addr;

pub use protocol::{Igmp, Protocol, ReceivedMessage};
pub use timing::{Timing, TimingError};

/// The router that speaks IGMP.
pub type Router = router::Router<Igmp>;
/// The configuration of the router that speaks IGMP.
pub type RouterConfig = router::RouterConfig<Ipv4Addr>;

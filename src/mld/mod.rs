//! MLDv1 and MLDv2 (RFC 2710, RFC 9777) without sockets and without a clock.
//!
//! MLD is IGMP with the addresses of IPv6. So the messages, the state of a group, the router and
//! the timers are those of [`igmp`](crate::igmp). [`wire`] has the packets, and [`Mld`] gives them
//! to the router.
//!
//! RFC 9777 has the text of RFC 9776 with one more section in front, from section 5 on: where the
//! generic parts name RFC 9776 §6.4, the same stands in RFC 9777 §7.4. The timers have other names
//! and the same defaults (RFC 9777 §9): "last listener" for "last member", "multicast address
//! listening interval" for "group membership interval".

#[cfg(test)]
mod checklist;
#[cfg(test)]
mod families;
mod protocol;
pub mod wire;

use std::net::Ipv6Addr;

pub use protocol::{Mld, OWN_QUERIER};

/// The router that speaks MLD.
pub type Router = crate::igmp::router::Router<Mld>;
/// The configuration of the router that speaks MLD.
pub type RouterConfig = crate::igmp::router::RouterConfig<Ipv6Addr>;

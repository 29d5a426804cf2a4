//! The per-container IGMP proxy process.
//!
//! One process and one thread for each container. `start` opens everything as root (`parts`)
//! and gives up all privileges (`sandbox`); then `driver` turns an event loop around the
//! pure protocol of [`crate::igmp`]:
//!
//! ```text
//!   container's namespace                         host's namespace
//!   reports  -> filter (nf_tables) -> downstream -> Router -> upstream (joins)
//!   kernel's IGMP host <- downstream (injector) <- Router <- lan (queries)
//!   kernel's notification of a join -> links    -> Router -> upstream, prompt (first report)
//!   data, where the link carries none        <-> relay <-> data
//! ```
//!
//! The attachment service launches it with [`ProxyLaunch`]; every process asks it with [`query_all`].

mod config;
mod container;
mod control;
mod event_loop;
mod lan;
mod main;
mod process;
mod relay;
mod setup;

pub use crate::proxy::config::{CreatedInterface, InterfaceTask, ProxyTask, RelayTask};
pub use crate::proxy::container::injection::random_packet_mark;
pub use crate::proxy::control::client::{
    Subscription, namespace, query_all, requery, request_takeover, subscribe,
};
pub use crate::proxy::control::event::{Event, MembershipEvent, TimedEvent};
pub use crate::proxy::control::launch::{LaunchError, ProxyLaunch, program};
pub use crate::proxy::control::status::{
    GroupMembership, InterfaceStatus, MembershipStatus, ProxyState, ProxyStatus, QuerierStatus,
    RelayCounts, RelayStatus, TranslatedPort,
};
pub use crate::proxy::main::main;
#[doc(hidden)]
pub use crate::proxy::relay::check_relayed_packet;

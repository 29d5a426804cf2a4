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
//! [`Starting`] is the hook's side of the start, [`query_all`] everybody's way to ask.

mod config;
mod container;
mod control;
mod event_loop;
mod lan;
mod main;
mod process;
mod relay;
mod setup;

pub use crate::proxy::config::{ProxyConfig, ProxyInterface, RelayTask};
pub use crate::proxy::container::mark::random_mark;
pub use crate::proxy::control::client::{namespace, query_all, requery, take_over};
pub use crate::proxy::control::launch::{SpawnError, Starting};
pub use crate::proxy::control::status::{
    GroupEntry, GroupStatus, InterfaceEntry, LanQuerier, ProxyState, ProxyStatus, RelayCounts,
    RelayStatus, TranslatedPort,
};
pub use crate::proxy::main::main;
#[doc(hidden)]
pub use crate::proxy::relay::check_relayed_packet;

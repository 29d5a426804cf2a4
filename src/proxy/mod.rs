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

mod barrier;
#[cfg(test)]
mod classic_bpf;
mod client;
mod config;
mod control;
mod downstream;
mod driver;
mod filter;
mod home;
mod lan;
mod links;
mod log;
mod mark;
mod native;
mod nfnetlink;
mod parts;
mod prompt;
mod relay;
mod rx_filter;
mod sandbox;
mod served;
mod spawn;
mod start;
mod status;
mod upstream;
mod warnings;

pub use client::{namespace, query_all, requery, take_over};
pub use config::{ProxyConfig, ProxyInterface, RelayTask};
pub use mark::random_mark;
#[doc(hidden)]
pub use relay::check_relayed_packet;
pub use spawn::{SpawnError, Starting};
pub use start::main;
pub use status::{
    GroupEntry, GroupStatus, InterfaceEntry, LanQuerier, ProxyState, ProxyStatus, RelayCounts,
    RelayStatus, TranslatedPort,
};

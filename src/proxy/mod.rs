//! The proxy: one process with one thread for each container.
//!
//! [`main`] opens everything as root (`setup`), gives up all privileges (`process::sandbox`), and
//! runs the event loop, which calls the pure protocol of [`crate::igmp`]:
//!
//! ```text
//!   container's network namespace                    host's network namespace
//!   report -> rules -> interception -> Router -> join sockets, early report -> LAN
//!   notification of a join -> link monitor -> Router
//!   kernel's IGMP host <- injection <- Router <- query socket <- LAN
//!   data, where the link carries none <-> relay <-> LAN
//! ```
//!
//! The attachment service launches a proxy with [`ProxyLaunch`]. Any process can ask it with
//! [`query_all`] and [`subscribe`].

mod config;
mod container;
mod control;
mod event_loop;
mod lan;
mod main;
mod process;
mod relay;
mod setup;

pub use crate::proxy::config::{CreatedInterface, EgressTask, InterfaceTask, ProxyTask, RelayTask};
pub(crate) use crate::proxy::container::end_watch::EndWatch;
pub use crate::proxy::container::injection::random_packet_mark;
pub(crate) use crate::proxy::container::interception::NflogSocket;
pub(crate) use crate::proxy::container::membership_files::MembershipFiles;
pub(crate) use crate::proxy::container::rules::host_fence::HostFence;
pub(crate) use crate::proxy::container::rules::shim::{
    add_shim_rules, remove_shim_rules, shim_rules,
};
pub use crate::proxy::container::unserved::{Unserved, limit_unserved};
pub(crate) use crate::proxy::control::changes::{PublishedGroups, PublishedState};
pub(crate) use crate::proxy::control::client::ask_all;
pub(crate) use crate::proxy::control::client::{
    MAX_ANSWER, MAX_EVENT, open_subscription, parse_subscription,
};
pub use crate::proxy::control::client::{
    Subscription, has_successor_socket, namespace, place_successor_socket, query_all, requery,
    request_takeover, subscribe, successor_answers,
};
pub use crate::proxy::control::event::{Event, MembershipEvent, TimedEvent};
pub(crate) use crate::proxy::control::group::NAME as GROUP;
pub(crate) use crate::proxy::control::group::remove_unused as remove_unused_group;
pub(crate) use crate::proxy::control::hold::{HoldEvent, HoldStream, JoinedOn, StandIn};
pub use crate::proxy::control::launch::{LaunchError, PROGRAM, ProxyLaunch, program};
pub(crate) use crate::proxy::control::protocol::HeldKind;
pub use crate::proxy::control::status::{
    GroupMembership, InterfaceCounts, InterfaceStatus, MembershipStatus, MldStatus, ProxyState,
    ProxyStatus, QuerierStatus, RelayCounts, RelayStatus, TranslatedPort,
};
pub(crate) use crate::proxy::lan::input_probe::InputProbe;
pub(crate) use crate::proxy::lan::mld_probe::MldProbe;
pub(crate) use crate::proxy::lan::mld_query_socket::parse_mld_query;
pub(crate) use crate::proxy::lan::query_socket::{QuerySocket, parse_query};
pub use crate::proxy::main::main;
pub(crate) use crate::proxy::process::sandbox::confine_without_files;
#[cfg(any(test, feature = "fuzzing"))]
pub use crate::proxy::relay::check_relayed_packet;

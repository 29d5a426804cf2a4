//! A DHCPv4 client for a container's interface (RFC 2131).
//!
//! ```text
//!   LAN <-> packet socket <-> speaker (client, message)  --order-->  holder -> address, routes, lease file
//!                             no privilege, seccomp                  CAP_NET_ADMIN
//! ```
//!
//! [`client`], [`message`] and [`frame`] are pure. The two processes live as long as the container; the
//! attachment service launches them with [`LeaseLaunch`]. The kernel knows the end of each lease, so an
//! address whose processes were killed goes in time all the same.

pub mod client;
pub mod frame;
mod holder;
mod launch;
mod main;
pub mod message;
pub mod order;
mod shim_route;
mod speaker;
mod task;

pub use crate::dhcp::launch::{LeaseLaunch, end_for_successor, program, release};
pub use crate::dhcp::main::main;
#[cfg(any(test, feature = "fuzzing"))]
pub use crate::dhcp::message::check_answer;
pub use crate::dhcp::task::{LeaseTask, ProbedBy, client_identifier, host_name};

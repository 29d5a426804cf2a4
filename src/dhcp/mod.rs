//! A DHCP client for a container's interface: DHCPv4 (RFC 2131), or DHCPv6 (RFC 8415).
//!
//! ```text
//!   LAN <-> packet socket <-> speaker (client, message)  --order-->  holder -> address, routes, lease file
//!                             no privilege, seccomp                  CAP_NET_ADMIN
//! ```
//!
//! [`client`], [`message`] and [`frame`], the same for DHCPv6, and [`protocol`], which joins them, are
//! pure. The two processes live as long as the container; the attachment service launches them with
//! [`LeaseLaunch`]. The kernel knows the end of each lease, so an address whose processes were killed goes
//! in time all the same.

pub mod client;
pub mod client_v6;
pub mod frame;
pub mod frame_v6;
mod holder;
mod launch;
mod main;
pub mod message;
pub mod message_v6;
pub mod order;
pub mod protocol;
mod shim_route;
mod speaker;
mod task;

pub use crate::dhcp::launch::{LeaseLaunch, end_for_successor, program, release};
pub use crate::dhcp::main::main;
#[cfg(any(test, feature = "fuzzing"))]
pub use crate::dhcp::message::check_answer;
#[cfg(any(test, feature = "fuzzing"))]
pub use crate::dhcp::message_v6::check_answer as check_answer_v6;
pub use crate::dhcp::task::{LeaseTask, ProbedBy, client_identifier, duid, host_name, iaid};

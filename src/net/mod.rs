//! The network: namespaces, netlink, host facts, the plan of an attachment and its execution.
//!
//! Only [`netns`] enters a namespace, only [`apply`], with `removal`, changes a link.

pub mod announce;
pub mod apply;
pub mod children;
pub mod facts;
pub mod ifreq;
pub mod messages;
pub mod netlink;
pub mod netns;
pub mod plan;
mod procfs;
mod removal;
pub mod sockopt;
pub mod sysctl;

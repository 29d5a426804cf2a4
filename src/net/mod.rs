//! The network: namespaces, netlink, host facts, the plan of an attachment and its execution.

pub mod netlink;
pub mod netns;
pub mod sockopt;

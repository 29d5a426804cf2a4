//! Network namespaces and netlink. Only [`netns`] enters a namespace.

pub mod address_probe;
pub mod arp_announcement;
pub mod bridge_port;
pub mod devconf;
pub mod host_routes;
pub(crate) mod ipv6_addresses;
pub mod link_monitor;
pub(crate) mod link_watch;
pub mod messages;
pub mod neighbour_discovery;
pub mod netlink;
pub mod netns;
pub(crate) mod nfnetlink;
pub(crate) mod nft_tables;
pub(crate) mod raw_socket;
pub(crate) mod route_query;
pub(crate) mod route_watch;
pub mod source_routing;
pub mod sysctl;

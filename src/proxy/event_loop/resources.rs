//! What the setup opens for the event loop.

use std::os::unix::net::UnixListener;

use crate::net::arp_announcement::Announcer;
use crate::net::link_monitor::LinkMonitor;
use crate::net::netns::NetNs;
use crate::net::nfnetlink::NfSocket;
use crate::net::route_query::RouteQuery;
use crate::notice::Notice;
use crate::proxy::config::InterfaceTask;
use crate::proxy::container::end_watch::EndWatch;
use crate::proxy::container::interception::NflogSocket;
use crate::proxy::container::receive_filter::ReceiveFilterSocket;
use crate::proxy::container::rtnl_barrier::RtnlBarrier;
use crate::proxy::container::stream_counter::CountSockets;
use crate::proxy::container::xdp_guard::XdpGuards;
use crate::proxy::event_loop::family::AllMembershipFiles;
use crate::proxy::event_loop::handover::Predecessor;
use crate::proxy::event_loop::inheritance::InheritedStatus;
use crate::proxy::event_loop::interface::InterfaceSockets;
use crate::proxy::event_loop::upstreams::Upstreams;
use crate::proxy::process::container_dir::ContainerDir;
use crate::proxy::process::log::Log;
use crate::proxy::process::user::ProxyUser;

/// Everything that `setup` has opened for a proxy.
pub(crate) struct Resources {
    pub(crate) user: ProxyUser,
    pub(crate) container_dir: ContainerDir,
    pub(crate) log: Log,
    pub(crate) container: Container,
    /// `None`: there are no rules.
    pub(crate) interception: Option<Interception>,
    /// An interface without sockets is only observed.
    pub(crate) interfaces: Vec<(InterfaceTask, Option<InterfaceSockets>)>,
    pub(crate) upstreams: Upstreams,
    /// `None`: no address is to be announced.
    pub(crate) announcer: Option<Announcer>,
    pub(crate) role: Role,
    /// What the proxy before this one knew.
    pub(crate) inherited: Option<InheritedStatus>,
    pub(crate) listener: UnixListener,
    /// What does not work as asked for.
    pub(crate) notices: Vec<Notice>,
}

/// Whether another proxy serves the container at the start.
pub(crate) enum Role {
    /// No: this one relays from the start.
    First,
    /// Yes. `None`: it cannot be reached, because it has ended.
    Successor(Option<Predecessor>),
}

/// The container, and what its kernel shows.
pub(crate) struct Container {
    /// Its full id.
    pub(crate) id: String,
    /// Tells when the container has ended.
    pub(crate) end_watch: EndWatch,
    pub(crate) namespace: NetNs,
    pub(crate) link_monitor: LinkMonitor,
    /// Asks for the container's routes; `None`: nothing is relayed.
    pub(crate) routes: Option<RouteQuery>,
    pub(crate) membership_files: AllMembershipFiles,
    pub(crate) rtnl_barrier: RtnlBarrier,
    /// `None`: no interface has a receive filter, or the kernel has no packet sockets.
    pub(crate) receive_filter_socket: Option<ReceiveFilterSocket>,
    /// `None`: nothing is counted.
    pub(crate) count_sockets: Option<CountSockets>,
    /// `None`: nothing is counted, or the kernel gives no such socket.
    pub(crate) drops: Option<DropCounters>,
}

/// Ask what the kernel has dropped at links.
pub(crate) struct DropCounters {
    /// In the host's namespace.
    pub(crate) host: RouteQuery,
    /// In the container's namespace.
    pub(crate) container: RouteQuery,
}

/// Interception of the container's IGMP and MLD, and of what else its interfaces may not send.
pub(crate) struct Interception {
    /// Owns the nf_tables tables: they are removed when it is closed.
    pub(crate) rules: NfSocket,
    /// `None`: the container's kernel speaks IGMP itself.
    pub(crate) nflog: Option<NflogSocket>,
    /// Keep sockets away that send past the rules.
    pub(crate) guards: XdpGuards,
}

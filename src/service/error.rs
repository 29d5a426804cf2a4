//! Why an attachment was not made, changed or removed.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;

use crate::attachment::{AdminError, NetworkName, SpecError};
use crate::link::PlanError;
use crate::link::apply::ApplyError;

use crate::net::netlink::NetlinkError;
use crate::oci::ContainerId;
use crate::primitives::{InterfaceName, MacAddr};
use crate::proxy::LaunchError;
use crate::state::{ProxyUserError, StateDirError};

/// Why the service refuses or fails: one line that names what is wrong.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// What the administrator allows.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// The container's process has ended.
    #[error("the container's process {0} has ended")]
    Ended(i32),
    /// A path that cannot stand for a container.
    #[error("{}: {why}", path.display())]
    NamespacePath {
        /// The path.
        path: PathBuf,
        /// What is wrong with it, or what to do.
        why: &'static str,
    },
    /// The container has no network of its own.
    #[error(
        "the container shares the host's network namespace: an attachment needs one of its own"
    )]
    HostNetwork,
    /// The namespace is that of an attached container.
    #[error(
        "the container shares the network namespace of container {0}, which is attached: an attachment needs one of its own"
    )]
    AttachedNetwork(ContainerId),
    /// Another container of the pod has asked for something else.
    #[error(
        "the pod of container {0} is attached to something else: all of its containers share that, so ask for the same, or use mcrun attach {0} for more"
    )]
    PodAttached(ContainerId),
    /// Another container that is alive is attached under this id.
    #[error(
        "a container {0} with another process or network namespace is attached; mcrun detach {0} detaches that one"
    )]
    IdInUse(ContainerId),
    /// Another container has the address.
    #[error("ip={net}: {} is the address of container {container}{what}, on {parent}", net.addr())]
    AddressInUse {
        /// What was asked for.
        net: IpNet,
        /// On which LAN.
        parent: InterfaceName,
        /// The name of the container.
        container: String,
        /// What is special about it, with a comma before it.
        what: &'static str,
    },
    /// A station of the LAN has the address.
    #[error(
        "ip={net}: {} is in use on {parent}, by {mac}; give another address (conflict=off takes it all the same)",
        net.addr()
    )]
    AddressConflict {
        /// What was asked for.
        net: IpNet,
        /// On which LAN.
        parent: InterfaceName,
        /// The station.
        mac: MacAddr,
    },
    /// A station of the LAN has the link-local address of the MAC address that was asked for.
    #[error(
        "mac={asked}: {address}, the link-local address that follows from it, is in use on {parent}, by {mac}; give another MAC address (conflict=off takes it all the same)"
    )]
    LinkLocalConflict {
        /// What was asked for.
        asked: MacAddr,
        /// The link-local address.
        address: IpAddr,
        /// On which LAN.
        parent: InterfaceName,
        /// The station.
        mac: MacAddr,
    },
    /// Stations of the LAN have one address of a pool after the other.
    #[error(
        "ip=pool: {count} addresses of network {network} are in use on {parent} by others, the last one, {address}, by {mac}; exclude in its file keeps addresses out of the pool"
    )]
    PoolConflicts {
        /// The network.
        network: NetworkName,
        /// How many addresses were tried.
        count: usize,
        /// On which LAN.
        parent: InterfaceName,
        /// The last one.
        address: IpAddr,
        /// Its station.
        mac: MacAddr,
    },
    /// The LAN could not be asked for an address.
    #[error("cannot ask the LAN for the container's address: {0}; conflict=off does without")]
    Probe(io::Error),
    /// All addresses of a pool are in use.
    #[error(
        "ip=pool: network {network} has no free address in {subnet}: all {count} of its pool are in use (mcrun network leases {network})"
    )]
    PoolExhausted {
        /// The network.
        network: NetworkName,
        /// The subnet.
        subnet: IpNet,
        /// The number of addresses that containers can have.
        count: usize,
    },
    /// No server has given an address.
    #[error("{key}: no server on {parent} has given {interface} an address within {seconds} s")]
    NoLease {
        /// What was asked for.
        key: &'static str,
        /// The interface in the container.
        interface: String,
        /// On which LAN.
        parent: InterfaceName,
        /// How long was waited.
        seconds: u64,
    },
    /// Servers have given addresses that others have.
    #[error(
        "{key}: the server on {parent} gave {interface} the address {address}, which is in use there, by {mac}; it was declined, and no other address came (conflict=off takes it all the same)"
    )]
    LeaseConflict {
        /// What was asked for.
        key: &'static str,
        /// The interface in the container.
        interface: String,
        /// On which LAN.
        parent: InterfaceName,
        /// The last one of those addresses.
        address: IpAddr,
        /// The station.
        mac: MacAddr,
    },
    /// The process that holds a lease.
    #[error("DHCP: cannot start the process that holds the lease: {0}")]
    LeaseHolder(io::Error),
    /// The attachments contradict each other, or those that the container has.
    #[error(transparent)]
    Together(SpecError),
    /// Nothing is attached.
    #[error("container {0} is not attached (mcrun ps shows the attached ones)")]
    NotAttached(ContainerId),
    /// No interface of this name.
    #[error("the container has no attached interface {name}; it has {there}")]
    NoInterface {
        /// What was asked for.
        name: String,
        /// What there is, separated by commas.
        there: String,
    },
    /// An attachment is not as it was made.
    #[error("{0}")]
    Broken(String),
    /// Missing privileges.
    #[error("{0} is missing: attaching a container takes root")]
    Privilege(&'static str),
    /// The caller is root of a user namespace.
    #[error(
        "a rootless engine cannot attach a container: root is needed in the host's user namespace; start the container without attachments, then as root: mcrun attach CONTAINER --mcast ..."
    )]
    Rootless,
    /// The namespace of the container.
    #[error("cannot reach the container's network namespace: {0}")]
    Namespace(#[from] io::Error),
    /// No randomness.
    #[error("cannot get a random number for the proxy's mark: {0}")]
    Mark(io::Error),
    /// Facts could not be read.
    #[error("cannot read the network's state: {0}")]
    Facts(#[from] NetlinkError),
    /// The host and the request do not go together.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The parent cannot have this child beside those that it has.
    #[error("{0}")]
    Parent(String),
    /// A step failed.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// What an interface without a proxy sends cannot be limited.
    #[error(
        "{interface}: this kernel does not take the rules that limit what an interface with igmp=off sends ({source}); they need netdev egress rules (Linux 5.16), and l2=open does without"
    )]
    Unlimited {
        /// The interface in the container.
        interface: String,
        /// What the kernel answered.
        source: io::Error,
    },
    /// The proxy did not start.
    #[error(transparent)]
    Proxy(#[from] LaunchError),
    /// No user for the proxy.
    #[error(transparent)]
    ProxyUser(#[from] ProxyUserError),
    /// The state directory.
    #[error(transparent)]
    StateDir(#[from] StateDirError),
}

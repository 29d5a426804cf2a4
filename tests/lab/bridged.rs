//! Containers on a bridge of the host that carries no multicast to the LAN, as engines make one;
//! and sockets in the lab's namespaces.

use std::io;
use std::marker::PhantomData;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use mcrun::net::netns::NetNs;
use mcrun::sys::sockopt;
use socket2::{Protocol, Socket, Type};

use super::{Container, Family, Lab, PARENT, run};

/// The bridge on the container host.
pub const BRIDGE: &str = "engine0";
/// Its address.
pub const BRIDGE_ADDRESS: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 1);

impl Lab {
    /// Makes the bridge.
    pub fn add_bridge(&self) {
        self.add_bridge_on("host");
    }

    /// Makes such a bridge on any node.
    pub fn add_bridge_on(&self, node: &str) {
        self.ip(node, &format!("link add {BRIDGE} type bridge mcast_snooping 1"));
        self.ip(node, &format!("addr add {BRIDGE_ADDRESS}/24 dev {BRIDGE}"));
        self.ip(node, &format!("link set {BRIDGE} up"));
    }

    /// Gives a container `eth0` on the bridge, as an engine does.
    pub fn plug(&self, container: &Container, number: u8) -> Ipv4Addr {
        let address = self.plug_on("host", container, "eth0", number);
        let gateway = BRIDGE_ADDRESS.to_string();
        run(container.enter("ip").args(["route", "add", "default", "via", &gateway]));
        address
    }

    /// Gives a container an interface on the bridge of a node.
    pub fn plug_on(&self, node: &str, container: &Container, name: &str, number: u8) -> Ipv4Addr {
        let address = Ipv4Addr::new(172, 30, 0, number);
        let pid = container.pid;
        let outer = format!("v{pid}-{number}");
        self.ip(node, &format!("link add {outer} type veth peer name {name} netns {pid}"));
        self.ip(node, &format!("link set {outer} master {BRIDGE} up"));
        for words in [
            "link set lo up".to_owned(),
            format!("addr add {address}/24 dev {name}"),
            format!("link set {name} up"),
        ] {
            run(container.enter("ip").args(words.split(' ')));
        }
        address
    }

    /// A namespace of the lab.
    pub fn net(&self, node: &str) -> NetNs {
        let file = format!("/run/netns/{}", self.namespace(node));
        NetNs::open(Path::new(&file)).expect("the namespace is there")
    }

    /// Runs a function in a namespace of the lab.
    pub fn run_in<T>(&self, node: &str, function: impl FnOnce() -> T) -> T {
        self.net(node).run(function).expect("entered")
    }

    /// A UDP socket in a namespace of the lab that sends multicast by the LAN interface.
    pub fn socket<A: Family>(&self, node: &str, address: A, port: u16) -> Udp<A> {
        Udp::open(&self.net(node), address, port, PARENT)
    }
}

impl Container {
    /// A UDP socket in the container that sends and joins by its `eth0`.
    pub fn socket(&self, port: u16) -> Udp {
        self.socket_on("eth0", port)
    }

    /// A UDP socket in the container that sends and joins by another interface.
    pub fn socket_on(&self, interface: &str, port: u16) -> Udp {
        self.socket_of(interface, port)
    }

    /// The same in any address family.
    pub fn socket_of<A: Family>(&self, interface: &str, port: u16) -> Udp<A> {
        Udp::open(&self.namespace(), A::UNSPECIFIED, port, interface)
    }
}

/// A UDP socket, and the interface that it is about.
pub struct Udp<A = Ipv4Addr> {
    pub socket: std::net::UdpSocket,
    index: u32,
    family: PhantomData<A>,
}

impl<A: Family> Udp<A> {
    /// One in a namespace, bound to an address and a port, which others may have too.
    pub fn open(net: &NetNs, address: A, port: u16, interface: &str) -> Self {
        let open = || -> io::Result<Self> {
            let socket = Socket::new(A::DOMAIN, Type::DGRAM, Some(Protocol::UDP))?;
            socket.set_reuse_address(true)?;
            A::receive_own_groups(&socket)?;
            let _ = sockopt::grow_receive_buffer(&socket, 8 << 20)?;
            let local: SocketAddr = address.with_port(port, 0).into();
            socket.bind(&local.into())?;
            let index = nix::net::if_::if_nametoindex(interface)?;
            sockopt::set_multicast_interface(&socket, index, A::UNSPECIFIED.into())?;
            Ok(Udp { socket: socket.into(), index, family: PhantomData })
        };
        net.run(open).expect("entered").expect("socket")
    }

    /// A socket that the test has opened.
    pub fn of(socket: std::net::UdpSocket) -> Self {
        Udp { socket, index: 0, family: PhantomData }
    }

    pub fn join(&self, group: A) {
        sockopt::join_group(&self.socket, self.index, group).expect("join");
    }

    pub fn join_source(&self, group: A, source: A) {
        sockopt::join_source_group(&self.socket, self.index, group, source).expect("join");
    }

    pub fn leave(&self, group: A) {
        sockopt::leave_group(&self.socket, self.index, group).expect("leave");
    }

    /// The time to live, or the hop limit, of what it sends to a group.
    pub fn set_ttl(&self, ttl: i32) {
        let (level, option) = A::MULTICAST_HOPS;
        sockopt::set_int(&self.socket, level, option, ttl).expect("ttl");
    }

    pub fn send(&self, payload: &[u8], to: (A, u16)) {
        let sent = self.try_send(payload, to).unwrap_or_else(|e| panic!("{to:?}: {e}"));
        assert_eq!(sent, payload.len());
    }

    /// Sends to an address and a port.
    ///
    /// # Errors
    /// Those of sendto(2): `EADDRNOTAVAIL` while an address of IPv6 is tried.
    pub fn try_send(&self, payload: &[u8], (address, port): (A, u16)) -> io::Result<usize> {
        self.socket.send_to(payload, address.with_port(port, self.index).into())
    }

    /// The next datagram and its source, within `limit`.
    pub fn receive(&self, limit: Duration) -> Option<(Vec<u8>, A::SocketAddress)> {
        self.socket.set_read_timeout(Some(limit)).expect("timeout");
        // Its own allocation for each datagram, of the datagram's size: tests keep 100 000 of them.
        let mut buffer = [0; 65536];
        match self.socket.recv_from(&mut buffer) {
            Ok((length, from)) => {
                let from = A::socket_address(from).expect("of its family");
                Some((buffer[..length].to_vec(), from))
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                None
            }
            // A child of the test has ended.
            Err(e) if e.kind() == io::ErrorKind::Interrupted => self.receive(limit),
            Err(e) => panic!("receive: {e}"),
        }
    }

    /// All that comes before the datagram `marker`. Sent last and on the way that others could
    /// come, it shows that no more of them come.
    pub fn receive_until(&self, marker: &str) -> Vec<(Vec<u8>, A::SocketAddress)> {
        let mut received = Vec::new();
        loop {
            match self.receive(super::PATIENCE) {
                Some((bytes, _)) if bytes == marker.as_bytes() => return received,
                Some(datagram) => received.push(datagram),
                None => panic!("{marker:?} did not come behind {} datagrams", received.len()),
            }
        }
    }
}

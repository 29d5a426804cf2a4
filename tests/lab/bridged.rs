//! Containers on a bridge of the host that carries no multicast to the LAN, as engines make one;
//! and sockets in the lab's namespaces.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;
use std::time::Duration;

use mcrun::net::netns::NetNs;
use socket2::{Domain, Protocol, Socket, Type};

use super::{Container, Lab, PARENT, run};

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
    pub fn socket(&self, node: &str, address: Ipv4Addr, port: u16) -> Udp {
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
        Udp::open(&self.namespace(), Ipv4Addr::UNSPECIFIED, port, interface)
    }
}

/// A UDP socket, and the interface that it is about.
pub struct Udp {
    pub socket: std::net::UdpSocket,
    index: u32,
}

impl Udp {
    /// One in a namespace, bound to an address and a port, which others may have too.
    pub fn open(net: &NetNs, address: Ipv4Addr, port: u16, interface: &str) -> Udp {
        let open = || -> io::Result<Udp> {
            let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
            socket.set_reuse_address(true)?;
            socket.set_multicast_all_v4(false)?;
            let _ = mcrun::sys::sockopt::grow_receive_buffer(&socket, 8 << 20)?;
            socket.bind(&SocketAddrV4::new(address, port).into())?;
            let index = nix::net::if_::if_nametoindex(interface)?;
            let any = Ipv4Addr::new(224, 0, 0, 1);
            mcrun::sys::sockopt::set_multicast_interface(&socket, index, any.into())?;
            Ok(Udp { socket: socket.into(), index })
        };
        net.run(open).expect("entered").expect("socket")
    }

    /// A socket that the test has opened.
    pub fn of(socket: std::net::UdpSocket) -> Udp {
        Udp { socket, index: 0 }
    }

    pub fn join(&self, group: Ipv4Addr) {
        mcrun::sys::sockopt::join_group(&self.socket, self.index, group).expect("join");
    }

    pub fn join_source(&self, group: Ipv4Addr, source: Ipv4Addr) {
        mcrun::sys::sockopt::join_source_group(&self.socket, self.index, group, source)
            .expect("join");
    }

    pub fn leave(&self, group: Ipv4Addr) {
        mcrun::sys::sockopt::leave_group(&self.socket, self.index, group).expect("leave");
    }

    pub fn set_ttl(&self, ttl: u32) {
        self.socket.set_multicast_ttl_v4(ttl).expect("ttl");
    }

    pub fn send(&self, payload: &[u8], to: (Ipv4Addr, u16)) {
        let sent = self.socket.send_to(payload, to).unwrap_or_else(|e| panic!("{to:?}: {e}"));
        assert_eq!(sent, payload.len());
    }

    /// The next datagram and its source, within `limit`.
    pub fn receive(&self, limit: Duration) -> Option<(Vec<u8>, SocketAddrV4)> {
        self.socket.set_read_timeout(Some(limit)).expect("timeout");
        // Its own allocation for each datagram, of the datagram's size: tests keep 100 000 of them.
        let mut buffer = [0; 65536];
        match self.socket.recv_from(&mut buffer) {
            Ok((length, std::net::SocketAddr::V4(from))) => Some((buffer[..length].to_vec(), from)),
            Ok((_, other)) => panic!("{other}"),
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
    pub fn receive_until(&self, marker: &str) -> Vec<(Vec<u8>, SocketAddrV4)> {
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

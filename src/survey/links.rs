//! The links of the host and their addresses.

use ipnet::IpNet;

use crate::net::messages::{Link, get_addresses, get_links, read_link, read_network};
use crate::net::netlink::{NetlinkError, RouteSocket};

/// The links of one network namespace and their addresses, read at once.
#[derive(Debug, Clone, Default)]
pub struct HostLinks {
    /// All links, in the order of their indexes.
    pub links: Vec<Link>,
    /// All addresses, each with the index of its link.
    pub networks: Vec<(u32, IpNet)>,
}

impl HostLinks {
    /// Reads those of the caller's namespace.
    ///
    /// # Errors
    /// The kernel's.
    pub fn read() -> Result<Self, NetlinkError> {
        let mut socket = RouteSocket::open()?;
        let links = socket.dump(get_links())?.into_iter().filter_map(read_link).collect();
        let networks = socket.dump(get_addresses())?;
        Ok(HostLinks { links, networks: networks.into_iter().filter_map(read_network).collect() })
    }

    /// The link of this name.
    pub fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }

    /// The addresses of a link.
    pub fn networks_of(&self, index: u32) -> impl Iterator<Item = IpNet> {
        self.networks.iter().filter(move |(of, _)| *of == index).map(|(_, network)| *network)
    }

    /// Whether a link is a bridge that leads to no LAN: a container engine's, or one without ports.
    pub fn is_bridge_without_lan(&self, link: &Link) -> bool {
        if link.kind.as_deref() != Some("bridge") {
            return false;
        }
        let is_port =
            |other: &Link| other.port_of.as_ref().is_some_and(|(of, _)| *of == link.index);
        is_engines(&link.name) || !self.links.iter().any(is_port)
    }
}

/// Whether docker, podman, nerdctl, CNI, LXC or libvirt gives its own bridges such a name.
fn is_engines(name: &str) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let numbered = ["docker", "podman", "cni-podman", "cni", "nerdctl", "lxcbr", "lxdbr", "virbr"];
    let is_network = |text: &str| text.len() == 12 && text.bytes().all(|b| b.is_ascii_hexdigit());
    numbered.iter().any(|begin| name.strip_prefix(begin).is_some_and(is_number))
        || name == "docker_gwbridge"
        || name.strip_prefix("br-").is_some_and(is_network)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engines_bridges_have_their_names() {
        for name in ["docker0", "br-0123456789ab", "podman1", "cni-podman0", "cni0", "virbr0"] {
            assert!(is_engines(name), "{name}");
        }
        for name in ["br0", "br-lan", "docker", "dockerx", "vmbr0", "eth0", "br-0123456789ax"] {
            assert!(!is_engines(name), "{name}");
        }
    }
}

//! Packets that leave by an interface without an address, with that of another one.

use std::net::Ipv4Addr;

use ipnet::IpNet;

use crate::attachment::Attachment;
use crate::net::netns::NetNs;
use crate::notice::Notice;
use crate::survey::HostLinks;

/// Index of loopback, the first interface of every namespace.
const LOOPBACK: u32 = 1;

/// What is said of an interface that has sent and has no IPv4 address, in the namespace of this
/// process: a kernel takes the address of another interface then.
///
/// Without an address of IPv6, which the attachment has none of, only IPv4 leaves it. With `l2=open`
/// anything may have left, and nothing is said.
pub fn foreign_source(pid: i32, interface: &str, attachment: &Attachment) -> Option<Notice> {
    if !attachment.is_limited() || !attachment.ip.addresses().is_empty() {
        return None;
    }
    let counts = std::fs::read_to_string(format!("/proc/{pid}/net/dev")).ok()?;
    if sent(&counts, interface)? == 0 {
        return None;
    }
    let links = NetNs::of_pid(pid).ok()?.run(HostLinks::read).ok()?.ok()?;
    let address = foreign(&links, interface)?;
    Some(Notice::ForeignSource { interface: interface.to_owned(), address })
}

/// Packets that an interface has sent, from the lines of /proc/net/dev (`dev_seq_printf_stats` in
/// net/core/net-procfs.c).
fn sent(counts: &str, interface: &str) -> Option<u64> {
    let line = counts.lines().find_map(|line| line.trim().strip_prefix(interface));
    line?.strip_prefix(':')?.split_whitespace().nth(9)?.parse().ok()
}

/// The first IPv4 address of another interface, where this one has none.
fn foreign(links: &HostLinks, interface: &str) -> Option<Ipv4Addr> {
    let own = links.link(interface)?.index;
    let addresses = || {
        links.networks.iter().filter_map(|(index, network)| match network {
            IpNet::V4(network) => Some((*index, network.addr())),
            IpNet::V6(_) => None,
        })
    };
    if addresses().any(|(index, _)| index == own) {
        return None;
    }
    addresses().find(|(index, _)| *index != LOOPBACK).map(|(_, address)| address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::messages::Link;

    #[test]
    fn packets_sent_are_read_of_the_interface_alone() {
        let counts = "Inter-|   Receive  |  Transmit\n face |bytes    packets\n    lo:       0       0    \
                      0    0    0     0          0         0        0       1    0    0    0     0  \
                      0          0\n   mc0: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n  mc01:1 2 3 4 5 \
                      6 7 8 9 11 11 12 13 14 15 16\n";
        assert_eq!(sent(counts, "mc0"), Some(10));
        assert_eq!(sent(counts, "mc01"), Some(11));
        assert_eq!(sent(counts, "mc"), None);
        assert_eq!(sent("mc0: 1 2", "mc0"), None);
    }

    #[test]
    fn an_interface_with_an_address_sends_with_it() {
        let link = |index, name: &str| Link { index, name: name.to_owned(), ..Link::default() };
        let networks = |of: &[(u32, &str)]| HostLinks {
            links: vec![link(1, "lo"), link(2, "eth0"), link(3, "mc0")],
            networks: of.iter().map(|(index, net)| (*index, net.parse().unwrap())).collect(),
        };
        let docker = (2, "172.17.0.2/16");
        let found = foreign(&networks(&[(1, "127.0.0.1/8"), (3, "fe80::1/64"), docker]), "mc0");
        assert_eq!(found, Some(Ipv4Addr::new(172, 17, 0, 2)));
        assert_eq!(foreign(&networks(&[docker, (3, "10.0.0.5/24")]), "mc0"), None);
        assert_eq!(foreign(&networks(&[(1, "127.0.0.1/8")]), "mc0"), None);
    }
}

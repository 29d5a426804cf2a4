//! Answers that leave by an interface of mcrun's from the address of another one, which was asked.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnet::{IpNet, Ipv4Net};

use crate::net::netns::NetNs;
use crate::net::route_query::RouteQuery;
use crate::notice::Notice;
use crate::survey::HostLinks;

/// Who gets no answer from the container of a process, of those that mcrun's `interfaces` lead to: the
/// kernel is asked by which interface an answer would leave. IPv4 alone. A container with no default
/// route but mcrun's cannot be asked from there.
pub fn answers_elsewhere(pid: i32, interfaces: &[&str]) -> Vec<Notice> {
    let read = std::fs::read_to_string(format!("/proc/{pid}/net/route"));
    if !read.is_ok_and(|table| has_other_default(&table, interfaces)) {
        return Vec::new();
    }
    let look = || {
        let links = HostLinks::read().ok()?;
        Some(find(&links, interfaces, &RouteQuery::open().ok()?))
    };
    let found = NetNs::of_pid(pid).ok().and_then(|namespace| namespace.run(look).ok());
    found.flatten().unwrap_or_default()
}

/// Whether a default route leads through another interface than these, by the lines of /proc/net/route
/// (`fib_route_seq_show` in net/ipv4/fib_trie.c).
fn has_other_default(table: &str, interfaces: &[&str]) -> bool {
    table.lines().skip(1).any(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        fields.get(1) == Some(&"00000000")
            && fields.get(7) == Some(&"00000000")
            && !interfaces.contains(&fields[0])
    })
}

fn find(links: &HostLinks, interfaces: &[&str], query: &RouteQuery) -> Vec<Notice> {
    let indexes = interfaces.iter().filter_map(|name| links.link(name)).map(|link| link.index);
    let own: BTreeSet<u32> = indexes.collect();
    let of_v4 = |(index, network): &(u32, IpNet)| match network {
        IpNet::V4(network) => Some((*index, *network)),
        IpNet::V6(_) => None,
    };
    let others = links.networks.iter().filter_map(of_v4).filter(|(index, network)| {
        !own.contains(index) && !network.addr().is_loopback() && !network.addr().is_link_local()
    });
    let others: Vec<_> = others.map(|(_, network)| network.addr()).collect();
    let near = links.networks.iter().filter_map(of_v4).filter(|(index, _)| own.contains(index));
    let found = near.filter_map(|(index, network)| {
        let neighbour = neighbour(network)?;
        let leaves_here = |from: &&Ipv4Addr| {
            query.interface_from(**from, neighbour).is_ok_and(|by| by == Some(index))
        };
        let address = *others.iter().find(leaves_here)?;
        let interface = links.links.iter().find(|link| link.index == index)?.name.clone();
        Some(Notice::AnswersElsewhere { interface, address, network: network.trunc().to_string() })
    });
    found.collect()
}

/// Another address of a network than this one.
fn neighbour(network: Ipv4Net) -> Option<Ipv4Addr> {
    network.hosts().find(|host| *host != network.addr())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_default_route_of_another_interface_is_seen() {
        let table = |lines: &str| {
            format!(
                "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n{lines}"
            )
        };
        let mc0 = "mc0\t00000000\t0100630A\t0003\t0\t0\t500\t00000000\t0\t0\t0\n";
        let eth0 = "eth0\t00000000\t010011AC\t0003\t0\t0\t0\t00000000\t0\t0\t0\n";
        let half = "eth0\t00000000\t010011AC\t0003\t0\t0\t0\t00000080\t0\t0\t0\n";
        for (lines, is_seen) in
            [("", false), (mc0, false), (half, false), (eth0, true), ("x", false)]
        {
            assert_eq!(has_other_default(&table(lines), &["mc0"]), is_seen, "{lines}");
        }
        assert!(has_other_default(&table(&[mc0, eth0].concat()), &["mc0"]));
    }

    #[test]
    fn a_neighbour_has_another_address() {
        let of = |network: &str| neighbour(network.parse().unwrap());
        assert_eq!(of("10.0.0.1/24"), Some([10, 0, 0, 2].into()));
        assert_eq!(of("10.0.0.9/24"), Some([10, 0, 0, 1].into()));
        assert_eq!(of("10.0.0.0/31"), Some([10, 0, 0, 1].into()));
        assert_eq!(of("10.0.0.1/32"), None);
    }
}

//! Answers leave by the interface that was asked.
//!
//! An engine forwards what comes to a published port to the container's address on its own network,
//! with the client's address as the source. With an attachment the container may reach that client by
//! the LAN interface, and would answer there, from an address that the client has not asked. So what the
//! container sends from an address of such another interface goes by that interface, wherever it would
//! leave by one of mcrun's; everything else goes as it did.
//!
//! Two rules for each address do that: the table `main` without the interfaces of mcrun's, which are a
//! group; then, for what was passed over, a table with the other interface's own networks and default
//! route. Neither names an interface of mcrun's, so that these may go and come.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::net::messages::{
    CHILD_GROUP, Link, delete_route, get_addresses, get_links, read_link, read_network,
};
use crate::net::netlink::{
    NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NetlinkError, Request, RouteSocket,
};
use crate::net::source_routing::{
    DefaultRoute, MAIN, SourceRule, delete_rule, get_routes_of_table, get_rules, is_of_table,
    new_rule, read_default_route, read_rule, route_in_table,
};

/// Priorities of the two rules: "mc", as in [`CHILD_GROUP`], and the next one. They come before the
/// table `main`, and after what an administrator gives a small number.
const PRIORITIES: [u32; 2] = [CHILD_GROUP >> 16, (CHILD_GROUP >> 16) + 1];

/// An interface that is not mcrun's, and the way back to who has asked there.
#[derive(Debug, PartialEq, Eq)]
struct WayBack {
    index: u32,
    /// Its addresses of one family.
    networks: Vec<IpNet>,
    /// The next hop of its default route; on-link when absent.
    gateway: Option<IpAddr>,
}

impl WayBack {
    /// The number of the table that is the interface's own.
    fn table(&self) -> u32 {
        CHILD_GROUP.wrapping_add(self.index)
    }

    fn rules(&self) -> impl Iterator<Item = SourceRule> {
        let [first, second] = PRIORITIES;
        let own = self.table();
        self.networks.iter().flat_map(move |network| {
            let source = network.addr();
            let without_group = Some(CHILD_GROUP);
            [
                SourceRule { priority: first, source, table: MAIN, without_group },
                SourceRule { priority: second, source, table: own, without_group: None },
            ]
        })
    }

    fn routes(&self) -> impl Iterator<Item = Request> {
        let (index, table) = (self.index, self.table());
        let near = self.networks.iter().map(|network| (network.trunc(), None));
        let everything = match self.networks.first() {
            Some(IpNet::V6(_)) => IpNet::V6(Ipv6Net::default()),
            _ => IpNet::V4(Ipv4Net::default()),
        };
        let all = near.chain([(everything, self.gateway)]);
        all.map(move |(to, gateway)| {
            (route_in_table(index, to, gateway, table), NLM_F_CREATE | NLM_F_REPLACE)
        })
    }
}

/// Makes answers leave by the interface that was asked, as far as interfaces with a default route are
/// there. What stands already stays. `made` are the indexes of mcrun's own interfaces, as far as they are
/// known. Returns whether there was a rule to add.
///
/// # Errors
/// The kernel's first refusal, such as that of a kernel without rules (`CONFIG_IP_MULTIPLE_TABLES`).
pub fn keep_answers(container: &mut RouteSocket, made: &[u32]) -> Result<bool, NetlinkError> {
    let networks = container.dump(get_addresses())?.into_iter().filter_map(read_network);
    let asked = networks.filter(|(_, network)| is_asked(network.addr()));
    let networks: Vec<_> = asked.filter(|(index, _)| !made.contains(index)).collect();
    if networks.is_empty() {
        return Ok(false);
    }
    let links = container.dump(get_links())?.into_iter().filter_map(read_link).collect::<Vec<_>>();
    let (mut requests, mut rules) = (Vec::new(), Vec::new());
    for v6 in [false, true] {
        let of_family = networks.iter().filter(|(_, network)| network.addr().is_ipv6() == v6);
        let of_family: Vec<_> = of_family.copied().collect();
        // Where no other program has an interface, nobody asks for routes.
        if !of_family.iter().any(|(index, _)| is_others(&links, *index)) {
            continue;
        }
        let routes = container.filtered_dump(get_routes_of_table(v6, MAIN))?;
        let routes: Vec<_> = routes.into_iter().filter_map(read_default_route).collect();
        let ways = ways_back(&links, &of_family, &routes);
        requests.extend(ways.iter().flat_map(WayBack::routes));
        rules.extend(ways.iter().flat_map(WayBack::rules));
    }
    let count = rules.len();
    // The rules come last: none leads to an empty table.
    requests.extend(rules.into_iter().map(|rule| (new_rule(rule), NLM_F_CREATE | NLM_F_EXCL)));
    let refused = container.batch(requests)?;
    let there = refused.iter().filter(|(_, error)| error.errno == libc::EEXIST).count();
    match refused.into_iter().find(|(_, error)| error.errno != libc::EEXIST) {
        Some((_, error)) => Err(error),
        None => Ok(there < count),
    }
}

/// Whether an address may be asked from elsewhere.
fn is_asked(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local(),
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local(),
    }
}

/// Whether the link of this index is up and another program's.
fn is_others(links: &[Link], index: u32) -> bool {
    let link = links.iter().find(|link| link.index == index);
    link.is_some_and(|link| link.up && !link.loopback && link.group != Some(CHILD_GROUP))
}

/// The other interfaces with addresses and a default route of one family.
fn ways_back(links: &[Link], networks: &[(u32, IpNet)], routes: &[DefaultRoute]) -> Vec<WayBack> {
    let others = links.iter().map(|link| link.index).filter(|index| is_others(links, *index));
    let ways = others.filter_map(|index| {
        let of_it = networks.iter().filter(|(of, _)| *of == index);
        let networks: Vec<_> = of_it.map(|(_, network)| *network).collect();
        let through = routes.iter().filter(|route| route.index == index);
        let gateway = through.min_by_key(|route| route.metric)?.gateway;
        (!networks.is_empty()).then_some(WayBack { index, networks, gateway })
    });
    ways.collect()
}

/// The rules for answers that are there.
///
/// # Errors
/// The kernel's.
pub fn rules_for_answers(container: &mut RouteSocket) -> Result<Vec<SourceRule>, NetlinkError> {
    let [first, second] = PRIORITIES;
    let is_own = |rule: &SourceRule| match rule.without_group {
        Some(group) => rule.priority == first && group == CHILD_GROUP,
        None => rule.priority == second && rule.table > CHILD_GROUP,
    };
    let mut found = Vec::new();
    for v6 in [false, true] {
        match container.dump(get_rules(v6)) {
            Ok(rules) => found.extend(rules.into_iter().filter_map(read_rule).filter(is_own)),
            // A kernel without rules, or without this family.
            Err(error) if matches!(error.errno, libc::EOPNOTSUPP | libc::EAFNOSUPPORT) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// Takes the rules and their tables away, unless an interface of mcrun's is there.
///
/// # Errors
/// The kernel's first refusal.
pub fn release_answers(container: &mut RouteSocket) -> Result<(), NetlinkError> {
    let mut links = container.dump(get_links())?.into_iter().filter_map(read_link);
    if links.any(|link| link.group == Some(CHILD_GROUP)) {
        return Ok(());
    }
    let mut requests = Vec::new();
    for rule in rules_for_answers(container)? {
        requests.push((delete_rule(rule), 0));
        if rule.table != MAIN {
            requests.extend(routes_of(rule, container)?);
        }
    }
    let gone = |errno| matches!(errno, libc::ENOENT | libc::ESRCH);
    let refused = container.batch(requests)?;
    match refused.into_iter().find(|(_, error)| !gone(error.errno)) {
        Some((_, error)) => Err(error),
        None => Ok(()),
    }
}

/// Requests that take the routes of a rule's table away.
fn routes_of(
    rule: SourceRule,
    container: &mut RouteSocket,
) -> Result<impl Iterator<Item = Request>, NetlinkError> {
    let table = rule.table;
    let routes = container.filtered_dump(get_routes_of_table(rule.source.is_ipv6(), table))?;
    let own = routes.into_iter().filter(move |route| is_of_table(route, table));
    Ok(own.map(|route| (delete_route(route), 0)))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::net::netns::NetNs;

    /// A namespace with `eth0`, which has addresses and default routes, and `mc0` of mcrun's.
    fn container() -> NetNs {
        let namespace = NetNs::create().unwrap();
        let group = format!("link set mc0 group {CHILD_GROUP}");
        let others = [
            "link add eth0 type veth peer name out",
            "link add mc0 type veth peer name lan",
            &group,
            "addr add 172.30.0.10/24 dev eth0",
            "addr add fd00:30::10/64 dev eth0 nodad",
            "addr add 10.99.0.11/24 dev mc0",
            "addr add fd00:99::11/64 dev mc0 nodad",
            "link set lo up",
            "link set out up",
            "link set lan up",
            "link set eth0 up",
            "link set mc0 up",
            "route add default via 172.30.0.1",
            "-6 route add default via fd00:30::1",
        ];
        for words in others {
            ip(&namespace, words);
        }
        namespace
    }

    fn ip(namespace: &NetNs, words: &str) -> String {
        let mut command = Command::new("ip");
        command.args(words.split(' '));
        let output = namespace.enter_on_exec(&mut command).unwrap().output().unwrap();
        assert!(output.status.success(), "{words}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The interface by which a packet leaves.
    fn leaves_by(namespace: &NetNs, to: &str, from: &str) -> String {
        let route = ip(namespace, format!("route get {to} {from}").trim_end());
        let device = route.split_once(" dev ").unwrap().1.split(' ').next().unwrap();
        device.to_owned()
    }

    #[test]
    fn what_is_sent_from_another_interface_goes_by_it_and_nothing_else_changes() {
        let namespace = container();
        let mut socket = RouteSocket::open_in(&namespace).unwrap();
        let rules = || [ip(&namespace, "rule"), ip(&namespace, "-6 rule")];
        let before = rules();
        assert_eq!(leaves_by(&namespace, "10.99.0.3", "from 172.30.0.10"), "mc0");
        assert!(keep_answers(&mut socket, &[]).unwrap());
        let kept = rules();
        assert!(!keep_answers(&mut socket, &[]).unwrap(), "all of it stands");
        assert_eq!(rules(), kept);
        for (to, from, device) in [
            ("10.99.0.3", "from 172.30.0.10", "eth0"),
            ("fd00:99::3", "from fd00:30::10", "eth0"),
            ("172.30.0.7", "from 172.30.0.10", "eth0"),
            ("10.99.0.3", "", "mc0"),
            ("10.99.0.3", "from 10.99.0.11", "mc0"),
            ("fd00:99::3", "from fd00:99::11", "mc0"),
            ("fd00:99::3", "", "mc0"),
            ("192.0.2.1", "", "eth0"),
            ("239.1.1.1", "oif mc0", "mc0"),
        ] {
            assert_eq!(leaves_by(&namespace, to, from), device, "{to} {from}");
        }
        // A default route of mcrun's that counts first.
        ip(&namespace, "route replace default via 10.99.0.1 metric 0 dev mc0");
        assert_eq!(leaves_by(&namespace, "192.0.2.1", ""), "mc0");
        assert_eq!(leaves_by(&namespace, "192.0.2.1", "from 172.30.0.10"), "eth0");
        // They stay as long as an interface of mcrun's does, whichever that is.
        release_answers(&mut socket).unwrap();
        assert_eq!(rules(), kept);
        assert_eq!(rules_for_answers(&mut socket).unwrap().len(), 4);
        ip(&namespace, "link del mc0");
        release_answers(&mut socket).unwrap();
        assert_eq!(rules(), before);
        for family in ["-4", "-6"] {
            let all = ip(&namespace, &format!("{family} -N route show table all"));
            assert!(!all.contains(&format!("table {}", CHILD_GROUP >> 16)), "{all}");
        }
    }

    #[test]
    fn an_interface_without_a_default_route_gets_no_rules() {
        let namespace = container();
        ip(&namespace, "route del default");
        ip(&namespace, "-6 route del default");
        let mut socket = RouteSocket::open_in(&namespace).unwrap();
        assert!(!keep_answers(&mut socket, &[]).unwrap());
        // Nor does a namespace without an interface of another program's.
        ip(&namespace, "link del eth0");
        assert!(!keep_answers(&mut socket, &[]).unwrap());
        assert!(ip(&namespace, "rule").lines().count() <= 3);
    }
}

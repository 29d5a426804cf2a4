//! What is odd of an attachment: it works, and often means something else than was wanted.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use crate::attachment::{Attachment, Driver};
use crate::multicast::GroupRule;
use crate::notice::Notice;
use crate::primitives::IpvlanMode;
use crate::survey::HostLinks;

/// What is odd of the attachment of a container's interface, on a host with these links.
pub fn advice(interface: &str, attachment: &Attachment, links: &HostLinks) -> Vec<Notice> {
    let mut notices = Vec::new();
    notices.extend(outside_subnet(interface, attachment, links));
    let parent = links.link(attachment.parent_link().as_str());
    if parent.is_some_and(|parent| links.is_bridge_without_lan(parent)) {
        let (interface, parent) = (interface.to_owned(), attachment.parent_link().to_string());
        notices.push(Notice::ParentWithoutLan { interface, parent });
    }
    let policy = &attachment.policy;
    let rules = policy.allow.iter().map(|rule| ("allow", rule));
    for (key, rule) in rules.chain(policy.deny.iter().map(|rule| ("deny", rule))) {
        if let Some(range) = meant_range(rule) {
            let rule = format!("{key}={rule}");
            notices.push(Notice::RuleForOneAddress {
                interface: interface.to_owned(),
                rule,
                range,
            });
        }
    }
    notices
}

/// Whom a published UDP port of the container may not answer. A question that the engine has forwarded
/// comes by the engine's own network, from an address that the container reaches by the interface. The
/// answer leaves there, from an address that nobody has asked, unless the program answers from the
/// address that was asked; TCP always does. IPv4 alone.
pub(super) fn unanswered(interface: &str, attachment: &Attachment) -> Option<String> {
    if matches!(attachment.driver, Driver::Relay { .. }) {
        return None;
    }
    let v4 = |networks: &mut dyn Iterator<Item = IpNet>| -> Vec<String> {
        let networks = networks.filter(|network| matches!(network, IpNet::V4(_)));
        networks.map(|network| network.trunc().to_string()).collect()
    };
    let addresses = attachment.ip.addresses();
    let address = addresses.iter().find(|address| matches!(address, IpNet::V4(_)))?.addr();
    let near = v4(&mut addresses.iter().copied());
    let far = v4(&mut attachment.routes.iter().map(|route| route.destination));
    let whom = match attachment.gateways.iter().any(IpAddr::is_ipv4) {
        true => "no other host".to_owned(),
        false => format!("no host of {}", [near, far].concat().join(", ")),
    };
    Some(format!(
        "{interface}: {whom} gets an answer from a published UDP port, unless the program answers \
         from the address that was asked; the container itself is there at {address}"
    ))
}

/// Addresses in none of the parent's subnets. A parent without an address has no subnet, and a
/// layer 3 mode has subnets of its own.
fn outside_subnet(interface: &str, attachment: &Attachment, links: &HostLinks) -> Vec<Notice> {
    let is_routed = matches!(
        attachment.driver,
        Driver::Relay { .. } | Driver::Ipvlan { mode: IpvlanMode::L3 | IpvlanMode::L3s, .. }
    );
    let parent = attachment.parent_link();
    let Some(link) = links.link(parent.as_str()).filter(|_| !is_routed) else { return Vec::new() };
    let outside = attachment.ip.addresses().iter().filter_map(|address| {
        let is_like = |network: &IpNet| match (network, address) {
            (IpNet::V4(_), IpNet::V4(_)) => true,
            (IpNet::V6(network), IpNet::V6(_)) => !network.addr().is_unicast_link_local(),
            _ => false,
        };
        let mut subnets = links.networks_of(link.index).filter(is_like);
        let first = subnets.next()?;
        let has = |subnet: IpNet| subnet.contains(&address.addr());
        let is_inside = has(first) || subnets.any(has);
        (!is_inside).then(|| Notice::AddressOutsideSubnet {
            interface: interface.to_owned(),
            parent: parent.to_string(),
            address: address.to_string(),
            subnet: first.trunc().to_string(),
        })
    });
    outside.collect()
}

/// The range that a rule may mean which covers one group or one source: its address ends with
/// octets of 0.
fn meant_range(rule: &GroupRule) -> Option<String> {
    let wider = |net: &IpNet| match net {
        IpNet::V4(net) if net.prefix_len() == 32 => trailing(net.addr()),
        _ => None,
    };
    let text = |net: &IpNet, length: Option<u8>| match length {
        Some(length) => format!("{}/{length}", net.addr()),
        None if net.prefix_len() == net.max_prefix_len() => net.addr().to_string(),
        None => net.to_string(),
    };
    let groups = wider(&rule.groups);
    let sources = rule.sources.as_ref().and_then(wider);
    if groups.is_none() && sources.is_none() {
        return None;
    }
    let sources = rule.sources.as_ref().map(|net| format!("@{}", text(net, sources)));
    Some(text(&rule.groups, groups) + &sources.unwrap_or_default())
}

/// The prefix length without the octets of 0 at the end; `None` if there are none.
fn trailing(address: Ipv4Addr) -> Option<u8> {
    let octets = address.octets();
    let zeros = octets.iter().rev().take_while(|octet| **octet == 0).count() as u8;
    match octets {
        // All groups.
        [224, 0, 0, 0] => Some(4),
        _ => (zeros > 0).then_some(32 - 8 * zeros),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attachment::parse_spec;
    use crate::net::messages::Link;

    fn links() -> HostLinks {
        let link = |index, name: &str, kind: Option<&str>, port_of| Link {
            index,
            name: name.to_owned(),
            kind: kind.map(str::to_owned),
            port_of,
            ..Link::default()
        };
        HostLinks {
            links: vec![
                link(1, "lan0", None, None),
                link(2, "docker0", Some("bridge"), None),
                link(3, "br0", Some("bridge"), None),
                link(4, "eth1", None, Some((3, "bridge".into()))),
                link(5, "br1", Some("bridge"), None),
            ],
            networks: vec![
                (1, "10.99.0.2/24".parse().unwrap()),
                (1, "fe80::1/64".parse().unwrap()),
            ],
        }
    }

    fn codes(spec: &str) -> Vec<String> {
        let notices = advice("mc0", &parse_spec(spec).unwrap(), &links());
        notices.iter().map(|notice| notice.code().to_owned()).collect()
    }

    #[test]
    fn what_is_odd_is_named_and_nothing_else() {
        for spec in [
            "parent=lan0,ip=10.99.0.11/24,allow=239.1.0.0/16,deny=239.1.2.3",
            "parent=lan0",
            "parent=lan0,ip=2001:db8::1/64",
            "parent=br0,ip=10.1.0.1/24",
            "parent=lan0,driver=ipvlan,mode=l3,ip=10.1.0.1/24",
            "parent=gone0,ip=10.1.0.1/24",
        ] {
            assert!(codes(spec).is_empty(), "{spec}: {:?}", codes(spec));
        }
        assert_eq!(codes("parent=lan0,ip=10.98.0.11/24"), ["address-outside-subnet"]);
        assert_eq!(codes("parent=docker0"), ["parent-without-lan"]);
        assert_eq!(codes("parent=br1"), ["parent-without-lan"]);
        assert_eq!(codes("parent=lan0,allow=239.1.0.0"), ["rule-for-one-address"]);
    }

    #[test]
    fn who_gets_no_answer_from_a_published_port() {
        let told = |spec: &str| unanswered("mc0", &parse_spec(spec).unwrap());
        for spec in ["parent=lan0", "parent=lan0,ip=2001:db8::1/64", "driver=relay,parent=lan0"] {
            assert_eq!(told(spec), None, "{spec}");
        }
        for (more, whom) in [
            ("", "no host of 10.99.0.0/24"),
            (",route=10.1.0.0/16@10.99.0.1", "no host of 10.99.0.0/24, 10.1.0.0/16"),
            (",gw=10.99.0.1", "no other host"),
        ] {
            let text = format!(
                "mc0: {whom} gets an answer from a published UDP port, unless the program answers from \
                 the address that was asked; the container itself is there at 10.99.0.11"
            );
            assert_eq!(told(&format!("parent=lan0,ip=10.99.0.11/24{more}")), Some(text));
        }
    }

    #[test]
    fn the_range_that_may_be_meant() {
        let range = |rule: &str| meant_range(&rule.parse().unwrap());
        assert_eq!(range("239.1.0.0"), Some("239.1.0.0/16".into()));
        assert_eq!(range("239.1.2.0"), Some("239.1.2.0/24".into()));
        assert_eq!(range("239.0.0.0"), Some("239.0.0.0/8".into()));
        assert_eq!(range("224.0.0.0"), Some("224.0.0.0/4".into()));
        assert_eq!(range("232.1.1.1@10.0.0.0"), Some("232.1.1.1@10.0.0.0/8".into()));
        assert_eq!(range("239.1.2.3"), None);
        assert_eq!(range("239.1.0.0/16"), None);
    }
}

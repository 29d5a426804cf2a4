//! Builds and reads rtnetlink messages of routing by source address: rules, and routes of a table of
//! their own (ip-rule(8)). Nothing is sent here.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteScope, RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::net::messages::new_route;

/// A rule for what is sent from one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceRule {
    /// Rules are tried in the order of their priorities. That of the table `main` is 32766.
    pub priority: u32,
    /// The source address.
    pub source: IpAddr,
    /// The routing table that is looked into.
    pub table: u32,
    /// Group of interfaces: a route through one of them is passed over, and the next rule tried
    /// (`FRA_SUPPRESS_IFGROUP`).
    pub without_group: Option<u32>,
}

/// As a line of `ip rule`.
impl fmt::Display for SourceRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SourceRule { priority, source, table, without_group } = self;
        write!(f, "{priority}: from {source} lookup ")?;
        match *table {
            MAIN => f.write_str("main")?,
            table => write!(f, "{table}")?,
        }
        match without_group {
            Some(group) => write!(f, " suppress_ifgroup {group}"),
            None => Ok(()),
        }
    }
}

/// The table `main`.
pub const MAIN: u32 = RouteHeader::RT_TABLE_MAIN as u32;

/// Adds a rule.
pub fn new_rule(rule: SourceRule) -> RouteNetlinkMessage {
    RouteNetlinkMessage::NewRule(message(rule))
}

/// Takes a rule away.
pub fn delete_rule(rule: SourceRule) -> RouteNetlinkMessage {
    RouteNetlinkMessage::DelRule(message(rule))
}

fn message(rule: SourceRule) -> RuleMessage {
    let mut message = RuleMessage::default();
    (message.header.family, message.header.src_len) = match rule.source {
        IpAddr::V4(_) => (AddressFamily::Inet, 32),
        IpAddr::V6(_) => (AddressFamily::Inet6, 128),
    };
    message.header.action = RuleAction::ToTable;
    message.attributes = vec![
        RuleAttribute::Priority(rule.priority),
        RuleAttribute::Source(rule.source),
        RuleAttribute::Table(rule.table),
    ];
    message.attributes.extend(rule.without_group.map(RuleAttribute::SuppressIfGroup));
    message
}

/// Asks for all rules of one address family.
pub fn get_rules(v6: bool) -> RouteNetlinkMessage {
    let mut message = RuleMessage::default();
    message.header.family = family(v6);
    RouteNetlinkMessage::GetRule(message)
}

/// Reads a rule for one source address from an answer; `None` when the answer is about another kind of
/// rule.
pub fn read_rule(message: RouteNetlinkMessage) -> Option<SourceRule> {
    let RouteNetlinkMessage::NewRule(message) = message else { return None };
    let (mut priority, mut source, mut without_group) = (0, None, None);
    let mut table = u32::from(message.header.table);
    for attribute in message.attributes {
        match attribute {
            RuleAttribute::Priority(value) => priority = value,
            RuleAttribute::Source(address) => source = Some(address),
            RuleAttribute::Table(value) => table = value,
            // The kernel says -1 where there is none.
            RuleAttribute::SuppressIfGroup(group) if group != u32::MAX => {
                without_group = Some(group);
            }
            _ => {}
        }
    }
    Some(SourceRule { priority, source: source?, table, without_group })
}

/// A route in a routing table of its own, to a network or to everything. Its next hop is taken to be on
/// the interface whatever other tables say.
pub fn route_in_table(
    index: u32,
    destination: IpNet,
    gateway: Option<IpAddr>,
    table: u32,
) -> RouteNetlinkMessage {
    let mut message = new_route(index, destination, gateway, 0);
    if let RouteNetlinkMessage::NewRoute(route) = &mut message {
        route.header.table = RouteHeader::RT_TABLE_UNSPEC;
        route.attributes.push(RouteAttribute::Table(table));
        if gateway.is_some() {
            route.header.flags |= RouteFlags::Onlink;
        }
    }
    message
}

/// Asks for the routes of one address family in a table.
pub fn get_routes_of_table(v6: bool, table: u32) -> RouteNetlinkMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(v6);
    message.attributes.push(RouteAttribute::Table(table));
    RouteNetlinkMessage::GetRoute(message)
}

/// Whether an answer is a route of this table. Kernels before 4.20 give those of all tables.
pub fn is_of_table(message: &RouteNetlinkMessage, table: u32) -> bool {
    let RouteNetlinkMessage::NewRoute(message) = message else { return false };
    message.attributes.contains(&RouteAttribute::Table(table))
}

/// A default route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DefaultRoute {
    /// Index of its interface.
    pub index: u32,
    /// Its next hop; on-link when absent.
    pub gateway: Option<IpAddr>,
    /// Its metric.
    pub metric: u32,
}

/// Reads a default route of the table `main` from an answer; `None` when the answer is about something
/// else, or the route has several next hops.
pub fn read_default_route(message: RouteNetlinkMessage) -> Option<DefaultRoute> {
    let RouteNetlinkMessage::NewRoute(message) = message else { return None };
    let header = &message.header;
    if header.destination_prefix_length != 0
        || header.table != RouteHeader::RT_TABLE_MAIN
        || header.kind != RouteType::Unicast
        || !matches!(header.scope, RouteScope::Universe | RouteScope::Link)
    {
        return None;
    }
    let (mut index, mut gateway, mut metric) = (None, None, 0);
    for attribute in message.attributes {
        match attribute {
            RouteAttribute::Oif(oif) => index = Some(oif),
            RouteAttribute::Gateway(RouteAddress::Inet(v4)) => gateway = Some(v4.into()),
            RouteAttribute::Gateway(RouteAddress::Inet6(v6)) => gateway = Some(v6.into()),
            RouteAttribute::Priority(value) => metric = value,
            // A next hop of the other family.
            RouteAttribute::Via(_) => return None,
            _ => {}
        }
    }
    Some(DefaultRoute { index: index?, gateway, metric })
}

fn family(v6: bool) -> AddressFamily {
    if v6 { AddressFamily::Inet6 } else { AddressFamily::Inet }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_and_a_default_route_are_read_as_they_were_built() {
        for source in ["192.0.2.7", "2001:db8::7"] {
            for without_group in [None, Some(7)] {
                let source = source.parse().unwrap();
                let rule = SourceRule { priority: 9, source, table: 70_000, without_group };
                assert_eq!(read_rule(new_rule(rule)), Some(rule));
            }
        }
        let source = "192.0.2.7".parse().unwrap();
        let rule = SourceRule { priority: 9, source, table: MAIN, without_group: Some(7) };
        assert_eq!(rule.to_string(), "9: from 192.0.2.7 lookup main suppress_ifgroup 7");
        let rule = SourceRule { table: 70_000, without_group: None, ..rule };
        assert_eq!(rule.to_string(), "9: from 192.0.2.7 lookup 70000");
        let everything: IpNet = "0.0.0.0/0".parse().unwrap();
        let gateway = "192.0.2.1".parse().ok();
        let expected = DefaultRoute { index: 3, gateway, metric: 5 };
        assert_eq!(read_default_route(new_route(3, everything, gateway, 5)), Some(expected));
        let other = "10.0.0.0/8".parse().unwrap();
        assert_eq!(read_default_route(new_route(3, other, gateway, 5)), None);
        assert_eq!(read_default_route(route_in_table(3, everything, gateway, 70_000)), None);
    }
}

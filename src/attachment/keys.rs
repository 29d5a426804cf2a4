//! The table of attachment keys. A key is defined here and nowhere else.
//!
//! The parser, the suggestion for an unknown key, the refusal of a key that does not go with the
//! driver, the help of `--mcast`, the manual page mcrun-attachment(7) and
//! docs/reference/attachment-keys.md read this table.

use crate::attachment::values::{
    Values, address, conflict_detection, driver_name, gateway, igmp_mode, interface_name,
    link_layer, number, parsed, route,
};
use crate::attachment::{Driver, IgmpMode};
use crate::multicast::{GroupRule, PROFILES, rules};
use crate::primitives::IpvlanMode;

/// One key of the attachment syntax.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Its name, as it stands before `=`.
    pub name: &'static str,
    /// What stands behind `=`: words in capitals are placeholders, `|` separates alternatives.
    pub value: &'static str,
    /// What holds when the key is not given, in words.
    pub default: &'static str,
    /// Whether it may be given several times.
    pub repeatable: bool,
    /// The drivers that take it.
    pub drivers: Drivers,
    /// Whether it needs `igmp=proxy`: the proxy enforces it.
    pub needs_proxy: bool,
    /// What it does, in one line.
    pub summary: &'static str,
    /// What else there is to know, in sentences; may be empty.
    pub details: &'static str,
    /// A name that no annotation of another program has. Where podman before 5.0 splits
    /// `--annotation io.mcrun.mcast=parent=eth1,ip=...` at the comma, an annotation of this name
    /// shows it.
    unique: bool,
    /// Checks the value by itself and stores it. The error does not name the key and the value.
    parse: fn(&mut Values, &str) -> Result<(), String>,
}

impl Key {
    /// The properties of a key that is not repeatable and goes with every driver; rows override
    /// them.
    const PLAIN: Key = Key {
        name: "",
        value: "",
        default: "",
        repeatable: false,
        drivers: Drivers::All,
        needs_proxy: false,
        summary: "",
        details: "",
        unique: false,
        parse: |_, _| Ok(()),
    };

    /// Checks the value by itself and stores it.
    ///
    /// # Errors
    /// What is wrong with the value, without its name.
    pub(super) fn parse(&self, values: &mut Values, value: &str) -> Result<(), String> {
        (self.parse)(values, value)
    }

    /// Why an attachment with this driver and this IGMP mode cannot have the key; `None`: it can.
    pub(super) fn refusal(&self, driver: &Driver, igmp: IgmpMode) -> Option<String> {
        let name = self.name;
        if !self.drivers.contain(driver) {
            let asked = match driver {
                Driver::Ipvlan { mode, .. } => format!("driver=ipvlan,mode={}", mode.name()),
                _ => format!("driver={}", driver.name()),
            };
            return Some(format!("{name} is for {}, not for {asked}", self.drivers.names()));
        }
        (self.needs_proxy && igmp != IgmpMode::Proxy)
            .then(|| format!("the proxy enforces {name}, which needs igmp=proxy"))
    }
}

/// The drivers that take a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drivers {
    /// Every driver.
    All,
    /// Those that make a link: macvlan and ipvlan.
    Links,
    /// macvlan.
    Macvlan,
    /// ipvlan in each mode.
    Ipvlan,
    /// relay.
    Relay,
    /// Those whose data the proxy relays: relay, and ipvlan with mode l3 or l3s.
    Relayed,
}

impl Drivers {
    fn contain(self, driver: &Driver) -> bool {
        match (self, driver) {
            (Drivers::All, _) => true,
            (Drivers::Links | Drivers::Macvlan, Driver::Macvlan(_)) => true,
            (Drivers::Links | Drivers::Ipvlan, Driver::Ipvlan { .. }) => true,
            (Drivers::Relay | Drivers::Relayed, Driver::Relay { .. }) => true,
            (Drivers::Relayed, Driver::Ipvlan { mode, .. }) => *mode != IpvlanMode::L2,
            _ => false,
        }
    }

    /// The drivers in words.
    pub fn names(self) -> &'static str {
        match self {
            Drivers::All => "every driver",
            Drivers::Links => "macvlan and ipvlan",
            Drivers::Macvlan => "macvlan",
            Drivers::Ipvlan => "ipvlan",
            Drivers::Relay => "relay",
            Drivers::Relayed => "relay and ipvlan with mode=l3 or mode=l3s",
        }
    }
}

/// The keys, in the order in which people read about them.
pub const KEYS: &[Key] = &[
    Key {
        name: "net",
        value: "NAME",
        default: "none, or default-network of mcrun.toml where there is no parent",
        summary: "named network, whose file has keys for the attachment",
        details: "Keys that are written beside it come first; of allow, deny, max-groups, \
                  max-sources, max-pps and max-byterate the narrower one counts. \
                  mcrun network ls shows the networks.",
        unique: true,
        parse: |values, text| set(&mut values.net, parsed(text)),
        ..Key::PLAIN
    },
    Key {
        name: "parent",
        value: "INTERFACE",
        default: "required without net",
        summary: "LAN interface of the host",
        details: "It must exist and be up. It is not changed.",
        unique: true,
        parse: |values, text| set(&mut values.parent, parsed(text)),
        ..Key::PLAIN
    },
    Key {
        name: "vlan",
        value: "1..4094",
        default: "untagged",
        summary: "VLAN of the parent on which the container is",
        details: "The parent's tagged sub-interface, PARENT.ID, is shared by all attachments to it. \
                  It is made when it is missing, and removed with its last user. \
                  One that somebody else has made stays.",
        unique: true,
        parse: |values, text| set(&mut values.vlan, number(text, 1, 4094)),
        ..Key::PLAIN
    },
    Key {
        name: "driver",
        value: "macvlan|ipvlan|relay",
        default: "macvlan",
        summary: "how the container gets onto the LAN",
        details: "macvlan makes a link with a MAC address of its own. \
                  ipvlan makes a link with the MAC address of the parent. \
                  relay makes no link: the proxy carries multicast between the LAN and an interface \
                  that the container has.",
        parse: |values, text| set(&mut values.driver, driver_name(text)),
        ..Key::PLAIN
    },
    Key {
        name: "mode",
        value: "bridge|private|vepa|passthru for macvlan, l2|l3|l3s for ipvlan",
        default: "bridge for macvlan, l2 for ipvlan",
        drivers: Drivers::Links,
        summary: "mode of the link, as in ip-link(8)",
        details: "All ipvlan links of one parent have the same mode. \
                  With l3 and l3s the proxy relays multicast, which the kernel does not deliver.",
        parse: |values, text| set(&mut values.mode, Ok(text.to_owned())),
        ..Key::PLAIN
    },
    Key {
        name: "flag",
        value: "bridge|private|vepa",
        default: "bridge",
        drivers: Drivers::Ipvlan,
        summary: "how ipvlan links of one parent reach each other, as in ip-link(8)",
        details: "All ipvlan links of one parent have the same flag.",
        parse: |values, text| set(&mut values.flag, Ok(text.to_owned())),
        ..Key::PLAIN
    },
    Key {
        name: "interface",
        value: "INTERFACE",
        default: "eth0",
        drivers: Drivers::Relay,
        summary: "interface in the container that the relay serves",
        details: "It may appear after the container has started.",
        parse: |values, text| set(&mut values.interface, interface_name(text)),
        ..Key::PLAIN
    },
    Key {
        name: "ip",
        value: "ADDRESS/PREFIX|pool|dhcp|dhcp6|slaac|none",
        default: "none",
        repeatable: true,
        drivers: Drivers::Links,
        summary: "address of the interface in the container, IPv4 or IPv6",
        details: "Without an address the interface carries multicast to sockets that join on it, \
                  and nothing else. \
                  pool: one address of each subnet of the network that net= names, which no other \
                  container has. \
                  dhcp: an IPv4 address, a gateway and routes that a server on the LAN gives; the \
                  container starts when it has one, within 10 s, or not at all. \
                  dhcp6: an IPv6 address that a server on the LAN gives, in the same way, and a \
                  gateway that a router advertises; macvlan only, and not beside dhcp. \
                  slaac: IPv6 addresses, a gateway and routes that a router on the LAN advertises; \
                  the container starts without them.",
        unique: true,
        parse: parse_ip,
        ..Key::PLAIN
    },
    Key {
        name: "ipv6",
        value: "on|off",
        default: "on where there is an ip= of IPv6, ip=dhcp6, ip=slaac or allow=matter, else off",
        summary: "whether the interface speaks IPv6",
        details: "on: it has a link-local address, which mcrun makes from its MAC address. \
                  off: it sends and receives no IPv6. \
                  With driver=relay, on has the proxy relay multicast of IPv6 too, to and from the addresses \
                  that the engine gives.",
        unique: true,
        parse: |values, text| set(&mut values.ipv6, on_or_off(text)),
        ..Key::PLAIN
    },
    Key {
        name: "conflict",
        value: "probe|off",
        default: "probe",
        drivers: Drivers::Links,
        summary: "whether the LAN is asked for an address before the container gets it",
        details: "probe: where a station of the LAN answers that it has an address of ip=, the \
                  container does not start; of a pool, the next address is tried, and one of dhcp is declined. \
                  off: the address is taken. \
                  With ipvlan in mode l3 or l3s nobody is asked.",
        parse: |values, text| set(&mut values.conflict, conflict_detection(text)),
        ..Key::PLAIN
    },
    Key {
        name: "gw",
        value: "ADDRESS",
        default: "no default route",
        repeatable: true,
        drivers: Drivers::Links,
        summary: "gateway of a default route through the interface",
        details: "One for each address family. It must be in the subnet of an ip=.",
        unique: true,
        parse: |values, text| {
            values.gateways.push(gateway(text)?);
            Ok(())
        },
        ..Key::PLAIN
    },
    Key {
        name: "metric",
        value: "1..4294967295",
        default: "500",
        drivers: Drivers::Links,
        summary: "metric of that default route",
        details: "The route of lower metric is used. \
                  Default routes of engines have lower metrics than 500 and stay in use.",
        parse: |values, text| set(&mut values.metric, number(text, 1, u32::MAX)),
        ..Key::PLAIN
    },
    Key {
        name: "route",
        value: "NETWORK/PREFIX[@GATEWAY]",
        default: "no further routes",
        repeatable: true,
        drivers: Drivers::Links,
        summary: "further route through the interface",
        details: "Without GATEWAY the network is on the link.",
        parse: |values, text| {
            values.routes.push(route(text)?);
            Ok(())
        },
        ..Key::PLAIN
    },
    Key {
        name: "mac",
        value: "XX:XX:XX:XX:XX:XX",
        default: "chosen by the kernel",
        drivers: Drivers::Macvlan,
        summary: "MAC address of the interface",
        details: "ipvlan links have the MAC address of the parent.",
        unique: true,
        parse: |values, text| set(&mut values.mac, parsed(text)),
        ..Key::PLAIN
    },
    Key {
        name: "mtu",
        value: "68..65535",
        default: "the parent's",
        drivers: Drivers::Links,
        summary: "MTU of the interface in bytes",
        details: "At most the parent's.",
        unique: true,
        parse: |values, text| set(&mut values.mtu, number(text, 68, 65535)),
        ..Key::PLAIN
    },
    Key {
        name: "name",
        value: "INTERFACE",
        default: "mc0, mc1 and so on",
        drivers: Drivers::Links,
        summary: "name of the interface in the container",
        details: "The default counts the attachments of the container from 0.",
        parse: |values, text| set(&mut values.name, interface_name(text)),
        ..Key::PLAIN
    },
    Key {
        name: "igmp",
        value: "proxy|native|off",
        default: "proxy",
        summary: "who speaks IGMP on the LAN",
        details: "proxy: mcrun's proxy intercepts the container's IGMP and joins for it, so that \
                  the LAN sees one IGMP host. \
                  native: the container's kernel speaks IGMP on the LAN and a proxy observes it. \
                  off: the container's kernel speaks IGMP on the LAN and there is no proxy. \
                  driver=relay and ipvlan with mode l3 or l3s need proxy.",
        unique: true,
        parse: |values, text| set(&mut values.igmp, igmp_mode(text)),
        ..Key::PLAIN
    },
    Key {
        name: "l2",
        value: "closed|open",
        default: "closed",
        drivers: Drivers::Links,
        summary: "what the interface may send",
        details: "closed: IPv4 and ARP, and IPv6 with ipv6=on, untagged and from the interface's \
                  own MAC address. \
                  With an ip=, only from the given addresses of its family, the link-local address \
                  of IPv6, and 0.0.0.0 or ::. \
                  No IGMP, MLD or PIM of a process, nothing of a router, a switch or a DHCP server. \
                  open: everything; with igmp=proxy, everything except IGMP and MLD. \
                  The administrator has to allow open in mcrun.toml. \
                  closed needs Linux 5.16.",
        unique: true,
        parse: |values, text| set(&mut values.l2, link_layer(text)),
        ..Key::PLAIN
    },
    Key {
        name: "upstream",
        value: "INTERFACE",
        default: "the parent",
        summary: "host interface where the proxy joins",
        details: "",
        unique: true,
        parse: |values, text| set(&mut values.upstream, parsed(text)),
        ..Key::PLAIN
    },
    Key {
        name: "optional",
        value: "true|false",
        default: "false",
        drivers: Drivers::Links,
        summary: "whether the container may start while the parent is not there or is down",
        details: "The interface is then made when the parent is there: by mcrun keep at once, or by \
                  mcrun reload. \
                  Until then mcrun ps shows it as waiting.",
        parse: |values, text| set(&mut values.optional, true_or_false(text)),
        ..Key::PLAIN
    },
    Key {
        name: "allow",
        value: "GROUPS[/PREFIX][@SOURCES[/PREFIX]]|PROFILE",
        default: "every group",
        repeatable: true,
        needs_proxy: true,
        summary: "groups that the container may join",
        details: "With one allow or more, every group that none of them names is denied, of IPv4 and \
                  of IPv6. \
                  With @SOURCES the rule is about these sources of the groups, which are of the \
                  same address family. \
                  PROFILE is mdns, ssdp, matter, ros2, ptp or sap: the groups of that protocol. \
                  Groups of link scope (224.0.0.0/24, ff02::/16) are never denied.",
        parse: |values, text| {
            values.allow.extend(group_rules(text)?);
            values.needs_ipv6 |= PROFILES.iter().any(|p| p.name == text && p.needs_ipv6);
            Ok(())
        },
        ..Key::PLAIN
    },
    Key {
        name: "deny",
        value: "GROUPS[/PREFIX][@SOURCES[/PREFIX]]|PROFILE",
        default: "no group",
        repeatable: true,
        needs_proxy: true,
        summary: "groups that the container may not join",
        details: "A deny counts before every allow.",
        parse: |values, text| {
            values.deny.extend(group_rules(text)?);
            Ok(())
        },
        ..Key::PLAIN
    },
    Key {
        name: "max-groups",
        value: "1..65535",
        default: "256",
        needs_proxy: true,
        summary: "most groups that the container can have joined at a time",
        details: "",
        unique: true,
        parse: |values, text| set(&mut values.max_groups, number(text, 1, 65535)),
        ..Key::PLAIN
    },
    Key {
        name: "max-sources",
        value: "1..65535",
        default: "64",
        needs_proxy: true,
        summary: "most sources that the container can name for one group",
        details: "",
        unique: true,
        parse: |values, text| set(&mut values.max_sources, number(text, 1, 65535)),
        ..Key::PLAIN
    },
    Key {
        name: "max-pps",
        value: "1..4294967295",
        default: "no limit",
        drivers: Drivers::Relayed,
        summary: "most packets a second that the relay carries in each direction",
        details: "",
        unique: true,
        parse: |values, text| set(&mut values.rates.packets, number(text, 1, u32::MAX)),
        ..Key::PLAIN
    },
    Key {
        name: "max-byterate",
        value: "1..18446744073709551615",
        default: "no limit",
        drivers: Drivers::Relayed,
        summary: "most bytes a second that the relay carries in each direction",
        details: "",
        unique: true,
        parse: |values, text| set(&mut values.rates.bytes, number(text, 1, u64::MAX)),
        ..Key::PLAIN
    },
    Key {
        name: "bcqueuelen",
        value: "1..1000000",
        default: "100000",
        drivers: Drivers::Macvlan,
        summary: "length in packets of the parent's queue of multicast and broadcast packets",
        details: "All macvlan links of one parent share the queue. See ip-link(8).",
        unique: true,
        parse: |values, text| set(&mut values.bcqueuelen, number(text, 1, 1_000_000)),
        ..Key::PLAIN
    },
    Key {
        name: "bclim",
        value: "-1..2147483647",
        default: "-1",
        drivers: Drivers::Macvlan,
        summary: "number of receivers of one group from which on macvlan queues the packets",
        details: "Up to that number they are delivered at once. -1: they are never queued. \
                  Needs Linux 6.4; see ip-link(8).",
        unique: true,
        parse: |values, text| set(&mut values.bclim, number(text, -1, i32::MAX)),
        ..Key::PLAIN
    },
];

/// The key of this name.
pub(super) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// Names of keys that no annotation of another program has.
pub(crate) fn unique_names() -> impl Iterator<Item = &'static str> {
    KEYS.iter().filter(|key| key.unique).map(|key| key.name)
}

/// The long help of `--mcast`.
pub fn option_help() -> String {
    let names: Vec<_> = KEYS.iter().map(|key| key.name).collect();
    format!(
        "Attach to a LAN: KEY=VALUE[,KEY=VALUE...] (repeatable).\n\n\
         parent= names the LAN interface of the host. driver= is macvlan, ipvlan, or relay, which \
         carries multicast to an interface that the container has. The keys are {}. \
         mcrun-attachment(7) describes them.",
        names.join(", ")
    )
}

fn on_or_off(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("on or off is needed".to_owned()),
    }
}

fn group_rules(text: &str) -> Result<Vec<GroupRule>, String> {
    rules(text).map_err(|error| error.to_string())
}

fn true_or_false(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| "true or false is needed".to_owned())
}

fn set<T>(field: &mut Option<T>, value: Result<T, String>) -> Result<(), String> {
    *field = Some(value?);
    Ok(())
}

fn parse_ip(values: &mut Values, text: &str) -> Result<(), String> {
    match text {
        "none" => values.ip_none = true,
        "pool" => values.ip_pool = true,
        "dhcp" => values.ip_dhcp = true,
        "dhcp6" => values.ip_dhcp6 = true,
        "slaac" => values.ip_slaac = true,
        _ => {
            let net = address(text)?;
            if values.ip.iter().any(|other| other.addr() == net.addr()) {
                return Err(format!("{} is given twice", net.addr()));
            }
            values.ip.push(net);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_every_key_is_described() {
        for (position, key) in KEYS.iter().enumerate() {
            let twice = KEYS[..position].iter().any(|other| other.name == key.name);
            assert!(!twice, "{}", key.name);
            for text in [key.name, key.value, key.default, key.summary] {
                assert!(!text.is_empty() && !text.contains('\n'), "{}", key.name);
            }
            assert!(key.details.is_empty() || key.details.ends_with('.'), "{}", key.name);
        }
    }
}

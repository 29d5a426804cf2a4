//! From attachments and facts to a list of steps: pure, printable, nothing is changed here.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::attachment::{Attachment, Driver, IgmpMode, nearest};
use crate::link::error::{PlanError, refuse};
use crate::link::facts::{Facts, Ipv6Off};
use crate::link::host_link;
use crate::link::host_link::PlannedHostLink;
use crate::link::taken;
use crate::net::devconf::DevConf;
use crate::net::messages::{Link, all_multicast};
use crate::net::sysctl::Sysctl;
use crate::primitives::{InterfaceName, MacAddr};
use crate::primitives::{IpvlanFlag, IpvlanMode, MacvlanMode};

/// What is to be done for one interface of the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfacePlan {
    /// Name in the container.
    pub name: InterfaceName,
    /// The parent, or its VLAN link.
    pub parent: HostInterface,
    /// Permanent MAC address of the LAN interface, if it has one.
    pub permanent_mac: Option<MacAddr>,
    /// Where the proxy joins.
    pub upstream: HostInterface,
    /// The shared link of the host that the interface needs.
    pub host_link: Option<PlannedHostLink>,
    /// The addresses for which the LAN of the parent is asked before the interface comes up.
    pub probed: Vec<IpAddr>,
    /// The link to create, or the existing one.
    pub link: LinkPlan,
    /// Its MTU, when not the parent's.
    pub mtu: Option<u32>,
    /// Settings in the container's namespace, in order.
    pub sysctls: Vec<Sysctl>,
    /// IPv4 settings of the interface itself.
    pub settings: Vec<(DevConf, u32)>,
    /// IPv4 settings that are made when the interface is up.
    pub late_settings: Vec<(DevConf, u32)>,
    /// Its addresses.
    pub addresses: Vec<IpNet>,
    /// Whether it gets its link-local address of IPv6 with them, instead of from the kernel, which
    /// would try it for a second or two first.
    pub link_local: bool,
    /// Whether routers are asked to advertise when it is up.
    pub solicits_routers: bool,
    /// Its routes, in order: next hops come after what makes them reachable.
    pub routes: Vec<PlannedRoute>,
}

/// A link of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostInterface {
    /// Its name.
    pub name: InterfaceName,
    /// Its index; none before a shared link is made.
    pub index: Option<u32>,
}

/// The link of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkPlan {
    /// A new macvlan child of the parent.
    Macvlan {
        /// Its mode.
        mode: MacvlanMode,
        /// Its hardware address, when not the kernel's choice.
        mac: Option<MacAddr>,
        /// Length of the multicast queue in packets.
        bcqueuelen: u32,
        /// Receivers from which on macvlan queues; -1 never.
        bclim: i32,
    },
    /// A new ipvlan child of the parent.
    Ipvlan {
        /// Its mode, and so that of all children.
        mode: IpvlanMode,
        /// Its flag, and so that of all children.
        flag: IpvlanFlag,
    },
    /// No link is created: the container has the interface, or gets it later from its engine.
    Existing {
        /// Its index and MAC address, if the interface exists already.
        there: Option<(u32, Option<MacAddr>)>,
    },
}

/// A route to add.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlannedRoute {
    /// Destination.
    pub destination: IpNet,
    /// Next hop; on-link when absent.
    pub gateway: Option<IpAddr>,
    /// Metric; 0 is the kernel's default.
    pub metric: u32,
    /// Whether an existing route to the destination is good enough.
    pub may_exist: bool,
}

/// The limits of memberships and sources per socket in the container are raised to these values.
/// The kernel's defaults of 20 and 10 (`net.ipv4.igmp_max_memberships`, `igmp_max_msf`) are too low
/// for media applications. The proxy limits what reaches the LAN.
const LEAST_MEMBERSHIPS: u32 = 1024;
const LEAST_SOURCES: u32 = 512;

/// Unsolicited report interval of the container's kernel, in milliseconds; the default is a second
/// (RFC 9776 §8.11). When the container has ended, the proxy keeps its rules until the kernel has
/// repeated its last reports.
pub const REPORT_INTERVAL_MS: u32 = 20;

/// Multicast queue of macvlan in packets. The kernel's 1000 loses a fast stream as soon as a
/// second child wants it.
pub(super) const BC_QUEUE_LEN: u32 = 100_000;
/// Never queue: a group is delivered to its receivers at once, whatever their number.
pub(super) const BC_CUTOFF: i32 = -1;

/// Plans the interfaces of one container.
///
/// # Errors
/// The first obstacle: a missing, down or unsuitable parent, a name that is
/// taken in the container, an address or MAC that is the host's own, an MTU above the parent's.
pub fn plan(attachments: &[Attachment], facts: &Facts) -> Result<Vec<InterfacePlan>, PlanError> {
    let each = attachments.iter().enumerate();
    each.map(|(position, attachment)| plan_one(position, attachment, facts)).collect()
}

fn plan_one(
    position: usize,
    attachment: &Attachment,
    facts: &Facts,
) -> Result<InterfacePlan, PlanError> {
    let parent = checked_link("parent", &attachment.parent, facts)?;
    let host_link = host_link::plan(attachment, parent, facts)?;
    let parent_link = HostInterface {
        name: attachment.parent_link().clone(),
        index: match &host_link {
            Some(planned) => planned.index,
            None => Some(parent.index),
        },
    };
    let upstream = match &attachment.upstream {
        Some(name) => {
            let link = checked_link("upstream", name, facts)?;
            HostInterface { name: name.clone(), index: Some(link.index) }
        }
        None => parent_link.clone(),
    };
    let name = attachment.interface_name(position);
    let there = facts.container_links.get(&name);
    if there.is_some() && attachment.makes_link() {
        return refuse(format!(
            "name={name}: the container has an interface of this name already; choose another with name="
        ));
    }
    if there.is_none() && attachment.adopted {
        return refuse(format!("the container has no interface {name}, which is to be served"));
    }
    refuse_own_bridge(attachment, facts)?;
    refuse_without_ipv6(attachment, facts)?;
    if let Some(mtu) = attachment.mtu
        && mtu > parent.mtu
    {
        return refuse(format!(
            "mtu={mtu}: {} has {}, and a child link cannot have more",
            parent.name, parent.mtu
        ));
    }
    let link = link_plan(attachment, there.map(|link| (link.index, link.mac)));
    // The addresses of a link that is there already are in use whatever is said here.
    if !attachment.adopted {
        taken::check(attachment, parent, &facts.taken, &facts.links)?;
    }
    Ok(InterfacePlan {
        parent: parent_link,
        permanent_mac: parent.permanent_mac,
        upstream,
        host_link,
        probed: attachment.probed_addresses().collect(),
        mtu: attachment.mtu,
        sysctls: sysctls(&name, attachment, &link),
        settings: settings(attachment, &link),
        late_settings: if announced_by_proxy(attachment, &link) {
            vec![(DevConf::ArpNotify, 1)]
        } else {
            Vec::new()
        },
        addresses: match attachment.adopted {
            true => Vec::new(),
            false => attachment.ip.fixed().to_vec(),
        },
        link_local: attachment.has_plain_link_local(),
        solicits_routers: attachment.hears_routers() && attachment.has_plain_link_local(),
        routes: match link {
            // A route needs an existing interface.
            LinkPlan::Existing { there: None } => Vec::new(),
            _ => routes(position, attachment),
        },
        link,
        name,
    })
}

/// Refuses a relay to the bridge that the container's interface is on.
///
/// # Errors
/// The refusal, naming the key and the bridge.
pub fn refuse_own_bridge(attachment: &Attachment, facts: &Facts) -> Result<(), PlanError> {
    let Driver::Relay { interface } = &attachment.driver else { return Ok(()) };
    let Some(bridge) = facts.bridges.get(interface) else { return Ok(()) };
    let is_it = |name: &InterfaceName| facts.links.get(name).is_some_and(|l| l.index == *bridge);
    let named = [("parent", attachment.parent_link()), ("upstream", attachment.upstream())];
    match named.into_iter().find(|(_, name)| is_it(name)) {
        Some((key, name)) => refuse(format!(
            "{key}={name}: the container's {interface} is on this bridge already, and everybody there \
             would hear it twice; name a LAN interface"
        )),
        None => Ok(()),
    }
}

/// Refuses IPv6 where the host's kernel has none, or where the proxy is to speak MLD on an interface on
/// which IPv6 is off.
fn refuse_without_ipv6(attachment: &Attachment, facts: &Facts) -> Result<(), PlanError> {
    let upstream = attachment.upstream();
    let asked = || match (attachment.slaac, attachment.ipv6) {
        (true, _) => "ip=slaac".to_owned(),
        _ if attachment.hears_routers() => "ip=dhcp6".to_owned(),
        (_, Some(_)) => "ipv6=on".to_owned(),
        _ => {
            let addresses = attachment.ip.addresses();
            let address = addresses.iter().find(|net| net.addr().is_ipv6());
            address.map_or_else(|| "ip=pool".to_owned(), |net| format!("ip={net}"))
        }
    };
    match facts.without_ipv6.get(upstream).filter(|_| attachment.speaks_ipv6()) {
        Some(Ipv6Off::Kernel) => refuse(format!(
            "{}: the host's kernel has no IPv6 (/proc/sys/net/ipv6 is missing); leave it out",
            asked()
        )),
        Some(Ipv6Off::Interface) if attachment.is_mld_proxied() => refuse(format!(
            "{}: IPv6 is off on the host's {upstream}, where the proxy speaks MLD for the container; set \
             net.ipv6.conf.{upstream}.disable_ipv6 to 0, or give igmp=native",
            asked()
        )),
        _ => Ok(()),
    }
}

/// Why an attachment cannot be made before something changes on the host: the parent or the upstream
/// interface is not there, or is down. `None`: both are there.
pub fn missing_link(attachment: &Attachment, facts: &Facts) -> Option<String> {
    let named = [Some(&attachment.parent), attachment.upstream.as_ref()];
    let others = attachment.vlan.as_ref().map(|vlan| &vlan.link);
    let others = others.filter(|name| facts.links.contains_key(*name));
    named.into_iter().flatten().chain(others).find_map(|name| match facts.links.get(name) {
        None => Some(format!("the host has no interface {name}")),
        // A VLAN link of ours is set up with the attachment.
        Some(link) if !link.up && !facts.mark.is_on(link) => Some(format!("{name} is down")),
        Some(_) => None,
    })
}

fn checked_link<'f>(
    key: &str,
    name: &InterfaceName,
    facts: &'f Facts,
) -> Result<&'f Link, PlanError> {
    let Some(link) = facts.links.get(name) else {
        let near = nearest(name.as_str(), facts.link_names.iter().map(String::as_str));
        let hint = match near {
            Some(near) => format!("did you mean {near}?"),
            None => "ip link shows them".into(),
        };
        return refuse(format!("{key}={name}: the host has no interface of this name; {hint}"));
    };
    if link.loopback {
        return refuse(format!(
            "{key}={name}: this is the loopback interface; name a LAN interface"
        ));
    }
    if let Some((_, kind)) = &link.port_of {
        return refuse(format!("{key}={name}: it is a port of a {kind}; name the {kind} itself"));
    }
    if link.mac.is_none() {
        return refuse(format!("{key}={name}: it is no Ethernet interface"));
    }
    if !link.up {
        return refuse(format!(
            "{key}={name}: the interface is down; set it up first (ip link set {name} up)"
        ));
    }
    Ok(link)
}

/// The link of an attachment; `there` is the interface that a relay, or who adopts a link, finds in the
/// container.
pub(super) fn link_plan(
    attachment: &Attachment,
    there: Option<(u32, Option<MacAddr>)>,
) -> LinkPlan {
    match attachment.driver {
        _ if attachment.adopted => LinkPlan::Existing { there },
        Driver::Macvlan(mode) => LinkPlan::Macvlan {
            mode,
            mac: attachment.mac,
            bcqueuelen: attachment.bcqueuelen.unwrap_or(BC_QUEUE_LEN),
            bclim: attachment.bclim.unwrap_or(BC_CUTOFF),
        },
        Driver::Ipvlan { mode, flag } => LinkPlan::Ipvlan { mode, flag },
        Driver::Relay { .. } => LinkPlan::Existing { there },
    }
}

pub(super) fn sysctls(
    name: &InterfaceName,
    attachment: &Attachment,
    link: &LinkPlan,
) -> Vec<Sysctl> {
    let v6 = |setting: &str| format!("ipv6/conf/{name}/{setting}");
    let mut list = vec![
        Sysctl::Raise(
            "ipv4/igmp_max_memberships".into(),
            LEAST_MEMBERSHIPS.max(attachment.policy.max_groups),
        ),
        Sysctl::Raise("ipv4/igmp_max_msf".into(), LEAST_SOURCES.max(attachment.policy.max_sources)),
    ];
    if attachment.igmp == IgmpMode::Proxy {
        // The setting of `all` overrides that of the interface.
        list.push(Sysctl::Require("ipv4/conf/all/force_igmp_version".into(), 0));
    }
    match link {
        // An interface that comes later starts with the values of `default`.
        LinkPlan::Existing { there: None } => {
            list.extend(igmp_settings(attachment).map(|(setting, value)| {
                Sysctl::Require(format!("ipv4/conf/default/{}", setting.name()), value)
            }));
            list.extend(relayed_ipv6(attachment, "default"));
            return list;
        }
        // The engine configures the rest.
        LinkPlan::Existing { there: Some(_) } => {
            if attachment.adopted {
                list.push(Sysctl::AcceptAnySource(name.to_string()));
            }
            if attachment.driver.is_relay() {
                list.extend(relayed_ipv6(attachment, name.as_str()));
            }
            return list;
        }
        _ => {}
    }
    list.push(Sysctl::AcceptAnySource(name.to_string()));
    if attachment.speaks_ipv6() {
        list.push(Sysctl::Require(v6("disable_ipv6"), 0));
        if attachment.hears_routers() {
            // Also in a container that forwards.
            list.push(Sysctl::Require(v6("accept_ra"), 2));
            list.push(Sysctl::Require(v6("autoconf"), u32::from(attachment.slaac)));
            // Addresses that stay (RFC 8981), and may leave the interface.
            list.push(Sysctl::Set(v6("use_tempaddr"), 0));
            // Routes to networks behind other routers of the LAN, such as those of Thread (RFC 4191).
            list.push(Sysctl::Set(v6("accept_ra_rt_info_max_plen"), 64));
            if attachment.slaac {
                // The kernel announces each address that nobody else has, as one that is asked for is
                // announced by mcrun (RFC 4861 §7.2.6).
                list.push(Sysctl::Set(v6("ndisc_notify"), 1));
            }
        } else {
            // The requested addresses and no others.
            list.push(Sysctl::Require(v6("accept_ra"), 0));
            list.push(Sysctl::Require(v6("autoconf"), 0));
        }
        // The link-local address is the one that the interface may send from.
        list.push(Sysctl::Require(v6("addr_gen_mode"), 0));
        if attachment.is_mld_proxied() {
            list.extend(mld_settings(name.as_str()));
        }
    } else {
        // IPv6 was not asked for: no link-local address, and no IPv6 frame on the LAN.
        list.push(Sysctl::Set(v6("disable_ipv6"), 1));
    }
    list
}

/// IPv6 of an interface that is the engine's, where the proxy relays it.
fn relayed_ipv6(attachment: &Attachment, interface: &str) -> Vec<Sysctl> {
    if !attachment.is_mld_proxied() {
        return Vec::new();
    }
    let on = Sysctl::Require(format!("ipv6/conf/{interface}/disable_ipv6"), 0);
    std::iter::once(on).chain(mld_settings(interface)).collect()
}

/// As for IGMP: the setting of `all` overrides that of the interface; sources would be lost with v1;
/// reports go to the proxy only, so they may be repeated quickly.
fn mld_settings(interface: &str) -> impl Iterator<Item = Sysctl> {
    let v6 = |setting: &str| format!("ipv6/conf/{interface}/{setting}");
    let mut list = vec![
        Sysctl::Set("ipv6/conf/all/force_mld_version".into(), 0),
        Sysctl::Set(v6("force_mld_version"), 0),
    ];
    for version in ["mldv1", "mldv2"] {
        let interval = format!("{version}_unsolicited_report_interval");
        list.push(Sysctl::Set(v6(&interval), REPORT_INTERVAL_MS));
    }
    list.into_iter()
}

pub(super) fn settings(attachment: &Attachment, link: &LinkPlan) -> Vec<(DevConf, u32)> {
    let mut list = match link {
        LinkPlan::Existing { there: None } => return Vec::new(),
        _ => igmp_settings(attachment).collect::<Vec<_>>(),
    };
    if attachment.adopted {
        list.push((DevConf::RpFilter, 0));
    }
    if !matches!(link, LinkPlan::Existing { .. }) {
        list.push((DevConf::RpFilter, 0));
        // Announces the address when the link comes up, so that neighbours and switches learn it.
        if !announced_by_proxy(attachment, link) {
            list.push((DevConf::ArpNotify, 1));
        }
        // The child answers ARP requests for its own addresses only.
        list.push((DevConf::ArpIgnore, 1));
    }
    list
}

/// Whether the proxy announces the addresses when the link comes up for the first time, so that the
/// attachment does not wait for the announcement. Later the kernel announces them.
fn announced_by_proxy(attachment: &Attachment, link: &LinkPlan) -> bool {
    !matches!(link, LinkPlan::Existing { .. }) && attachment.is_announced_by_proxy()
}

fn igmp_settings(attachment: &Attachment) -> impl Iterator<Item = (DevConf, u32)> {
    let all = [
        // A new namespace inherits the host's; sources would be lost with v2.
        (DevConf::ForceIgmpVersion, 0),
        // The container's reports go to the proxy only, so they may be repeated quickly.
        (DevConf::Igmpv2ReportInterval, REPORT_INTERVAL_MS),
        (DevConf::Igmpv3ReportInterval, REPORT_INTERVAL_MS),
    ];
    let proxied = attachment.igmp == IgmpMode::Proxy;
    all.into_iter().filter(move |_| proxied)
}

fn routes(position: usize, attachment: &Attachment) -> Vec<PlannedRoute> {
    let mut list = Vec::new();
    if position == 0 {
        list.push(PlannedRoute {
            destination: all_multicast(),
            gateway: None,
            metric: 0,
            may_exist: true,
        });
    }
    // With DHCP there is no way to a next hop of IPv4 yet.
    let is_early = |gateway: Option<IpAddr>| {
        !(attachment.ip.is_dhcp() && gateway.is_some_and(|gateway| gateway.is_ipv4()))
    };
    let now = attachment.routes.iter().filter(|route| is_early(route.gateway));
    list.extend(now.map(|route| PlannedRoute {
        destination: route.destination,
        gateway: route.gateway,
        // A default route without a metric would replace the engine's own.
        metric: if route.destination.prefix_len() == 0 { attachment.metric } else { 0 },
        may_exist: false,
    }));
    let now = attachment.gateways.iter().filter(|gateway| is_early(Some(**gateway)));
    list.extend(now.map(|gateway| PlannedRoute {
        destination: match gateway {
            IpAddr::V4(_) => IpNet::V4(ipnet::Ipv4Net::default()),
            IpAddr::V6(_) => IpNet::V6(ipnet::Ipv6Net::default()),
        },
        gateway: Some(*gateway),
        metric: attachment.metric,
        // A container on several networks has one default route: that of the first.
        may_exist: !attachment.is_own("gw"),
    }));
    list
}

impl fmt::Display for PlannedRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.destination)?;
        if let Some(gateway) = self.gateway {
            write!(f, " via {gateway}")?;
        }
        if self.metric > 0 {
            write!(f, " metric {}", self.metric)?;
        }
        Ok(())
    }
}

/// The steps in the order in which they are carried out, a line each.
impl fmt::Display for InterfacePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, parent) = (&self.name, &self.parent.name);
        if let Some(planned) = &self.host_link {
            writeln!(f, "{planned}")?;
        }
        for address in &self.probed {
            writeln!(f, "ask on {parent} who has {address}")?;
        }
        match &self.link {
            LinkPlan::Macvlan { mode, mac, bcqueuelen, bclim } => {
                write!(f, "create macvlan {name} on {parent} mode {}", mode.name())?;
                if let Some(mac) = mac {
                    write!(f, " mac {mac}")?;
                }
                if let Some(mtu) = self.mtu {
                    write!(f, " mtu {mtu}")?;
                }
                writeln!(f, " bcqueuelen {bcqueuelen} bclim {bclim}")?;
            }
            LinkPlan::Ipvlan { mode, flag } => {
                write!(f, "create ipvlan {name} on {parent} mode {} {}", mode.name(), flag.name())?;
                match self.mtu {
                    Some(mtu) => writeln!(f, " mtu {mtu}")?,
                    None => writeln!(f)?,
                }
            }
            LinkPlan::Existing { there: Some(_) } => writeln!(f, "serve {name} on {parent}")?,
            LinkPlan::Existing { there: None } => {
                writeln!(f, "relay {parent} to {name} when it is there")?;
            }
        }
        for sysctl in &self.sysctls {
            match sysctl {
                Sysctl::Set(path, value) | Sysctl::Require(path, value) => {
                    writeln!(f, "set net/{path} to {value}")?
                }
                Sysctl::Raise(path, value) => writeln!(f, "raise net/{path} to {value}")?,
                Sysctl::AcceptAnySource(name) => writeln!(f, "accept any source on {name}")?,
            }
        }
        for (setting, value) in &self.settings {
            writeln!(f, "set {} of {name} to {value}", setting.name())?;
        }
        for address in &self.addresses {
            writeln!(f, "add address {address} to {name}")?;
        }
        if self.link_local {
            writeln!(f, "add the link-local address of its MAC address to {name}")?;
        }
        if !matches!(self.link, LinkPlan::Existing { .. }) {
            writeln!(f, "set {name} up")?;
        }
        for (setting, value) in &self.late_settings {
            writeln!(f, "set {} of {name} to {value}", setting.name())?;
        }
        for route in &self.routes {
            writeln!(f, "add route {route} through {name}")?;
        }
        if self.solicits_routers {
            writeln!(f, "ask the routers on {name} to advertise")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::attachment::parse_list;
    use crate::link::mark::Mark;
    use crate::link::taken::Taken;
    use crate::net::messages::Neighbour;

    fn link(index: u32, name: &str) -> Link {
        Link {
            index,
            name: name.into(),
            mtu: 1500,
            mac: Some("02:00:00:00:00:01".parse().unwrap()),
            up: true,
            ..Link::default()
        }
    }

    fn mac(last: u8) -> MacAddr {
        format!("02:00:00:00:00:{last:02x}").parse().unwrap()
    }

    fn facts() -> Facts {
        let down = Link { up: false, ..link(4, "down") };
        let lo = Link { loopback: true, mac: None, ..link(1, "lo") };
        let port = Link { port_of: Some((9, "bridge".into())), ..link(5, "port") };
        let tun = Link { mac: None, ..link(6, "tun") };
        let links = [link(2, "eth0"), link(3, "eth1"), down, lo, port, tun];
        Facts {
            link_names: links.iter().map(|l| l.name.clone()).collect(),
            links: links.into_iter().map(|l| (l.name.parse().unwrap(), l)).collect(),
            taken: Taken {
                host_addresses: vec![(2, "10.0.0.1".parse().unwrap())],
                host_links: vec![Link { mac: Some(mac(9)), ..link(9, "wan0") }],
                gateways: vec![(2, "10.0.0.3".parse().unwrap())],
                neighbours: vec![
                    Neighbour { index: 2, address: "10.0.0.3".parse().unwrap(), mac: mac(3) },
                    Neighbour { index: 2, address: "fd00::4".parse().unwrap(), mac: mac(4) },
                ],
            },
            container_links: [("eth0".parse().unwrap(), link(2, "eth0"))].into(),
            bridges: [("eth0".parse().unwrap(), 3)].into(),
            without_ipv6: BTreeMap::new(),
            mark: Mark::default(),
        }
    }

    #[test]
    fn the_steps_of_a_full_attachment() {
        let spec = "parent=eth0,ip=10.0.0.5/24,ip=2001:db8::5/64,gw=10.0.0.254,route=10.9.0.0/16@10.0.0.2,mac=02:00:00:00:00:02,mtu=1400;parent=eth1,name=blue,igmp=off";
        let plans = plan(&parse_list(spec).unwrap(), &facts()).unwrap();
        let text: String = plans.iter().map(ToString::to_string).collect();
        insta::assert_snapshot!(text);
    }

    #[test]
    fn the_steps_of_an_ipvlan_child_and_of_relays() {
        let spec = "parent=eth0,driver=ipvlan,mode=l3s,flag=vepa,ip=10.0.0.5/24,mtu=1400;parent=eth0,driver=relay;parent=eth1,driver=relay,interface=eth7";
        let plans = plan(&parse_list(spec).unwrap(), &facts()).unwrap();
        let text: String = plans.iter().map(ToString::to_string).collect();
        insta::assert_snapshot!(text);
    }

    /// Facts in which the host has this link too.
    fn with_link(link: Link) -> Facts {
        let mut facts = facts();
        facts.links.insert(link.name.parse().unwrap(), link);
        facts
    }

    fn vlan_link(alias: Option<&str>) -> Link {
        Link {
            kind: Some("vlan".into()),
            parent: Some(2),
            vlan: Some(10),
            alias: alias.map(Into::into),
            ..link(7, "eth0.10")
        }
    }

    #[test]
    fn a_vlan_link_is_made_once_and_found_afterwards() {
        let plan = |facts: &Facts, spec: &str| plan(&parse_list(spec).unwrap(), facts).unwrap();
        let both = plan(&facts(), "parent=eth0,vlan=10;parent=eth0,vlan=10,driver=relay");
        for plan in &both {
            let text = plan.to_string();
            assert!(text.starts_with("make eth0.10 as VLAN 10 of eth0\n"), "{text}");
            assert_eq!((plan.parent.name.as_str(), plan.parent.index), ("eth0.10", None));
            assert_eq!(plan.upstream, plan.parent);
        }
        assert!(both[0].to_string().contains("create macvlan mc0 on eth0.10 "), "{}", both[0]);
        for (alias, made) in [
            (Some("mcrun"), true),
            (Some("mcrun /run/mcrun"), true),
            (Some("mcrun /run/another"), false),
            (Some("mine"), false),
            (None, false),
        ] {
            let [found] = &plan(&with_link(vlan_link(alias)), "parent=eth0,vlan=10")[..] else {
                panic!("one interface")
            };
            let planned = found.host_link.as_ref().unwrap();
            assert_eq!((planned.index, planned.made), (Some(7), made), "{alias:?}");
            assert_eq!(found.parent.index, Some(7));
        }
        let elsewhere = plan(&facts(), "parent=eth0,vlan=10,upstream=eth1");
        assert_eq!(elsewhere[0].upstream.index, Some(3));
    }

    #[test]
    fn a_link_that_is_not_the_vlan_is_refused() {
        let attachment = parse_list("parent=eth0,vlan=10").unwrap();
        for (there, expected) in [
            (
                Link { vlan: Some(11), ..vlan_link(Some("mcrun")) },
                "vlan=10: the host's eth0.10 is not VLAN 10 of eth0; rename it",
            ),
            (link(7, "eth0.10"), "vlan=10: the host's eth0.10 is not VLAN 10 of eth0; rename it"),
            (
                Link { up: false, ..vlan_link(None) },
                "vlan=10: eth0.10 is down; set it up first (ip link set eth0.10 up)",
            ),
        ] {
            let error = plan(&attachment, &with_link(there)).unwrap_err().to_string();
            assert_eq!(error, expected);
        }
        // One of mcrun's own is set up.
        plan(&attachment, &with_link(Link { up: false, ..vlan_link(Some("mcrun")) })).unwrap();
    }

    #[test]
    fn the_steps_of_an_attachment_with_addresses_of_a_router() {
        let spec = "parent=eth0,ip=slaac,mac=02:00:00:00:00:02;parent=eth1,ipv6=on,igmp=native";
        let plans = plan(&parse_list(spec).unwrap(), &facts()).unwrap();
        let text: String = plans.iter().map(ToString::to_string).collect();
        insta::assert_snapshot!(text);
    }

    #[test]
    fn ipv6_that_the_host_does_not_have_is_refused() {
        let refusal = |off, spec: &str| {
            let without_ipv6 = BTreeMap::from([("eth0".parse().unwrap(), off)]);
            let facts = Facts { without_ipv6, ..facts() };
            let refused = plan(&parse_list(spec).unwrap(), &facts).err();
            refused.map(|error| error.to_string())
        };
        for asked in ["ip=slaac", "ipv6=on", "ip=fd00::9/64"] {
            let spec = format!("parent=eth0,{asked}");
            let expected = format!("{asked}: the host's kernel has no IPv6");
            assert!(refusal(Ipv6Off::Kernel, &spec).unwrap().starts_with(&expected));
            let expected = format!("{asked}: IPv6 is off on the host's eth0, where the proxy");
            assert!(refusal(Ipv6Off::Interface, &spec).unwrap().starts_with(&expected));
            assert_eq!(refusal(Ipv6Off::Interface, &format!("{spec},igmp=native")), None);
        }
        assert_eq!(refusal(Ipv6Off::Kernel, "parent=eth0,ip=10.0.0.9/24"), None);
    }

    #[test]
    fn what_stands_against_it() {
        for (spec, expected) in [
            (
                "parent=eth9",
                "parent=eth9: the host has no interface of this name; did you mean eth0?",
            ),
            ("parent=xyzzy", "no interface of this name; ip link shows them"),
            ("parent=down", "parent=down: the interface is down"),
            ("parent=lo", "loopback"),
            ("parent=port", "port of a bridge; name the bridge itself"),
            ("parent=tun", "no Ethernet interface"),
            ("parent=eth0,upstream=down", "upstream=down"),
            ("parent=eth0,name=eth0", "name=eth0: the container has"),
            ("parent=eth0,mtu=1501", "mtu=1501: eth0 has 1500"),
            ("parent=eth1,driver=relay", "parent=eth1: the container's eth0 is on this bridge"),
            ("parent=eth0,mac=02:00:00:00:00:01", "address of eth0 itself"),
            (
                "parent=eth1,ip=10.0.0.1/24",
                "ip=10.0.0.1/24: 10.0.0.1 is the host's own address, on eth0",
            ),
            (
                "parent=eth0,ip=10.0.0.3/24",
                "ip=10.0.0.3/24: 10.0.0.3 is a gateway of the host, on eth0",
            ),
            (
                "parent=eth0,ip=fd00::4/64",
                "ip=fd00::4/64: fd00::4 is the address of a neighbour of the host on eth0, \
                 02:00:00:00:00:04 (ip neigh)",
            ),
            (
                "parent=eth0,ip=10.0.0.8/24,gw=10.0.0.8",
                "ip=10.0.0.8/24: 10.0.0.8 is the gateway that gw= names",
            ),
            (
                "parent=eth0,ip=10.0.0.8/24,route=10.9.0.0/16@10.0.0.8",
                "10.0.0.8 is the gateway of route=10.9.0.0/16@10.0.0.8",
            ),
            ("parent=eth0,mac=02:00:00:00:00:09", "this is the address of the host's wan0"),
            (
                "parent=eth0,mac=02:00:00:00:00:03",
                "mac=02:00:00:00:00:03: this is the address of the gateway on eth0, 10.0.0.3",
            ),
            ("parent=eth0,mac=02:00:00:00:00:04", "of a neighbour of the host on eth0, fd00::4"),
        ] {
            let error = plan(&parse_list(spec).unwrap(), &facts()).unwrap_err().to_string();
            assert!(error.contains(expected), "{spec}: {error}");
        }
    }
}

//! The attachment syntax: `KEY=VALUE[,KEY=VALUE...]` to [`Attachment`].

use std::fmt::Display;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

use crate::attachment::{Attachment, Driver, IgmpMode, IpAssignment, Route};
use crate::multicast::{GroupPolicy, GroupRule, RateLimits};
use crate::primitives::{InterfaceName, MacAddr};
use crate::primitives::{IpvlanFlag, IpvlanMode, MacvlanMode};

/// Attachments of one container; a host has fewer media LANs than this.
pub const MAX_ATTACHMENTS: usize = 16;
/// Bytes of a whole attachment text.
const MAX_TEXT: usize = 64 * 1024;
/// Metric of a default route: far above what engines give theirs, so that theirs stays in use.
const DEFAULT_METRIC: u32 = 500;

/// Why an attachment text is refused: one line that names the key, the value and what is right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SpecError(String);

impl SpecError {
    /// Longest message in characters; a value that is quoted may be much longer.
    const MAX: usize = 500;

    /// A line that can be shown on a terminal, whatever text is quoted in it.
    fn new(message: &str) -> Self {
        let visible = message.chars().flat_map(|c| {
            let escaped = c.is_control().then(|| c.escape_default());
            let plain = escaped.is_none().then_some(c);
            escaped.into_iter().flatten().chain(plain)
        });
        SpecError(visible.take(Self::MAX).collect())
    }
}

/// Parses several attachments separated by `;`, as an annotation or a variable holds them, and
/// checks them against each other. An empty text is no attachment.
///
/// # Errors
/// That of the first bad one, two interfaces of one name, children that one parent cannot have beside
/// each other, or more than [`MAX_ATTACHMENTS`].
pub fn parse_list(text: &str) -> Result<Vec<Attachment>, SpecError> {
    if text.len() > MAX_TEXT {
        return fail(format!(
            "attachment text of {} bytes: at most {MAX_TEXT} are read",
            text.len()
        ));
    }
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let attachments = text.split(';').map(parse_spec).collect::<Result<Vec<_>, _>>()?;
    check_together(&attachments)?;
    Ok(attachments)
}

/// Checks what no attachment can see alone: their number, their interface names and what they do to
/// the others' parents.
///
/// # Errors
/// As [`parse_list`].
pub fn check_together(attachments: &[Attachment]) -> Result<(), SpecError> {
    if attachments.len() > MAX_ATTACHMENTS {
        return fail(format!(
            "{} attachments: a container has at most {MAX_ATTACHMENTS}",
            attachments.len()
        ));
    }
    let names: Vec<InterfaceName> =
        attachments.iter().enumerate().map(|(i, a)| a.interface_name(i)).collect();
    match names.iter().enumerate().find(|(i, name)| names[..*i].contains(name)) {
        Some((_, name)) => {
            fail(format!("name={name}: two attachments of the container have this name"))
        }
        None => check_parents(attachments),
    }
}

/// What the children of one parent must have in common: the kernel has either macvlan or ipvlan on a
/// parent, and gives all ipvlan children the mode and the flag of the last.
fn check_parents(attachments: &[Attachment]) -> Result<(), SpecError> {
    for (position, attachment) in attachments.iter().enumerate() {
        let parent = &attachment.parent;
        let before = attachments[..position].iter().filter(|other| other.parent == *parent);
        for other in before {
            let (key, wanted, there) = match (&attachment.driver, &other.driver) {
                (Driver::Ipvlan { mode, .. }, Driver::Ipvlan { mode: other, .. })
                    if mode != other =>
                {
                    ("mode", mode.name(), other.name())
                }
                (Driver::Ipvlan { flag, .. }, Driver::Ipvlan { flag: other, .. })
                    if flag != other =>
                {
                    ("flag", flag.name(), other.name())
                }
                (Driver::Ipvlan { .. }, Driver::Macvlan(_))
                | (Driver::Macvlan(_), Driver::Ipvlan { .. }) => {
                    ("driver", attachment.driver.name(), other.driver.name())
                }
                _ => continue,
            };
            return fail(format!(
                "{key}={wanted}: another attachment of the container to {parent} has {key}={there}, and all children of a parent have the same"
            ));
        }
    }
    Ok(())
}

/// Parses one attachment.
///
/// # Errors
/// A line that names the key, the value and what would be right.
pub fn parse_spec(text: &str) -> Result<Attachment, SpecError> {
    let mut keys = Keys::default();
    for pair in text.trim().split(',') {
        let pair = pair.trim();
        match pair.split_once('=') {
            Some((key, value)) => keys.set(key.trim(), value.trim())?,
            None if pair.is_empty() => {
                return fail(format!(
                    "attachment {text:?} has an empty part; write KEY=VALUE[,KEY=VALUE...]"
                ));
            }
            None => return fail(format!("{pair:?} is not KEY=VALUE; did you mean parent={pair}?")),
        }
    }
    keys.finish()
}

fn fail<T>(message: impl Into<String>) -> Result<T, SpecError> {
    Err(SpecError::new(&message.into()))
}

/// All keys of the syntax, for the suggestion behind an unknown one.
const KEYS: &[&str] = &[
    "net",
    "parent",
    "vlan",
    "driver",
    "mode",
    "flag",
    "ip",
    "gw",
    "metric",
    "route",
    "mac",
    "mtu",
    "name",
    "interface",
    "igmp",
    "upstream",
    "allow",
    "deny",
    "max-groups",
    "max-sources",
    "max-pps",
    "max-byterate",
    "bcqueuelen",
    "bclim",
];

/// The values as they are met; each is checked in itself at once.
#[derive(Default)]
struct Keys {
    /// What was given so far, as it was written.
    seen: Vec<(String, String)>,
    parent: Option<InterfaceName>,
    driver: Option<String>,
    mode: Option<String>,
    flag: Option<String>,
    interface: Option<InterfaceName>,
    ip: Vec<IpNet>,
    ip_none: bool,
    gw: Vec<IpAddr>,
    metric: Option<u32>,
    routes: Vec<Route>,
    mac: Option<MacAddr>,
    mtu: Option<u32>,
    name: Option<InterfaceName>,
    igmp: Option<IgmpMode>,
    upstream: Option<InterfaceName>,
    allow: Vec<GroupRule>,
    deny: Vec<GroupRule>,
    max_groups: Option<u32>,
    max_sources: Option<u32>,
    rates: RateLimits,
    bcqueuelen: Option<u32>,
    bclim: Option<i32>,
}

impl Keys {
    fn set(&mut self, key: &str, value: &str) -> Result<(), SpecError> {
        if !KEYS.contains(&key) {
            return fail(unknown("attachment key", key, KEYS));
        }
        if value.is_empty() {
            return fail(format!("{key}= has no value"));
        }
        let repeatable = matches!(key, "ip" | "gw" | "route" | "allow" | "deny");
        if !repeatable && self.seen.iter().any(|(k, _)| k == key) {
            return fail(format!("{key}={value}: {key} is given twice"));
        }
        self.seen.push((key.to_owned(), value.to_owned()));
        match key {
            "parent" => self.parent = Some(parsed(key, value)?),
            "driver" => self.driver = Some(value.to_owned()),
            "mode" => self.mode = Some(value.to_owned()),
            "flag" => self.flag = Some(value.to_owned()),
            "interface" => self.interface = Some(interface_name(key, value)?),
            "ip" => self.set_ip(value)?,
            "gw" => self.gw.push(gateway(key, value)?),
            "metric" => self.metric = Some(number(key, value, 1, u32::MAX)?),
            "route" => self.routes.push(route(value)?),
            "mac" => self.mac = Some(parsed(key, value)?),
            "mtu" => self.mtu = Some(number(key, value, 68, 65535)?),
            "name" => self.name = Some(interface_name(key, value)?),
            "igmp" => {
                self.igmp = Some(match value {
                    "proxy" => IgmpMode::Proxy,
                    "native" => IgmpMode::Native,
                    "off" => IgmpMode::Off,
                    _ => return fail(unknown("igmp", value, &["proxy", "native", "off"])),
                });
            }
            "upstream" => self.upstream = Some(parsed(key, value)?),
            "allow" => self.allow.push(parsed(key, value)?),
            "deny" => self.deny.push(parsed(key, value)?),
            "max-groups" => self.max_groups = Some(number(key, value, 1, 65535)?),
            "max-sources" => self.max_sources = Some(number(key, value, 1, 65535)?),
            "max-pps" => self.rates.packets = Some(number(key, value, 1, u32::MAX)?),
            "max-byterate" => self.rates.bytes = Some(number(key, value, 1, u64::MAX)?),
            "bcqueuelen" => self.bcqueuelen = Some(number(key, value, 1, 1_000_000)?),
            "bclim" => self.bclim = Some(number(key, value, -1, i32::MAX)?),
            // Keys of the contract that this version does not carry out: never in silence.
            _ => {
                return fail(format!(
                    "{key}={value}: {key} is not supported by this version of mcrun"
                ));
            }
        }
        Ok(())
    }

    fn set_ip(&mut self, value: &str) -> Result<(), SpecError> {
        match value {
            "none" => self.ip_none = true,
            "pool" | "dhcp" => {
                return fail(format!(
                    "ip={value} is not supported by this version of mcrun; give ADDRESS/PREFIX or none"
                ));
            }
            _ => {
                let net = address(value)?;
                if self.ip.iter().any(|other| other.addr() == net.addr()) {
                    return fail(format!("ip={value}: {} is given twice", net.addr()));
                }
                self.ip.push(net);
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<Attachment, SpecError> {
        let driver = self.driver()?;
        let Some(parent) = self.parent else {
            return fail(
                "parent= is missing: name the LAN interface of the host, as in parent=eth0",
            );
        };
        if self.ip_none && !self.ip.is_empty() {
            return fail(format!("ip=none contradicts ip={}", self.ip[0]));
        }
        let on_link = |gateway: &IpAddr| {
            self.ip.iter().any(|net| net.contains(gateway))
                || matches!(gateway, IpAddr::V6(a) if a.is_unicast_link_local() && self.ip.iter().any(|n| n.addr().is_ipv6()))
        };
        for (i, gw) in self.gw.iter().enumerate() {
            if self.gw[..i].iter().any(|other| other.is_ipv4() == gw.is_ipv4()) {
                return fail(format!(
                    "gw={gw}: a default gateway of this address family is given already"
                ));
            }
        }
        let next_hops =
            self.gw.iter().map(|gw| (format!("gw={gw}"), *gw)).chain(
                self.routes.iter().filter_map(|r| Some((format!("route={}", r), r.gateway?))),
            );
        for (text, next_hop) in next_hops {
            if !on_link(&next_hop) {
                return fail(format!(
                    "{text}: {next_hop} is in no subnet of the interface; give an ip=ADDRESS/PREFIX whose subnet holds it"
                ));
            }
        }
        if self.metric.is_some() && self.gw.is_empty() {
            return fail("metric= is the metric of the default route: it needs gw=");
        }
        let igmp = self.igmp.unwrap_or(IgmpMode::Proxy);
        if driver.is_relayed() && igmp != IgmpMode::Proxy {
            return fail(format!(
                "igmp={}: what the container joins is relayed to it by the proxy with {}; it needs igmp=proxy",
                igmp.name(),
                described(&driver)
            ));
        }
        let ruling = ["allow", "deny", "max-groups", "max-sources"];
        if igmp != IgmpMode::Proxy
            && let Some((key, value)) =
                self.seen.iter().find(|(key, _)| ruling.contains(&key.as_str()))
        {
            return fail(format!(
                "{key}={value}: this is the proxy's to enforce: it needs igmp=proxy"
            ));
        }
        let defaults = GroupPolicy::default();
        Ok(Attachment {
            parent,
            driver,
            ip: if self.ip.is_empty() { IpAssignment::None } else { IpAssignment::Static(self.ip) },
            gateways: self.gw,
            metric: self.metric.unwrap_or(DEFAULT_METRIC),
            routes: self.routes,
            mac: self.mac,
            mtu: self.mtu,
            name: self.name,
            igmp,
            upstream: self.upstream,
            policy: GroupPolicy {
                allow: self.allow,
                deny: self.deny,
                max_groups: self.max_groups.unwrap_or(defaults.max_groups),
                max_sources: self.max_sources.unwrap_or(defaults.max_sources),
            },
            rates: self.rates,
            bcqueuelen: self.bcqueuelen,
            bclim: self.bclim,
        })
    }

    /// The driver with what belongs to it; a key of another driver is refused.
    fn driver(&self) -> Result<Driver, SpecError> {
        const MACVLAN: &[&str] = &["mac", "bcqueuelen", "bclim"];
        const LINK: &[&str] = &["ip", "gw", "metric", "route", "mtu", "name"];
        const RATES: &[&str] = &["max-pps", "max-byterate"];
        let mode = self.mode.as_deref();
        let driver = match self.driver.as_deref().unwrap_or("macvlan") {
            "macvlan" => Driver::Macvlan(macvlan_mode(mode.unwrap_or("bridge"))?),
            "ipvlan" => Driver::Ipvlan {
                mode: ipvlan_mode(mode.unwrap_or("l2"))?,
                flag: ipvlan_flag(self.flag.as_deref().unwrap_or("bridge"))?,
            },
            "relay" => Driver::Relay {
                interface: match &self.interface {
                    Some(interface) => interface.clone(),
                    None => parsed("interface", "eth0")?,
                },
            },
            name => return fail(unknown("driver", name, &["macvlan", "ipvlan", "relay"])),
        };
        let refused = |lists: &[&[&str]]| {
            let belongs = |(key, _): &&(String, String)| {
                lists.iter().any(|list| list.contains(&key.as_str()))
            };
            self.seen.iter().find(belongs)
        };
        let (foreign, why) = match &driver {
            Driver::Macvlan(_) => {
                (refused(&[&["flag", "interface"], RATES]), "it is not for driver=macvlan")
            }
            Driver::Ipvlan { mode: IpvlanMode::L2, .. } => (
                refused(&[&["interface"], MACVLAN, RATES]),
                "it is not for driver=ipvlan with mode=l2, whose children have the parent's address and \
                 receive without the proxy",
            ),
            Driver::Ipvlan { .. } => (
                refused(&[&["interface"], MACVLAN]),
                "it is not for driver=ipvlan, whose children have the parent's address",
            ),
            Driver::Relay { .. } => (
                refused(&[&["mode", "flag"], MACVLAN, LINK]),
                "driver=relay takes the container's interface (interface=) as it is",
            ),
        };
        match foreign {
            Some((key, value)) => fail(format!("{key}={value}: {why}")),
            None => Ok(driver),
        }
    }
}

/// A driver as an attachment asks for it.
fn described(driver: &Driver) -> String {
    match driver {
        Driver::Relay { .. } => "driver=relay".into(),
        _ => format!("driver={},mode={}", driver.name(), driver.mode()),
    }
}

/// `what "value" is unknown`, with the nearest known one, or all of them when none is near.
fn unknown(what: &str, value: &str, known: &[&str]) -> String {
    match nearest(value, known.iter().copied()) {
        Some(k) => format!("{what} {value:?} is unknown; did you mean {k}?"),
        None => format!("{what} {value:?} is unknown; there are {}", known.join(", ")),
    }
}

/// The known name that is so near to `value` that it may have been meant.
pub(crate) fn nearest<'k>(
    value: &str,
    known: impl IntoIterator<Item = &'k str>,
) -> Option<&'k str> {
    known
        .into_iter()
        .map(|k| (strsim::damerau_levenshtein(value, k), k))
        .min()
        .filter(|(distance, k)| *distance <= k.len().max(3) / 2)
        .map(|(_, k)| k)
}

fn parsed<T: FromStr>(key: &str, value: &str) -> Result<T, SpecError>
where
    T::Err: Display,
{
    value.parse().map_err(|e| SpecError::new(&format!("{key}={value}: {e}")))
}

fn number<T: FromStr + PartialOrd + Display>(
    key: &str,
    value: &str,
    low: T,
    high: T,
) -> Result<T, SpecError> {
    match value.parse::<T>() {
        Ok(n) if n >= low && n <= high => Ok(n),
        _ => fail(format!("{key}={value}: not a number from {low} to {high}")),
    }
}

fn interface_name(key: &str, value: &str) -> Result<InterfaceName, SpecError> {
    match value {
        // Names that sysctl paths and the kernel keep for themselves.
        "lo" | "all" | "default" => {
            fail(format!("{key}={value} is reserved; choose another, such as mc0"))
        }
        _ => parsed(key, value),
    }
}

fn macvlan_mode(text: &str) -> Result<MacvlanMode, SpecError> {
    use MacvlanMode::{Bridge, Passthru, Private, Vepa};
    one_of("macvlan mode", text, [Bridge, Private, Vepa, Passthru], MacvlanMode::name)
}

fn ipvlan_mode(text: &str) -> Result<IpvlanMode, SpecError> {
    use IpvlanMode::{L2, L3, L3s};
    one_of("ipvlan mode", text, [L2, L3, L3s], IpvlanMode::name)
}

fn ipvlan_flag(text: &str) -> Result<IpvlanFlag, SpecError> {
    use IpvlanFlag::{Bridge, Private, Vepa};
    one_of("ipvlan flag", text, [Bridge, Private, Vepa], IpvlanFlag::name)
}

/// The value that has this name.
fn one_of<T: Copy, const N: usize>(
    what: &str,
    text: &str,
    values: [T; N],
    name: impl Fn(T) -> &'static str,
) -> Result<T, SpecError> {
    match values.into_iter().find(|value| name(*value) == text) {
        Some(value) => Ok(value),
        None => fail(unknown(what, text, &values.map(name))),
    }
}

/// An interface address with its prefix, that a host can have.
fn address(value: &str) -> Result<IpNet, SpecError> {
    let refuse = |why: &str| fail(format!("ip={value}: {why}"));
    let Ok(net) = value.parse::<IpNet>() else {
        if value.parse::<IpAddr>().is_ok() {
            return refuse("the prefix length is missing, as in 192.0.2.10/24");
        }
        return refuse("not ADDRESS/PREFIX, as in 192.0.2.10/24, nor none");
    };
    let addr = net.addr();
    if addr.is_multicast() {
        return refuse("a multicast address cannot be an interface's own");
    }
    if addr.is_unspecified() || addr.is_loopback() || net.prefix_len() == 0 {
        return refuse("not an address a host can have on a LAN");
    }
    if let IpNet::V4(v4) = net
        && v4.prefix_len() < 31
        && (v4.addr() == v4.network() || v4.addr() == v4.broadcast())
    {
        return refuse("this is the network's own or its broadcast address");
    }
    Ok(net)
}

fn gateway(key: &str, value: &str) -> Result<IpAddr, SpecError> {
    let Ok(addr) = value.parse::<IpAddr>() else {
        return fail(format!("{key}={value}: not an IP address, as in 192.0.2.1"));
    };
    if addr.is_multicast() || addr.is_unspecified() || addr.is_loopback() {
        return fail(format!("{key}={value}: {addr} cannot be a next hop"));
    }
    Ok(addr)
}

fn route(value: &str) -> Result<Route, SpecError> {
    let (cidr, via) = match value.split_once('@') {
        Some((cidr, via)) => (cidr, Some(via)),
        None => (value, None),
    };
    let Ok(destination) = cidr.parse::<IpNet>() else {
        return fail(format!("route={value}: {cidr:?} is not a network, as in 198.51.100.0/24"));
    };
    if destination != destination.trunc() {
        return fail(format!(
            "route={value}: bits are set behind the prefix; did you mean {}?",
            destination.trunc()
        ));
    }
    let gateway = via.map(|via| gateway("route", via)).transpose()?;
    if gateway.is_some_and(|g| g.is_ipv4() != destination.addr().is_ipv4()) {
        return fail(format!(
            "route={value}: destination and gateway are of different address families"
        ));
    }
    Ok(Route { destination, gateway })
}

#[cfg(test)]
mod tests;

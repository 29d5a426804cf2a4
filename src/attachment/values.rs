//! The values of one attachment text: each by itself, then all of them together.

use std::fmt::Display;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

use crate::attachment::admin::GroupRules;
use crate::attachment::error::{SpecError, fail, suggestion};
use crate::attachment::network::addressing::Addressing;
use crate::attachment::{
    Attachment, ConflictDetection, Driver, IgmpMode, IpAssignment, LinkLayer, NetworkName,
    NetworkUse, Route, Vlan,
};
use crate::multicast::{GroupPolicy, GroupRule, RateLimits};
use crate::primitives::{InterfaceName, IpvlanFlag, IpvlanMode, MacAddr, MacvlanMode};

/// Metric of a default route: far above what engines give theirs, so that theirs stays in use.
const DEFAULT_METRIC: u32 = 500;

/// With a smaller one the kernel has no IPv6 on an interface (`IPV6_MIN_MTU` of linux/ipv6.h).
const LEAST_MTU_OF_IPV6: u32 = 1280;

/// The values as they are met.
#[derive(Debug, Clone, Default)]
pub(super) struct Values {
    pub(super) net: Option<NetworkName>,
    /// The rules of groups and the rates of the network: the values of the attachment cannot go
    /// beyond them.
    pub(super) ceiling: Option<(GroupRules, RateLimits)>,
    /// The addresses of the network.
    pub(super) addressing: Addressing,
    pub(super) parent: Option<InterfaceName>,
    pub(super) vlan: Option<u16>,
    pub(super) driver: Option<DriverName>,
    /// Which modes and flags there are depends on the driver, which may come later.
    pub(super) mode: Option<String>,
    pub(super) flag: Option<String>,
    pub(super) interface: Option<InterfaceName>,
    pub(super) ip: Vec<IpNet>,
    pub(super) ip_none: bool,
    pub(super) ip_pool: bool,
    pub(super) ip_dhcp: bool,
    pub(super) ip_slaac: bool,
    pub(super) ip_dhcp6: bool,
    pub(super) ipv6: Option<bool>,
    /// Whether a protocol is allowed that needs IPv6.
    pub(super) needs_ipv6: bool,
    pub(super) conflict: Option<ConflictDetection>,
    pub(super) gateways: Vec<IpAddr>,
    pub(super) metric: Option<u32>,
    pub(super) routes: Vec<Route>,
    pub(super) mac: Option<MacAddr>,
    pub(super) mtu: Option<u32>,
    pub(super) name: Option<InterfaceName>,
    pub(super) igmp: Option<IgmpMode>,
    pub(super) l2: Option<LinkLayer>,
    pub(super) upstream: Option<InterfaceName>,
    pub(super) allow: Vec<GroupRule>,
    pub(super) deny: Vec<GroupRule>,
    pub(super) max_groups: Option<u32>,
    pub(super) max_sources: Option<u32>,
    pub(super) rates: RateLimits,
    pub(super) bcqueuelen: Option<u32>,
    pub(super) bclim: Option<i32>,
    pub(super) optional: Option<bool>,
}

/// A driver without its mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DriverName {
    Macvlan,
    Ipvlan,
    Relay,
}

impl DriverName {
    pub(super) fn name(self) -> &'static str {
        match self {
            DriverName::Macvlan => "macvlan",
            DriverName::Ipvlan => "ipvlan",
            DriverName::Relay => "relay",
        }
    }
}

impl Values {
    /// The attachment; `driver` is what [`Values::driver`] returned, and `network` the one that the
    /// values are on.
    ///
    /// # Errors
    /// When a value is missing, or values do not go together.
    pub(super) fn finish(
        mut self,
        driver: Driver,
        network: Option<NetworkUse>,
    ) -> Result<Attachment, SpecError> {
        let igmp = self.igmp_mode();
        if driver.is_relayed() && igmp != IgmpMode::Proxy {
            let mode = Some(driver.mode()).filter(|mode| !mode.is_empty());
            let mode = mode.map(|mode| format!(",mode={mode}")).unwrap_or_default();
            return fail(format!(
                "igmp={}: the proxy relays the container's multicast with driver={}{mode}, which \
                 needs igmp=proxy",
                igmp.name(),
                driver.name(),
            ));
        }
        self.check_dhcp(&driver)?;
        self.check_pool(network.as_ref())?;
        self.add_gateways_of_network();
        if self.needs_ipv6 && (driver.is_relay() || !driver.is_relayed()) {
            self.ipv6 = self.ipv6.or(Some(true));
        }
        self.check_ipv6(&driver)?;
        self.check_addresses()?;
        let Some(parent) = self.parent else {
            return fail(
                "parent= is missing: name the LAN interface of the host, as in parent=eth0, or a \
                 network, as in net=NAME",
            );
        };
        let vlan = match self.vlan {
            Some(id) => {
                Some(Vlan::new(&parent, id).or_else(|why| fail(format!("vlan={id}: {why}")))?)
            }
            None => None,
        };
        let defaults = GroupPolicy::default();
        let mut policy = GroupPolicy {
            allow: self.allow,
            deny: self.deny,
            max_groups: self.max_groups.unwrap_or(defaults.max_groups),
            max_sources: self.max_sources.unwrap_or(defaults.max_sources),
            // The administrator's word.
            ssm_strict: false,
        };
        let mut rates = self.rates;
        if let Some((rules, most)) = self.ceiling {
            policy = rules.restrict(&policy).map_or_else(
                || {
                    let first = policy.allow.first().map(ToString::to_string).unwrap_or_default();
                    fail(format!("allow={first}: the network allows {}", rules.allowed()))
                },
                Ok,
            )?;
            rates = rates.at_most(most);
        }
        Ok(Attachment {
            network,
            parent,
            vlan,
            driver,
            ip: match (self.ip_pool, self.ip.is_empty()) {
                _ if self.ip_dhcp => IpAssignment::Dhcp(Vec::new()),
                _ if self.ip_dhcp6 => IpAssignment::Dhcp6(Vec::new()),
                (true, _) => IpAssignment::Pool(Vec::new()),
                (false, true) => IpAssignment::None,
                (false, false) => IpAssignment::Static(self.ip),
            },
            slaac: self.ip_slaac,
            ipv6: self.ipv6,
            pool: self.ip_pool.then_some(self.addressing),
            conflict: self.conflict.unwrap_or_default(),
            gateways: self.gateways,
            metric: self.metric.unwrap_or(DEFAULT_METRIC),
            routes: self.routes,
            mac: self.mac,
            mtu: self.mtu,
            name: self.name,
            igmp,
            l2: self.l2.unwrap_or_default(),
            upstream: self.upstream,
            policy,
            rates,
            bcqueuelen: self.bcqueuelen,
            bclim: self.bclim,
            optional: self.optional.unwrap_or(false),
            adopted: false,
            cni_network: None,
            engine_network: false,
        })
    }

    pub(super) fn igmp_mode(&self) -> IgmpMode {
        self.igmp.unwrap_or(IgmpMode::Proxy)
    }

    /// The driver with its mode and flag.
    ///
    /// # Errors
    /// A mode or a flag that the driver does not have. They are checked here because the driver may
    /// be given behind them.
    pub(super) fn driver(&self) -> Result<Driver, SpecError> {
        use IpvlanMode::{L2, L3, L3s};
        let mode = self.mode.as_deref();
        Ok(match self.driver.unwrap_or(DriverName::Macvlan) {
            DriverName::Macvlan => {
                use MacvlanMode::{Bridge, Passthru, Private, Vepa};
                let modes = [Bridge, Private, Vepa, Passthru];
                let mode = chosen("mode", "macvlan mode", mode, modes, MacvlanMode::name)?;
                Driver::Macvlan(mode.unwrap_or(Bridge))
            }
            DriverName::Ipvlan => {
                use IpvlanFlag::{Bridge, Private, Vepa};
                let (flag, flags) = (self.flag.as_deref(), [Bridge, Private, Vepa]);
                let mode = chosen("mode", "ipvlan mode", mode, [L2, L3, L3s], IpvlanMode::name)?;
                let flag = chosen("flag", "ipvlan flag", flag, flags, IpvlanFlag::name)?;
                Driver::Ipvlan { mode: mode.unwrap_or(L2), flag: flag.unwrap_or(Bridge) }
            }
            DriverName::Relay => Driver::Relay {
                interface: match &self.interface {
                    Some(interface) => interface.clone(),
                    None => parsed("eth0").or_else(fail)?,
                },
            },
        })
    }

    /// The gateways of the network are those of default routes where the interface has an address of
    /// the subnet, and no other default gateway of the family.
    fn add_gateways_of_network(&mut self) {
        for gateway in &self.addressing.gateways.clone() {
            let is_on_link = self.subnets().any(|net| net.contains(gateway));
            let has_one = self.gateways.iter().any(|own| own.is_ipv4() == gateway.is_ipv4());
            if is_on_link && !has_one {
                self.gateways.push(*gateway);
            }
        }
    }

    fn check_dhcp(&self, driver: &Driver) -> Result<(), SpecError> {
        let key = match (self.ip_dhcp, self.ip_dhcp6) {
            (false, false) => return Ok(()),
            (true, _) => "ip=dhcp",
            (false, true) => "ip=dhcp6",
        };
        let other = match self.ip.first() {
            Some(ip) => Some(format!("ip={ip}")),
            None if self.ip_none => Some("ip=none".to_owned()),
            None if self.ip_dhcp && self.ip_dhcp6 => Some("ip=dhcp6".to_owned()),
            None => self.ip_pool.then(|| "ip=pool".to_owned()),
        };
        if let Some(other) = other {
            return fail(format!("{key} contradicts {other}; give one of them"));
        }
        match driver {
            Driver::Ipvlan { .. } if self.ip_dhcp6 => fail(
                "ip=dhcp6: links of ipvlan share one MAC address, by which servers would answer; give \
                 driver=macvlan",
            ),
            Driver::Ipvlan { mode: mode @ (IpvlanMode::L3 | IpvlanMode::L3s), .. } => {
                fail(format!(
                    "ip=dhcp: a link of ipvlan mode {} hears no broadcast; give mode=l2, or driver=macvlan",
                    mode.name()
                ))
            }
            _ => Ok(()),
        }
    }

    fn check_ipv6(&self, driver: &Driver) -> Result<(), SpecError> {
        if self.ip_slaac {
            if self.ip_none {
                return fail("ip=slaac contradicts ip=none; give one of them");
            }
            if let Driver::Ipvlan { mode: mode @ (IpvlanMode::L3 | IpvlanMode::L3s), .. } = driver {
                return fail(format!(
                    "ip=slaac: a link of ipvlan mode {} hears no router; give mode=l2, or \
                     driver=macvlan",
                    mode.name()
                ));
            }
        }
        let address =
            self.subnets().find(|net| net.addr().is_ipv6()).map(|net| match self.ip_pool {
                true => format!("the subnet {net} of ip=pool"),
                false => format!("ip={net}"),
            });
        let slaac = self.ip_slaac.then(|| "ip=slaac".to_owned());
        let gateway = self.gateways.iter().find(|gw| gw.is_ipv6()).map(|gw| format!("gw={gw}"));
        let route = self.routes.iter().find(|route| route.destination.addr().is_ipv6());
        let route = route.map(|route| format!("route={route}"));
        let dhcp6 = self.ip_dhcp6.then(|| "ip=dhcp6".to_owned());
        let asked = address.or(slaac).or(dhcp6);
        if self.ipv6 == Some(false)
            && let Some(other) = asked.or(gateway).or(route)
        {
            return fail(format!("ipv6=off contradicts {other}; give one of them"));
        }
        if let Some(mtu) = self.mtu.filter(|mtu| *mtu < LEAST_MTU_OF_IPV6)
            && self.speaks_ipv6()
        {
            return fail(format!(
                "mtu={mtu}: IPv6 needs {LEAST_MTU_OF_IPV6} (RFC 8200 section 5); give ipv6=off or a \
                 larger one"
            ));
        }
        Ok(())
    }

    fn speaks_ipv6(&self) -> bool {
        let asked =
            self.ip_slaac || self.ip_dhcp6 || self.subnets().any(|net| net.addr().is_ipv6());
        self.ipv6.unwrap_or(asked)
    }

    fn check_pool(&self, network: Option<&NetworkUse>) -> Result<(), SpecError> {
        if !self.ip_pool {
            return Ok(());
        }
        if let Some(ip) = self.ip.first() {
            return fail(format!("ip=pool contradicts ip={ip}; give one of them"));
        }
        if self.ip_none {
            return fail("ip=pool contradicts ip=none; give one of them");
        }
        if self.addressing.subnets.is_empty() {
            return fail(
                "ip=pool: the addresses are those of a network whose file has a subnet; give net=NAME",
            );
        }
        let elsewhere = ["parent", "vlan"]
            .into_iter()
            .find(|key| network.is_some_and(|network| network.own.iter().any(|own| own == key)));
        match elsewhere {
            Some(key) => fail(format!(
                "ip=pool: the addresses are those of the network's LAN; leave {key}= to the network"
            )),
            None => Ok(()),
        }
    }

    /// The subnets of the interface.
    fn subnets(&self) -> impl Iterator<Item = &IpNet> {
        let pool = if self.ip_pool { self.addressing.subnets.as_slice() } else { &[] };
        self.ip.iter().chain(pool)
    }

    fn check_addresses(&self) -> Result<(), SpecError> {
        for net in &self.ip {
            if let Some(why) = self.addressing.refusal(net) {
                return fail(format!("ip={net}: the network does not have it: {why}"));
            }
        }
        if self.ip_none
            && let Some(ip) = self.ip.first()
        {
            return fail(format!("ip=none contradicts ip={ip}; give one of them"));
        }
        for (i, gw) in self.gateways.iter().enumerate() {
            if self.gateways[..i].iter().any(|other| other.is_ipv4() == gw.is_ipv4()) {
                return fail(format!(
                    "gw={gw}: a default gateway of this address family is given already"
                ));
            }
        }
        let has_ipv6 = self.speaks_ipv6();
        let on_link = |gateway: &IpAddr| {
            let link_local = matches!(gateway, IpAddr::V6(a) if a.is_unicast_link_local());
            self.subnets().any(|net| net.contains(gateway)) || (link_local && has_ipv6)
        };
        let gateways = self.gateways.iter().map(|gw| (format!("gw={gw}"), *gw));
        let routes = self.routes.iter().filter_map(|r| Some((format!("route={r}"), r.gateway?)));
        for (text, next_hop) in gateways.chain(routes) {
            // Which subnet a server gives is not known yet.
            let is_later = self.ip_dhcp && next_hop.is_ipv4();
            if !is_later && !on_link(&next_hop) {
                return fail(format!(
                    "{text}: {next_hop} is in no subnet of the interface; give an \
                     ip=ADDRESS/PREFIX whose subnet holds it"
                ));
            }
        }
        if let (Some(metric), []) = (self.metric, self.gateways.as_slice())
            && !self.ip_dhcp
        {
            return fail(format!(
                "metric={metric}: this is the metric of the default route, which needs gw="
            ));
        }
        Ok(())
    }
}

/// The value that has the name which is given for a key, if one is given.
fn chosen<T: Copy, const N: usize>(
    key: &str,
    what: &str,
    text: Option<&str>,
    values: [T; N],
    name: impl Fn(T) -> &'static str,
) -> Result<Option<T>, SpecError> {
    let choose =
        |text| one_of(what, text, values, name).or_else(|why| fail(format!("{key}={text}: {why}")));
    text.map(choose).transpose()
}

/// The value that has this name.
fn one_of<T: Copy, const N: usize>(
    what: &str,
    text: &str,
    values: [T; N],
    name: impl Fn(T) -> &'static str,
) -> Result<T, String> {
    let known = values.map(&name);
    let found = values.into_iter().find(|value| name(*value) == text);
    found.ok_or_else(|| format!("unknown {what}; {}", suggestion(text, &known)))
}

pub(super) fn driver_name(text: &str) -> Result<DriverName, String> {
    use DriverName::{Ipvlan, Macvlan, Relay};
    one_of("driver", text, [Macvlan, Ipvlan, Relay], DriverName::name)
}

pub(super) fn igmp_mode(text: &str) -> Result<IgmpMode, String> {
    use IgmpMode::{Native, Off, Proxy};
    one_of("IGMP mode", text, [Proxy, Native, Off], IgmpMode::name)
}

pub(super) fn link_layer(text: &str) -> Result<LinkLayer, String> {
    use LinkLayer::{Closed, Open};
    one_of("value", text, [Closed, Open], LinkLayer::name)
}

pub(super) fn conflict_detection(text: &str) -> Result<ConflictDetection, String> {
    use ConflictDetection::{Off, Probe};
    one_of("value", text, [Probe, Off], ConflictDetection::name)
}

pub(super) fn parsed<T: FromStr>(text: &str) -> Result<T, String>
where
    T::Err: Display,
{
    text.parse().map_err(|error: T::Err| error.to_string())
}

/// A number within these limits, both included.
pub(super) fn number<T: FromStr + PartialOrd + Display>(
    text: &str,
    low: T,
    high: T,
) -> Result<T, String> {
    match text.parse::<T>() {
        Ok(n) if n >= low && n <= high => Ok(n),
        _ => Err(format!("not a number from {low} to {high}")),
    }
}

/// The name of an interface in the container.
pub(super) fn interface_name(text: &str) -> Result<InterfaceName, String> {
    match text {
        // Names that sysctl paths and the kernel keep for themselves.
        "lo" | "all" | "default" => Err("this name is reserved; choose another, as mc0".into()),
        _ => parsed(text),
    }
}

/// An interface address with its prefix, that a host can have.
pub(super) fn address(value: &str) -> Result<IpNet, String> {
    let refuse = |why: &str| Err(why.to_owned());
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

/// The address of a next hop.
pub(super) fn gateway(value: &str) -> Result<IpAddr, String> {
    let Ok(addr) = value.parse::<IpAddr>() else {
        return Err(format!("{value:?} is not an IP address, as in 192.0.2.1"));
    };
    if addr.is_multicast() || addr.is_unspecified() || addr.is_loopback() {
        return Err(format!("{addr} cannot be a next hop: it is not the address of a host"));
    }
    Ok(addr)
}

/// `NETWORK/PREFIX` or `NETWORK/PREFIX@GATEWAY`.
pub(super) fn route(value: &str) -> Result<Route, String> {
    let (cidr, via) = match value.split_once('@') {
        Some((cidr, via)) => (cidr, Some(via)),
        None => (value, None),
    };
    let Ok(destination) = cidr.parse::<IpNet>() else {
        return Err(format!("{cidr:?} is not a network, as in 198.51.100.0/24"));
    };
    if destination != destination.trunc() {
        return Err(format!(
            "bits are set behind the prefix; did you mean {}?",
            destination.trunc()
        ));
    }
    let gateway = via.map(gateway).transpose()?;
    if gateway.is_some_and(|g| g.is_ipv4() != destination.addr().is_ipv4()) {
        return Err("destination and gateway are of different address families".into());
    }
    Ok(Route { destination, gateway })
}

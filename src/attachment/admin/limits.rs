//! The table of what `[attach]` in mcrun.toml can limit. A limit is defined here and nowhere else.

use crate::attachment::admin::AdminConfig;
use crate::attachment::admin::allowed::{Allowed, DHCP, DHCP6, Kind, SLAAC};
use crate::attachment::types::{Attachment, Driver, IgmpMode, IpAssignment};

/// One key of `[attach]` that limits a key of attachments.
pub(super) struct Limit {
    /// Its name in the file.
    pub(super) name: &'static str,
    /// The attachment key that it limits.
    pub(super) key: &'static str,
    /// What its values are.
    pub(super) kind: Kind,
    /// What is allowed when the file does not have the key.
    default: Default,
    /// The values that an attachment asks for, as the attachment syntax writes them.
    asked: fn(&Attachment) -> Vec<String>,
}

/// What is allowed when the file does not have the key.
#[derive(Clone, Copy)]
enum Default {
    /// Everything.
    Everything,
    /// What harms nobody else, with and without the file.
    Only(&'static [&'static str]),
    /// Numbers that harm nobody else, with and without the file.
    Numbers(i64, i64),
    /// Everything while the file limits no attachment, and nothing when it does: the values touch
    /// others on the LAN.
    Listed,
}

/// The limits, in the order in which they are checked.
pub(super) const LIMITS: &[Limit] = &[
    Limit {
        name: "networks",
        key: "net",
        kind: Kind::Names,
        default: Default::Everything,
        asked: |attachment| attachment.network.iter().map(|n| n.name.to_string()).collect(),
    },
    Limit {
        name: "parents",
        key: "parent",
        kind: Kind::Names,
        default: Default::Everything,
        asked: |attachment| vec![attachment.parent_link().to_string()],
    },
    Limit {
        name: "upstream",
        key: "upstream",
        kind: Kind::Names,
        default: Default::Listed,
        asked: |attachment| {
            let other = attachment.upstream.iter().filter(|name| *name != attachment.parent_link());
            other.map(ToString::to_string).collect()
        },
    },
    Limit {
        name: "vlan",
        key: "vlan",
        kind: Kind::Numbers(1, 4094),
        default: Default::Listed,
        asked: |attachment| attachment.vlan.iter().map(|vlan| vlan.id.to_string()).collect(),
    },
    Limit {
        name: "drivers",
        key: "driver",
        kind: Kind::Words(&["macvlan", "ipvlan", "relay"]),
        default: Default::Everything,
        asked: |attachment| vec![attachment.driver.name().to_owned()],
    },
    Limit {
        name: "mode",
        key: "mode",
        kind: Kind::Words(&["bridge", "private", "vepa", "passthru", "l2", "l3", "l3s"]),
        // passthru takes the parent away from the host and from everybody else.
        default: Default::Only(&["bridge", "private", "vepa", "l2", "l3", "l3s"]),
        asked: |attachment| {
            let mode = Some(attachment.driver.mode()).filter(|mode| !mode.is_empty());
            mode.map(str::to_owned).into_iter().collect()
        },
    },
    Limit {
        name: "flag",
        key: "flag",
        kind: Kind::Words(&["bridge", "private", "vepa"]),
        default: Default::Everything,
        asked: |attachment| match &attachment.driver {
            Driver::Ipvlan { flag, .. } => vec![flag.name().to_owned()],
            _ => Vec::new(),
        },
    },
    Limit {
        name: "interface",
        key: "interface",
        kind: Kind::Names,
        default: Default::Everything,
        asked: |attachment| match &attachment.driver {
            Driver::Relay { interface } => vec![interface.to_string()],
            _ => Vec::new(),
        },
    },
    Limit {
        name: "ip",
        key: "ip",
        kind: Kind::Addresses,
        default: Default::Listed,
        asked: |attachment| {
            let mut asked: Vec<String> = match &attachment.ip {
                IpAssignment::Static(list) => list.iter().map(ToString::to_string).collect(),
                // Which address it will be is for a server to say.
                IpAssignment::Dhcp(_) => vec![DHCP.to_owned()],
                IpAssignment::Dhcp6(_) => vec![DHCP6.to_owned()],
                // The network's addresses are the administrator's word.
                IpAssignment::Pool(_) | IpAssignment::None => Vec::new(),
            };
            asked.extend(attachment.slaac.then(|| SLAAC.to_owned()));
            asked
        },
    },
    Limit {
        name: "ipv6",
        key: "ipv6",
        kind: Kind::Words(&["on", "off"]),
        default: Default::Everything,
        asked: |attachment| match attachment.driver {
            Driver::Relay { .. } => Vec::new(),
            _ if attachment.speaks_ipv6() => vec!["on".to_owned()],
            _ => vec!["off".to_owned()],
        },
    },
    Limit {
        name: "conflict",
        key: "conflict",
        kind: Kind::Words(&["probe", "off"]),
        // Who takes an address without a question may take it from another station.
        default: Default::Listed,
        asked: |attachment| match attachment.conflict.is_probe() {
            true => Vec::new(),
            false => vec![attachment.conflict.name().to_owned()],
        },
    },
    Limit {
        name: "mac",
        key: "mac",
        kind: Kind::MacAddresses,
        default: Default::Listed,
        asked: |attachment| attachment.mac.iter().map(ToString::to_string).collect(),
    },
    Limit {
        name: "gw",
        key: "gw",
        kind: Kind::Addresses,
        default: Default::Listed,
        asked: |attachment| attachment.gateways.iter().map(ToString::to_string).collect(),
    },
    Limit {
        name: "route",
        key: "route",
        kind: Kind::Networks,
        default: Default::Listed,
        asked: |attachment| attachment.routes.iter().map(ToString::to_string).collect(),
    },
    Limit {
        name: "metric",
        key: "metric",
        kind: Kind::Numbers(1, u32::MAX as i64),
        default: Default::Everything,
        asked: |attachment| {
            let default = attachment.routes.iter().any(|r| r.destination.prefix_len() == 0);
            let has_one = default || !attachment.gateways.is_empty();
            has_one.then(|| attachment.metric.to_string()).into_iter().collect()
        },
    },
    Limit {
        name: "mtu",
        key: "mtu",
        kind: Kind::Numbers(68, 65535),
        default: Default::Everything,
        asked: |attachment| attachment.mtu.iter().map(ToString::to_string).collect(),
    },
    Limit {
        name: "name",
        key: "name",
        kind: Kind::Names,
        default: Default::Everything,
        asked: |attachment| attachment.name.iter().map(ToString::to_string).collect(),
    },
    Limit {
        name: "igmp",
        key: "igmp",
        kind: Kind::Words(&["proxy", "native", "off"]),
        default: Default::Everything,
        asked: |attachment| vec![attachment.igmp.name().to_owned()],
    },
    Limit {
        name: "l2",
        key: "l2",
        kind: Kind::Words(&["closed", "open"]),
        // What a container with an open interface sends concerns the whole LAN.
        default: Default::Only(&["closed"]),
        asked: |attachment| match attachment.is_limited() {
            false if !attachment.l2.is_closed() => vec![attachment.l2.name().to_owned()],
            _ => Vec::new(),
        },
    },
    Limit {
        name: "bcqueuelen",
        key: "bcqueuelen",
        kind: Kind::Numbers(1, 1_000_000),
        // The queue takes the host's memory. The longest one that anybody asked for is in force.
        default: Default::Numbers(1, 100_000),
        asked: |attachment| attachment.bcqueuelen.iter().map(ToString::to_string).collect(),
    },
    Limit {
        name: "bclim",
        key: "bclim",
        kind: Kind::Numbers(-1, i32::MAX as i64),
        // The last value that anybody asked for is in force for all children of the parent.
        default: Default::Numbers(-1, -1),
        asked: |attachment| attachment.bclim.iter().map(ToString::to_string).collect(),
    },
];

impl Limit {
    /// What is in force: the file's word, else the default.
    pub(super) fn allowed(&self, config: &AdminConfig) -> Allowed {
        if let Some(allowed) = config.attach.get(self.name) {
            return allowed.clone();
        }
        // Who lists networks does not mean all parents.
        if self.name == "parents" && config.attach.contains_key("networks") {
            return self.kind.nothing();
        }
        // The proxy enforces [groups]. Without a proxy the rules would have no effect.
        if self.name == "igmp" && config.groups.is_ruled() {
            return Allowed::Words(vec![IgmpMode::Proxy.name().to_owned()]);
        }
        match self.default {
            Default::Everything => self.kind.everything(),
            Default::Only(words) => Allowed::Words(words.iter().map(|w| (*w).into()).collect()),
            Default::Numbers(low, high) => Allowed::Numbers(vec![low..=high]),
            Default::Listed if config.attach.is_empty() => self.kind.everything(),
            // `parents` is for the parent's VLAN links and for upstream interfaces too.
            Default::Listed => match (self.name, config.attach.get("parents")) {
                ("upstream", Some(parents)) => parents.clone(),
                ("vlan", Some(_)) => self.kind.everything(),
                _ => self.kind.nothing(),
            },
        }
    }

    /// Why an attachment is refused: each value that is not allowed. In the file `vlan` beside
    /// `parents` may name the VLANs of a parent that is listed by its own name.
    pub(super) fn refusals(&self, attachment: &Attachment, config: &AdminConfig) -> Vec<String> {
        // A network is the administrator's word. So are the rules of [groups], which have no effect
        // without a proxy.
        let is_for_rules = self.name == "igmp" && config.groups.is_ruled();
        if self.key != "net" && !attachment.is_own(self.key) && !is_for_rules {
            return Vec::new();
        }
        let asked = (self.asked)(attachment);
        if asked.is_empty() {
            return Vec::new();
        }
        let allowed = self.allowed(config);
        let of_untagged = self.name == "parents"
            && config.attach.contains_key("vlan")
            && allowed.contains(attachment.parent.as_str());
        let refused = asked.into_iter().filter(|value| !of_untagged && !allowed.contains(value));
        let missing = match config.attach.contains_key(self.name) {
            false if allowed == self.kind.nothing() => {
                format!("[attach] of mcrun.toml has no {}", self.name)
            }
            _ => "mcrun.toml".to_owned(),
        };
        refused
            .map(|value| {
                format!("{}={value}: the administrator allows {allowed} ({missing})", self.key)
            })
            .collect()
    }
}

//! What is written beside `net=`, and what the network says.

use std::net::IpAddr;

use crate::attachment::admin::GroupRules;
use crate::attachment::network::Network;
use crate::attachment::values::Values;
use crate::multicast::RateLimits;

impl Network {
    /// The values of an attachment on the network: its own come before the network's. The rules of
    /// groups and the rates are the exception, where the narrower one counts.
    pub(in crate::attachment) fn beside(self, own: Values) -> Values {
        let theirs = self.values;
        let ip_is_own = !own.ip.is_empty()
            || own.ip_none
            || own.ip_pool
            || own.ip_dhcp
            || own.ip_dhcp6
            || own.ip_slaac;
        let rules =
            GroupRules::of(&theirs.allow, &theirs.deny, theirs.max_groups, theirs.max_sources);
        let unless_none = |gateways: Vec<IpAddr>| if own.ip_none { Vec::new() } else { gateways };
        Values {
            net: own.net,
            ceiling: Some((rules, theirs.rates)),
            addressing: self.addressing,
            parent: own.parent.or(theirs.parent),
            vlan: own.vlan.or(theirs.vlan),
            driver: own.driver.or(theirs.driver),
            mode: own.mode.or(theirs.mode),
            flag: own.flag.or(theirs.flag),
            interface: own.interface.or(theirs.interface),
            ip_none: if ip_is_own { own.ip_none } else { theirs.ip_none },
            ip_pool: if ip_is_own { own.ip_pool } else { theirs.ip_pool },
            ip_dhcp: if ip_is_own { own.ip_dhcp } else { theirs.ip_dhcp },
            ip_dhcp6: if ip_is_own { own.ip_dhcp6 } else { theirs.ip_dhcp6 },
            ip_slaac: if ip_is_own { own.ip_slaac } else { theirs.ip_slaac },
            ipv6: own.ipv6.or(theirs.ipv6),
            needs_ipv6: own.needs_ipv6 || theirs.needs_ipv6,
            ip: own.ip,
            conflict: own.conflict.or(theirs.conflict),
            gateways: match own.gateways.is_empty() {
                true => unless_none(theirs.gateways),
                false => own.gateways,
            },
            metric: own.metric.or(theirs.metric.filter(|_| !own.ip_none)),
            routes: if own.routes.is_empty() { theirs.routes } else { own.routes },
            mac: own.mac,
            mtu: own.mtu.or(theirs.mtu),
            name: own.name.or(theirs.name),
            igmp: own.igmp.or(theirs.igmp),
            l2: own.l2.or(theirs.l2),
            upstream: own.upstream.or(theirs.upstream),
            optional: own.optional.or(theirs.optional),
            allow: own.allow,
            deny: own.deny,
            max_groups: own.max_groups.or(theirs.max_groups),
            max_sources: own.max_sources.or(theirs.max_sources),
            rates: RateLimits {
                packets: own.rates.packets.or(theirs.rates.packets),
                bytes: own.rates.bytes.or(theirs.rates.bytes),
            },
            bcqueuelen: own.bcqueuelen.or(theirs.bcqueuelen),
            bclim: own.bclim.or(theirs.bclim),
        }
    }
}

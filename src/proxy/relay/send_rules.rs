//! What the container may send to the LAN through its relay.

use std::collections::BTreeSet;
use std::io;
use std::time::{Duration, Instant};

use crate::multicast::{Address, DataFilter, GroupPolicy};
use crate::primitives::PortRanges;
use crate::proxy::relay::port_translation::PTP_PORTS;

/// A container's packet from an address that is not known to be its own makes the relay look again,
/// at most once in this time.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// The rules about what is sent.
pub(super) struct SendRules<A> {
    policy: GroupPolicy,
    /// What `policy` denies, in the form that a packet is compared with.
    denied: DataFilter<A>,
    /// The addresses of the container's interfaces, as they were looked up last.
    own: BTreeSet<A>,
    own_read_at: Option<Instant>,
}

impl<A: Address> SendRules<A> {
    /// The rules of an attachment.
    pub(super) fn new(policy: GroupPolicy) -> Self {
        let denied = policy.data_filter();
        SendRules { policy, denied, own: BTreeSet::new(), own_read_at: None }
    }

    /// Whether packets to a group are carried at all. Those of link scope are carried only when an
    /// `allow` rule names them.
    pub(super) fn is_relayed(&self, group: A) -> bool {
        !group.is_link_scope() || self.policy.relays_link_scope(group)
    }

    /// Whether `address` belongs to the container. `look` gives the addresses of its interfaces.
    pub(super) fn is_own(
        &mut self,
        now: Instant,
        address: A,
        look: impl FnOnce() -> io::Result<Vec<A>>,
    ) -> bool {
        let recent = |read: Instant| now.saturating_duration_since(read) < LOOK_INTERVAL;
        if !self.own.contains(&address) && !self.own_read_at.is_some_and(recent) {
            self.own_read_at = Some(now);
            self.own = look().unwrap_or_default().into_iter().collect();
        }
        self.own.contains(&address)
    }

    /// Checks a packet to a group. `source` is the address that the LAN sees.
    ///
    /// # Errors
    /// The rule that denies it, as people are shown it.
    pub(super) fn check(&self, source: A, group: A) -> Result<(), String> {
        if self.denied.passes(group, source) {
            return Ok(());
        }
        Err(self.policy.check(group, source).err().unwrap_or_default())
    }
}

/// Checks the destination port of a packet that leaves with the host's address. PTP is the host's
/// own: its clock would be taken for another one, or be set by the container.
///
/// # Errors
/// What would be right, as people are shown it.
pub(super) fn check_port(destination: u16, allowed: &PortRanges) -> Result<(), String> {
    if !PTP_PORTS.contains(&destination) || allowed.contains(destination) {
        return Ok(());
    }
    Err(format!("port {destination} is PTP's; mcrun.toml allows it by [relay] ports"))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const HOST: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 9);
    const GROUP: Ipv4Addr = Ipv4Addr::new(239, 1, 1, 1);

    fn rules(allow: &[&str], deny: &[&str]) -> SendRules<Ipv4Addr> {
        let list = |rules: &[&str]| rules.iter().map(|rule| rule.parse().unwrap()).collect();
        SendRules::new(GroupPolicy {
            allow: list(allow),
            deny: list(deny),
            ..GroupPolicy::default()
        })
    }

    #[test]
    fn a_rule_holds_for_the_address_that_the_lan_sees() {
        assert_eq!(rules(&[], &[]).check(HOST, GROUP), Ok(()));
        let denied = rules(&[], &["239.1.0.0/16"]).check(HOST, GROUP);
        assert_eq!(denied, Err("deny=239.1.0.0/16".into()));
        let other = rules(&["239.2.0.0/16"], &[]).check(HOST, GROUP);
        assert_eq!(other, Err("no allow rule names it".into()));
        assert_eq!(rules(&["239.1.1.1@10.0.0.9"], &[]).check(HOST, GROUP), Ok(()));
        assert!(rules(&["239.1.1.1@10.0.0.5"], &[]).check(HOST, GROUP).is_err());
    }

    #[test]
    fn a_group_of_the_link_needs_an_allow_that_names_it() {
        let mdns = Ipv4Addr::new(224, 0, 0, 251);
        assert!(!rules(&[], &[]).is_relayed(mdns));
        assert!(!rules(&["224.0.0.0/4"], &[]).is_relayed(mdns));
        assert!(rules(&["224.0.0.251"], &[]).is_relayed(mdns));
        assert!(rules(&[], &[]).is_relayed(GROUP));
    }

    #[test]
    fn an_unknown_address_is_looked_up_and_not_more_often_than_needed() {
        let now = Instant::now();
        let mut rules = rules(&[], &[]);
        let mut looks = 0;
        let own = Ipv4Addr::new(172, 17, 0, 2);
        let mut is_own = |now, address| {
            let look = || {
                looks += 1;
                Ok(vec![own])
            };
            (rules.is_own(now, address, look), looks)
        };
        assert_eq!(is_own(now, own), (true, 1));
        assert_eq!(is_own(now + LOOK_INTERVAL, own), (true, 1));
        assert_eq!(is_own(now + LOOK_INTERVAL, HOST), (false, 2));
        assert_eq!(is_own(now + LOOK_INTERVAL, HOST), (false, 2));
        assert_eq!(is_own(now + LOOK_INTERVAL * 2, HOST), (false, 3));
    }

    #[test]
    fn ptp_is_the_hosts_unless_the_administrator_gives_it_away() {
        let allowed = PortRanges::from_iter([319..=319]);
        assert_eq!(check_port(319, &allowed), Ok(()));
        let denied = check_port(320, &allowed).unwrap_err();
        assert_eq!(denied, "port 320 is PTP's; mcrun.toml allows it by [relay] ports");
        assert_eq!(check_port(5004, &PortRanges::default()), Ok(()));
    }
}

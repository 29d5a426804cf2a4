//! Groups that share an Ethernet address, joined on one parent.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use crate::notice::Notice;

/// Bits of a group that its Ethernet address has (RFC 1112 §6.4).
const MAC_BITS: u32 = 0x007f_ffff;
/// Containers that one notice names.
const NAMED: usize = 8;

/// A group that a container has joined, and whose frames its link takes by their Ethernet address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct JoinedGroup<'a> {
    /// What people call the container.
    pub name: &'a str,
    /// Interface in the container.
    pub interface: &'a str,
    /// Its parent.
    pub parent: &'a str,
    /// The group.
    pub group: Ipv4Addr,
}

/// A notice for each group whose Ethernet address another joined group on the same parent has, with
/// the position of the group.
///
/// 32 groups have each address. Neither a switch nor a link tells their frames apart: whoever has
/// joined one of them gets the frames of all that are joined.
pub fn shared_macs(joined: &[JoinedGroup<'_>]) -> Vec<(usize, Notice)> {
    let mut by_mac: BTreeMap<(&str, u32), Vec<(usize, &JoinedGroup<'_>)>> = BTreeMap::new();
    for (position, one) in joined.iter().enumerate() {
        let sharing = by_mac.entry((one.parent, one.group.to_bits() & MAC_BITS)).or_default();
        sharing.push((position, one));
    }
    let mut notices = Vec::new();
    for ((parent, bits), sharing) in by_mac {
        let mut names: BTreeMap<Ipv4Addr, BTreeSet<&str>> = BTreeMap::new();
        for (_, one) in &sharing {
            names.entry(one.group).or_default().insert(one.name);
        }
        if names.len() < 2 {
            continue;
        }
        for (position, one) in sharing {
            let others = names.iter().filter(|(group, _)| **group != one.group);
            let containers: BTreeSet<_> = others.clone().flat_map(|(_, names)| names).collect();
            let notice = Notice::SharedMac {
                interface: one.interface.to_owned(),
                parent: parent.to_owned(),
                group: one.group.into(),
                mac: ethernet_address(bits),
                others: others.map(|(group, _)| (*group).into()).collect(),
                containers: containers.iter().take(NAMED).map(|name| (**name).to_owned()).collect(),
            };
            notices.push((position, notice));
        }
    }
    notices
}

/// The Ethernet address of the groups with these low bits (RFC 1112 §6.4).
fn ethernet_address(bits: u32) -> String {
    let [_, a, b, c] = bits.to_be_bytes();
    format!("01:00:5e:{a:02x}:{b:02x}:{c:02x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined<'a>(name: &'a str, parent: &'a str, group: &str) -> JoinedGroup<'a> {
        JoinedGroup { name, interface: "mc0", parent, group: group.parse().unwrap() }
    }

    #[test]
    fn groups_that_differ_in_the_upper_bits_alone_share_an_address_on_one_parent() {
        let groups = [
            joined("a", "eth1", "239.1.1.1"),
            joined("b", "eth1", "239.129.1.1"),
            joined("c", "eth1", "239.1.1.1"),
            // Another address, and another LAN.
            joined("d", "eth1", "239.1.1.2"),
            joined("e", "eth2", "232.1.1.1"),
        ];
        let notices = shared_macs(&groups);
        let of = |name: &str| {
            let own = notices.iter().filter(|(position, _)| groups[*position].name == name);
            own.map(|(_, notice)| notice.clone()).collect::<Vec<_>>()
        };
        let notice = |group: &str, others: &str, containers: &[&str]| Notice::SharedMac {
            interface: "mc0".into(),
            parent: "eth1".into(),
            group: group.parse().unwrap(),
            mac: "01:00:5e:01:01:01".into(),
            others: vec![others.parse().unwrap()],
            containers: containers.iter().map(|name| (*name).into()).collect(),
        };
        assert_eq!(of("a"), [notice("239.1.1.1", "239.129.1.1", &["b"])]);
        assert_eq!(of("b"), [notice("239.129.1.1", "239.1.1.1", &["a", "c"])]);
        assert_eq!(of("c"), of("a"));
        assert_eq!(notices.len(), 3);
    }

    #[test]
    fn a_container_can_share_with_itself_and_one_group_with_nobody() {
        let same = [joined("a", "eth1", "239.1.1.1"), joined("b", "eth1", "239.1.1.1")];
        assert_eq!(shared_macs(&same), []);
        let own = [joined("a", "eth1", "224.1.1.1"), joined("a", "eth1", "239.129.1.1")];
        let texts: Vec<_> = shared_macs(&own).iter().map(|(_, n)| n.to_string()).collect();
        assert_eq!(texts.len(), 2);
        assert!(
            texts[0].contains("224.1.1.1 has the Ethernet address of 239.129.1.1"),
            "{texts:?}"
        );
    }

    #[test]
    fn a_notice_names_a_limited_number_of_containers() {
        let names: Vec<_> = (0..100).map(|n| format!("c{n:02}")).collect();
        let mut groups: Vec<_> = names.iter().map(|n| joined(n, "eth1", "239.1.1.1")).collect();
        groups.push(joined("x", "eth1", "239.129.1.1"));
        let notices = shared_macs(&groups);
        let (100, Notice::SharedMac { containers, .. }) = notices.last().unwrap() else {
            panic!("{notices:?}")
        };
        assert_eq!((containers.len(), containers[0].as_str()), (NAMED, "c00"));
    }
}

//! How far groups of IPv6 reach.

use std::net::Ipv6Addr;

/// The scope of a group (RFC 4291 §2.7, RFC 7346 §2), in one word without "-local"; `unassigned` where
/// no document says what it means. The caller knows that the address is a group.
pub fn scope_name(group: Ipv6Addr) -> &'static str {
    match group.octets()[1] & 0x0f {
        0 | 0xf => "reserved",
        1 => "interface",
        2 => "link",
        3 => "realm",
        4 => "admin",
        5 => "site",
        8 => "organization",
        0xe => "global",
        _ => "unassigned",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flags_of_a_group_are_no_part_of_its_scope() {
        for (group, name) in [
            ("ff02::fb", "link"),
            ("ff12::1:3", "link"),
            ("ff03::fd", "realm"),
            ("ff35:40:fd00::1", "site"),
            ("ff18::1", "organization"),
            ("ff3e::8000:1", "global"),
            ("ff06::1", "unassigned"),
        ] {
            assert_eq!(scope_name(group.parse().unwrap()), name, "{group}");
        }
    }
}

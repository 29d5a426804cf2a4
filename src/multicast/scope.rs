//! What an address range means.

use std::net::Ipv4Addr;

/// 224.0.0.0/24, which stays on the link and is never pruned (RFC 5771 §4, RFC 4541 §2.1.2).
pub fn is_link_local(group: Ipv4Addr) -> bool {
    group.octets()[..3] == [224, 0, 0]
}

/// 232.0.0.0/8, where every join names its sources (RFC 4607 §1).
pub fn is_ssm(group: Ipv4Addr) -> bool {
    group.octets()[0] == 232
}

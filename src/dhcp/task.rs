//! What the attachment service tells the process that is to hold a lease.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::attachment::Route;
use crate::net::netns::NetNsId;
use crate::oci::ContainerId;
use crate::primitives::{InterfaceName, MacAddr};
use crate::state::Lifetime;

/// Begins the answer when the interface has an address, which follows.
pub(super) const LEASED: &str = "leased ";
/// Begins a line before the answer: a server has given an address that somebody has, which follows,
/// with the MAC address of the station.
pub(super) const DECLINED: &str = "declined ";
/// The answer of a process that was not to wait for an address.
pub(super) const STARTED: &str = "started";
/// Begins the answer when it cannot start; the reason follows.
pub(super) const REFUSED: &str = "error: ";
/// The second line of its input: the record names the process.
pub(super) const KEEP: &str = "keep";

/// The task: the first line on its standard input, as JSON.
///
/// The second line is `keep`. At the end of its input without it, the process gives the address back
/// and ends: the program that launched it has failed or was killed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseTask {
    /// The container.
    pub container: ContainerId,
    /// What the lease lasts as long as.
    pub lifetime: Lifetime,
    /// The container's network namespace.
    pub netns: NetNsId,
    /// Name of the interface there.
    pub interface: String,
    /// Its index.
    pub index: u32,
    /// Its hardware address.
    pub mac: MacAddr,
    /// The client identifier; of DHCPv6 the DUID.
    pub identifier: Vec<u8>,
    /// The identity association, if the address is one of IPv6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iaid: Option<u32>,
    /// The host name that the server is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_name: Option<String>,
    /// The attachment's own default gateway: the server's does not count then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<Ipv4Addr>,
    /// The attachment's own routes that need the address.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
    /// Metric of default routes.
    pub metric: u32,
    /// How the LAN is asked for an address before the interface gets it; `None`: not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probed_by: Option<ProbedBy>,
    /// The parent, where the host's own leg there reaches the interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shim_parent: Option<InterfaceName>,
    /// Answer at once, and hold whatever there is to be had later.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub later: bool,
}

/// The interface by which the LAN is asked for an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProbedBy {
    /// The container's.
    Own,
    /// The host's of this index: to an ipvlan link, which has the MAC address of its parent, the answer
    /// would not come.
    Parent(u32),
}

/// The client identifier of a container's interface: it stays over restarts, and no other host has it.
pub fn client_identifier(parent: MacAddr, container: &str, interface: &str) -> Vec<u8> {
    // Type 0: no hardware address (RFC 2132 §9.14).
    let mut identifier = format!("\0mcrun {parent} {interface} {container}").into_bytes();
    identifier.truncate(255);
    identifier
}

/// The DUID of a container (RFC 8415 §11.5): it stays over restarts, and no other host has it. It is a
/// UUID of version 8 (RFC 9562 §5.8), made of the parent's MAC address and the container's name.
pub fn duid(parent: MacAddr, container: &str) -> Vec<u8> {
    let mut uuid = hash(format!("mcrun {parent} {container}").as_bytes()).to_be_bytes();
    uuid[6] = (uuid[6] & 0x0f) | 0x80;
    uuid[8] = (uuid[8] & 0x3f) | 0x80;
    [&[0, 4][..], &uuid].concat()
}

/// The identity association of an interface: a container may have several (RFC 8415 §12).
pub fn iaid(interface: &str) -> u32 {
    hash(interface.as_bytes()) as u32
}

/// FNV-1a with 128 bits. It need not resist anybody: who names a container chooses the identifier.
fn hash(bytes: &[u8]) -> u128 {
    bytes.iter().fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d, |hash: u128, byte| {
        (hash ^ u128::from(*byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
    })
}

/// The name that a server is told; `None`: the container's is no host name (RFC 1123 §2.1).
pub fn host_name(container: &str) -> Option<String> {
    let is_good = |c: u8| c.is_ascii_alphanumeric() || c == b'-';
    let whole = (1..=63).contains(&container.len())
        && container.bytes().all(is_good)
        && !container.starts_with('-')
        && !container.ends_with('-');
    whole.then(|| container.to_owned())
}

/// A leased address as the answer has it.
pub(super) fn leased(text: &str) -> Option<IpNet> {
    text.strip_prefix(LEASED)?.parse().ok()
}

/// What a line says of an address that was declined.
pub(super) fn declined(text: &str) -> Option<(IpAddr, MacAddr)> {
    let (address, mac) = text.strip_prefix(DECLINED)?.split_once(' ')?;
    Some((address.parse().ok()?, mac.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identifier_is_one_containers_and_fits() {
        let parent = "02:00:00:00:00:07".parse().unwrap();
        let short = client_identifier(parent, "c1", "mc0");
        assert_eq!(short, b"\0mcrun 02:00:00:00:00:07 mc0 c1");
        assert_eq!(client_identifier(parent, &"x".repeat(500), "mc0").len(), 255);
        assert_eq!(hash(b"a"), 0xd228_cb69_6f1a_8caf_7891_2b70_4e4a_8964);
        let own = duid(parent, "c1");
        assert_eq!((own.len(), own[..2].to_vec(), own[8] >> 4), (18, vec![0, 4], 8));
        assert_ne!(own, duid(parent, "c2"));
        assert_ne!(iaid("mc0"), iaid("mc1"));
        assert_eq!(host_name("camera-1").as_deref(), Some("camera-1"));
        for name in ["", "a_b", "-a", "a.b", &"x".repeat(64)] {
            assert_eq!(host_name(name), None, "{name}");
        }
    }
}

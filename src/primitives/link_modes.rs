//! Modes and flags of macvlan and ipvlan links.

use serde::{Deserialize, Serialize};

/// How macvlan children of one parent reach each other (`ip-link(8)`, TYPE macvlan).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MacvlanMode {
    /// Directly.
    Bridge,
    /// Not at all.
    Private,
    /// Through the switch, which must send frames back to the port they came from (reflective
    /// relay).
    Vepa,
    /// A single child, which takes over the parent's MAC address.
    Passthru,
}

impl MacvlanMode {
    /// The name as `ip link` spells it.
    pub fn name(self) -> &'static str {
        match self {
            MacvlanMode::Bridge => "bridge",
            MacvlanMode::Private => "private",
            MacvlanMode::Vepa => "vepa",
            MacvlanMode::Passthru => "passthru",
        }
    }
}

/// What ipvlan children see of the network (`ip-link(8)`, TYPE ipvlan). All children of a parent
/// have the same mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IpvlanMode {
    /// Links in the parent's subnet; the kernel delivers multicast.
    L2,
    /// Links that the host routes to; the kernel delivers no multicast.
    L3,
    /// As `L3`, and the host's netfilter rules see it.
    L3s,
}

impl IpvlanMode {
    /// The name as `ip link` spells it.
    pub fn name(self) -> &'static str {
        match self {
            IpvlanMode::L2 => "l2",
            IpvlanMode::L3 => "l3",
            IpvlanMode::L3s => "l3s",
        }
    }
}

/// How ipvlan children of one parent reach each other (`ip-link(8)`, TYPE ipvlan). All children
/// of a parent have the same flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IpvlanFlag {
    /// Directly.
    Bridge,
    /// Not at all.
    Private,
    /// Through the switch, which must send frames back to the port they came from (reflective
    /// relay).
    Vepa,
}

impl IpvlanFlag {
    /// The name as `ip link` spells it.
    pub fn name(self) -> &'static str {
        match self {
            IpvlanFlag::Bridge => "bridge",
            IpvlanFlag::Private => "private",
            IpvlanFlag::Vepa => "vepa",
        }
    }
}

//! Who speaks IGMP and MLD for an interface.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use crate::igmp::Igmp;
use crate::mld::Mld;
use crate::proxy::event_loop::family::Spoken;
use crate::proxy::event_loop::proxied::Proxied;
use crate::proxy::relay::Batch;

/// Who speaks IGMP for the interface.
pub(super) enum Mode {
    /// The proxy: it is the router towards the container, and a host towards the LAN.
    Proxied(Box<Proxied>),
    /// The container's kernel.
    Observed {
        /// Since when a group is known to be joined.
        joined_at: BTreeMap<Ipv4Addr, Instant>,
    },
}

/// What speaks MLD for an interface, if the proxy does.
pub(super) type MldSpeaker = Option<Box<Proxied<Mld>>>;

/// Packets on their way through the relays, of each family; `None`: no interface has a relay.
#[derive(Default)]
pub(super) struct RelayBatches {
    pub(super) ipv4: Option<Batch>,
    pub(super) ipv6: Option<Batch<Ipv6Addr>>,
}

/// A protocol, found among the two that an interface has.
pub(super) trait Speaker: Spoken {
    /// What speaks it, if the proxy does.
    fn find<'i>(igmp: &'i Mode, mld: &'i MldSpeaker) -> Option<&'i Proxied<Self>>;

    /// The same, to be changed.
    fn of<'i>(igmp: &'i mut Mode, mld: &'i mut MldSpeaker) -> Option<&'i mut Proxied<Self>>;

    /// The packets on their way through the relays of its family; `None`: nothing is relayed.
    fn batch(batches: &mut RelayBatches) -> &mut Option<Batch<Self::Address>>;
}

impl Speaker for Igmp {
    fn find<'i>(igmp: &'i Mode, _: &'i MldSpeaker) -> Option<&'i Proxied<Self>> {
        match igmp {
            Mode::Proxied(proxied) => Some(proxied),
            Mode::Observed { .. } => None,
        }
    }

    fn of<'i>(igmp: &'i mut Mode, _: &'i mut MldSpeaker) -> Option<&'i mut Proxied<Self>> {
        match igmp {
            Mode::Proxied(proxied) => Some(proxied),
            Mode::Observed { .. } => None,
        }
    }

    fn batch(batches: &mut RelayBatches) -> &mut Option<Batch> {
        &mut batches.ipv4
    }
}

impl Speaker for Mld {
    fn find<'i>(_: &'i Mode, mld: &'i MldSpeaker) -> Option<&'i Proxied<Self>> {
        mld.as_deref()
    }

    fn of<'i>(_: &'i mut Mode, mld: &'i mut MldSpeaker) -> Option<&'i mut Proxied<Self>> {
        mld.as_deref_mut()
    }

    fn batch(batches: &mut RelayBatches) -> &mut Option<Batch<Ipv6Addr>> {
        &mut batches.ipv6
    }
}

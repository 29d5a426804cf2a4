//! Addresses that stations of the LAN have already (RFC 5227 §2.1, RFC 4862 §5.4).

use std::net::IpAddr;

use crate::link::plan::{InterfacePlan, LinkPlan};
use crate::net::address_probe::{AddressProbe, Conflict};
use crate::service::AttachError;
use crate::state::{PlannedInterface, Store};

/// Addresses of a pool that are tried when stations of the LAN have one after the other.
pub(super) const MOST_TRIED: usize = 8;

/// A question to the LAN that was sent before anything else is known of the attachment.
#[derive(Debug)]
pub(super) struct EarlyQuestion {
    /// Indexes of the host's interfaces, each with an address, sorted.
    asked: Vec<(u32, IpAddr)>,
    probe: AddressProbe,
}

impl EarlyQuestion {
    /// Asks for the addresses that are known already, on parents that are there. Where a record gives one
    /// of them to another container, nobody is asked: the attachment will be refused.
    pub(super) fn send(
        interfaces: &[PlannedInterface],
        store: &Store,
    ) -> Result<Option<Self>, AttachError> {
        let mut asked = Vec::new();
        for PlannedInterface { attachment, .. } in interfaces {
            // The address of a pool is chosen later, and the link of a VLAN may be made later.
            if attachment.pool.is_some() || attachment.vlan.is_some() {
                continue;
            }
            let parent = attachment.parent_link();
            let Ok(index) = nix::net::if_::if_nametoindex(parent.as_str()) else { continue };
            for address in attachment.probed_addresses() {
                if store.claimed(parent, address)?.is_some() {
                    return Ok(None);
                }
                asked.push((index, address));
            }
        }
        asked.sort_unstable();
        let probe = AddressProbe::send(asked.iter().copied()).map_err(AttachError::Probe)?;
        Ok(probe.map(|probe| EarlyQuestion { asked, probe }))
    }

    /// The question, if it is this one.
    pub(super) fn for_these(self, mut asked: Vec<(u32, IpAddr)>) -> Option<AddressProbe> {
        asked.sort_unstable();
        (self.asked == asked).then_some(self.probe)
    }
}

/// What the LANs are to be asked for: addresses of links that are about to be made, each with the index of
/// its parent. A link that is made in place of one that has gone has the addresses of its container, which
/// counts on them: nobody is asked.
pub(super) fn asked(plans: &[InterfacePlan], remade: &[String]) -> Vec<(u32, IpAddr)> {
    let new = plans.iter().filter(|plan| remade.iter().all(|name| name != plan.name.as_str()));
    let asked = new.flat_map(|plan| {
        let addresses = plan.probed.iter();
        addresses.filter_map(|address| Some((plan.parent.index?, *address)))
    });
    asked.collect()
}

/// Waits for the answers.
///
/// # Errors
/// [`AttachError::AddressConflict`], [`AttachError::Probe`].
pub(super) fn wait(probe: &AddressProbe, plans: &[InterfacePlan]) -> Result<(), AttachError> {
    let Some(Conflict { address, link, mac }) = probe.wait().map_err(AttachError::Probe)? else {
        return Ok(());
    };
    for plan in plans.iter().filter(|plan| plan.parent.index == Some(link)) {
        if let Some(net) = plan.addresses.iter().find(|net| net.addr() == address) {
            let (net, parent) = (*net, plan.parent.name.clone());
            return Err(AttachError::AddressConflict { net, parent, mac });
        }
        if let LinkPlan::Macvlan { mac: Some(asked), .. } = &plan.link
            && address == asked.link_local_address()
        {
            let (asked, parent) = (*asked, plan.parent.name.clone());
            return Err(AttachError::LinkLocalConflict { asked, address, parent, mac });
        }
    }
    Ok(())
}

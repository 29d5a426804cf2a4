//! Addresses that stations of the LAN have already (RFC 5227 §2.1, RFC 4862 §5.4).

use crate::link::plan::{InterfacePlan, LinkPlan};
use crate::net::address_probe::{AddressProbe, Conflict};
use crate::service::AttachError;

/// Addresses of a pool that are tried when stations of the LAN have one after the other.
pub(super) const MOST_TRIED: usize = 8;

/// Asks the LANs for the addresses of links that are about to be made. A link that is made in place of
/// one that has gone has the addresses of its container, which counts on them: nobody is asked.
///
/// # Errors
/// [`AttachError::Probe`].
pub(super) fn probe(
    plans: &[InterfacePlan],
    remade: &[String],
) -> Result<Option<AddressProbe>, AttachError> {
    let new = plans.iter().filter(|plan| remade.iter().all(|name| name != plan.name.as_str()));
    let asked = new.flat_map(|plan| {
        let addresses = plan.probed.iter();
        addresses.filter_map(|address| Some((plan.parent.index?, *address)))
    });
    AddressProbe::send(asked).map_err(AttachError::Probe)
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

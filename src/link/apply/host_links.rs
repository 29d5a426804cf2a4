//! Making and deleting links of the host that several attachments share. The caller holds the state
//! directory's lock, so that nobody else makes or deletes one meanwhile.

use crate::attachment::HostLinkKind;
use crate::link::apply::ApplyError;
use crate::link::children;
use crate::link::facts::link;
use crate::link::host_link::PlannedHostLink;
use crate::link::mark::Mark;
use crate::link::plan::InterfacePlan;
use crate::link::removal;
use crate::net::messages::{Link, get_links, new_vlan, read_link, set_alias_and_up};
use crate::net::netlink::{NLM_F_CREATE, NLM_F_EXCL, NetlinkError, RouteSocket};

/// Makes the shared links that the plans need and that are missing, and puts their indexes into the
/// plans. What is made stays when a later step fails: [`delete_host_link`] deletes it when nobody
/// uses it.
///
/// # Errors
/// The kernel's refusal, such as that it has no VLANs.
pub fn make_host_links(
    plans: &mut [InterfacePlan],
    mark: &Mark,
    host: &mut RouteSocket,
) -> Result<(), ApplyError> {
    for position in 0..plans.len() {
        let Some(planned) = plans[position].host_link.clone() else { continue };
        // Another attachment of the container may have needed it too.
        let before = plans[..position].iter().filter_map(|plan| plan.host_link.as_ref());
        let made = before.filter(|other| other.link == planned.link).find_map(|other| other.index);
        let index = match made {
            Some(index) => index,
            None => make(&planned, mark, host)?,
        };
        let plan = &mut plans[position];
        if plan.upstream == plan.parent {
            plan.upstream.index = Some(index);
        }
        plan.parent.index = Some(index);
        plan.host_link = Some(PlannedHostLink { index: Some(index), ..planned });
    }
    Ok(())
}

/// Makes the link if it is missing, and sets it up if it is mcrun's; returns its index.
fn make(planned: &PlannedHostLink, mark: &Mark, host: &mut RouteSocket) -> Result<u32, ApplyError> {
    let HostLinkKind::Vlan { parent, id } = &planned.link.kind;
    let name = planned.link.name.as_str();
    let failed =
        |step: &str, source| ApplyError::Step { step: format!("cannot {step} {name}"), source };
    let mut requests = Vec::new();
    if planned.index.is_none() {
        requests.push((new_vlan(name, planned.parent, *id), NLM_F_CREATE | NLM_F_EXCL));
    }
    if planned.made {
        // With the same system call: a link of ours without the alias would stay for ever.
        requests.push((set_alias_and_up(name, mark.alias()), 0));
    }
    let refused = host.batch(requests).map_err(|source| failed("make", source))?;
    if let Some((_, source)) = refused.into_iter().next() {
        return Err(match source.errno {
            libc::EOPNOTSUPP if planned.index.is_none() => ApplyError::Parent(format!(
                "vlan={id}: the kernel has no 802.1Q VLANs (module 8021q), which a VLAN of {parent} needs"
            )),
            _ => failed("make", source),
        });
    }
    let missing = || NetlinkError { errno: libc::ENODEV, message: None };
    let found = link(host, name).and_then(|found| found.ok_or_else(missing));
    found.map(|link| link.index).map_err(|source| failed("find", source))
}

/// Deletes a shared link, if it is `ours`, such as by its mark, and nothing hangs on it. Returns whether
/// it was deleted.
///
/// # Errors
/// The kernel's.
pub fn delete_host_link(
    name: &str,
    ours: impl Fn(&Link) -> bool,
    host: &mut RouteSocket,
) -> Result<bool, NetlinkError> {
    let Some(there) = link(host, name)?.filter(|there| there.vlan.is_some() && ours(there)) else {
        return Ok(false);
    };
    // A child that no record names, such as of another state directory, would be deleted with it.
    if children::on_host(host, there.index)?.is_some() || children::anywhere(there.index)?.is_some()
    {
        return Ok(false);
    }
    match removal::delete(host, there.index) {
        Err(error) if error.errno != libc::ENODEV => Err(error),
        _ => Ok(true),
    }
}

/// Names of the shared links of the host that have the mark.
///
/// # Errors
/// The kernel's.
pub fn made_host_links(mark: &Mark, host: &mut RouteSocket) -> Result<Vec<String>, NetlinkError> {
    let links = host.dump(get_links())?.into_iter().filter_map(read_link);
    let ours = links.filter(|link| link.vlan.is_some() && mark.is_on(link));
    Ok(ours.map(|link| link.name).collect())
}

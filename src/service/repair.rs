//! Links that are not there because their parents are not: made anew when the parents are there
//! again.
//!
//! A child link is deleted with its parent: a VLAN that is configured anew, an adapter that is
//! unplugged. The record names the link all the same. From then on the link is waiting, as that of
//! an `optional=true` attachment whose parent was never there. Who has the privileges makes it:
//! the keeper when the host's links change, or `mcrun reload`.

use std::slice;

use crate::attachment::{AdminConfig, Attachment, Driver};
use crate::link::facts::Facts;
use crate::link::plan::missing_link;
use crate::net::messages::Link;
use crate::net::messages::{get_link_at, get_links, read_link};
use crate::net::netlink::{NetlinkError, RouteSocket};
use crate::oci::ContainerId;
use crate::primitives::InterfaceName;
use crate::service::making::{OpenContainer, Wanted};
use crate::service::namespace::reach_namespace;
use crate::service::proxies::{Launch, ProxyUsers};
use crate::service::{AttachError, host_links, proxies, unfinished};
use crate::state::{
    Attached, AttachedInterface, AttachmentRecord, LockedDir, PlannedInterface, Store, config_dir,
};

/// Makes the links of a container that are waiting and whose parents are there. Its proxy is
/// replaced if its upstream interface was made anew. Returns the names of what was made.
///
/// # Errors
/// [`AttachError`]; the links are waiting then, and the record says why.
pub fn repair(id: &ContainerId, store: &Store) -> Result<Vec<String>, AttachError> {
    let Some(dir) = store.lock(id)? else { return Ok(Vec::new()) };
    let record = dir.read()?.and_then(AttachmentRecord::into_attached);
    let Some(mut attached) = record else { return Ok(Vec::new()) };
    if !attached.container.is_alive() || attached.interfaces.is_empty() {
        return Ok(Vec::new());
    }
    // A file that cannot be understood keeps no link from being made: the record has the limits.
    let admin = AdminConfig::read(&config_dir()).unwrap_or_default();
    let users = ProxyUsers { store, range: admin.proxy_uids() };
    unfinished::finish(&mut attached, &dir, users)?;
    let made = repair_locked(&mut attached, &dir, store, &admin)?;
    // A relay has followed its upstream interface by itself. What it cannot open without privileges,
    // such as the socket of early reports, its successor opens.
    if proxies::find_upstreams(&mut attached) {
        proxies::replace(&mut attached, &dir, users)?;
    }
    Ok(made)
}

/// The same for a record that is at hand, without its upstream interfaces.
///
/// # Errors
/// As of [`repair`].
pub(super) fn repair_locked(
    attached: &mut Attached,
    dir: &LockedDir,
    store: &Store,
    admin: &AdminConfig,
) -> Result<Vec<String>, AttachError> {
    if !attached.interfaces.iter().any(AttachedInterface::is_made) {
        return Ok(Vec::new());
    }
    let namespace = reach_namespace(&attached.container, attached.proxies(), dir);
    let Some(namespace) = namespace else { return Ok(Vec::new()) };
    let mut socket = RouteSocket::open_in(&namespace)?;
    let mut changed = false;
    for interface in &mut attached.interfaces {
        if interface.is_made()
            && let Some(index) = interface.index
            && !exists(&mut socket, index)?
        {
            interface.index = None;
            let parent = interface.attachment.parent_link();
            interface.waiting = Some(format!("it went with its parent {parent}"));
            changed = true;
        }
    }
    if !attached.interfaces.iter().any(AttachedInterface::is_waiting) {
        return Ok(Vec::new());
    }
    let mut host = RouteSocket::open()?;
    let mark = host_links::mark(store);
    let mut ready = Vec::new();
    for interface in attached.interfaces.iter_mut().filter(|i| i.is_waiting()) {
        let attachment = present_attachment(interface, &mut host)?;
        let facts =
            Facts::gather(slice::from_ref(&attachment), mark.clone(), &mut host, &mut socket)?;
        match missing_link(&attachment, &facts) {
            Some(reason) => changed |= set_waiting(interface, reason),
            None => ready.push((interface.name.clone(), attachment)),
        }
    }
    // Whoever finds the record knows what is missing.
    if changed {
        dir.write(&AttachmentRecord::Attached(attached.clone()))?;
    }
    if ready.is_empty() {
        return Ok(Vec::new());
    }
    let mut container = OpenContainer {
        store,
        recorded: attached.container.clone(),
        namespace,
        socket,
        host_links: Vec::new(),
        claimed: Vec::new(),
        question: None,
    };
    let together = make(&mut container, attached, &ready, dir, admin);
    if together.is_ok() || ready.len() == 1 {
        return together;
    }
    // One that cannot be made keeps no other from being made.
    let mut made = Vec::new();
    let mut failed = None;
    for one in &ready {
        match make(&mut container, attached, slice::from_ref(one), dir, admin) {
            Ok(names) => made.extend(names),
            Err(error) => failed = Some(error),
        }
    }
    failed.map_or(Ok(made), Err)
}

/// Makes waiting links of these names, as the attachments say; all of them or none.
fn make(
    container: &mut OpenContainer<'_>,
    attached: &mut Attached,
    ready: &[(String, Attachment)],
    dir: &LockedDir,
    admin: &AdminConfig,
) -> Result<Vec<String>, AttachError> {
    let mut wanted = Vec::new();
    for (name, attachment) in ready {
        let Some(interface) = attached.interfaces.iter().find(|i| i.name == *name) else {
            continue;
        };
        let planned = PlannedInterface {
            name: name.clone(),
            attachment: interface.attachment.clone(),
            limits: interface.limits.clone(),
        };
        wanted.push(Wanted { planned, attachment: attachment.clone(), may_wait: false });
    }
    let served = proxies::has_task(attached)
        || wanted.iter().any(|wanted| proxies::is_served(&wanted.attachment));
    let launch = served.then_some(Launch::Due);
    let made = container.make(Some(attached.clone()), wanted, admin, dir, launch);
    if let Err(error) = made {
        container.release_host_links();
        let reason = error.to_string();
        let mut changed = false;
        for interface in &mut attached.interfaces {
            if ready.iter().any(|(name, _)| *name == interface.name) {
                changed |= set_waiting(interface, reason.clone());
            }
        }
        if changed {
            dir.write(&AttachmentRecord::Attached(attached.clone()))?;
        }
        return Err(error);
    }
    if let Some(now) = dir.read()?.and_then(AttachmentRecord::into_attached) {
        *attached = now;
    }
    Ok(ready.iter().map(|(name, _)| name.clone()).collect())
}

fn set_waiting(interface: &mut AttachedInterface, reason: String) -> bool {
    let reason = Some(reason);
    let changed = interface.waiting != reason;
    interface.waiting = reason;
    changed
}

fn exists(socket: &mut RouteSocket, index: u32) -> Result<bool, NetlinkError> {
    match socket.get(get_link_at(index)) {
        Ok(_) => Ok(true),
        Err(error) if error.errno == libc::ENODEV => Ok(false),
        Err(error) => Err(error),
    }
}

/// What was asked for, with the name and the MAC address that the link had, and the name that its
/// parent has now.
fn present_attachment(
    interface: &AttachedInterface,
    host: &mut RouteSocket,
) -> Result<Attachment, NetlinkError> {
    let mut attachment = interface.attachment.clone();
    attachment.name = interface.name.parse().ok();
    if matches!(attachment.driver, Driver::Macvlan(_)) {
        attachment.mac = interface.mac;
    }
    if crate::link::facts::link(host, attachment.parent.as_str())?.is_none()
        && let Some(mac) = interface.parent_mac
    {
        let links: Vec<_> = host.dump(get_links())?.into_iter().filter_map(read_link).collect();
        if let Some(name) = name_of(&links, mac) {
            rename_parent(&mut attachment, name);
        }
    }
    Ok(attachment)
}

/// The name of the link with this permanent MAC address.
fn name_of(links: &[Link], mac: crate::primitives::MacAddr) -> Option<InterfaceName> {
    let found = links.iter().find(|link| link.permanent_mac == Some(mac))?;
    found.name.parse().ok()
}

/// Gives the parent of an attachment another name. The link of a VLAN is called after it.
fn rename_parent(attachment: &mut Attachment, name: InterfaceName) {
    if let Some(vlan) = &attachment.vlan {
        let Ok(renamed) = crate::attachment::Vlan::new(&name, vlan.id) else { return };
        attachment.vlan = Some(renamed);
    }
    attachment.parent = name;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attachment::parse_spec;

    #[test]
    fn a_parent_is_found_by_its_permanent_address_under_another_name() {
        let mac = |text: &str| text.parse().ok();
        let link = |name: &str, permanent: &str| Link {
            name: name.into(),
            mac: mac("02:00:00:00:00:09"),
            permanent_mac: mac(permanent),
            ..Link::default()
        };
        let links = [link("eth0", ""), link("enx1", "02:00:00:00:00:01")];
        let found = name_of(&links, "02:00:00:00:00:01".parse().unwrap()).unwrap();
        assert_eq!(found.as_str(), "enx1");
        let mut attachment = parse_spec("parent=eth7,vlan=5").unwrap();
        rename_parent(&mut attachment, found);
        assert_eq!(attachment.parent_link().as_str(), "enx1.5");
        assert_eq!(name_of(&links, "02:00:00:00:00:02".parse().unwrap()), None);
    }
}

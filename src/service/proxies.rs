//! The task of a container's proxy; replacing and ending the proxy.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use crate::attachment::{Attachment, Driver, EffectiveLimits, IgmpMode, IpAssignment, UidRange};
use crate::link::plan::HostInterface;
use crate::oci::ContainerId;
use crate::primitives::MacAddr;
use crate::proxy;
use crate::proxy::{
    CreatedInterface, EgressTask, InterfaceTask, LaunchError, ProxyLaunch, ProxyTask, RelayTask,
    random_packet_mark,
};
use crate::service::{AttachError, keeper_socket};
use crate::state::{
    Attached, AttachedInterface, AttachmentRecord, LockedDir, PlannedInterface, ProxyUserError,
    ReservedUser, Store,
};
use crate::sys::process::ProcessRef;

/// How long a proxy may take to end before it is killed.
const PATIENCE: Duration = Duration::from_millis(500);

/// Where proxies get their users from.
#[derive(Debug, Clone, Copy)]
pub(super) struct ProxyUsers<'s> {
    pub(super) store: &'s Store,
    pub(super) range: UidRange,
}

impl ProxyUsers<'_> {
    /// Reserves a user for a proxy of this container, until the value is dropped.
    pub(super) fn reserve(&self, container: &ContainerId) -> Result<ReservedUser, ProxyUserError> {
        self.store.reserve_proxy_user(container, self.range)
    }
}

/// A proxy for interfaces that are being made.
pub(super) enum Launch {
    /// It is started once the LAN has been asked for the addresses: the answers are waited for
    /// longer than it takes to start.
    Due,
    Begun(ProxyLaunch),
}

impl Launch {
    /// One for interfaces that need not exist yet; `None` if all have `igmp=off`. Where nobody is
    /// asked for an address, it is started at once.
    pub(super) fn of(interfaces: &[PlannedInterface]) -> Result<Option<Self>, LaunchError> {
        if !interfaces.iter().any(|i| is_served(&i.attachment)) {
            return Ok(None);
        }
        let is_asked = |i: &PlannedInterface| {
            let attachment = &i.attachment;
            let is_chosen = attachment.pool.is_some() && attachment.conflict.is_probe();
            is_chosen || attachment.probed_addresses().next().is_some()
        };
        if interfaces.iter().any(is_asked) {
            return Ok(Some(Launch::Due));
        }
        Ok(Some(Launch::Begun(ProxyLaunch::spawn()?)))
    }

    /// Starts it, if that is still to be done.
    pub(super) fn begun(self) -> Result<ProxyLaunch, LaunchError> {
        match self {
            Launch::Due => ProxyLaunch::spawn(),
            Launch::Begun(launch) => Ok(launch),
        }
    }
}

/// Whether an interface has a proxy.
pub(super) fn is_served(attachment: &Attachment) -> bool {
    attachment.igmp != IgmpMode::Off
}

/// Whether an interface is in the task of its container's proxy.
fn is_in_task(interface: &AttachedInterface) -> bool {
    is_served(&interface.attachment) && !interface.is_waiting()
}

/// Whether a container has an interface for a proxy.
pub(super) fn has_task(attached: &Attached) -> bool {
    attached.interfaces.iter().any(is_in_task)
}

/// The task of a proxy that serves the interfaces of a container and the `added` ones, which do
/// not exist yet. Each of those comes with its upstream interface, and whether another one has gone in
/// whose place it is made.
///
/// `takes_over`: another proxy serves the container, and the new one takes over from it.
pub(super) fn task<'a>(
    attached: &Attached,
    added: impl IntoIterator<Item = (&'a PlannedInterface, &'a HostInterface, bool)>,
    user: &ReservedUser,
    mark: u32,
    takes_over: bool,
) -> ProxyTask {
    let there = attached.interfaces.iter().filter(|i| is_in_task(i)).map(|i| {
        let existing = (i.index, i.mac);
        let upstream = (present_name(i), i.upstream_index);
        interface_task(&i.name, &i.attachment, &i.limits, upstream, existing, Vec::new())
    });
    let added = added.into_iter().map(|(i, upstream, remade)| {
        // The LAN is told of the addresses of a link when the link comes up for the first time.
        let announce = announced(&i.attachment);
        let upstream = (upstream.name.to_string(), upstream.index.unwrap_or(0));
        let limits = &i.limits;
        let task = interface_task(&i.name, &i.attachment, limits, upstream, (None, None), announce);
        InterfaceTask { remade, ..task }
    });
    let container = &attached.container;
    ProxyTask {
        container: container.id.to_string(),
        lifetime: container.lifetime.clone(),
        notifications: attached.notifications,
        count: attached.count,
        interfaces: there.chain(added).filter(|i| i.igmp != IgmpMode::Off).collect(),
        user: user.id,
        group_notice: None,
        mark,
        takes_over,
    }
}

/// The name that an upstream interface has now: it may have been renamed.
fn present_name(interface: &AttachedInterface) -> String {
    name_of(interface.upstream_index).unwrap_or_else(|| interface.attachment.upstream().to_string())
}

/// The name of the host's interface of this index, if there is one. The function of `nix` takes the
/// null of a missing interface for success, and gives an empty name.
pub(super) fn name_of(index: u32) -> Option<String> {
    let name = nix::net::if_::if_indextoname(index).ok()?.into_string().ok()?;
    Some(name).filter(|name| !name.is_empty())
}

/// Looks the upstream interfaces up again. One that was made anew has another index, and the proxy
/// depends on the one that has gone. One that is there under another name is the same. Returns
/// whether there is any; one that does not exist now changes nothing.
pub(super) fn find_upstreams(attached: &mut Attached) -> bool {
    let mut changed = false;
    for interface in attached.interfaces.iter_mut().filter(|i| !i.is_waiting()) {
        if name_of(interface.upstream_index).is_some() {
            continue;
        }
        let name = interface.attachment.upstream().as_str();
        if let Ok(index) = nix::net::if_::if_nametoindex(name) {
            changed |= index != interface.upstream_index;
            interface.upstream_index = index;
        }
    }
    changed && attached.proxy.is_some()
}

fn interface_task(
    name: &str,
    attachment: &Attachment,
    limits: &EffectiveLimits,
    (upstream, upstream_index): (String, u32),
    (index, mac): (Option<u32>, Option<MacAddr>),
    announce: Vec<Ipv4Addr>,
) -> InterfaceTask {
    InterfaceTask {
        name: name.to_owned(),
        index: index.unwrap_or(0),
        mac,
        announce,
        parent: match &attachment.upstream {
            Some(_) => attachment.parent_link().to_string(),
            None => upstream.clone(),
        },
        upstream,
        upstream_index,
        igmp: attachment.igmp,
        mld: attachment.is_mld_proxied(),
        policy: limits.policy.clone(),
        egress: egress_task(attachment),
        remade: false,
        query_interval: None,
        relay: relay_task(attachment, limits),
    }
}

/// Index and MAC address of each served interface, in the order of the task.
pub(super) fn made_interfaces(attached: &Attached) -> Vec<CreatedInterface> {
    let served = attached.interfaces.iter().filter(|i| is_in_task(i));
    served.map(|i| CreatedInterface { index: i.index.unwrap_or(0), mac: i.mac }).collect()
}

/// The IPv4 addresses that the proxy announces to the LAN for a new interface.
fn announced(attachment: &Attachment) -> Vec<Ipv4Addr> {
    if !attachment.is_announced_by_proxy() {
        return Vec::new();
    }
    let addresses = attachment.ip.fixed().iter();
    addresses
        .filter_map(|net| match net.addr() {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        })
        .collect()
}

/// What a limited interface may send.
pub(super) fn egress_task(attachment: &Attachment) -> Option<EgressTask> {
    let addresses: Vec<_> = attachment.ip.fixed().iter().map(ipnet::IpNet::addr).collect();
    let shares_mac = matches!(attachment.driver, Driver::Ipvlan { .. });
    let egress = EgressTask {
        addresses,
        ipv6: attachment.speaks_ipv6(),
        slaac: attachment.slaac,
        leases_ipv6: matches!(attachment.ip, IpAssignment::Dhcp6(_)),
        shares_mac,
    };
    attachment.is_limited().then_some(egress)
}

/// What the proxy relays for an interface whose link carries no multicast.
fn relay_task(attachment: &Attachment, limits: &EffectiveLimits) -> Option<RelayTask> {
    let driver = &attachment.driver;
    let translate = matches!(driver, Driver::Relay { .. });
    driver.is_relayed().then_some(RelayTask {
        translate,
        rates: limits.rates,
        host_ports: limits.host_ports.clone(),
        in_kernel: limits.kernel_relay,
    })
}

/// Sends SIGTERM to a proxy and does not wait. The proxy's rules take some milliseconds to go, and
/// nobody needs to wait for that once the links are deleted.
pub(super) fn terminate(proxy: ProcessRef) -> io::Result<()> {
    match proxy.open() {
        Ok(process) => process.signal(libc::SIGTERM),
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Ends a proxy, and waits for it.
pub(super) fn end(proxy: ProcessRef) -> io::Result<()> {
    proxy.end(PATIENCE)
}

/// Starts a proxy for the interfaces of a record as they are now, in place of the one it has.
///
/// The new proxy is ready before the old one ends: its rules take the container's IGMP from the
/// moment they are installed, and it has joined what the kernel says the container has joined. The
/// host's kernel always sees a member of each group, and sends no leave.
pub(super) fn replace(
    attached: &mut Attached,
    dir: &LockedDir,
    users: ProxyUsers<'_>,
) -> Result<(), AttachError> {
    let mut next = attached.clone();
    next.begin_replacement();
    let served = has_task(attached);
    let mut new = served.then(ProxyLaunch::spawn).transpose()?;
    // The new proxy is another user than the old one, which runs until the new one is ready.
    let user = served.then(|| users.reserve(&attached.container.id)).transpose()?;
    if let (Some(new), Some(user)) = (&mut new, &user) {
        let mark = match attached.mark {
            Some(mark) => mark,
            None => random_packet_mark().map_err(AttachError::Mark)?,
        };
        next.mark = Some(mark);
        new.send_task(&task(&next, [], user, mark, next.replaced.is_some()))?;
        new.send_interfaces(&made_interfaces(&next))?;
        new.wait_for_rules()?;
        new.wait_until_ready()?;
        dir.hand_to_proxy(user.id)?;
    }
    next.proxy_user = user.as_ref().map(|user| user.id);
    next.proxy = new.as_mut().map(ProxyLaunch::process).transpose()?;
    dir.write(&AttachmentRecord::Attached(next.clone()))?;
    *attached = next;
    if let Some(mut new) = new {
        new.keep();
        new.detach_child();
    }
    complete_replacement(attached, dir)
}

/// Makes the proxy of a record take the place of the one that the record says it replaces, and ends
/// that one. If the record names no new one, nobody serves from then on.
///
/// It may be called again when it was not completed.
pub(super) fn complete_replacement(
    attached: &mut Attached,
    dir: &LockedDir,
) -> Result<(), AttachError> {
    let Some(old) = attached.replaced else { return Ok(()) };
    if attached.proxy.is_some() {
        proxy::place_successor_socket(dir.path())?;
        // Each packet is relayed by one of the two proxies, and none by both. A new one that fails
        // to take over relays from the request below on.
        let _ = proxy::request_takeover(dir.path());
    }
    old.process.end(PATIENCE)?;
    keeper_socket::release(dir.path(), old.process);
    if attached.proxy.is_some() {
        // While both were there, the container's reports went to the old one: the new one asks
        // again.
        let _ = proxy::requery(dir.path());
    }
    attached.replaced = None;
    Ok(dir.write(&AttachmentRecord::Attached(attached.clone()))?)
}

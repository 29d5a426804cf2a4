//! Interfaces whose address a server on the LAN leases (`ip=dhcp`).

use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::attachment::{Attachment, Driver, IpAssignment, Route};
use crate::dhcp;
use crate::dhcp::{LeaseLaunch, LeaseTask, ProbedBy};
use crate::link::facts::link;
use crate::net::netlink::RouteSocket;
use crate::primitives::MacAddr;
use crate::service::{AttachError, shims};
use crate::state::{
    Attached, AttachedInterface, AttachmentRecord, LockedDir, RecordedContainer, Store,
};
use crate::sys::process::ProcessRef;

/// How long the start of a container waits for an address.
const PATIENCE: Duration = Duration::from_secs(10);

/// Leases that are being asked for. What is not kept is given back.
pub(super) struct NewLeases {
    launches: Vec<LeaseLaunch>,
}

impl NewLeases {
    /// Gets addresses for new interfaces, which are up; all are waited for together. One that is made
    /// in place of one that has gone may get its address later: its container runs.
    ///
    /// # Errors
    /// [`AttachError::NoLease`], and when the processes cannot be started.
    pub(super) fn get(
        container: &RecordedContainer,
        store: &Store,
        interfaces: &mut [AttachedInterface],
        remade: &[String],
    ) -> Result<Self, AttachError> {
        let until = Instant::now() + PATIENCE;
        let leased = || |i: &&mut AttachedInterface| i.attachment.ip.is_dhcp() && !i.is_waiting();
        let mut launches = Vec::new();
        for interface in interfaces.iter_mut().filter(leased()) {
            let later = remade.contains(&interface.name);
            let launch = launch(container, store, interface, later)?;
            interface.lease_holder = Some(launch.process().map_err(AttachError::LeaseHolder)?);
            launches.push(launch);
        }
        for (interface, launch) in interfaces.iter_mut().filter(leased()).zip(&mut launches) {
            if remade.contains(&interface.name) {
                launch.wait_started(until).map_err(AttachError::LeaseHolder)?;
                continue;
            }
            let address = launch.wait(until).map_err(AttachError::LeaseHolder)?;
            let address = address.ok_or_else(|| no_lease(interface, launch.declined()))?;
            interface.attachment.ip = match interface.attachment.ip {
                IpAssignment::Dhcp6(_) => IpAssignment::Dhcp6(vec![address]),
                _ => IpAssignment::Dhcp(vec![address]),
            };
        }
        Ok(NewLeases { launches })
    }

    /// The attachments of a container whose addresses are to be claimed.
    pub(super) fn leased(&self, attached: &Attached) -> Vec<Attachment> {
        let all = attached.interfaces.iter().map(|i| &i.attachment);
        let leased = all.filter(|a| a.ip.is_dhcp() && !self.launches.is_empty());
        leased.cloned().collect()
    }

    /// Keeps what the record names.
    pub(super) fn keep(self) {
        self.launches.into_iter().for_each(LeaseLaunch::keep);
    }
}

fn no_lease(interface: &AttachedInterface, declined: Option<(IpAddr, MacAddr)>) -> AttachError {
    let key = if is_v6(&interface.attachment) { "ip=dhcp6" } else { "ip=dhcp" };
    let (parent, interface) = (interface.attachment.parent_link().clone(), interface.name.clone());
    match declined {
        Some((address, mac)) => AttachError::LeaseConflict { key, interface, parent, address, mac },
        None => AttachError::NoLease { key, interface, parent, seconds: PATIENCE.as_secs() },
    }
}

fn is_v6(attachment: &Attachment) -> bool {
    matches!(attachment.ip, IpAssignment::Dhcp6(_))
}

/// Starts a process for an interface that exists.
fn launch(
    container: &RecordedContainer,
    store: &Store,
    interface: &AttachedInterface,
    later: bool,
) -> Result<LeaseLaunch, AttachError> {
    let attachment = &interface.attachment;
    let gone = || AttachError::LeaseHolder(io::Error::from_raw_os_error(libc::ENODEV));
    let (index, mac) = (interface.index.ok_or_else(gone)?, interface.mac.ok_or_else(gone)?);
    let parent = parent_mac(attachment)?.unwrap_or(mac);
    store.make_dhcp_dir(&container.id)?;
    let by_ipv4 = |route: &&Route| matches!(route.gateway, Some(IpAddr::V4(_)));
    let gateway = attachment.gateways.iter().find_map(|gateway| match gateway {
        IpAddr::V4(gateway) => Some(*gateway),
        IpAddr::V6(_) => None,
    });
    let task = LeaseTask {
        container: container.id.clone(),
        lifetime: container.lifetime.clone(),
        netns: container.netns,
        interface: interface.name.clone(),
        index,
        mac,
        identifier: match is_v6(attachment) {
            true => dhcp::duid(parent, &container.name),
            false => dhcp::client_identifier(parent, &container.name, &interface.name),
        },
        iaid: is_v6(attachment).then(|| dhcp::iaid(&interface.name)),
        host_name: dhcp::host_name(&container.name),
        gateway,
        // Routers tell the routes of IPv6.
        routes: match is_v6(attachment) {
            true => Vec::new(),
            false => attachment.routes.iter().filter(by_ipv4).copied().collect(),
        },
        metric: attachment.metric,
        probed_by: probed_by(attachment)?,
        shim_parent: (!is_v6(attachment) && shims::is_reached(interface, attachment.parent_link()))
            .then(|| attachment.parent_link().clone()),
        later,
    };
    LeaseLaunch::spawn(&task).map_err(AttachError::LeaseHolder)
}

/// By which interface the LAN is asked for an address; `None`: it is not asked.
fn probed_by(attachment: &Attachment) -> Result<Option<ProbedBy>, AttachError> {
    if !attachment.conflict.is_probe() {
        return Ok(None);
    }
    if let Driver::Macvlan(_) = attachment.driver {
        return Ok(Some(ProbedBy::Own));
    }
    let parent = link(&mut RouteSocket::open()?, attachment.parent_link().as_str())?;
    Ok(parent.map(|parent| ProbedBy::Parent(parent.index)))
}

/// The MAC address of the parent, which tells the containers of one host from those of another.
fn parent_mac(attachment: &Attachment) -> Result<Option<MacAddr>, AttachError> {
    let mut host = RouteSocket::open()?;
    Ok(link(&mut host, attachment.parent.as_str())?.and_then(|link| link.mac))
}

/// Gives the addresses of interfaces back that are about to go.
pub(super) fn release<'i>(interfaces: impl IntoIterator<Item = &'i AttachedInterface>) {
    for holder in interfaces.into_iter().filter_map(|interface| interface.lease_holder) {
        // One that cannot be ended ends with its interface.
        let _ = dhcp::release(holder);
    }
}

/// Starts processes anew that have died, or that are `outdated`: the containers keep their addresses.
///
/// # Errors
/// When one cannot be started. The record names those that were.
pub(super) fn restart(
    attached: &mut Attached,
    dir: &LockedDir,
    store: &Store,
    outdated: impl Fn(ProcessRef) -> bool,
) -> Result<bool, AttachError> {
    let mut any = false;
    for position in 0..attached.interfaces.len() {
        let interface = &attached.interfaces[position];
        let is_due = interface.attachment.ip.is_dhcp()
            && !interface.is_waiting()
            && interface.lease_holder.is_none_or(&outdated);
        if !is_due {
            continue;
        }
        if let Some(old) = interface.lease_holder {
            dhcp::end_for_successor(old).map_err(AttachError::LeaseHolder)?;
        }
        let mut launch = launch(&attached.container, store, interface, true)?;
        launch.wait_started(Instant::now() + PATIENCE).map_err(AttachError::LeaseHolder)?;
        let process = launch.process().map_err(AttachError::LeaseHolder)?;
        attached.interfaces[position].lease_holder = Some(process);
        dir.write(&AttachmentRecord::Attached(attached.clone()))?;
        launch.keep();
        any = true;
    }
    Ok(any)
}

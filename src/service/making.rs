//! Making the interfaces of a container whose namespace is open, with the proxy that serves them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use caps::{CapSet, Capability};

use crate::attachment::{AdminConfig, Attachment};
use crate::link::apply::{Applying, make_host_links};
use crate::link::facts::Facts;
use crate::link::plan::{InterfacePlan, missing_link, plan};
use crate::net::address_probe::AddressProbe;
use crate::net::messages::all_multicast;
use crate::net::netlink::RouteSocket;
use crate::net::netns::NetNs;
use crate::oci::ContainerId;
use crate::proxy::{ProxyLaunch, random_packet_mark};
use crate::service::claims;
use crate::service::conflicts;
use crate::service::conflicts::EarlyQuestion;
use crate::service::host_links;
use crate::service::leases::NewLeases;
use crate::service::parents;
use crate::service::pool;
use crate::service::pool::{Choice, Pools};
use crate::service::proxies;
use crate::service::proxies::{Launch, ProxyUsers};
use crate::service::shims;
use crate::service::unserved;
use crate::service::{AttachError, AttachRequest};
use crate::state::{
    Attached, AttachedInterface, AttachmentRecord, HostLinkUse, LockedDir, Planned,
    PlannedInterface, RecordedContainer, Store, boot_id, seconds_since_1970,
};
use crate::sys::background_close::close_in_background;

/// A container whose network namespace is open and is not the host's.
pub(super) struct OpenContainer<'s> {
    pub(super) store: &'s Store,
    pub(super) recorded: RecordedContainer,
    pub(super) namespace: NetNs,
    pub(super) socket: RouteSocket,
    /// Shared links of the host that are recorded for what is being attached.
    pub(super) host_links: Vec<HostLinkUse>,
    /// The attachments whose addresses may be claimed for what is being attached.
    pub(super) claimed: Vec<Attachment>,
    /// What the LAN has been asked before the container existed.
    pub(super) question: Option<EarlyQuestion>,
}

/// An interface that is to be made.
pub(super) struct Wanted {
    /// What is recorded.
    pub(super) planned: PlannedInterface,
    /// What is made: what was asked for, with what has turned out since, such as the MAC address of
    /// a link that is made anew.
    pub(super) attachment: Attachment,
    /// Whether it may be made later, when the parent is there.
    pub(super) may_wait: bool,
}

impl Wanted {
    pub(super) fn new(planned: PlannedInterface) -> Self {
        let may_wait = planned.attachment.optional;
        Wanted { attachment: planned.attachment.clone(), planned, may_wait }
    }
}

impl<'s> OpenContainer<'s> {
    pub(super) fn open(request: AttachRequest, store: &'s Store) -> Result<Self, AttachError> {
        let host = NetNs::current()?;
        check_privileges(&host)?;
        let namespace = request.namespace.open()?;
        let id = namespace.id()?;
        if id == host.id()? {
            return Err(AttachError::HostNetwork);
        }
        let socket = RouteSocket::open_in(&namespace)?;
        let recorded = RecordedContainer {
            id: request.id,
            name: request.name,
            lifetime: request.lifetime,
            boot: boot_id().map(str::to_owned),
            bundle: request.directory,
            netns: id,
            netns_path: request.namespace.path(),
        };
        let (host_links, claimed) = (Vec::new(), Vec::new());
        let question = None;
        Ok(OpenContainer { store, recorded, namespace, socket, host_links, claimed, question })
    }

    /// Whether a record of this id is about the container, and not only about one of the same id. An
    /// engine's network knows a container by the path of its namespace, and a hook by its process: the
    /// namespace is the same.
    pub(super) fn is_of(&self, recorded: &RecordedContainer) -> bool {
        recorded.is_same(&self.recorded)
            || (recorded.netns == self.recorded.netns && recorded.is_alive())
    }

    /// Refuses to replace the record of another container of the same id that is alive: a second
    /// container must not take the first one's attachment away.
    pub(super) fn refuse_another(&self, record: &AttachmentRecord) -> Result<(), AttachError> {
        let recorded = record.container();
        if !self.is_of(recorded) && recorded.is_alive() {
            return Err(AttachError::IdInUse(recorded.id.clone()));
        }
        Ok(())
    }

    /// Another container that is alive and attached in this namespace.
    pub(super) fn other_attached(&self) -> Result<Option<ContainerId>, AttachError> {
        let records = self.store.in_namespace(self.recorded.netns)?;
        let others = records.iter().map(AttachmentRecord::container);
        let mut alive = others.filter(|other| other.id != self.recorded.id && other.is_alive());
        Ok(alive.next().map(|other| other.id.clone()))
    }

    /// Attaches the container, which has no attachment yet.
    pub(super) fn attach_first(
        &mut self,
        interfaces: Vec<PlannedInterface>,
        admin: &AdminConfig,
        dir: LockedDir,
        launch: Option<Launch>,
    ) -> Result<(), AttachError> {
        let wanted = interfaces.into_iter().map(Wanted::new).collect();
        let result = self.make(None, wanted, admin, &dir, launch);
        if result.is_err() {
            // The reason is more useful than that its traces could not be removed either.
            let _ = dir.remove();
            self.release();
        }
        result
    }

    /// Releases what is outside of the container of an attachment that failed.
    pub(super) fn release(&self) {
        self.release_host_links();
        // A claim that stays holds nothing.
        let _ = self.store.release_claims(&self.recorded.id, &self.claimed);
    }

    /// Deletes the shared links that were made for an attachment that failed. The reason of the
    /// failure is more useful than that of a link that stays: `mcrun gc` deletes it.
    pub(super) fn release_host_links(&self) {
        let _ = host_links::release(&self.host_links, self.store);
    }

    /// Makes the wanted interfaces. Those of `previous` exist, except the wanted ones among them.
    ///
    /// A proxy that serves the previous interfaces is replaced by one that serves all: the new one
    /// is ready before the old one ends.
    ///
    /// Where a station of the LAN has an address of a pool, another one of the pool is tried.
    pub(super) fn make(
        &mut self,
        previous: Option<Attached>,
        mut wanted: Vec<Wanted>,
        admin: &AdminConfig,
        dir: &LockedDir,
        mut launch: Option<Launch>,
    ) -> Result<(), AttachError> {
        let mut refused = BTreeSet::new();
        let mut given_up = Vec::new();
        let launched = launch.is_some();
        let mut tried = 0;
        let result = loop {
            let result =
                self.make_once(previous.clone(), &mut wanted, admin, dir, launch, &mut refused);
            let Err(AttachError::AddressConflict { net, parent, mac }) = result else {
                break result;
            };
            let Some(network) = pool::chosen_from(&self.claimed, net.addr()) else {
                break Err(AttachError::AddressConflict { net, parent, mac });
            };
            tried += 1;
            if tried == conflicts::MOST_TRIED {
                let (network, count, address) = (network.clone(), tried, net.addr());
                break Err(AttachError::PoolConflicts { network, count, parent, address, mac });
            }
            refused.insert(net.addr());
            self.release_host_links();
            given_up.append(&mut self.claimed);
            launch = launched.then_some(Launch::Due);
        };
        match &result {
            // A claim that stays holds nothing.
            Ok(()) => {
                let _ = self.store.release_claims(&self.recorded.id, &given_up);
                shims::follow(self.store);
            }
            Err(_) => self.claimed.append(&mut given_up),
        }
        result
    }

    fn make_once(
        &mut self,
        previous: Option<Attached>,
        wanted: &mut [Wanted],
        admin: &AdminConfig,
        dir: &LockedDir,
        mut launch: Option<Launch>,
        refused: &mut BTreeSet<IpAddr>,
    ) -> Result<(), AttachError> {
        let order = names_in_order(previous.as_ref(), wanted);
        let attachments: Vec<_> = wanted.iter().map(|i| i.attachment.clone()).collect();
        let mut host = RouteSocket::open()?;
        // Between the look at shared links and their use nobody else may make or delete one.
        let shared = attachments.iter().any(|attachment| attachment.vlan.is_some());
        let lock = shared.then(|| self.store.lock_all()).transpose()?;
        let mark = host_links::mark(self.store);
        let facts = Facts::gather(&attachments, mark.clone(), &mut host, &mut self.socket)?;
        let users = ProxyUsers { store: self.store, range: admin.proxy_uids() };
        let mut attached = self.attached_before(previous.as_ref(), wanted);
        // An interface that has never been there has had no upstream.
        let there = previous.iter().flat_map(|previous| &previous.interfaces);
        let remade: Vec<_> =
            there.filter(|i| i.upstream_index != 0).map(|i| i.name.clone()).collect();
        let mut restore = RestoreRecord { dir, record: None };
        let (mut plans, added, waiting, probe) = loop {
            let mut planned: Vec<_> = wanted.iter().map(|i| i.planned.clone()).collect();
            let pools = Pools::lock(&planned, self.store)?;
            let container = &self.recorded;
            pools
                .choose(&mut planned, &Choice { container, taken: &facts.taken, users, refused })?;
            for (wanted, planned) in wanted.iter_mut().zip(planned) {
                wanted.attachment.ip.clone_from(&planned.attachment.ip);
                wanted.planned = planned;
            }
            let Parts { attachments, added, waiting } = Parts::of(wanted, &facts);
            let mut plans = plan(&attachments, &facts)?;
            // Joins that name no interface go by the first of the container's, also if that one
            // comes later.
            if let (Some(first), Some(plan)) = (order.first(), plans.first_mut())
                && first != plan.name.as_str()
            {
                plan.routes.retain(|route| route.destination != all_multicast());
            }
            // The answers are waited for longer than for anything else, so the question comes first,
            // where records have been looked at for the addresses. It leaves nothing to be recorded.
            let is_chosen = wanted.iter().all(|i| i.planned.attachment.pool.is_some())
                && plans.iter().all(|plan| plan.parent.index.is_some());
            let probe = is_chosen.then(|| self.ask(&plans, &remade)).transpose()?;
            if is_chosen {
                launch = launch.map(Launch::begun).transpose()?.map(Launch::Begun);
            }
            self.host_links = host_links::uses(&plans);
            self.record(previous.as_ref(), wanted, &added, &mut attached, &mut restore)?;
            let later = waiting.iter().map(|i| i.attachment.clone());
            self.claimed = attachments.into_iter().chain(later).collect();
            match claims::claim(&self.recorded.id, &self.claimed, users) {
                // Somebody who asked for this very address was faster.
                Err(AttachError::AddressInUse { net, .. })
                    if pool::chosen_from(&self.claimed, net.addr()).is_some()
                        && refused.insert(net.addr()) =>
                {
                    continue;
                }
                claimed => claimed?,
            }
            let planned: Vec<_> = wanted.iter().map(|i| i.planned.clone()).collect();
            pools.remember(&self.recorded, &planned, self.store)?;
            break (plans, added, waiting, probe);
        };
        make_host_links(&mut plans, &mark, &mut host)?;
        let probe = match probe {
            Some(probe) => probe,
            None => self.ask(&plans, &remade)?,
        };
        let mut launch = launch.map(Launch::begun).transpose()?;
        attached.interfaces.extend(waiting);
        if !proxies::has_task(&attached) && !added.iter().any(|i| proxies::is_served(&i.attachment))
        {
            launch = None;
        }
        attached.notifications = admin.notifications();
        attached.count = admin.count();
        let user = launch.as_ref().map(|_| users.reserve(&self.recorded.id)).transpose()?;
        if let (Some(launch), Some(user)) = (&mut launch, &user) {
            attached.proxy_user = Some(user.id);
            if attached.replaced.is_none() {
                dir.hand_to_proxy(user.id)?;
            }
            let mark = match attached.mark {
                Some(mark) => mark,
                None => random_packet_mark().map_err(AttachError::Mark)?,
            };
            attached.mark = Some(mark);
            let is_remade = |name: &String| remade.contains(name);
            let new =
                added.iter().zip(&plans).map(|(i, plan)| (i, &plan.upstream, is_remade(&i.name)));
            let takes_over = attached.replaced.is_some();
            launch.send_task(&proxies::task(&attached, new, user, mark, takes_over))?;
        }

        let lock = parents::check(&plans, &mut host, self.store, lock)?;
        let mut applying = Applying::create(&plans, &mut host, &mut self.socket, &self.namespace)
            .map_err(|error| parents::explain(error, self.store))?;
        drop(lock);
        attached.interfaces.extend(attached_interfaces(added, &plans, &applying));
        let awaited = || probe.as_ref().map_or(Ok(()), |probe| conflicts::wait(probe, &plans));
        let serving = (&mut launch, &self.namespace);
        let leasing = (&remade[..], users);
        let brought_up =
            bring_up(&mut attached, &mut applying, serving, awaited, leasing, &order, dir);
        if let Err(error) = brought_up {
            // The links go while the new proxy's rules stand.
            drop(applying);
            drop(launch);
            return Err(error);
        }
        let mut slow: Vec<_> = applying.commit().into_iter().collect();
        restore.keep();
        if let Some(launch) = launch {
            launch.detach_child();
        }
        slow.extend(probe.into_iter().flat_map(AddressProbe::into_sockets));
        close_in_background(slow);
        proxies::complete_replacement(&mut attached, dir)
    }

    /// Asks the LANs for the addresses of these links, unless they have been asked already.
    fn ask(
        &mut self,
        plans: &[InterfacePlan],
        remade: &[String],
    ) -> Result<Option<AddressProbe>, AttachError> {
        let asked = conflicts::asked(plans, remade);
        match self.question.take().and_then(|early| early.for_these(asked.clone())) {
            Some(probe) => Ok(Some(probe)),
            None => AddressProbe::send(asked).map_err(AttachError::Probe),
        }
    }

    /// The attachment as it is to be, without what is wanted.
    fn attached_before(&self, previous: Option<&Attached>, wanted: &[Wanted]) -> Attached {
        if let Some(previous) = previous {
            let mut attached = previous.clone();
            attached.interfaces.retain(|i| wanted.iter().all(|w| w.planned.name != i.name));
            attached.begin_replacement();
            return attached;
        }
        Attached {
            container: self.recorded.clone(),
            attached_at: seconds_since_1970(),
            interfaces: Vec::new(),
            proxy: None,
            replaced: None,
            proxy_deaths: 0,
            proxy_user: None,
            mark: None,
            notifications: true,
            count: true,
            host_links: Vec::new(),
            adding: Vec::new(),
            leaving: Vec::new(),
        }
    }

    /// Records what is wanted and, of that, what is added now: whoever finds the record knows what to
    /// remove.
    fn record(
        &self,
        previous: Option<&Attached>,
        wanted: &[Wanted],
        added: &[PlannedInterface],
        attached: &mut Attached,
        restore: &mut RestoreRecord<'_>,
    ) -> Result<(), AttachError> {
        for used in &self.host_links {
            if attached.host_links.iter().all(|known| known.link != used.link) {
                attached.host_links.push(used.clone());
            }
        }
        let record = match previous {
            None => AttachmentRecord::Planned(Planned {
                container: self.recorded.clone(),
                interfaces: wanted.iter().map(|i| i.planned.clone()).collect(),
                host_links: self.host_links.clone(),
            }),
            Some(previous) => AttachmentRecord::Attached(Attached {
                host_links: attached.host_links.clone(),
                adding: added.to_vec(),
                ..previous.clone()
            }),
        };
        restore.dir.write(&record)?;
        restore.record = previous.cloned().map(AttachmentRecord::Attached);
        Ok(())
    }
}

/// Restores a container's record when it is dropped. That comes last when an addition fails: the
/// record names the links until they are gone.
struct RestoreRecord<'d> {
    dir: &'d LockedDir,
    record: Option<AttachmentRecord>,
}

impl RestoreRecord<'_> {
    /// Leaves the record as it is.
    fn keep(mut self) {
        self.record = None;
    }
}

impl Drop for RestoreRecord<'_> {
    fn drop(&mut self) {
        if let Some(record) = &self.record {
            // The error that made this necessary is told.
            let _ = self.dir.write(record);
        }
    }
}

/// The names of all interfaces in the order of the record.
fn names_in_order(previous: Option<&Attached>, wanted: &[Wanted]) -> Vec<String> {
    let there = previous.iter().flat_map(|previous| &previous.interfaces).map(|i| &i.name);
    let mut order: Vec<String> = there.cloned().collect();
    for Wanted { planned, .. } in wanted {
        if !order.contains(&planned.name) {
            order.push(planned.name.clone());
        }
    }
    order
}

/// What is wanted, in parts.
struct Parts {
    /// What is made now.
    attachments: Vec<Attachment>,
    /// The same, as it is recorded.
    added: Vec<PlannedInterface>,
    /// What may wait, and whose parent is not there.
    waiting: Vec<AttachedInterface>,
}

impl Parts {
    /// Where an interface waits, the others keep their names.
    fn of(wanted: &[Wanted], facts: &Facts) -> Self {
        let may_wait = wanted.iter().any(|i| i.may_wait);
        let mut parts = Parts { attachments: Vec::new(), added: Vec::new(), waiting: Vec::new() };
        for Wanted { planned, attachment, may_wait: this_may } in wanted {
            match missing_link(attachment, facts).filter(|_| *this_may) {
                Some(reason) => parts.waiting.push(AttachedInterface {
                    name: planned.name.clone(),
                    index: None,
                    upstream_index: 0,
                    mac: attachment.mac,
                    parent_mac: None,
                    waiting: Some(reason),
                    lease_holder: None,
                    attachment: planned.attachment.clone(),
                    limits: planned.limits.clone(),
                }),
                None => {
                    let mut attachment = attachment.clone();
                    if may_wait {
                        attachment.name = planned.name.parse().ok();
                    }
                    parts.attachments.push(attachment);
                    parts.added.push(planned.clone());
                }
            }
        }
        parts
    }
}

/// What the planned interfaces have become.
fn attached_interfaces(
    planned: Vec<PlannedInterface>,
    plans: &[InterfacePlan],
    applying: &Applying<'_>,
) -> Vec<AttachedInterface> {
    let made = planned.into_iter().zip(plans).zip(applying.created());
    made.map(|((planned, plan), created)| AttachedInterface {
        name: planned.name,
        index: created.index,
        upstream_index: plan.upstream.index.unwrap_or(0),
        mac: created.mac,
        parent_mac: plan.permanent_mac,
        waiting: None,
        lease_holder: None,
        attachment: planned.attachment,
        limits: planned.limits,
    })
    .collect()
}

/// Brings the new links up once the proxy has its rules and sockets and `awaited` has returned, and
/// records the attachment.
///
/// The order matters: one native IGMPv2 query would hold the container's kernel in that version
/// for minutes (RFC 9776 §7.2.1).
fn bring_up(
    attached: &mut Attached,
    applying: &mut Applying<'_>,
    (launch, namespace): (&mut Option<ProxyLaunch>, &NetNs),
    awaited: impl FnOnce() -> Result<(), AttachError>,
    (remade, users): (&[String], ProxyUsers<'_>),
    order: &[String],
    dir: &LockedDir,
) -> Result<(), AttachError> {
    if let Some(launch) = launch {
        launch.send_interfaces(&proxies::made_interfaces(attached))?;
    }
    // What does not need the proxy is done while it installs its rules.
    applying.prepare()?;
    launch.as_mut().map(ProxyLaunch::wait_for_rules).transpose()?;
    let added = attached.interfaces.len() - applying.created().len();
    unserved::limit(&attached.interfaces[added..], namespace)?;
    awaited()?;
    // And what needs only the rules while it gives up its privileges.
    applying.activate()?;
    let new = &mut attached.interfaces[added..];
    let leases = NewLeases::get(&attached.container, users.store, new, remade)?;
    let replaces = attached.replaced.is_some();
    if replaces {
        // Whoever finds a record that names both proxies knows that the new one is ready.
        launch.as_mut().map(ProxyLaunch::wait_until_ready).transpose()?;
        attached.proxy_user.map_or(Ok(()), |user| dir.hand_to_proxy(user))?;
    }
    attached.proxy = launch.as_mut().map(ProxyLaunch::process).transpose()?;
    attached.interfaces.sort_by_key(|i| order.iter().position(|name| *name == i.name));
    dir.write(&AttachmentRecord::Attached(attached.clone()))?;
    claims::claim(&attached.container.id, &leases.leased(attached), users)?;
    leases.keep();
    if let Some(launch) = launch {
        launch.keep();
        if !replaces {
            launch.wait_until_ready()?;
        }
    }
    Ok(())
}

/// Names of the capabilities that an attachment needs and this process lacks.
pub(crate) fn lacking_capabilities() -> Vec<&'static str> {
    const NEEDED: [(Capability, &str); 5] = [
        (Capability::CAP_NET_ADMIN, "CAP_NET_ADMIN"),
        (Capability::CAP_SYS_ADMIN, "CAP_SYS_ADMIN"),
        (Capability::CAP_NET_RAW, "CAP_NET_RAW"),
        (Capability::CAP_SETUID, "CAP_SETUID"),
        (Capability::CAP_SETGID, "CAP_SETGID"),
    ];
    let have = caps::read(None, CapSet::Effective).unwrap_or_default();
    let lacking = NEEDED.iter().filter(|(capability, _)| !have.contains(capability));
    lacking.map(|(_, name)| *name).collect()
}

/// Without the capabilities an attachment would fail halfway. They are checked at the start, so that
/// the missing one is named.
pub(super) fn check_privileges(host: &NetNs) -> Result<(), AttachError> {
    if let Some(name) = lacking_capabilities().first() {
        return Err(AttachError::Privilege(name));
    }
    // Root of a user namespace has all capabilities, and none over the host's network.
    match host.is_of_this_user_namespace()? {
        true => Ok(()),
        false => Err(AttachError::Rootless),
    }
}

//! The attached containers as people and programs are shown them: records and proxies put together.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use ipnet::Ipv6Net;

use crate::attachment::IgmpMode;
use crate::cli::output::age;
use crate::cli::queriers::{Heard, Protocol};
use crate::cli::summary::{InterfaceSummary, ProxySummary};
use crate::lookup;
use crate::lookup::{LookupError, Names, engine_name};
use crate::notice::{Notice, Severity};
use crate::oci::ContainerId;
use crate::proxy::{
    GroupMembership, InterfaceStatus, ProxyState, ProxyStatus, QuerierStatus, RelayStatus,
    query_all,
};
use crate::standalone;
use crate::standalone::ContainerRecord;
use crate::state::{Attached, AttachedInterface, AttachmentRecord, StateDirError, Store};
use crate::survey::{
    HostLinks, Ipv6Tables, JoinedGroup, advice, answers_elsewhere, foreign_source, shared_macs,
};

/// A container that runs, and what its proxy says.
#[derive(Debug)]
pub(super) struct Container {
    /// What was attached.
    pub(super) record: Attached,
    /// The proxy's answer; none when it has none, is dead, or does not answer.
    pub(super) status: Option<ProxyStatus>,
    /// What is odd of its attachments.
    pub(super) advice: Vec<Notice>,
    /// The addresses that its interfaces with `ip=slaac` have made, by the names of those.
    pub(super) slaac: BTreeMap<String, Vec<Ipv6Net>>,
}

/// A container whose record cannot be read.
#[derive(Debug)]
pub(super) struct Unreadable {
    /// Its id.
    pub(super) id: ContainerId,
    /// What is wrong with the record.
    pub(super) error: StateDirError,
}

/// All attached containers that run, by name, and those of which that cannot be told.
pub(super) fn all(store: &Store) -> anyhow::Result<(Vec<Container>, Vec<Unreadable>)> {
    let (mut records, mut unreadable) = (Vec::new(), Vec::new());
    for id in store.list()? {
        match store.read(&id) {
            Ok(Some(AttachmentRecord::Attached(attached))) if attached.container.is_alive() => {
                records.push(attached);
            }
            // One that is being attached or removed just now is not there yet, or no more.
            Ok(_) => {}
            Err(error) => unreadable.push(Unreadable { id, error }),
        }
    }
    for Attached { container, .. } in &mut records {
        // It may have been renamed.
        let name = engine_name(container.id.as_str(), container.bundle.as_deref());
        container.name = name.unwrap_or(std::mem::take(&mut container.name));
    }
    let name_and_id =
        |attached: &Attached| (attached.container.name.clone(), attached.container.id.clone());
    records.sort_by_key(name_and_id);
    let dirs: Vec<_> = records.iter().map(|r| store.container_dir(&r.container.id)).collect();
    let answers = query_all(&dirs);
    let pairs = records.into_iter().zip(answers);
    let mut all: Vec<_> =
        pairs.map(|(record, answer)| Container::new(record, answer.ok())).collect();
    // Without the host's links nothing is odd.
    if let Ok(links) = HostLinks::read() {
        for container in &mut all {
            let interfaces = &container.record.interfaces;
            let each = interfaces.iter().flat_map(|i| advice(&i.name, &i.attachment, &links));
            container.advice = each.collect();
            container.read_slaac(&links);
        }
    }
    for container in &mut all {
        let Some(pid) = container.pid() else { continue };
        let interfaces = &container.record.interfaces;
        let each = interfaces.iter().filter_map(|i| foreign_source(pid, &i.name, &i.attachment));
        container.advice.extend(each);
        let made = interfaces.iter().filter(|i| i.is_made());
        let made: Vec<_> = made.map(|i| i.name.as_str()).collect();
        if !made.is_empty() {
            container.advice.extend(answers_elsewhere(pid, &made));
        }
    }
    share_queriers(&mut all);
    add_shared_macs(&mut all);
    Ok((all, unreadable))
}

/// Tells each container of its groups that share an Ethernet address with another group.
fn add_shared_macs(containers: &mut [Container]) {
    let each = containers.iter().enumerate();
    let (of, joined): (Vec<_>, Vec<_>) =
        each.flat_map(|(of, container)| container.joined_by_mac().map(move |j| (of, j))).unzip();
    for (position, notice) in shared_macs(&joined) {
        containers[of[position]].advice.push(notice);
    }
}

/// A proxy that has started after the last general query has not heard the querier that others on
/// the same LAN have: what they know is shown for it too.
fn share_queriers(containers: &mut [Container]) {
    let mut known: BTreeMap<(String, Protocol), QuerierStatus> = BTreeMap::new();
    for container in containers.iter() {
        for interface in &container.record.interfaces {
            let Some(entry) = container.listening(&interface.name) else { continue };
            for heard in Heard::all(entry) {
                let Some(querier) = heard.querier else { continue };
                let lan = (interface.attachment.upstream().to_string(), heard.protocol);
                let known = known.entry(lan).or_insert_with(|| querier.clone());
                // One without an address is none that was elected.
                let rank = |q: &QuerierStatus| (q.address.is_unspecified(), q.last_query_s);
                if rank(querier) < rank(known) {
                    known.clone_from(querier);
                }
            }
        }
    }
    for Container { record, status, .. } in containers {
        let Some(status) = status.as_mut().filter(|s| s.state != ProxyState::Degraded) else {
            continue;
        };
        for entry in &mut status.interfaces {
            let interface = record.interfaces.iter().find(|i| i.name == entry.interface);
            let attachment = interface.map(|i| &i.attachment);
            let Some(attachment) = attachment.filter(|a| a.igmp == IgmpMode::Proxy) else {
                continue;
            };
            for protocol in Protocol::ALL {
                // One that has listened for longer than a querier may be silent knows better.
                let knows = |heard: Heard<'_>| {
                    heard.querier.is_some() || heard.listening_s.is_none() || heard.is_missing()
                };
                if Heard::of(entry, protocol).is_none_or(knows) {
                    continue;
                }
                let lan = (attachment.upstream().to_string(), protocol);
                if let Some(place) = protocol.place(entry) {
                    *place = known.get(&lan).cloned();
                }
            }
        }
    }
}

/// What became of a group: `joined`, or `denied (deny=239.1.2.3)`.
pub(super) fn membership_status(entry: &GroupMembership) -> String {
    let word = entry.status.name();
    match &entry.reason {
        Some(reason) => format!("{word} ({reason})"),
        None => word.into(),
    }
}

/// Names the records that cannot be read on standard error, a line for each. The status of a command
/// that shows all containers.
pub(super) fn tell(unreadable: &[Unreadable]) -> ExitCode {
    for Unreadable { id, error } in unreadable {
        eprintln!("mcrun: {id}: {error}");
    }
    if unreadable.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The containers of `mcrun run --rootfs` and `--bundle` that are not among these, stopped ones
/// included.
pub(super) fn unattached(attached: &[Container]) -> Vec<ContainerRecord> {
    let records = standalone::Container::list().into_iter().filter_map(|c| c.record());
    let is_attached = |record: &ContainerRecord| {
        attached.iter().any(|c| c.record.container.id.as_str() == record.id)
    };
    records.filter(|record| !is_attached(record)).collect()
}

/// What a container of `mcrun run` does, as people are told: `running`, or `stopped (3) 5m ago`.
pub(super) fn status(record: &ContainerRecord) -> String {
    let mut text = record.state().name().to_owned();
    if let Some(status) = record.exit_status {
        text += &format!(" ({status})");
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    if let Some(finished) = record.finished {
        text += &format!(" {} ago", age(now.saturating_sub(finished)));
    }
    text
}

/// The attached container of this name, id, or unique beginning of an id.
pub(super) fn find(store: &Store, wanted: &str) -> anyhow::Result<Container> {
    let (mut containers, unreadable) = all(store)?;
    match select(wanted, &containers)? {
        Some(position) => Ok(containers.swap_remove(position)),
        None => {
            if let Some(found) = unreadable.into_iter().find(|u| u.id.as_str() == wanted) {
                return Err(found.error.into());
            }
            let found = lookup::find(wanted, store)?;
            Err(LookupError::NotAttached(found.id.to_string()).into())
        }
    }
}

fn select(wanted: &str, containers: &[Container]) -> Result<Option<usize>, LookupError> {
    let names = |c: &Container| Names {
        id: c.record.container.id.to_string(),
        names: vec![c.record.container.name.clone()],
    };
    let names: Vec<_> = containers.iter().map(names).collect();
    lookup::select(wanted, &names)
}

/// The container of this name among those that are known.
pub(super) fn find_among<'c>(
    wanted: &str,
    containers: &'c [Container],
    store: &Store,
) -> anyhow::Result<&'c Container> {
    match select(wanted, containers)? {
        Some(position) => Ok(&containers[position]),
        None => {
            let found = lookup::find(wanted, store)?;
            Err(LookupError::NotAttached(found.id.to_string()).into())
        }
    }
}

/// Writes the warnings of all containers to standard error, a line for each.
pub(super) fn warn(containers: &[Container]) {
    for container in containers {
        for warning in container.warnings() {
            eprintln!("mcrun: {}: {warning}", container.record.container.name);
        }
    }
}

impl Container {
    fn new(record: Attached, status: Option<ProxyStatus>) -> Self {
        Container { record, status, advice: Vec::new(), slaac: BTreeMap::new() }
    }

    /// Reads what routers have given, and tells of what another station has.
    fn read_slaac(&mut self, links: &HostLinks) {
        let made = |i: &&AttachedInterface| i.attachment.slaac && i.is_made();
        let interfaces: Vec<_> = self.record.interfaces.iter().filter(made).collect();
        if interfaces.is_empty() {
            return;
        }
        let tables = match (self.pid(), self.record.container.namespace_path()) {
            (Some(pid), _) => Ipv6Tables::of_process(pid),
            (None, Some(path)) => Ipv6Tables::at(path),
            (None, None) => return,
        };
        // The container has ended just now.
        let Ok(tables) = tables else { return };
        for AttachedInterface { name, attachment, mac, .. } in interfaces {
            self.slaac.insert(name.clone(), tables.slaac_addresses(name, attachment));
            let duplicates = mac.map(|mac| tables.duplicates(name, mac, attachment, links));
            self.advice.extend(duplicates.into_iter().flatten());
        }
    }

    /// Its full id.
    pub(super) fn id(&self) -> &str {
        self.record.container.id.as_str()
    }

    /// Its init, as far as the attachment lasts as long as a process.
    pub(super) fn pid(&self) -> Option<i32> {
        self.record.container.lifetime.process().map(|init| init.pid)
    }

    /// What routers have given an interface, as people read it: the addresses, or `slaac` while there is
    /// none. Nothing without `ip=slaac`.
    pub(super) fn slaac_words(&self, interface: &AttachedInterface) -> Vec<String> {
        let found = self.slaac.get(&interface.name).into_iter().flatten();
        let words: Vec<_> = found.map(ToString::to_string).collect();
        match interface.attachment.slaac && words.is_empty() {
            true => vec!["slaac".to_owned()],
            false => words,
        }
    }

    /// Its interfaces, in the order of attachment.
    pub(super) fn interfaces(&self) -> Vec<InterfaceSummary> {
        let each = self.record.interfaces.iter();
        each.map(|interface| InterfaceSummary {
            name: interface.name.clone(),
            parent: interface.attachment.parent_link().to_string(),
            driver: interface.attachment.driver.name(),
            mode: interface.attachment.driver.mode(),
            mac: interface.mac,
            addresses: interface
                .attachment
                .ip
                .addresses()
                .iter()
                .map(ToString::to_string)
                .collect(),
            slaac_addresses: self
                .slaac
                .get(&interface.name)
                .map(|addresses| addresses.iter().map(ToString::to_string).collect()),
            igmp: interface.attachment.igmp,
            waiting: interface.waiting.clone().filter(|_| interface.is_waiting()),
            relay: self
                .entry(&interface.name)
                .and_then(|entry| entry.relay.as_ref())
                .map(RelayStatus::total),
            querier: self.listening(&interface.name).and_then(|entry| entry.querier.clone()),
            mld_querier: self
                .listening(&interface.name)
                .and_then(|entry| entry.mld.as_ref()?.querier.clone()),
            listening_s: self.listening(&interface.name).and_then(|entry| entry.listening_s),
        })
        .collect()
    }

    /// What its proxy says of an interface.
    pub(super) fn entry(&self, interface: &str) -> Option<&InterfaceStatus> {
        let entries = self.status.iter().flat_map(|status| &status.interfaces);
        entries.into_iter().find(|entry| entry.interface == interface)
    }

    /// What its proxy says of an interface that it serves, and so hears the LAN's querier on.
    pub(super) fn listening(&self, interface: &str) -> Option<&InterfaceStatus> {
        let status = self.status.as_ref().filter(|s| s.state != ProxyState::Degraded)?;
        let served =
            |i: &AttachedInterface| i.name == interface && i.attachment.igmp == IgmpMode::Proxy;
        self.record.interfaces.iter().find(|i| served(i))?;
        status.interfaces.iter().find(|entry| entry.interface == interface)
    }

    /// What its record says is missing, what its proxy says is wrong now, and what is odd of its
    /// attachments.
    pub(super) fn notices(&self) -> Vec<Notice> {
        let waiting = self.record.interfaces.iter().filter(|i| i.is_waiting());
        let mut notices: Vec<_> = waiting
            .map(|i| Notice::InterfaceWaiting {
                interface: i.name.clone(),
                reason: i.waiting.clone().unwrap_or_else(|| "it is not there".into()),
            })
            .collect();
        let leased = || {
            self.record.interfaces.iter().filter(|i| i.attachment.ip.is_dhcp() && !i.is_waiting())
        };
        let is_dead =
            |i: &&AttachedInterface| i.lease_holder.is_none_or(|holder| !holder.is_alive());
        let unattended = leased().filter(is_dead);
        notices.extend(unattended.map(|i| Notice::LeaseUnattended { interface: i.name.clone() }));
        let without = leased().filter(|i| i.attachment.ip.addresses().is_empty());
        notices.extend(without.map(|i| Notice::NoLease {
            interface: i.name.clone(),
            parent: i.attachment.parent_link().to_string(),
        }));
        let is_known = |notice: &Notice| match notice {
            Notice::InterfaceWaiting { interface, .. } => {
                self.record.interfaces.iter().any(|i| i.is_waiting() && i.name == *interface)
            }
            _ => false,
        };
        let of_proxy = self.status.iter().flat_map(|status| &status.notices);
        notices.extend(of_proxy.filter(|notice| !is_known(notice)).cloned());
        notices.extend(self.advice.iter().cloned());
        notices
    }

    /// The texts of those notices that are warnings or errors.
    pub(super) fn warnings(&self) -> Vec<String> {
        let notices = self.notices().into_iter();
        notices.filter(|n| n.severity() <= Severity::Warning).map(|n| n.to_string()).collect()
    }

    /// The groups that it has joined on interfaces that take frames by their Ethernet address.
    fn joined_by_mac(&self) -> impl Iterator<Item = JoinedGroup<'_>> {
        let Attached { container, interfaces, .. } = &self.record;
        let links = interfaces.iter().filter(|i| !i.attachment.driver.is_relayed());
        let entries = links.filter_map(|i| Some((i, self.entry(&i.name)?)));
        entries.flat_map(|(interface, entry)| {
            entry.joined().map(|group| JoinedGroup {
                name: &container.name,
                interface: &interface.name,
                parent: interface.attachment.parent_link().as_str(),
                group,
            })
        })
    }

    /// Its proxy.
    pub(super) fn proxy(&self) -> ProxySummary {
        let is_waiting = self.record.interfaces.iter().any(AttachedInterface::is_waiting);
        let state = match (&self.status, self.record.proxy) {
            (Some(status), _) if is_waiting && status.state == ProxyState::Running => "waiting",
            (None, None) if is_waiting => "waiting",
            (Some(status), _) => match status.state {
                ProxyState::Running => "running",
                ProxyState::Waiting => "waiting",
                ProxyState::Degraded => "degraded",
            },
            (None, Some(proxy)) if proxy.is_alive() => "silent",
            (None, Some(_)) => "dead",
            (None, None) => "off",
        };
        let pid = self.record.proxy.map(|proxy| proxy.pid).filter(|_| state != "dead");
        let held = self.status.as_ref().is_some_and(|status| status.held);
        let deaths = self.record.proxy_deaths;
        ProxySummary { pid, state, held, deaths }
    }

    /// Number of groups on all its interfaces.
    pub(super) fn group_count(&self) -> usize {
        self.status.iter().flat_map(|s| &s.interfaces).map(|i| i.groups.len()).sum()
    }

    /// Its id as short as docker shows one.
    pub(super) fn short_id(&self) -> &str {
        let id = self.id();
        let is_hash = id.len() == 64 && id.bytes().all(|b| b.is_ascii_hexdigit());
        if is_hash { &id[..12] } else { id }
    }
}

//! What the driver does when docker asks. It never asks docker, which waits for the answer.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread;

use ipnet::IpNet;
use nix::errno::Errno;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use serde_json::Value;

use crate::attachment::Networks;
use crate::docker_network::docker_hook;
use crate::docker_network::error::DriverError;
use crate::docker_network::followed::Followed;
use crate::docker_network::kept::{Kept, KeptEndpoint, KeptNetwork, MadeInterface};
use crate::docker_network::options;
use crate::docker_network::protocol;
use crate::docker_network::protocol::{CreateEndpoint, CreateNetwork, DockerId, Join, Request};
use crate::docker_network::sandboxes::{Awaited, SandboxLocks, is_mounted};
use crate::lookup;
use crate::net::netns::NetNs;
use crate::primitives::{InterfaceName, printable};
use crate::service;
use crate::service::{AttachError, AttachRequest, Lifetime, NetworkNamespace};
use crate::state::{Attached, AttachmentRecord, Refusal, Store, config_dir};
use crate::sys::process::ProcessRef;

/// Containers that are attached at once of those whose namespaces come after their joins.
const MOST_AT_ONCE: usize = 16;
/// How a container's process is called before its command has begun.
const RUNTIMES: [&str; 3] = ["runc", "crun", "youki"];
/// Characters of a value that are shown.
const MAX_SHOWN: usize = 100;

/// The driver. Its methods block.
#[derive(Debug)]
pub(super) struct Driver {
    store: Store,
    networks: Kept,
    endpoints: Kept,
    locks: SandboxLocks,
    awaited: Awaited,
    followed: Followed,
    /// Joins so far.
    joins: AtomicU64,
    /// Held by who may have children of its own that are waited for.
    working: RwLock<()>,
}

impl Driver {
    /// A driver that keeps its networks and endpoints in these directories, and goes on with what it
    /// finds there.
    ///
    /// # Errors
    /// If the directories cannot be made.
    pub(super) fn open(store: Store, lib_dir: &Path) -> Result<Self, DriverError> {
        // Makes the state directory, after a look at who can write it.
        drop(store.lock_all()?);
        let networks = Kept::networks(lib_dir);
        let endpoints = Kept::endpoints(store.root());
        for kept in [&networks, &endpoints] {
            kept.make()?;
            kept.clean();
        }
        let driver = Driver {
            store,
            networks,
            endpoints,
            locks: SandboxLocks::default(),
            awaited: Awaited::default(),
            followed: Followed::new().map_err(DriverError::Follow)?,
            joins: AtomicU64::new(0),
            working: RwLock::new(()),
        };
        for id in driver.endpoints.list() {
            let Ok(Some(endpoint)) = driver.endpoints.read::<KeptEndpoint>(&id) else { continue };
            driver.joins.fetch_max(endpoint.position, Ordering::Relaxed);
            match &endpoint.sandbox {
                Some(sandbox) if endpoint.is_waiting() => driver.awaited.add(sandbox),
                Some(sandbox) => driver.followed.add(sandbox),
                None => {}
            }
        }
        Ok(driver)
    }

    /// Does what docker asks for.
    ///
    /// # Errors
    /// [`DriverError`]; nothing is left behind then.
    pub(super) fn answer(&self, request: &Request) -> Result<Value, DriverError> {
        let answered = {
            let _working = self.working.read().unwrap_or_else(PoisonError::into_inner);
            match request {
                Request::Activate => Ok(protocol::activated()),
                Request::Capabilities => Ok(protocol::capabilities()),
                Request::CreateNetwork(asked) => self.create_network(asked),
                Request::DeleteNetwork(asked) => {
                    self.networks.remove(&asked.network)?;
                    Ok(protocol::done())
                }
                Request::CreateEndpoint(asked) => self.create_endpoint(asked),
                Request::DeleteEndpoint(asked) => {
                    self.leave(&asked.endpoint)?;
                    self.endpoints.remove(&asked.endpoint)?;
                    Ok(protocol::done())
                }
                Request::EndpointInfo => Ok(protocol::endpoint_info()),
                Request::Join(asked) => self.join(asked),
                Request::Leave(asked) => {
                    self.leave(&asked.endpoint)?;
                    Ok(protocol::done())
                }
                Request::Nothing => Ok(protocol::done()),
            }
        };
        self.reap();
        answered
    }

    fn create_network(&self, asked: &CreateNetwork) -> Result<Value, DriverError> {
        let options = asked.options().map_err(DriverError::Value)?;
        let gateways = asked.gateways().map(|text| address("gateway", text));
        let gateways = gateways.collect::<Result<Vec<_>, _>>()?;
        let attachment = options::check(&options, &gateways, &Networks::of(config_dir()))?;
        service::check(&attachment, &self.store)?;
        self.networks.write(&asked.network, &KeptNetwork { options, gateways })?;
        Ok(protocol::done())
    }

    fn create_endpoint(&self, asked: &CreateEndpoint) -> Result<Value, DriverError> {
        if let Some(option) = asked.foreign_options().next() {
            let option = printable(option, MAX_SHOWN);
            return Err(DriverError::Value(format!(
                "{option}: options are given to the network, not to one container: docker network \
                 create -o {option}=..."
            )));
        }
        let network = self.network(&asked.network)?;
        let interface = asked.interface();
        let addresses = [&interface.address, &interface.address_ipv6];
        let addresses = addresses.into_iter().filter(|text| !text.is_empty());
        let dockers = Some(interface.mac.as_str()).filter(|text| !text.is_empty());
        let mut endpoint = KeptEndpoint {
            network: asked.network.clone(),
            addresses: addresses.map(|text| address("address", text)).collect::<Result<_, _>>()?,
            mac: dockers.map(|text| parsed("MAC address", text)).transpose()?,
            name: asked.interface_name().map(|text| parsed("interface name", text)).transpose()?,
            sandbox: None,
            position: 0,
            interface: None,
        };
        let networks = Networks::of(config_dir());
        let make = |endpoint: &KeptEndpoint| {
            options::attachment(&network.options, &network.interface(endpoint), &networks)
        };
        let attachment = make(&endpoint)?;
        service::check(&attachment, &self.store)?;
        let mut chosen = None;
        if endpoint.mac.is_none() {
            chosen = options::mac_address(&attachment, &asked.network, &asked.endpoint);
            endpoint.mac = chosen;
            match service::check(&make(&endpoint)?, &self.store) {
                // Nobody has asked for this one: the kernel chooses, where the administrator says
                // which there may be.
                Err(AttachError::Admin(_)) => (chosen, endpoint.mac) = (None, None),
                checked => checked?,
            }
        }
        self.endpoints.write(&asked.endpoint, &endpoint)?;
        Ok(protocol::endpoint_made(chosen.map(|mac| mac.to_string())))
    }

    /// Attaches the container, if it has its namespace already. docker before 28 makes the namespace
    /// later; the container is then attached when it is there.
    fn join(&self, asked: &Join) -> Result<Value, DriverError> {
        let (id, sandbox) = (&asked.endpoint, asked.sandbox.as_path());
        let network = self.network(&asked.network)?;
        let name = self.locks.with(sandbox, || {
            let mut endpoint = self.endpoint(id)?;
            // docker asks once more when it got no answer.
            if endpoint.sandbox.as_deref() != Some(sandbox) {
                endpoint.sandbox = Some(sandbox.to_owned());
                endpoint.interface = None;
            }
            endpoint.position = self.joins.fetch_add(1, Ordering::Relaxed) + 1;
            self.endpoints.write(id, &endpoint)?;
            if is_mounted(sandbox) {
                if let Err(error) = self.attach(sandbox, std::slice::from_ref(id)) {
                    // The error is more useful than that it could not be written down.
                    let _ = self.forget_join(id, endpoint);
                    return Err(error);
                }
                endpoint = self.endpoint(id)?;
            } else {
                self.awaited.add(sandbox);
            }
            Ok::<_, DriverError>(endpoint.interface.map(|made| made.name).or(endpoint.name))
        })?;
        let asked_name = || network.options.get("name").map(String::as_str);
        let name = name.as_ref().map(InterfaceName::as_str).or_else(asked_name);
        Ok(protocol::joined(name.unwrap_or("mc0")))
    }

    fn leave(&self, id: &DockerId) -> Result<(), DriverError> {
        let read = || self.endpoints.read::<KeptEndpoint>(id);
        let Some(KeptEndpoint { sandbox: Some(sandbox), .. }) = read()? else { return Ok(()) };
        self.locks.with(&sandbox, || {
            let Some(endpoint) = read()? else { return Ok(()) };
            self.awaited.forget(&sandbox);
            if let Some(interface) = &endpoint.interface {
                self.detach(&sandbox, interface)?;
            }
            self.forget_join(id, endpoint)
        })
    }

    /// What is kept of a join that is over holds nothing.
    fn forget_join(&self, id: &DockerId, endpoint: KeptEndpoint) -> Result<(), DriverError> {
        // Another network of mcrun's that the container is on goes on with it.
        if let Some(sandbox) = &endpoint.sandbox
            && !self.has_others(sandbox, id)
        {
            self.followed.forget(sandbox);
        }
        let left = KeptEndpoint { sandbox: None, interface: None, ..endpoint };
        Ok(self.endpoints.write(id, &left)?)
    }

    /// Whether an endpoint other than this one is in the sandbox.
    fn has_others(&self, sandbox: &Path, id: &DockerId) -> bool {
        let mut others = self.endpoints.list().into_iter().filter(|other| other != id);
        others.any(|other| {
            let read = self.endpoints.read::<KeptEndpoint>(&other).ok().flatten();
            read.is_some_and(|endpoint| endpoint.sandbox.as_deref() == Some(sandbox))
        })
    }

    /// Gives the container in a namespace the interfaces of endpoints, in their order, all or none. The
    /// caller has the lock of the sandbox.
    fn attach(&self, sandbox: &Path, ids: &[DockerId]) -> Result<(), DriverError> {
        let path = || printable(&sandbox.to_string_lossy(), MAX_SHOWN);
        let namespace = NetNs::open(sandbox).and_then(|namespace| namespace.id());
        let namespace =
            namespace.map_err(|source| DriverError::Namespace { path: path(), source })?;
        let container = lookup::in_namespace(namespace.inode())
            .ok_or_else(|| DriverError::NoProcess(path()))?;
        let process =
            ProcessRef::of(container.pid).map_err(|_| AttachError::Ended(container.pid))?;
        let record = self.store.read(&container.id)?.and_then(AttachmentRecord::into_attached);
        let record =
            record.filter(|attached| attached.container.lifetime == Lifetime::Process(process));
        let mut names: Vec<String> = interface_names(record.as_ref()).collect();
        let there = names.clone();

        let networks = Networks::of(config_dir());
        let (mut attachments, mut made) = (Vec::new(), Vec::new());
        for id in ids {
            let mut endpoint = self.endpoint(id)?;
            let network = self.network(&endpoint.network)?;
            let known = endpoint.interface.as_ref().filter(|i| i.container == container.id);
            if known.is_none_or(|interface| !there.contains(&interface.name.to_string())) {
                let interface = network.interface(&endpoint);
                let mut attachment = options::attachment(&network.options, &interface, &networks)?;
                let is_free = |name: &InterfaceName| !names.contains(&name.to_string());
                let free = || (0..).map(InterfaceName::numbered).find(is_free);
                attachment.name = attachment.name.or_else(free);
                attachment.engine_network = true;
                // docker knows a gateway for each network: that of the first counts, then the next one.
                if !network.options.contains_key("metric") {
                    let before = u32::try_from(names.len()).unwrap_or(u32::MAX);
                    attachment.metric = attachment.metric.saturating_add(before);
                }
                // Whoever finds the endpoint knows which interface it may have got.
                let name = attachment.interface_name(0);
                names.push(name.to_string());
                let container = container.id.clone();
                endpoint.interface = Some(MadeInterface { container, name, made: false });
                self.endpoints.write(id, &endpoint)?;
                attachments.push(attachment);
            }
            made.push((id, endpoint));
        }
        if !attachments.is_empty() {
            let request = AttachRequest {
                name: container.id.to_string(),
                id: container.id,
                namespace: NetworkNamespace::Path(sandbox.to_owned()),
                lifetime: Lifetime::Process(process),
                directory: container.bundle,
                attachments,
            };
            service::attach_more(request, &self.store)?;
        }
        for (id, mut endpoint) in made {
            endpoint.interface.iter_mut().for_each(|interface| interface.made = true);
            self.endpoints.write(id, &endpoint)?;
        }
        self.followed.add(sandbox);
        Ok(())
    }

    /// Takes an interface from its container; one that has gone already is none.
    fn detach(&self, sandbox: &Path, interface: &MadeInterface) -> Result<(), DriverError> {
        // What cannot be read is for `mcrun gc` to tell.
        let Ok(Some(record)) = self.store.read(&interface.container) else { return Ok(()) };
        let recorded = record.container();
        // A container that was started again has another namespace.
        let now = NetNs::open(sandbox).and_then(|namespace| namespace.id());
        if now.is_ok_and(|now| now != recorded.netns) {
            return Ok(());
        }
        if !recorded.is_alive() {
            return Ok(service::remove_stopped(&interface.container, None, &self.store)?);
        }
        match service::detach(&interface.container, Some(interface.name.as_str()), &self.store) {
            Err(AttachError::NotAttached(_) | AttachError::NoInterface { .. }) => Ok(()),
            other => Ok(other.map(drop)?),
        }
    }

    /// Makes answers leave by the networks that containers get from another driver, as long as the
    /// process runs.
    pub(super) fn follow(&self) {
        loop {
            for sandbox in self.followed.changed() {
                let is_in_it =
                    |endpoint: &KeptEndpoint| endpoint.sandbox.as_ref() == Some(&sandbox);
                self.locks.with(&sandbox, || {
                    let mut ids = self.endpoints.list().into_iter();
                    let found = ids.find_map(|id| {
                        let endpoint = self.endpoints.read(&id).ok()?.filter(is_in_it)?;
                        endpoint.interface.map(|interface| interface.container)
                    });
                    // Where it cannot be done, `mcrun ps` tells who gets no answer.
                    let _ = found.map(|container| service::complete(&container, &self.store));
                });
            }
        }
    }

    /// Attaches containers whose namespaces come after their joins, as long as the process runs.
    pub(super) fn attach_awaited(self: &Arc<Self>) {
        let busy = Arc::new(());
        loop {
            for sandbox in self.awaited.mounted() {
                let mounted = sandbox.clone();
                let (driver, worker) = (Arc::clone(self), Arc::clone(&busy));
                let work = move || {
                    driver.attach_waiting(&mounted);
                    drop(worker);
                };
                // One container that takes long must not make the others wait.
                let place = Arc::strong_count(&busy) <= MOST_AT_ONCE + 1;
                let started = place.then(|| thread::Builder::new().spawn(work));
                if !matches!(started, Some(Ok(_))) {
                    self.attach_waiting(&sandbox);
                }
            }
        }
    }

    /// Attaches the container of a sandbox that is mounted now.
    pub(super) fn attach_waiting(&self, sandbox: &Path) {
        let working = self.working.read().unwrap_or_else(PoisonError::into_inner);
        self.locks.with(sandbox, || {
            let read = |id: &DockerId| self.endpoints.read::<KeptEndpoint>(id).ok().flatten();
            let ids = self.endpoints.list().into_iter();
            let mut waiting: Vec<_> = ids
                .filter_map(|id| Some((read(&id)?, id)))
                .filter(|(e, _)| e.is_waiting() && e.sandbox.as_deref() == Some(sandbox))
                .map(|(endpoint, id)| (endpoint.position, id))
                .collect();
            waiting.sort_unstable();
            let ids: Vec<_> = waiting.into_iter().map(|(_, id)| id).collect();
            let is_v6 = |id: &DockerId| {
                let mut addresses = read(id).into_iter().flat_map(|endpoint| endpoint.addresses);
                addresses.any(|net| net.addr().is_ipv6())
            };
            if ids.iter().any(is_v6) {
                docker_hook::wait_until_ipv6_is_off(sandbox);
            }
            let all = self.attach(sandbox, &ids);
            match (all, ids.as_slice()) {
                (Ok(()), _) => tell_if_late(sandbox),
                (Err(error), [_]) => self.tell_failure(sandbox, &error),
                // One that cannot be made keeps the others from nothing.
                (Err(_), several) => {
                    for id in several {
                        if let Err(error) = self.attach(sandbox, std::slice::from_ref(id)) {
                            self.tell_failure(sandbox, &error);
                        }
                    }
                }
            }
        });
        drop(working);
        self.reap();
    }

    /// Tells of an attachment that docker cannot be told of any more.
    fn tell_failure(&self, sandbox: &Path, error: &DriverError) {
        let namespace = NetNs::open(sandbox).and_then(|namespace| namespace.id()).ok();
        let container = namespace.and_then(|namespace| lookup::in_namespace(namespace.inode()));
        let container = container.map_or_else(
            || printable(&sandbox.to_string_lossy(), MAX_SHOWN),
            |container| container.id.to_string(),
        );
        eprintln!("mcrun: serve docker: {container}: {error}");
        // It is told above.
        let _ = self.store.remember_refusal(&Refusal::now(&container, &error.to_string()));
    }

    /// Waits for children that have ended, such as proxies, where nobody else waits for one.
    pub(super) fn reap(&self) {
        let Ok(_alone) = self.working.try_write() else { return };
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) => return,
                Ok(_) | Err(Errno::EINTR) => {}
                Err(_) => return,
            }
        }
    }

    fn network(&self, id: &DockerId) -> Result<KeptNetwork, DriverError> {
        self.networks.read(id)?.ok_or_else(|| DriverError::Network(id.clone()))
    }

    fn endpoint(&self, id: &DockerId) -> Result<KeptEndpoint, DriverError> {
        self.endpoints.read(id)?.ok_or_else(|| DriverError::Endpoint(id.clone()))
    }
}

/// Tells of a container that was attached after its command had begun: what the command has joined before
/// goes by another interface, or by none.
fn tell_if_late(sandbox: &Path) {
    let namespace = NetNs::open(sandbox).and_then(|namespace| namespace.id()).ok();
    let container = namespace.and_then(|namespace| lookup::in_namespace(namespace.inode()));
    let Some(container) = container else { return };
    let name = fs::read_to_string(format!("/proc/{}/comm", container.pid)).unwrap_or_default();
    if !RUNTIMES.iter().any(|runtime| name.starts_with(runtime)) {
        let id = container.id;
        eprintln!(
            "mcrun: serve docker: {id}: attached after its command had started; if it does not receive, \
             restart the container"
        );
    }
}

/// Names of the interfaces of a record.
pub(super) fn interface_names(attached: Option<&Attached>) -> impl Iterator<Item = String> {
    attached.into_iter().flat_map(|attached| &attached.interfaces).map(|i| i.name.clone())
}

/// Reads ADDRESS/PREFIX.
fn address(what: &str, text: &str) -> Result<IpNet, DriverError> {
    let net: IpNet = parsed(what, text)?;
    match net.addr() {
        IpAddr::V4(address) if address.is_unspecified() => {
            Err(DriverError::Value(format!("{what} {net}: this is no address of an interface")))
        }
        _ => Ok(net),
    }
}

fn parsed<T: std::str::FromStr>(what: &str, text: &str) -> Result<T, DriverError>
where
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|error| {
        DriverError::Value(format!("{what} {}: {error}", printable(text, MAX_SHOWN)))
    })
}

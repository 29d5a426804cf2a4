//! What each verb does.

use std::path::Path;

use serde_json::Value;

use crate::attachment::{AdminConfig, Attachment, IpAssignment, Networks};
use crate::cni::call::{Call, Verb, runtime_id};
use crate::cni::chained;
use crate::cni::config::NetworkConfig;
use crate::cni::error::CniError;
use crate::cni::ipam::{Addresses, Ipam};
use crate::cni::{keys, result};
use crate::link::existing;
use crate::lookup;
use crate::net::netns::NetNs;
use crate::oci::ContainerId;
use crate::primitives::InterfaceName;
use crate::service;
use crate::service::{AttachError, AttachRequest, attach_more};
use crate::state::{AttachedInterface, AttachmentRecord, Store, config_dir};

/// Carries a verb out. Returns what is printed.
pub(super) fn run(
    verb: Verb,
    call: &Call,
    config: &NetworkConfig,
    store: &Store,
) -> Result<Option<Value>, CniError> {
    match verb {
        Verb::Add => add(call, config, store).map(Some),
        Verb::Del => del(call, config, store).map(|()| None),
        Verb::Check => check(call, config, store).map(|()| None),
        Verb::Gc => gc(call, config, store).map(|()| None),
        Verb::Status => status(call, config, store).map(|()| None),
        Verb::Version => Ok(Some(result::versions(&config.text))),
    }
}

fn add(call: &Call, config: &NetworkConfig, store: &Store) -> Result<Value, CniError> {
    let (_, name) = call.subject()?;
    let namespace = call.namespace()?;
    NetNs::open(namespace).map_err(|error| {
        CniError::container(format!("CNI_NETNS={}: {error}", namespace.display()))
    })?;
    let networks = Networks::of(config_dir());
    if let Some(previous) = &config.previous {
        let attachment = chained::attachment(config, namespace, name, &networks)?;
        attach(call, config, attachment, store)?;
        return Ok(result::passed_on(config, previous));
    }
    let mut pairs = keys::pairs(&config.keys)?;
    // What is wrong with the configuration is found before an address is asked for.
    let ipam = Ipam::of(config, call)?;
    if let (Some(_), Some(given)) =
        (&ipam, ["ip", "gw"].into_iter().find(|key| config.keys.contains_key(*key)))
    {
        return Err(CniError::config(format!(
            "{given}: the address plugin of ipam gives addresses; leave one of the two out"
        )));
    }
    let attachment = first(&pairs, name, &networks)?;
    let Some(ipam) = ipam else {
        let interface = attach(call, config, attachment, store)?;
        let servers = networks.name_servers(&interface.attachment);
        let of_network = Addresses::of_name_servers(&servers);
        return Ok(result::made(config, &interface, namespace, &of_network));
    };
    let given = ipam.add()?;
    let made = (|| {
        pairs.extend(given.pairs());
        attach(call, config, first(&pairs, name, &networks)?, store)
    })();
    match made {
        Ok(interface) => Ok(result::made(config, &interface, namespace, &given)),
        Err(error) => {
            // The reason is more useful than that of an address that stays.
            let _ = ipam.pass(Verb::Del);
            Err(error)
        }
    }
}

/// The attachment of a network's first plugin, which makes an interface of this name.
fn first(
    pairs: &[String],
    name: &InterfaceName,
    networks: &Networks,
) -> Result<Attachment, CniError> {
    if pairs.iter().any(|pair| pair == "driver=relay") {
        return Err(CniError::config(
            "driver: \"relay\": it serves the interface of a plugin before it; list mcrun-cni behind \
             the plugin bridge",
        ));
    }
    let named = [pairs, &[format!("name={name}")]].concat();
    chained::one(&named.join(","), networks)
}

/// Attaches the container of a call. Returns what was made, with the routes that came with a lease.
fn attach(
    call: &Call,
    config: &NetworkConfig,
    mut attachment: Attachment,
    store: &Store,
) -> Result<AttachedInterface, CniError> {
    let (id, name) = call.subject()?;
    attachment.cni_network = Some(config.name.clone());
    let namespace = call.namespace()?.to_owned();
    let mut request =
        AttachRequest::of_namespace(id.clone(), call.name(id), namespace, vec![attachment])?;
    if call.is_of_nerdctl {
        request.directory = lookup::bundle_of(id);
        let name = lookup::engine_name(id.as_str(), request.directory.as_deref());
        request.name = name.unwrap_or(request.name);
    }
    attach_more(request, store)?;
    let record = store.read(id)?.and_then(AttachmentRecord::into_attached);
    let interfaces = record.map(|attached| attached.interfaces).unwrap_or_default();
    let made = interfaces.into_iter().find(|interface| interface.name == name.as_str());
    let mut made =
        made.ok_or_else(|| CniError::io(format!("the record of container {id} has no {name}")))?;
    if made.attachment.ip.is_dhcp()
        && let Some(lease) = store.dhcp_lease(id, name.as_str())
    {
        made.attachment.routes.extend(lease.routes);
    }
    Ok(made)
}

/// Nothing that is missing is an error: an engine deletes until it has succeeded.
fn del(call: &Call, config: &NetworkConfig, store: &Store) -> Result<(), CniError> {
    let (id, name) = call.subject()?;
    let removed = remove(id, name.as_str(), &config.name, store);
    let freed = Ipam::of(config, call)?.map_or(Ok(()), |ipam| ipam.pass(Verb::Del));
    removed.and(freed)
}

/// Removes one interface of a container, if it is of this network.
fn remove(id: &ContainerId, name: &str, network: &str, store: &Store) -> Result<(), CniError> {
    let is_its = |attachment: &Attachment| attachment.cni_network.as_deref() == Some(network);
    let record = match store.read(id) {
        Ok(None) => return Ok(()),
        Ok(Some(record)) => record,
        Err(error) => return Err(error.into()),
    };
    if !record.all_attachments().any(is_its) {
        return Ok(());
    }
    let is_running = record.container().is_alive();
    match record {
        AttachmentRecord::Attached(attached) if is_running && !attached.interfaces.is_empty() => {
            let mut interfaces = attached.interfaces.iter();
            if !interfaces.any(|i| i.name == name && is_its(&i.attachment)) {
                return Ok(());
            }
            match service::detach(id, Some(name), store) {
                Err(AttachError::NotAttached(_) | AttachError::NoInterface { .. }) => Ok(()),
                other => Ok(other.map(drop)?),
            }
        }
        // The container has ended, or the program that attached or detached it was killed.
        _ => Ok(service::remove_stopped(id, None, store)?),
    }
}

fn check(call: &Call, config: &NetworkConfig, store: &Store) -> Result<(), CniError> {
    let (id, name) = call.subject()?;
    let namespace = call.namespace()?;
    if config.previous.is_none() {
        return Err(CniError::config("prevResult is missing: CHECK compares with it"));
    }
    let interface = service::verify(id, name.as_str(), store)?;
    if interface.attachment.cni_network.as_deref() != Some(&config.name) {
        return Err(CniError::broken(format!(
            "the interface {name} was not attached by the network {}",
            config.name
        )));
    }
    check_addresses(config, &interface, namespace, name)?;
    match (&config.ipam, Ipam::of(config, call)?) {
        (Some(_), Some(ipam)) => ipam.pass(Verb::Check),
        _ => Ok(()),
    }
}

fn check_addresses(
    config: &NetworkConfig,
    interface: &AttachedInterface,
    namespace: &Path,
    name: &InterfaceName,
) -> Result<(), CniError> {
    let unreadable = |error| CniError::io(format!("CNI_NETNS={}: {error}", namespace.display()));
    let netns = NetNs::open(namespace).map_err(unreadable)?;
    let there = existing::find(&netns, name.as_str())?;
    let there = there.map(|link| link.addresses).unwrap_or_default();
    let ip = &interface.attachment.ip;
    let recorded = ip.fixed().iter().map(ToString::to_string);
    let told = config.previous_addresses(name.as_str(), namespace).into_iter().map(str::to_owned);
    // A server may have leased another address since.
    let told = told.filter(|_| !ip.is_dhcp());
    let missing = recorded.chain(told).find(|address| {
        address.parse().map_or(true, |address: ipnet::IpNet| !there.contains(&address))
    });
    match missing {
        Some(address) => Err(CniError::broken(format!("{name} does not have {address} any more"))),
        None => Ok(()),
    }
}

/// Removes the interfaces of a network that the engine does not know any more.
fn gc(call: &Call, config: &NetworkConfig, store: &Store) -> Result<(), CniError> {
    let Some(valid) = &config.valid else {
        return Err(CniError::config(
            "cni.dev/valid-attachments is missing: GC removes what is not in it",
        ));
    };
    let mut result = Ok(());
    for id in store.list()? {
        // It is unknown whose an unreadable record is; mcrun gc tells of it.
        let Ok(Some(record)) = store.read(&id) else { continue };
        let interfaces: Vec<_> = match &record {
            AttachmentRecord::Planned(planned) => {
                planned.interfaces.iter().map(|i| (i.name.clone(), &i.attachment)).collect()
            }
            AttachmentRecord::Attached(attached) => {
                attached.interfaces.iter().map(|i| (i.name.clone(), &i.attachment)).collect()
            }
        };
        for (name, attachment) in interfaces {
            // A record of before names a container of nerdctl's as nerdctl does.
            let key = (runtime_id(id.as_str()).to_owned(), name);
            if attachment.cni_network.as_deref() == Some(&config.name) && !valid.contains(&key) {
                result = result.and(remove(&id, &key.1, &config.name, store));
            }
        }
    }
    match Ipam::of(config, call)? {
        Some(ipam) => result.and(ipam.pass(Verb::Gc)),
        None => result,
    }
}

/// Whether a container could be attached now.
fn status(call: &Call, config: &NetworkConfig, store: &Store) -> Result<(), CniError> {
    let networks = Networks::of(config_dir());
    AdminConfig::read(&config_dir()).map_err(CniError::unavailable)?;
    if let Some(name) = service::lacking_capabilities().first() {
        return Err(CniError::unavailable(format!("{name} is missing: attaching takes root")));
    }
    let pairs = keys::pairs(&config.keys)?;
    // Whether plugins stand before this one is not told. Behind one, the parent may be its own.
    if ["parent", "net"].iter().any(|key| config.keys.contains_key(*key)) {
        let as_first = chained::one(&pairs.join(","), &networks);
        let attachment = as_first.or_else(|error| {
            let behind = [pairs, vec!["driver=relay".into()]].concat().join(",");
            chained::one(&behind, &networks).map_err(|_| error)
        })?;
        // An address that a container has concerns the next container, and not the network.
        let attachment = Attachment { ip: IpAssignment::None, pool: None, ..attachment };
        service::check(&attachment, store).map_err(CniError::unavailable)?;
    }
    match Ipam::of(config, call)? {
        Some(ipam) => ipam.pass(Verb::Status),
        None => Ok(()),
    }
}

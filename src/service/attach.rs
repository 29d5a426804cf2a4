//! Attaching one container, all or nothing: when it is created, or while it runs.

use crate::attachment::{AdminConfig, Attachment, Driver, check_together};
use crate::link::facts::link;
use crate::net::netlink::RouteSocket;
use crate::service::detach::{detach_all, remove};
use crate::service::making::{OpenContainer, Wanted};
use crate::service::preparation::{Preparation, within_limits};
use crate::service::proxies;
use crate::service::proxies::{Launch, ProxyUsers};
use crate::service::unfinished;
use crate::service::{AttachError, AttachRequest};
use crate::state::{
    Attached, AttachedInterface, AttachmentRecord, LockedDir, PlannedInterface, Store, config_dir,
};
use crate::sys::process::ProcessRef;

/// Attaches a container that is being created.
///
/// Called again for a container that is attached in the same way already, it does nothing. What an
/// earlier container of the same id has left is removed first.
///
/// # Errors
/// [`AttachError`]; nothing is left behind then.
pub fn attach(request: AttachRequest, store: &Store) -> Result<(), AttachError> {
    let preparation = Preparation::of(&request.attachments)?;
    attach_prepared(request, preparation, store)
}

/// The same for a request whose attachments have been prepared.
///
/// # Errors
/// As [`attach`].
pub fn attach_prepared(
    request: AttachRequest,
    preparation: Preparation,
    store: &Store,
) -> Result<(), AttachError> {
    let Preparation { admin, interfaces, launch, question } = preparation;
    let (shared, in_pod) = (request.namespace.may_be_shared(), request.namespace.is_pods());
    let asked = (request.attachments.clone(), in_pod);
    let mut container = OpenContainer::open(request, store)?;
    container.question = question;
    if shared && let Some(other) = container.other_attached()? {
        return Err(AttachError::AttachedNetwork(other));
    }
    let id = container.recorded.id.clone();
    let mut dir = store.lock_or_create(&id)?;
    // A record that cannot be read is of no use to anybody: it is replaced.
    if let Ok(Some(record)) = dir.read() {
        container.refuse_another(&record)?;
        if let AttachmentRecord::Attached(attached) = &record
            && container.is_of(&attached.container)
            && attached.has_network()
        {
            return attach_beside_networks(
                container,
                attached.clone(),
                asked,
                &admin,
                &dir,
                launch,
            );
        }
        let complete = record
            .attached()
            .filter(|attached| attached.container.is_same(&container.recorded))
            .filter(|attached| !attached.is_unfinished())
            // The other containers of a pod go on with their links without a proxy.
            .filter(|attached| in_pod || attached.proxy.is_none_or(ProcessRef::is_alive));
        if let Some(attached) = complete
            && has_its_links(attached, &mut container.socket)
        {
            let has = |wanted: &PlannedInterface| {
                attached.interfaces.iter().any(|i| i.attachment.is_as_asked(&wanted.attachment))
            };
            let is_same = attached.interfaces.len() == interfaces.len()
                && attached
                    .interfaces
                    .iter()
                    .zip(&interfaces)
                    .all(|(i, wanted)| i.attachment.is_as_asked(&wanted.attachment));
            if is_same || (in_pod && interfaces.iter().all(has)) {
                return Ok(());
            }
            if in_pod {
                return Err(AttachError::PodAttached(id));
            }
        }
        // Left by an earlier container of this id, or by a hook that was killed.
        detach_all(dir, store)?;
        dir = store.lock_or_create(&id)?;
    }
    container.attach_first(interfaces, &admin, dir, launch)
}

/// Attaches a container that runs to something more. What it has stays as it is.
///
/// The new interfaces are the last of the container's. One without a `name=` gets the first `mcN`
/// that is free. Returns the names of the new interfaces.
///
/// # Errors
/// [`AttachError`]; the container is then as it was.
pub fn attach_more(request: AttachRequest, store: &Store) -> Result<Vec<String>, AttachError> {
    let attachments = request.attachments.clone();
    let mut container = OpenContainer::open(request, store)?;
    let admin = AdminConfig::read(&config_dir())?;
    let id = container.recorded.id.clone();
    let mut dir = store.lock_or_create(&id)?;
    let previous = match dir.read() {
        Ok(None) => None,
        Ok(Some(AttachmentRecord::Attached(mut attached)))
            if container.is_of(&attached.container) && !attached.interfaces.is_empty() =>
        {
            let users = ProxyUsers { store, range: admin.proxy_uids() };
            unfinished::finish(&mut attached, &dir, users)?;
            Some(attached)
        }
        // Of an earlier container of this id, incomplete, or unreadable.
        unusable => {
            if let Ok(Some(record)) = &unusable {
                container.refuse_another(record)?;
            }
            detach_all(dir, store)?;
            dir = store.lock_or_create(&id)?;
            None
        }
    };
    let Some(previous) = previous else {
        let prepared = (|| {
            check_together(&attachments).map_err(AttachError::Together)?;
            let interfaces = within_limits(&attachments, 0, &admin)?;
            let launch = Launch::of(&interfaces)?;
            Ok((interfaces, launch))
        })();
        return match prepared {
            Ok((interfaces, launch)) => {
                let names = interfaces.iter().map(|i| i.name.clone()).collect();
                container.attach_first(interfaces, &admin, dir, launch).map(|()| names)
            }
            Err(error) => {
                let _ = dir.remove();
                Err(error)
            }
        };
    };
    add(&mut container, previous, attachments, &admin, &dir, None)
}

/// Attaches a container that is being created, and that networks of its engine's have attached already.
/// Their interfaces stay.
///
/// Called again, it does nothing. An engine may start a container again in the namespace that it had:
/// what the container asked for then goes first.
fn attach_beside_networks(
    mut container: OpenContainer<'_>,
    mut attached: Attached,
    (asked, in_pod): (Vec<Attachment>, bool),
    admin: &AdminConfig,
    dir: &LockedDir,
    launch: Option<Launch>,
) -> Result<(), AttachError> {
    let users = ProxyUsers { store: container.store, range: admin.proxy_uids() };
    unfinished::finish(&mut attached, dir, users)?;
    let own: Vec<_> =
        attached.interfaces.iter().filter(|i| !i.attachment.is_of_network()).collect();
    let is_it = |(there, asked): (&&AttachedInterface, &Attachment)| {
        // Who asked for no name has the one that was free.
        let name = asked.name.clone().or_else(|| there.attachment.name.clone());
        there.attachment.is_as_asked(&Attachment { name, ..asked.clone() })
    };
    let is_same = match in_pod {
        true => asked.iter().all(|asked| own.iter().any(|there| is_it((there, asked)))),
        false => own.len() == asked.len() && own.iter().zip(&asked).all(is_it),
    };
    // The other containers of a pod go on with their links without a proxy.
    let is_served = in_pod || attached.proxy.is_none_or(ProcessRef::is_alive);
    if is_same && is_served && has_its_links(&attached, &mut container.socket) {
        return Ok(());
    }
    if !own.is_empty() {
        if in_pod {
            return Err(AttachError::PodAttached(container.recorded.id.clone()));
        }
        remove(&mut attached, dir, users, |i| !i.attachment.is_of_network())?;
    }
    // A network does not always know what the container is called.
    let (known, told) = (&mut attached.container, &container.recorded);
    if known.name == known.id.as_str() {
        known.name.clone_from(&told.name);
    }
    known.bundle = told.bundle.clone().or_else(|| known.bundle.take());
    add(&mut container, attached, asked, admin, dir, launch).map(drop)
}

/// Adds attachments to a container. `launch` is the beginning of a proxy, if there is one.
fn add(
    container: &mut OpenContainer<'_>,
    previous: Attached,
    attachments: Vec<Attachment>,
    admin: &AdminConfig,
    dir: &LockedDir,
    launch: Option<Launch>,
) -> Result<Vec<String>, AttachError> {
    let taken = previous.interfaces.iter().map(|i| i.name.clone()).collect();
    let attachments = with_free_names(attachments, taken);
    check_together(&[with_their_names(&previous), attachments.clone()].concat())
        .map_err(AttachError::Together)?;
    let added = within_limits(&attachments, previous.interfaces.len(), admin)?;
    let names = added.iter().map(|i| i.name.clone()).collect();
    let launch = match launch {
        None if proxies::has_task(&previous) => Some(Launch::Due),
        None => Launch::of(&added)?,
        launched => launched,
    };
    let wanted = added.into_iter().map(Wanted::new).collect();
    if let Err(error) = container.make(Some(previous), wanted, admin, dir, launch) {
        container.release();
        return Err(error);
    }
    Ok(names)
}

/// The attachments of a container, each with the name that its interface has.
fn with_their_names(attached: &Attached) -> Vec<Attachment> {
    let each = attached.interfaces.iter();
    each.map(|i| Attachment { name: i.name.parse().ok(), ..i.attachment.clone() }).collect()
}

/// Gives each attachment without a name the first free one. A relay's interface has its own.
fn with_free_names(mut attachments: Vec<Attachment>, mut taken: Vec<String>) -> Vec<Attachment> {
    for attachment in &mut attachments {
        let mut candidates = (0..).map(|position| attachment.interface_name(position));
        // Whether a name that was asked for is taken is for check_together to say.
        let name = match (&attachment.driver, &attachment.name) {
            (Driver::Relay { .. }, _) => continue,
            (_, Some(name)) => Some(name.clone()),
            (_, None) => candidates.find(|name| !taken.iter().any(|taken| taken == name.as_str())),
        };
        taken.extend(name.iter().map(ToString::to_string));
        attachment.name = name;
    }
    attachments
}

/// Whether the links are there as the record says.
fn has_its_links(attached: &Attached, container: &mut RouteSocket) -> bool {
    attached.interfaces.iter().filter(|i| i.is_made() && !i.is_waiting()).all(|interface| {
        link(container, &interface.name)
            .is_ok_and(|found| found.is_some_and(|found| Some(found.index) == interface.index))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attachment::parse_spec;

    #[test]
    fn new_interfaces_get_the_first_free_names() {
        let specs = ["parent=eth1", "parent=eth1,name=mc2", "parent=eth2"];
        let attachments = specs.iter().map(|spec| parse_spec(spec).unwrap()).collect();
        let taken = vec!["mc0".to_owned(), "red".to_owned()];
        let named = with_free_names(attachments, taken);
        let names: Vec<_> = named.iter().map(|a| a.interface_name(9).to_string()).collect();
        assert_eq!(names, ["mc1", "mc2", "mc3"]);
    }
}

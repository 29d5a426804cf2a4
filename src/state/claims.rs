//! Claims on addresses: which container has an address on a parent.
//!
//! `addresses/PARENT@ADDRESS` is a link to the container's record of that time. link(2) makes it whole
//! or not at all, and needs no new file, which may take longer than all the rest. What counts of that
//! record is the container's id. So an attachment need not read the records of all others.
//!
//! A record names an address before the address is claimed, and no more before the claim is
//! released. So a claim whose container has no such record, or has ended, holds nothing: whoever
//! wants the address takes it over, and `mcrun gc` removes it. A proxy that removes its
//! container's directory leaves the claims, which are root's.

use std::fs;
use std::fs::{DirBuilder, File};
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::fcntl::AT_FDCWD;
use serde::Deserialize;

use crate::attachment::Attachment;
use crate::oci::ContainerId;
use crate::primitives::InterfaceName;
use crate::state::store::{RECORD, at, held, is_no_record, read_file};
use crate::state::{AttachmentRecord, StateDirError, Store, lock};

/// What came of a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claimed {
    /// The container has the address.
    Ours,
    /// A container that is alive has it. Its name.
    Held(String),
    /// A container that is alive is being attached or detached, or whoever did that was killed.
    Unfinished {
        /// The container.
        id: ContainerId,
        /// Its name.
        name: String,
    },
}

/// Whether a claim holds.
enum Holder {
    Nobody,
    Somebody(Claimed),
}

impl Store {
    /// Claims an address on a parent for a container whose record names it.
    ///
    /// # Errors
    /// Those of link(2), and a record of the claim's container that cannot be read: it is unknown
    /// whether that container is alive.
    pub fn claim(
        &self,
        container: &ContainerId,
        parent: &InterfaceName,
        address: IpAddr,
    ) -> Result<Claimed, StateDirError> {
        let path = self.claim_path(parent, address);
        let record = self.container_dir(container).join(RECORD);
        match fs::hard_link(&record, &path) {
            Ok(()) => return Ok(Claimed::Ours),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                self.make()?;
                match DirBuilder::new().mode(0o700).create(self.claims()) {
                    Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                        return Err(at("make", &self.claims())(e));
                    }
                    _ => {}
                }
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(at("make", &path)(e)),
        }
        let _lock = self.lock_claims()?;
        // Who makes a new claim does not ask for the lock.
        loop {
            match fs::hard_link(&record, &path) {
                Ok(()) => return Ok(Claimed::Ours),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(at("make", &path)(e)),
            }
            match owner(&path)? {
                // It names no container.
                None => remove(&path)?,
                Some(owner) if owner == *container => return Ok(Claimed::Ours),
                Some(owner) => match self.holder(&owner, parent, address)? {
                    Holder::Somebody(claimed) => return Ok(claimed),
                    Holder::Nobody => remove(&path)?,
                },
            }
        }
    }

    /// Who has an address on a parent; `None`: nobody. Somebody else may claim it the next moment.
    ///
    /// # Errors
    /// A claim or a record that cannot be read.
    pub fn claimed(
        &self,
        parent: &InterfaceName,
        address: IpAddr,
    ) -> Result<Option<Claimed>, StateDirError> {
        let Some(owner) = owner(&self.claim_path(parent, address))? else { return Ok(None) };
        match self.holder(&owner, parent, address)? {
            Holder::Nobody => Ok(None),
            Holder::Somebody(claimed) => Ok(Some(claimed)),
        }
    }

    /// Releases those claims of a container on the addresses of attachments that its record does not
    /// name any more.
    ///
    /// # Errors
    /// Those of unlink(2), and a record that cannot be read.
    pub fn release_claims<'a>(
        &self,
        container: &ContainerId,
        attachments: impl IntoIterator<Item = &'a Attachment>,
    ) -> Result<(), StateDirError> {
        let mut addresses = addresses(attachments).peekable();
        if addresses.peek().is_none() || !self.claims().is_dir() {
            return Ok(());
        }
        let _lock = self.lock_claims()?;
        let record = self.read(container)?;
        for (parent, address) in addresses {
            let path = self.claim_path(parent, address);
            let is_named = record.as_ref().is_some_and(|record| names(record, parent, address));
            if !is_named && owner(&path)?.as_ref() == Some(container) {
                remove(&path)?;
            }
        }
        Ok(())
    }

    /// Makes the claims of a record that an earlier version has written, as far as nobody else has
    /// them.
    ///
    /// # Errors
    /// Those of [`Store::claim`].
    pub fn restore_claims(&self, record: &AttachmentRecord) -> Result<(), StateDirError> {
        let id = &record.container().id;
        for (parent, address) in addresses(record.attachments()) {
            self.claim(id, parent, address)?;
        }
        Ok(())
    }

    /// Removes all claims that hold nothing.
    ///
    /// # Errors
    /// Those of readdir(3) and unlink(2).
    pub fn collect_claims(&self) -> Result<(), StateDirError> {
        let directory = self.claims();
        if !self.check()? || !directory.is_dir() {
            return Ok(());
        }
        let _lock = self.lock_claims()?;
        for (path, holder) in self.list_claims()? {
            if holder.is_none() {
                remove(&path)?;
            }
        }
        Ok(())
    }

    /// All claims, each with the container that it holds for; `None`: it holds nothing.
    ///
    /// # Errors
    /// Those of readdir(3), and a claim that cannot be read.
    pub(crate) fn list_claims(&self) -> Result<Vec<(PathBuf, Option<ContainerId>)>, StateDirError> {
        let directory = self.claims();
        if !directory.is_dir() {
            return Ok(Vec::new());
        }
        let mut claims = Vec::new();
        for entry in fs::read_dir(&directory).map_err(at("list", &directory))?.flatten() {
            let path = entry.path();
            let claim = entry.file_name().into_string().ok().and_then(|name| {
                let (parent, address) = name.rsplit_once('@')?;
                Some((parent.parse().ok()?, address.parse().ok()?))
            });
            let holder = match (claim, owner(&path)?) {
                // Of a record that cannot be read it is unknown.
                (Some((parent, address)), Some(owner))
                    if !matches!(self.holder(&owner, &parent, address), Ok(Holder::Nobody)) =>
                {
                    Some(owner)
                }
                _ => None,
            };
            claims.push((path, holder));
        }
        Ok(claims)
    }

    fn claims(&self) -> PathBuf {
        self.root().join("addresses")
    }

    fn claim_path(&self, parent: &InterfaceName, address: IpAddr) -> PathBuf {
        self.claims().join(format!("{parent}@{address}"))
    }

    /// Keeps others from removing claims. It is held for microseconds.
    fn lock_claims(&self) -> Result<File, StateDirError> {
        let path = self.claims();
        let file = File::open(&path).map_err(at("open", &path))?;
        match lock::lock_within(&file, lock::LIMIT).map_err(at("lock", &path))? {
            true => Ok(file),
            false => Err(held(&file, &path)),
        }
    }

    fn holder(
        &self,
        owner: &ContainerId,
        parent: &InterfaceName,
        address: IpAddr,
    ) -> Result<Holder, StateDirError> {
        let Some(record) = self.read(owner)? else { return Ok(Holder::Nobody) };
        if !names(&record, parent, address) || !record.container().is_alive() {
            return Ok(Holder::Nobody);
        }
        let name = record.container().name.clone();
        let complete = record.attached().into_iter().flat_map(|attached| &attached.interfaces);
        let is_complete = addresses(complete.map(|interface| &interface.attachment))
            .any(|named| named == (parent, address));
        Ok(Holder::Somebody(match is_complete {
            true => Claimed::Held(name),
            false => Claimed::Unfinished { id: owner.clone(), name },
        }))
    }
}

/// Whether a record names an address on a parent, as what is, is to be, or was.
fn names(record: &AttachmentRecord, parent: &InterfaceName, address: IpAddr) -> bool {
    addresses(record.all_attachments()).any(|named| named == (parent, address))
}

fn addresses<'a>(
    attachments: impl IntoIterator<Item = &'a Attachment>,
) -> impl Iterator<Item = (&'a InterfaceName, IpAddr)> {
    attachments.into_iter().flat_map(|attachment| {
        let addresses = attachment.ip.addresses().iter();
        addresses.map(|net| (attachment.parent_link(), net.addr()))
    })
}

/// Whose claim it is; `None` if there is none, or what is there is no record of root's.
fn owner(path: &Path) -> Result<Option<ContainerId>, StateDirError> {
    #[derive(Deserialize)]
    struct Claim {
        container: ContainerId,
    }
    match read_file(AT_FDCWD, path) {
        Ok(text) => Ok(serde_json::from_slice(&text).ok().map(|claim: Claim| claim.container)),
        Err(e) if e.kind() == io::ErrorKind::NotFound || is_no_record(&e) => Ok(None),
        Err(e) => Err(at("read", path)(e)),
    }
}

fn remove(path: &Path) -> Result<(), StateDirError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(at("remove", path)(e)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A container with a directory and something that is a record as far as claims go.
    fn container(store: &Store, name: &str) -> ContainerId {
        let id = ContainerId::try_from(name.to_owned()).unwrap();
        let dir = store.lock_or_create(&id).unwrap();
        fs::write(dir.path().join(RECORD), format!("{{\"container\":\"{id}\"}}")).unwrap();
        id
    }

    /// A claim of a container that has gone.
    fn claim_of_nobody(store: &Store, parent: &InterfaceName, address: IpAddr) {
        let gone = container(store, "gone");
        assert_eq!(store.claim(&gone, parent, address).unwrap(), Claimed::Ours);
        store.lock(&gone).unwrap().unwrap().remove().unwrap();
    }

    #[test]
    fn of_many_that_take_over_a_claim_that_holds_nothing_each_claim_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::at(dir.path().join("state"));
        let parent: InterfaceName = "lan0".parse().unwrap();
        let address = IpAddr::from([192, 0, 2, 7]);
        for _ in 0..20 {
            claim_of_nobody(&store, &parent, address);
            std::thread::scope(|scope| {
                for n in 0..4 {
                    let (store, parent) = (&store, &parent);
                    scope.spawn(move || {
                        let own = container(store, &format!("c{n}"));
                        // The record of whoever was faster is none: that is said, or it has gone.
                        let _ = store.claim(&own, parent, address);
                    });
                }
            });
            let path = store.claim_path(&parent, address);
            assert!(owner(&path).unwrap().unwrap().as_str().starts_with('c'));
            remove(&path).unwrap();
        }
        claim_of_nobody(&store, &parent, address);
        store.collect_claims().unwrap();
        assert_eq!(fs::read_dir(store.claims()).unwrap().count(), 0);
    }

    #[test]
    fn a_claim_that_names_no_container_holds_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::at(dir.path().join("state"));
        let parent: InterfaceName = "lan0".parse().unwrap();
        let own = container(&store, "c1");
        let address = IpAddr::from([192, 0, 2, 7]);
        fs::create_dir(store.claims()).unwrap();
        let path = store.claim_path(&parent, address);
        let fifo = || nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let text = |text: &str| fs::write(&path, text).unwrap();
        let link = || std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        let makes: [&dyn Fn(); 4] =
            [&fifo, &|| text(""), &|| text("{\"container\":\"..\"}"), &link];
        for make in makes {
            make();
            assert_eq!(store.claim(&own, &parent, address).unwrap(), Claimed::Ours);
            remove(&path).unwrap();
            make();
            store.collect_claims().unwrap();
            assert_eq!(fs::read_dir(store.claims()).unwrap().count(), 0);
        }
    }
}

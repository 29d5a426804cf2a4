//! Leases: which container had which address of a network's pool last.
//!
//! `pools/NETWORK/leases.json` only remembers, so that a container that starts again gets its address
//! back. Who has an address now is for the claims to say. So a file that is lost, torn or old gives
//! no address twice; it is read as an empty one.
//!
//! Each start of a container on the network reads and writes the file. So it does not grow with the
//! number of containers that have ever been.

use std::collections::BTreeSet;
use std::fs;
use std::fs::{DirBuilder, File};
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::attachment::NetworkName;
use crate::oci::ContainerId;
use crate::state::store::{at, held};
use crate::state::{RecordedContainer, StateDirError, Store, lock};
use crate::sys::files;
use crate::sys::files::Replacement;

/// Leases of one network. A start on a network with so many takes half a millisecond longer.
const MAX_LEASES: usize = 1024;

/// An address that a container had last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The address.
    pub address: IpAddr,
    /// The container.
    pub container: ContainerId,
    /// Its name. An engine that makes a container anew under the old name gives it another id.
    pub name: String,
    /// The container's interface.
    pub interface: String,
}

/// The leases of a network, those of the longest ago first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leases {
    leases: Vec<Lease>,
}

/// The leases of a network, locked: nobody else chooses an address of the pool meanwhile. The lock is
/// held for some milliseconds.
#[derive(Debug)]
pub struct LockedLeases {
    path: PathBuf,
    leases: Leases,
    /// Of the directory; it ends with the descriptor.
    _lock: File,
}

impl Leases {
    /// All of them.
    pub fn all(&self) -> &[Lease] {
        &self.leases
    }

    /// The addresses that an interface of a container had last: of the container itself, or else of
    /// one that had its name.
    pub fn of(&self, container: &RecordedContainer, interface: &str) -> Vec<IpAddr> {
        let of_it = self.leases.iter().rev().filter(|lease| lease.interface == interface);
        let (same, named): (Vec<_>, Vec<_>) = of_it
            .filter(|lease| lease.container == container.id || lease.name == container.name)
            .partition(|lease| lease.container == container.id);
        same.into_iter().chain(named).map(|lease| lease.address).collect()
    }

    /// The addresses of all leases.
    pub fn addresses(&self) -> BTreeSet<IpAddr> {
        self.leases.iter().map(|lease| lease.address).collect()
    }

    fn remember(&mut self, lease: Lease, is_in_use: impl Fn(IpAddr) -> bool) {
        self.leases.retain(|other| other.address != lease.address);
        if self.leases.len() >= MAX_LEASES {
            let unused = self.leases.iter().position(|lease| !is_in_use(lease.address));
            self.leases.remove(unused.unwrap_or(0));
        }
        self.leases.push(lease);
    }
}

impl LockedLeases {
    /// The leases.
    pub fn leases(&self) -> &Leases {
        &self.leases
    }

    /// Adds leases, and forgets older ones of their addresses. They are written when the container
    /// has the addresses. Where there are too many, the oldest whose address is not in use is
    /// forgotten.
    ///
    /// # Errors
    /// `ENOSPC`, `EROFS` and their like.
    pub fn remember(
        mut self,
        leases: impl IntoIterator<Item = Lease>,
        is_in_use: impl Fn(IpAddr) -> bool,
    ) -> Result<(), StateDirError> {
        leases.into_iter().for_each(|lease| self.leases.remember(lease, &is_in_use));
        let text = serde_json::to_vec(&self.leases).map_err(io::Error::from);
        // No fsync: after a crash of the machine the directory is empty.
        let how = Replacement { locked: true, ..Replacement::PRIVATE };
        let written = text.and_then(|text| files::replace(&self.path, &text, how));
        written.map_err(at("write", &self.path))
    }
}

impl Store {
    /// Locks the leases of a network.
    ///
    /// # Errors
    /// When the directory cannot be made or locked.
    pub fn lock_leases(&self, network: &NetworkName) -> Result<LockedLeases, StateDirError> {
        self.make()?;
        let directory = self.pools().join(network.as_str());
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)
            .map_err(at("make", &directory))?;
        let file = File::open(&directory).map_err(at("open", &directory))?;
        if !lock::lock_within(&file, lock::LIMIT).map_err(at("lock", &directory))? {
            return Err(held(&file, &directory));
        }
        let path = directory.join(FILE);
        Ok(LockedLeases { leases: read(&path), path, _lock: file })
    }

    /// The leases of a network, read without the lock: they are replaced whole.
    ///
    /// # Errors
    /// Those of [`Store::check`].
    pub fn leases(&self, network: &NetworkName) -> Result<Leases, StateDirError> {
        self.check()?;
        Ok(read(&self.pools().join(network.as_str()).join(FILE)))
    }

    /// The files of all leases, sorted.
    pub(crate) fn lease_files(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.pools()).into_iter().flatten().flatten();
        let mut files: Vec<_> =
            entries.map(|entry| entry.path().join(FILE)).filter(|path| path.is_file()).collect();
        files.sort();
        files
    }

    fn pools(&self) -> PathBuf {
        self.root().join("pools")
    }
}

const FILE: &str = "leases.json";

fn read(path: &std::path::Path) -> Leases {
    let text = fs::read(path).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(address: &str, container: &str, name: &str) -> Lease {
        Lease {
            address: address.parse().unwrap(),
            container: container.to_owned().try_into().unwrap(),
            name: name.to_owned(),
            interface: "mc0".to_owned(),
        }
    }

    #[test]
    fn what_is_remembered_is_read_and_a_torn_file_is_an_empty_one() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::at(dir.path().join("state"));
        let network: NetworkName = "media".parse().unwrap();
        assert_eq!(store.leases(&network).unwrap().all(), []);
        let remember =
            |lease: Lease| store.lock_leases(&network).unwrap().remember([lease], |_| false);
        remember(lease("192.0.2.7", "c1", "web")).unwrap();
        remember(lease("192.0.2.8", "c2", "db")).unwrap();
        // The newest is the last.
        remember(lease("192.0.2.7", "c3", "cache")).unwrap();
        let names = |leases: Leases| leases.leases.into_iter().map(|l| l.name).collect::<Vec<_>>();
        assert_eq!(names(store.leases(&network).unwrap()), ["db", "cache"]);
        let path = store.pools().join("media").join(FILE);
        let text = fs::read(&path).unwrap();
        for length in 0..text.len() {
            fs::write(&path, &text[..length]).unwrap();
            assert_eq!(store.leases(&network).unwrap(), Leases::default());
        }
        let held = store.lock_leases(&network).unwrap();
        let again = File::open(store.pools().join("media")).unwrap();
        assert!(!lock::lock_within(&again, std::time::Duration::ZERO).unwrap());
        drop(held);
        assert!(lock::lock_within(&again, std::time::Duration::ZERO).unwrap());
    }

    #[test]
    fn of_too_many_the_oldest_that_is_not_in_use_is_forgotten() {
        let mut leases = Leases::default();
        let in_use = IpAddr::from([10, 0, 0, 0]);
        for n in 0..=MAX_LEASES {
            let address = format!("10.0.{}.{}", n / 256, n % 256);
            leases.remember(lease(&address, "c1", "web"), |address| address == in_use);
        }
        let addresses = leases.addresses();
        assert_eq!(addresses.len(), MAX_LEASES);
        assert!(addresses.contains(&in_use) && !addresses.contains(&IpAddr::from([10, 0, 0, 1])));
    }
}

//! What the driver keeps: docker tells the options of a network once, when the network is made, and
//! names an endpoint by its id after that.
//!
//! ```text
//! /var/lib/mcrun/docker/networks/ID.json    a network, as long as docker has it
//! /run/mcrun/docker/endpoints/ID.json       an endpoint, until docker deletes it or the host ends
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::fs::DirBuilder;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use ipnet::IpNet;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::docker_network::options::Interface;
use crate::docker_network::protocol::DockerId;
use crate::oci::ContainerId;
use crate::primitives::{InterfaceName, MacAddr};
use crate::sys::files::{Replacement, replace};
use crate::sys::trusted;

/// Bytes of a file: more than the longest request that makes one.
const MAX_FILE: u64 = 1 << 20;

/// A network of docker's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KeptNetwork {
    /// What `docker network create` was given with `-o`.
    pub(super) options: BTreeMap<String, String>,
    /// Its gateways; none where it has no way out.
    #[serde(default)]
    pub(super) gateways: Vec<IpNet>,
}

/// A container's place on a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KeptEndpoint {
    /// The network.
    pub(super) network: DockerId,
    /// The addresses that docker has given.
    #[serde(default)]
    pub(super) addresses: Vec<IpNet>,
    /// docker's MAC address, or the driver's.
    #[serde(default)]
    pub(super) mac: Option<MacAddr>,
    /// The interface's name, where docker was told one.
    #[serde(default)]
    pub(super) name: Option<InterfaceName>,
    /// Where the network namespace is mounted of the container that has joined.
    #[serde(default)]
    pub(super) sandbox: Option<PathBuf>,
    /// Position of the join among all: the first network of a container has its first interface.
    #[serde(default)]
    pub(super) position: u64,
    /// The interface that the container has got, or is just getting.
    #[serde(default)]
    pub(super) interface: Option<MadeInterface>,
}

/// The interface of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MadeInterface {
    /// Whose it is.
    pub(super) container: ContainerId,
    /// Its name in the container.
    pub(super) name: InterfaceName,
    /// Whether the container has it. It is written down before it is made.
    pub(super) made: bool,
}

impl KeptNetwork {
    /// What docker says of an endpoint's interface on this network.
    pub(super) fn interface(&self, endpoint: &KeptEndpoint) -> Interface {
        Interface {
            addresses: endpoint.addresses.clone(),
            gateways: self.gateways.iter().map(IpNet::addr).collect::<Vec<IpAddr>>(),
            mac: endpoint.mac,
            name: endpoint.name.clone(),
        }
    }
}

impl KeptEndpoint {
    /// Whether a container has joined that has not got its interface yet.
    pub(super) fn is_waiting(&self) -> bool {
        self.sandbox.is_some() && self.interface.as_ref().is_none_or(|interface| !interface.made)
    }
}

/// Why something could not be kept, read or forgotten.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {source}", path.display())]
pub(super) struct KeepError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// Things of one kind, a file for each.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    directory: PathBuf,
    /// Whether it has to survive a crash of the machine.
    lasting: bool,
}

impl Kept {
    /// The networks below this directory.
    pub(super) fn networks(lib_dir: &Path) -> Kept {
        Kept { directory: lib_dir.join("docker/networks"), lasting: true }
    }

    /// The endpoints below this directory.
    pub(super) fn endpoints(state_dir: &Path) -> Kept {
        Kept { directory: state_dir.join("docker/endpoints"), lasting: false }
    }

    /// Makes the directory.
    ///
    /// # Errors
    /// Those of mkdir(2), and that somebody else than root can write the directory.
    pub(super) fn make(&self) -> Result<(), KeepError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&self.directory);
        made.map_err(self.at("make", &self.directory))?;
        trusted::check_directory(&self.directory).map_err(self.at("use", &self.directory))
    }

    /// Removes what a writer has left that was killed. Nobody else may write meanwhile.
    pub(super) fn clean(&self) {
        let entries = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        for entry in entries.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b"."))
        {
            // It is in nobody's way.
            let _ = fs::remove_file(entry.path());
        }
    }

    /// Keeps one.
    ///
    /// # Errors
    /// Those of writing a file.
    pub(super) fn write(&self, id: &DockerId, kept: &impl Serialize) -> Result<(), KeepError> {
        let path = self.path(id);
        let how = Replacement { fsync: self.lasting, ..Replacement::PRIVATE };
        let written = serde_json::to_vec(kept)
            .map_err(io::Error::from)
            .and_then(|text| replace(&path, &text, how));
        written.map_err(self.at("write", &path))
    }

    /// One of them; `None` if there is none.
    ///
    /// # Errors
    /// A file that cannot be read or understood.
    pub(super) fn read<T: DeserializeOwned>(&self, id: &DockerId) -> Result<Option<T>, KeepError> {
        let path = self.path(id);
        match trusted::read_file(&path, MAX_FILE) {
            Ok(text) => serde_json::from_str(&text)
                .map(Some)
                .map_err(|error| self.at("understand", &path)(error.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.at("read", &path)(error)),
        }
    }

    /// Forgets one; one that is not there is forgotten.
    ///
    /// # Errors
    /// That of unlink(2).
    pub(super) fn remove(&self, id: &DockerId) -> Result<(), KeepError> {
        let path = self.path(id);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(self.at("remove", &path)(error))
            }
            _ => Ok(()),
        }
    }

    /// The ids of all, in no order; a directory that is not there has none.
    pub(super) fn list(&self) -> Vec<DockerId> {
        let entries = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        names.filter_map(|name| name.strip_suffix(".json")?.to_owned().try_into().ok()).collect()
    }

    /// How long ago one was written; nothing if the clock was set back since.
    pub(super) fn age(&self, id: &DockerId) -> Duration {
        let written = fs::metadata(self.path(id)).and_then(|meta| meta.modified());
        let written = written.unwrap_or(SystemTime::UNIX_EPOCH);
        SystemTime::now().duration_since(written).unwrap_or_default()
    }

    fn path(&self, id: &DockerId) -> PathBuf {
        self.directory.join(format!("{id}.json"))
    }

    fn at(&self, action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> KeepError {
        let path = path.to_owned();
        move |source| KeepError { action, path, source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> DockerId {
        text.to_owned().try_into().unwrap()
    }

    #[test]
    fn what_is_kept_is_read_again_and_forgotten_once() {
        let dir = tempfile::tempdir().unwrap();
        let kept = Kept::networks(dir.path());
        assert_eq!(kept.read::<KeptNetwork>(&id("a")).unwrap(), None);
        assert_eq!(kept.list(), []);
        kept.make().unwrap();
        let network = KeptNetwork {
            options: [("parent".to_owned(), "eth1".to_owned())].into(),
            gateways: vec!["10.9.0.1/24".parse().unwrap()],
        };
        kept.write(&id("a"), &network).unwrap();
        assert_eq!(kept.read(&id("a")).unwrap(), Some(network));
        // What a killed writer has left is none of them.
        fs::write(dir.path().join("docker/networks/.b.json.mcrun-1"), "{").unwrap();
        assert_eq!(kept.list(), [id("a")]);
        kept.clean();
        assert_eq!(fs::read_dir(dir.path().join("docker/networks")).unwrap().count(), 1);
        fs::write(dir.path().join("docker/networks/c.json"), "{").unwrap();
        let error = kept.read::<KeptNetwork>(&id("c")).unwrap_err().to_string();
        assert!(error.starts_with("cannot understand ") && error.contains("c.json: "), "{error}");
        kept.remove(&id("a")).unwrap();
        kept.remove(&id("a")).unwrap();
        assert_eq!(kept.read::<KeptNetwork>(&id("a")).unwrap(), None);
    }

    #[test]
    fn an_endpoint_waits_from_its_join_until_its_interface_is_made() {
        let mut endpoint: KeptEndpoint =
            serde_json::from_str("{ \"network\": \"a\", \"added-later\": 1 }").unwrap();
        assert!(!endpoint.is_waiting());
        endpoint.sandbox = Some("/run/docker/netns/1".into());
        assert!(endpoint.is_waiting());
        let container = "c1".to_owned().try_into().unwrap();
        let name = "mc0".parse().unwrap();
        let mut interface = MadeInterface { container, name, made: false };
        endpoint.interface = Some(interface.clone());
        assert!(endpoint.is_waiting());
        interface.made = true;
        endpoint.interface = Some(interface);
        assert!(!endpoint.is_waiting());
    }
}

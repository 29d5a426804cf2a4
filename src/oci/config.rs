//! The parts of a bundle's config.json that a hook reads.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// A config.json is read up to this many bytes; engines write some ten thousand.
const MAX_CONFIG: u64 = 16 << 20;

/// What a hook wants to know of a bundle. Unknown keys and values are none of its business.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct BundleConfig {
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
    #[serde(default)]
    process: Option<Process>,
    #[serde(default)]
    linux: Option<Linux>,
    #[serde(default)]
    mounts: Option<Vec<Mount>>,
}

#[derive(Debug, Clone, Deserialize)]
struct Mount {
    #[serde(default)]
    source: Option<PathBuf>,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct Process {
    #[serde(default)]
    env: Option<Vec<String>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct Linux {
    #[serde(default)]
    namespaces: Option<Vec<Namespace>>,
}

#[derive(Debug, Clone, Deserialize)]
struct Namespace {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    path: Option<PathBuf>,
}

/// Why a config.json could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not the JSON of a bundle.
    #[error("{path} is not an OCI config.json: {source}")]
    Json {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
}

impl BundleConfig {
    /// Reads `config.json` of the bundle.
    ///
    /// # Errors
    /// [`ConfigError`], naming the file.
    pub fn read(bundle: &Path) -> Result<Self, ConfigError> {
        let path = bundle.join("config.json");
        let mut text = Vec::new();
        let read = File::open(&path).and_then(|f| f.take(MAX_CONFIG).read_to_end(&mut text));
        if let Err(source) = read {
            return Err(ConfigError::Read { path, source });
        }
        serde_json::from_slice(&text).map_err(|source| ConfigError::Json { path, source })
    }

    /// An annotation.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(key).map(String::as_str)
    }

    /// A variable of the container's environment; of several with one name the last, which is what
    /// engines append to override.
    pub fn variable(&self, name: &str) -> Option<&str> {
        let env = self.process.as_ref()?.env.as_ref()?;
        env.iter().rev().find_map(|entry| entry.strip_prefix(name)?.strip_prefix('='))
    }

    /// The sources of its mounts, in order.
    pub fn mount_sources(&self) -> impl Iterator<Item = &Path> {
        self.mounts.iter().flatten().filter_map(|mount| mount.source.as_deref())
    }

    /// The path of the network namespace, when the container is to join an existing one.
    pub fn network_namespace_path(&self) -> Option<&Path> {
        let namespaces = self.linux.as_ref()?.namespaces.as_ref()?;
        let network = namespaces.iter().find(|n| n.kind == "network")?;
        network.path.as_deref().filter(|path| !path.as_os_str().is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_hook_reads() {
        let config: BundleConfig = serde_json::from_str(
            r#"{"process":{"env":["MCRUN_MCAST=a","MCRUN_MCASTLE=x","MCRUN_MCAST=parent=eth0"],"zz":1},
                "linux":{"namespaces":[{"type":"pid"},{"type":"network","path":"/run/netns/x"}]},
                "annotations":{"k":"v"}}"#,
        )
        .unwrap();
        assert_eq!(config.variable("MCRUN_MCAST"), Some("parent=eth0"));
        assert_eq!(config.variable("NONE"), None);
        assert_eq!(config.annotation("k"), Some("v"));
        assert_eq!(config.network_namespace_path(), Some(Path::new("/run/netns/x")));
    }

    #[test]
    fn a_vanished_bundle_is_named() {
        let error = BundleConfig::read(Path::new("/nonexistent/bundle")).unwrap_err().to_string();
        assert!(error.starts_with("cannot read /nonexistent/bundle/config.json: "), "{error}");
    }
}

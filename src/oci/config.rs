//! The parts of a bundle's config.json that a hook reads.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::oci::{ANNOTATION, NAME_ANNOTATION, VARIABLE};

/// Most bytes of config.json that are read. Engines write some ten thousand.
const MAX_CONFIG: u64 = 16 << 20;

/// The key that podman since 5.0 makes of `--annotation '"io.mcrun.mcast=..."'`, the form that podman
/// needed before: the quotes are a part of key and value.
const QUOTED: &str = "\"io.mcrun.mcast";

/// The parts of config.json that a hook reads. Other keys and values are ignored.
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

/// What a container is to the Kubernetes pod it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PodRole {
    /// The container that holds the pod's network namespace.
    Sandbox,
    /// One of those that share it.
    Member,
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
        Ok(Self::read_with_text(bundle)?.0)
    }

    /// Reads `config.json` of the bundle, and keeps its text.
    ///
    /// # Errors
    /// [`ConfigError`], naming the file.
    pub fn read_with_text(bundle: &Path) -> Result<(Self, Vec<u8>), ConfigError> {
        let path = bundle.join("config.json");
        // What engines write fits: one call reads it.
        let mut text = Vec::with_capacity(16 * 1024);
        let read = File::open(&path).and_then(|f| f.take(MAX_CONFIG).read_to_end(&mut text));
        if let Err(source) = read {
            return Err(ConfigError::Read { path, source });
        }
        match serde_json::from_slice(&text) {
            Ok(config) => Ok((config, text)),
            Err(source) => Err(ConfigError::Json { path, source }),
        }
    }

    /// Adds the annotations of a hook's state, which take precedence.
    pub fn add_annotations(&mut self, annotations: &BTreeMap<String, String>) {
        let own = self.annotations.get_or_insert_default();
        own.extend(annotations.iter().map(|(key, value)| (key.clone(), value.clone())));
    }

    /// All annotations.
    pub fn annotations(&self) -> BTreeMap<String, String> {
        self.annotations.clone().unwrap_or_default()
    }

    /// An annotation.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(key).map(String::as_str)
    }

    /// A variable of the container's environment. Of several with one name the last counts: engines
    /// append to override.
    pub fn variable(&self, name: &str) -> Option<&str> {
        let env = self.process.as_ref()?.env.as_ref()?;
        env.iter().rev().find_map(|entry| entry.strip_prefix(name)?.strip_prefix('='))
    }

    /// The text of the attachments, and the annotation or variable that has it. The annotation
    /// comes from whoever starts the container, and takes precedence over the variable, which may
    /// come from an image: the caller decides whether the variable counts. A container that shares
    /// a Kubernetes pod's network has none: the pod's annotation is for the sandbox. podman gives
    /// annotations to the members only.
    pub fn attachment_text(&self) -> Option<(&'static str, &str)> {
        if self.pod_role() == Some(PodRole::Member) && self.podman_sandbox().is_none() {
            return None;
        }
        let quoted = || self.annotation(QUOTED).map(|text| text.strip_suffix('"').unwrap_or(text));
        let annotation = self.annotation(ANNOTATION).or_else(quoted);
        annotation
            .map(|text| (ANNOTATION, text))
            .or_else(|| Some((VARIABLE, self.variable(VARIABLE)?)))
    }

    /// What the container is to its pod; `None` when there is no pod. containerd and CRI-O say it
    /// in an annotation of their own.
    pub fn pod_role(&self) -> Option<PodRole> {
        let keys = ["io.kubernetes.cri.container-type", "io.kubernetes.cri-o.ContainerType"];
        match keys.iter().find_map(|key| self.annotation(key))? {
            "sandbox" => Some(PodRole::Sandbox),
            _ => Some(PodRole::Member),
        }
    }

    /// The id of the container that holds the network namespace of the podman pod that this
    /// container is a member of (podman calls that one infra).
    pub fn podman_sandbox(&self) -> Option<&str> {
        let is_podmans = self.annotation("io.container.manager") == Some("libpod");
        self.annotation("io.kubernetes.cri-o.SandboxID").filter(|_| is_podmans)
    }

    /// The container's name: mcrun's annotation, else the pod's name, else docker's name, which
    /// docker keeps beside the files that it mounts.
    pub fn name(&self, id: &str) -> Option<String> {
        if let Some(name) = self.annotation(NAME_ANNOTATION) {
            return Some(name.to_owned());
        }
        let pod = [
            ("io.kubernetes.cri.sandbox-namespace", "io.kubernetes.cri.sandbox-name"),
            ("io.kubernetes.pod.namespace", "io.kubernetes.pod.name"),
        ];
        for (namespace, name) in pod {
            if let (Some(namespace), Some(name)) =
                (self.annotation(namespace), self.annotation(name))
            {
                return Some(format!("{namespace}/{name}"));
            }
        }
        self.docker_name(id)
    }

    /// Docker's name, from the `config.v2.json` of the container's directory. Every docker
    /// container has its `hostname` mounted from there.
    fn docker_name(&self, id: &str) -> Option<String> {
        #[derive(Deserialize)]
        struct Container {
            #[serde(rename = "Name")]
            name: String,
        }
        let sources = self.mounts.as_ref()?.iter().filter_map(|mount| mount.source.as_deref());
        let mut directories = sources
            .filter(|source| source.file_name().is_some_and(|name| name == "hostname"))
            .filter_map(Path::parent);
        let directory = directories.find(|path| path.file_name().is_some_and(|name| name == id))?;
        let mut text = Vec::new();
        let file = File::open(directory.join("config.v2.json")).ok()?;
        file.take(MAX_CONFIG).read_to_end(&mut text).ok()?;
        let container: Container = serde_json::from_slice(&text).ok()?;
        let name = container.name.trim_start_matches('/');
        (!name.is_empty()).then(|| name.to_owned())
    }

    /// Whether the container shares the network namespace of the machine: no namespace of its own
    /// is listed.
    pub fn shares_host_network(&self) -> bool {
        let namespaces = self.linux.as_ref().and_then(|linux| linux.namespaces.as_ref());
        !namespaces.is_some_and(|list| list.iter().any(|namespace| namespace.kind == "network"))
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

    fn parse(json: &str) -> BundleConfig {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn the_annotation_wins_over_the_variable() {
        let both = r#"{"process":{"env":["MCRUN_MCAST=b"]},"annotations":{"io.mcrun.mcast":"a"}}"#;
        assert_eq!(parse(both).attachment_text(), Some(("io.mcrun.mcast", "a")));
        assert_eq!(
            parse(r#"{"process":{"env":["MCRUN_MCAST=b"]}}"#).attachment_text(),
            Some(("MCRUN_MCAST", "b"))
        );
        assert_eq!(parse("{}").attachment_text(), None);
    }

    #[test]
    fn the_quoted_form_of_podman_4_is_understood_on_podman_5() {
        let config = |annotations| parse(&format!(r#"{{"annotations":{{{annotations}}}}}"#));
        let asked = config(r#""\"io.mcrun.mcast":"parent=eth0,ip=none\"""#);
        assert_eq!(asked.attachment_text(), Some(("io.mcrun.mcast", "parent=eth0,ip=none")));
        let both = config(r#""\"io.mcrun.mcast":"a\"","io.mcrun.mcast":"b""#);
        assert_eq!(both.attachment_text(), Some(("io.mcrun.mcast", "b")));
    }

    #[test]
    fn a_pod_asks_through_its_sandbox_only() {
        for key in ["io.kubernetes.cri.container-type", "io.kubernetes.cri-o.ContainerType"] {
            let config = |role: &str| {
                parse(&format!(r#"{{"annotations":{{"io.mcrun.mcast":"a","{key}":"{role}"}}}}"#))
            };
            assert_eq!(config("sandbox").attachment_text(), Some(("io.mcrun.mcast", "a")));
            assert_eq!(config("container").attachment_text(), None);
            assert_eq!(config("container").pod_role(), Some(PodRole::Member));
        }
    }

    #[test]
    fn a_member_of_a_podman_pod_asks_for_itself() {
        let config = |manager: &str| {
            parse(&format!(
                r#"{{"annotations":{{"io.container.manager":"{manager}","io.mcrun.mcast":"a",
                    "io.kubernetes.cri-o.ContainerType":"container",
                    "io.kubernetes.cri-o.SandboxID":"166d"}}}}"#
            ))
        };
        assert_eq!(config("libpod").podman_sandbox(), Some("166d"));
        assert_eq!(config("libpod").attachment_text(), Some(("io.mcrun.mcast", "a")));
        assert_eq!(config("cri-o").podman_sandbox(), None);
        assert_eq!(config("cri-o").attachment_text(), None);
    }

    #[test]
    fn names_as_the_engines_tell_them() {
        let pod = r#"{"annotations":{"io.kubernetes.cri.sandbox-name":"cam","io.kubernetes.cri.sandbox-namespace":"studio"}}"#;
        assert_eq!(parse(pod).name("x").as_deref(), Some("studio/cam"));
        let directory = tempfile::tempdir().unwrap();
        let container = directory.path().join("containers/abc");
        std::fs::create_dir_all(&container).unwrap();
        std::fs::write(container.join("config.v2.json"), r#"{"ID":"abc","Name":"/cam1"}"#).unwrap();
        let docker = parse(&format!(
            r#"{{"mounts":[{{"type":"proc"}},{{"source":{:?}}}]}}"#,
            container.join("hostname")
        ));
        assert_eq!(docker.name("abc").as_deref(), Some("cam1"));
        assert_eq!(docker.name("other"), None);
    }

    #[test]
    fn a_vanished_bundle_is_named() {
        let error = BundleConfig::read(Path::new("/nonexistent/bundle")).unwrap_err().to_string();
        assert!(error.starts_with("cannot read /nonexistent/bundle/config.json: "), "{error}");
    }
}

//! What a call says by its environment (CNI specification, "Parameters").

use std::path::{Path, PathBuf};

use crate::cni::error::CniError;
use crate::oci::ContainerId;
use crate::primitives::InterfaceName;

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Add,
    Del,
    Check,
    Gc,
    Status,
    Version,
}

const VERBS: [Verb; 6] = [Verb::Add, Verb::Del, Verb::Check, Verb::Gc, Verb::Status, Verb::Version];

impl Verb {
    /// The value of `CNI_COMMAND`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Verb::Add => "ADD",
            Verb::Del => "DEL",
            Verb::Check => "CHECK",
            Verb::Gc => "GC",
            Verb::Status => "STATUS",
            Verb::Version => "VERSION",
        }
    }

    /// The oldest version of the specification that has it.
    pub(super) fn since(self) -> &'static str {
        match self {
            Verb::Add | Verb::Del | Verb::Version => "0.1.0",
            Verb::Check => "0.4.0",
            Verb::Gc | Verb::Status => "1.1.0",
        }
    }

    /// Whether it is about one interface of one container.
    fn is_about_a_container(self) -> bool {
        matches!(self, Verb::Add | Verb::Del | Verb::Check)
    }

    pub(super) fn from_env() -> Result<Self, CniError> {
        let value = variable("CNI_COMMAND")?.unwrap_or_default();
        let found = VERBS.into_iter().find(|verb| verb.name() == value);
        found.ok_or_else(|| {
            let names = VERBS.map(Verb::name).join(", ");
            CniError::environment(format!("CNI_COMMAND={value}: it is one of {names}"))
        })
    }
}

/// The other variables. Those that a verb does not need may be missing.
#[derive(Debug)]
pub(super) struct Call {
    /// By the id that the container's runtime knows.
    pub(super) container: Option<ContainerId>,
    /// Whether the engine has put a namespace before that id, as nerdctl does.
    pub(super) is_of_nerdctl: bool,
    pub(super) namespace: Option<PathBuf>,
    pub(super) interface: Option<InterfaceName>,
    /// `NAMESPACE/NAME` of a pod of Kubernetes.
    pod: Option<String>,
    /// Directories of plugins.
    path: Vec<PathBuf>,
}

impl Call {
    pub(super) fn from_env(verb: Verb) -> Result<Self, CniError> {
        let path = variable("CNI_PATH")?.unwrap_or_default();
        let mut call = Call {
            container: None,
            is_of_nerdctl: false,
            namespace: None,
            interface: None,
            pod: variable("CNI_ARGS")?.and_then(|arguments| pod(&arguments)),
            path: std::env::split_paths(&path).filter(|path| path.is_absolute()).collect(),
        };
        if !verb.is_about_a_container() {
            return Ok(call);
        }
        let id = needed("CNI_CONTAINERID")?;
        let bad = |error| CniError::environment(format!("CNI_CONTAINERID: {error}"));
        let own = runtime_id(&id);
        call.is_of_nerdctl = own != id;
        call.container = Some(ContainerId::try_from(own.to_owned()).map_err(bad)?);
        let name = needed("CNI_IFNAME")?;
        let interface = match name.as_str() {
            // Names that sysctl paths and the kernel keep for themselves.
            "lo" | "all" | "default" => Err("this name is reserved".to_owned()),
            other => other.parse(),
        };
        let bad = |why| CniError::environment(format!("CNI_IFNAME={name}: {why}"));
        call.interface = Some(interface.map_err(bad)?);
        // The namespace of a container that is deleted may have gone.
        call.namespace = match verb {
            Verb::Del => variable("CNI_NETNS")?.map(PathBuf::from),
            _ => Some(needed("CNI_NETNS")?.into()),
        };
        Ok(call)
    }

    /// The container and its interface, of a verb that is about one.
    pub(super) fn subject(&self) -> Result<(&ContainerId, &InterfaceName), CniError> {
        self.container
            .as_ref()
            .zip(self.interface.as_ref())
            .ok_or_else(|| CniError::environment("CNI_CONTAINERID or CNI_IFNAME is missing"))
    }

    /// Its network namespace.
    pub(super) fn namespace(&self) -> Result<&Path, CniError> {
        let path = self.namespace.as_deref();
        path.ok_or_else(|| CniError::environment("CNI_NETNS is missing"))
    }

    /// What people call the container.
    pub(super) fn name(&self, id: &ContainerId) -> String {
        self.pod.clone().unwrap_or_else(|| id.to_string())
    }

    /// The program of a plugin.
    pub(super) fn plugin(&self, kind: &str) -> Result<PathBuf, CniError> {
        if kind.is_empty() || kind.contains('/') || kind.starts_with('.') {
            return Err(CniError::config(format!("{kind:?} is no name of a plugin")));
        }
        let mut programs = self.path.iter().map(|directory| directory.join(kind));
        programs.find(|program| program.is_file()).ok_or_else(|| {
            let directories: Vec<_> = self.path.iter().map(|path| path.to_string_lossy()).collect();
            CniError::delegate(format!(
                "the plugin {kind} is in none of the directories of CNI_PATH: {}",
                directories.join(":")
            ))
        })
    }
}

/// The id of a container as its runtime knows it, from that which plugins are told.
///
/// nerdctl tells plugins `NAMESPACE-ID`, with the namespace of containerd and 64 hexadecimal digits
/// (`fullID` in pkg/ocihook/ocihook.go, pkg/idgen/idgen.go). Hooks, containerd's shims and people know
/// the digits alone. Any other id is the runtime's own.
pub(super) fn runtime_id(id: &str) -> &str {
    let is_namespace = |text: &str| {
        text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
    };
    let is_generated = |text: &str| {
        text.len() == 64 && text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'))
    };
    match id.rsplit_once('-') {
        Some((namespace, own)) if is_namespace(namespace) && is_generated(own) => own,
        _ => id,
    }
}

/// The pod that the arguments of Kubernetes' engines name: `NAME=VALUE`, separated by `;`.
fn pod(arguments: &str) -> Option<String> {
    let value = |wanted: &str| {
        let mut pairs = arguments.split(';').filter_map(|pair| pair.split_once('='));
        let (_, value) = pairs.find(|(name, _)| *name == wanted)?;
        Some(value).filter(|value| !value.is_empty())
    };
    let pod = format!("{}/{}", value("K8S_POD_NAMESPACE")?, value("K8S_POD_NAME")?);
    // The name is shown on terminals.
    Some(pod.chars().filter(|c| !c.is_control()).take(255).collect())
}

/// A variable that has a value.
fn variable(name: &str) -> Result<Option<String>, CniError> {
    match std::env::var(name) {
        Ok(value) => Ok(Some(value).filter(|value| !value.is_empty())),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(_) => Err(CniError::environment(format!("{name} is not UTF-8"))),
    }
}

fn needed(name: &str) -> Result<String, CniError> {
    variable(name)?.ok_or_else(|| CniError::environment(format!("{name} is missing")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_named_by_its_namespace_and_its_name() {
        let arguments =
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=studio;K8S_POD_NAME=cam\u{1b}1;K8S_POD_UID=7";
        assert_eq!(pod(arguments).as_deref(), Some("studio/cam1"));
        for other in ["", "K8S_POD_NAME=cam", "K8S_POD_NAMESPACE=;K8S_POD_NAME=cam", ";;=", "IP=1"]
        {
            assert_eq!(pod(other), None, "{other}");
        }
    }

    #[test]
    fn a_namespace_before_a_generated_id_is_left_out_and_nothing_else() {
        let digits = "0123456789abcdef".repeat(4);
        for namespace in ["default", "k8s.io", "a-b", &"x".repeat(76)] {
            assert_eq!(runtime_id(&format!("{namespace}-{digits}")), digits);
        }
        let upper = digits.to_uppercase();
        for other in [
            digits.clone(),
            "default-cam".into(),
            format!("default_{digits}"),
            format!("-{digits}"),
            format!("../x-{digits}"),
            format!("default-{digits}0"),
            format!("default-{}", &digits[1..]),
            format!("default-{upper}"),
            String::new(),
        ] {
            assert_eq!(runtime_id(&other), other);
        }
    }

    #[test]
    fn a_plugin_is_found_in_the_directories_and_nowhere_else() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("static"), "").unwrap();
        let path = vec!["/no-such-directory".into(), directory.path().to_owned()];
        let call = Call {
            container: None,
            is_of_nerdctl: false,
            namespace: None,
            interface: None,
            pod: None,
            path,
        };
        assert_eq!(call.plugin("static").unwrap(), directory.path().join("static"));
        for bad in ["../static", "", ".", "..", "absent"] {
            call.plugin(bad).unwrap_err();
        }
    }
}

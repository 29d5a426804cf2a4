//! Which engine runs a container, and which of its programs manages it.

use std::path::Path;

use crate::oci::BundleConfig;

/// The engine of a container, as far as its bundle tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerEngine {
    /// docker.
    Docker,
    /// podman.
    Podman,
    /// nerdctl.
    Nerdctl,
    /// Kubernetes, through containerd or CRI-O.
    Kubernetes,
    /// Another client of containerd.
    Containerd,
    /// An OCI runtime that was called by hand, or whatever else it is.
    Runtime,
}

impl ContainerEngine {
    /// Reads it from the bundle's path and annotations.
    ///
    /// containerd's bundles are `.../io.containerd.runtime.v2.task/NAMESPACE/ID`; docker's
    /// namespace is `moby`, that of Kubernetes `k8s.io`. Bundles of podman and CRI-O are
    /// `ROOT/DRIVER-containers/ID/userdata`.
    pub(super) fn of(id: &str, bundle: Option<&Path>) -> Self {
        let Some(bundle) = bundle else { return ContainerEngine::Runtime };
        let has = |key| BundleConfig::read(bundle).is_ok_and(|c| c.annotation(key).is_some());
        if bundle.ends_with(Path::new(id).join("userdata")) {
            let crio = has("io.kubernetes.cri-o.ContainerType");
            return if crio { ContainerEngine::Kubernetes } else { ContainerEngine::Podman };
        }
        let mut names = bundle.iter().rev().skip(1).filter_map(|name| name.to_str());
        let (namespace, tasks) = (names.next().unwrap_or_default(), names.next());
        if !tasks.is_some_and(|name| name.starts_with("io.containerd.runtime.")) {
            return ContainerEngine::Runtime;
        }
        match namespace {
            "moby" => ContainerEngine::Docker,
            "k8s.io" => ContainerEngine::Kubernetes,
            _ if has("nerdctl/name") => ContainerEngine::Nerdctl,
            _ => ContainerEngine::Containerd,
        }
    }

    /// What to type in place of `mcrun COMMAND CONTAINER`.
    pub(super) fn advice(self, command: &str, container: &str) -> String {
        let (engine, program) = match self {
            ContainerEngine::Docker => ("docker", "docker"),
            ContainerEngine::Podman => ("podman", "podman"),
            ContainerEngine::Nerdctl => ("nerdctl", "nerdctl"),
            ContainerEngine::Kubernetes => ("Kubernetes", "crictl"),
            ContainerEngine::Containerd => {
                return "it was started through containerd; use the program that started it".into();
            }
            ContainerEngine::Runtime => {
                return "mcrun run did not start it; use the program that started it".into();
            }
        };
        format!("it belongs to {engine}; use {program} {command} {container}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bundle_tells_the_engine() {
        use ContainerEngine::*;
        for (bundle, engine) in [
            ("/run/containerd/io.containerd.runtime.v2.task/moby/9f6e", Docker),
            ("/run/docker/containerd/daemon/io.containerd.runtime.v2.task/moby/9f6e", Docker),
            ("/run/containerd/io.containerd.runtime.v2.task/k8s.io/9f6e", Kubernetes),
            ("/run/containerd/io.containerd.runtime.v2.task/default/9f6e", Containerd),
            ("/var/lib/containers/storage/overlay-containers/9f6e/userdata", Podman),
            ("/srv/bundle", Runtime),
        ] {
            assert_eq!(ContainerEngine::of("9f6e", Some(Path::new(bundle))), engine, "{bundle}");
        }
        assert_eq!(ContainerEngine::of("9f6e", None), Runtime);
    }

    #[test]
    fn the_advice_is_what_to_type() {
        let advice = ContainerEngine::Docker.advice("exec", "cam");
        assert_eq!(advice, "it belongs to docker; use docker exec cam");
    }
}

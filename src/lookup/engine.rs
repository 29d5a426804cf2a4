//! Which engine runs a container, and which of its programs manages it.

use std::fmt;
use std::path::Path;

use crate::lookup::RUNTIMES;
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
    /// LXC.
    Lxc,
    /// Incus.
    Incus,
    /// systemd-nspawn.
    Nspawn,
    /// An OCI runtime that was called by hand, or whatever else it is.
    Runtime,
}

/// Engines by what `--engine` calls them.
const NAMES: [(&str, ContainerEngine); 8] = [
    ("docker", ContainerEngine::Docker),
    ("podman", ContainerEngine::Podman),
    ("nerdctl", ContainerEngine::Nerdctl),
    ("kubernetes", ContainerEngine::Kubernetes),
    ("containerd", ContainerEngine::Containerd),
    ("lxc", ContainerEngine::Lxc),
    ("incus", ContainerEngine::Incus),
    ("nspawn", ContainerEngine::Nspawn),
];

impl ContainerEngine {
    /// The engine of a name, or of the path of its program; an OCI runtime's is
    /// [`ContainerEngine::Runtime`].
    pub fn named(name: &str) -> Option<Self> {
        let name = Path::new(name).file_name()?.to_str()?;
        let known = NAMES.iter().find(|(known, _)| *known == name).map(|(_, engine)| *engine);
        known.or_else(|| RUNTIMES.contains(&name).then_some(ContainerEngine::Runtime))
    }

    /// The names that [`ContainerEngine::named`] knows.
    pub fn names() -> String {
        let names: Vec<_> = NAMES.iter().map(|(name, _)| *name).chain(RUNTIMES).collect();
        names.join(", ")
    }

    fn name(self) -> Option<&'static str> {
        NAMES.iter().find(|(_, engine)| *engine == self).map(|(name, _)| *name)
    }

    /// What the ids of its containers begin with in mcrun, where it has no ids itself.
    pub(super) fn prefix(self) -> &'static str {
        self.name().unwrap_or("lxc")
    }

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
            ContainerEngine::Lxc => {
                let program = match command {
                    "exec" => "lxc-attach",
                    "logs" => return "it belongs to LXC, which keeps no log of it".into(),
                    "rm" => "lxc-destroy",
                    _ => "lxc-stop",
                };
                return format!("it belongs to LXC; use {program} --name {container}");
            }
            ContainerEngine::Incus => {
                let command = match command {
                    "kill" => "stop --force",
                    "logs" => "console --show-log",
                    "rm" => "delete",
                    command => command,
                };
                return format!("it belongs to Incus; use incus {command} {container}");
            }
            ContainerEngine::Nspawn => {
                let program = match command {
                    "exec" => "machinectl shell",
                    "logs" => "journalctl --machine",
                    "kill" => "machinectl kill",
                    "rm" => "machinectl remove",
                    _ => "machinectl poweroff",
                };
                return format!("it belongs to systemd-nspawn; use {program} {container}");
            }
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

impl fmt::Display for ContainerEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name().unwrap_or("an OCI runtime"))
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
    fn an_engine_is_named_by_its_program() {
        assert_eq!(ContainerEngine::named("/usr/bin/podman"), Some(ContainerEngine::Podman));
        assert_eq!(ContainerEngine::named("nspawn"), Some(ContainerEngine::Nspawn));
        assert_eq!(ContainerEngine::named("crun"), Some(ContainerEngine::Runtime));
        assert_eq!(ContainerEngine::named("dokcer"), None);
        assert!(ContainerEngine::names().ends_with("lxc, incus, nspawn, runc, crun, youki"));
    }

    #[test]
    fn the_advice_is_what_to_type() {
        let advice = ContainerEngine::Docker.advice("exec", "cam");
        assert_eq!(advice, "it belongs to docker; use docker exec cam");
        let advice = ContainerEngine::Lxc.advice("exec", "cam");
        assert_eq!(advice, "it belongs to LXC; use lxc-attach --name cam");
        let advice = ContainerEngine::Incus.advice("kill", "cam");
        assert_eq!(advice, "it belongs to Incus; use incus stop --force cam");
        let advice = ContainerEngine::Nspawn.advice("stop", "cam");
        assert_eq!(advice, "it belongs to systemd-nspawn; use machinectl poweroff cam");
    }
}

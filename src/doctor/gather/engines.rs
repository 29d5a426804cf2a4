//! The engines that are installed, and whether they know mcrun.

use std::env;
use std::path::Path;

use crate::doctor::facts::EngineFacts;
use crate::setup::{Setup, SetupTarget};

/// Target, name, program, and whether its containers cannot be attached without `mcrun setup`.
const ENGINES: [(SetupTarget, &str, &str, bool); 4] = [
    (SetupTarget::Docker, "docker", "dockerd", true),
    (SetupTarget::Podman, "podman", "podman", false),
    (SetupTarget::Containerd, "containerd", "containerd", true),
    (SetupTarget::Crio, "CRI-O", "crio", true),
];

/// The engines whose program is on the path. dockerd starts a containerd of its own.
pub(crate) fn engines() -> Vec<EngineFacts> {
    let installed = |program: &str| {
        let path = env::var_os("PATH").unwrap_or_default();
        let usual = ["/usr/sbin", "/usr/local/sbin"].map(Into::into);
        env::split_paths(&path).chain(usual).any(|directory| directory.join(program).is_file())
    };
    let setup = Setup::new(Path::new("/"));
    let there = ENGINES.into_iter().filter(|(_, _, program, _)| installed(program));
    let is_docker = there.clone().any(|(target, ..)| target == SetupTarget::Docker);
    there
        .map(|(target, name, _, needs_setup)| EngineFacts {
            target,
            name,
            is_set_up: setup
                .as_ref()
                .map_err(ToString::to_string)
                .and_then(|setup| setup.is_done(target).map_err(|error| error.to_string())),
            needs_setup: needs_setup && !(is_docker && target == SetupTarget::Containerd),
        })
        .filter(|engine| engine.needs_setup || engine.target != SetupTarget::Containerd)
        .collect()
}

//! podman's pods. All containers of a pod share the network namespace of one that podman calls
//! infra, and podman gives annotations to the others only: whichever of them comes first attaches
//! the pod.

use std::path::{Path, PathBuf};

use crate::oci::{BundleConfig, ContainerId, container_id_of};
use crate::sys::procfs::process_of_network;

/// The container that holds a pod's network namespace.
#[derive(Debug)]
pub(super) struct Sandbox {
    pub(super) id: ContainerId,
    pub(super) pid: i32,
}

impl Sandbox {
    /// The sandbox of the pod that a container is a member of, if the network namespace that its
    /// config.json names is the sandbox's.
    pub(super) fn of(config: &BundleConfig) -> Option<Self> {
        let id = config.podman_sandbox()?;
        let pid = process_of_network(config.network_namespace_path()?)?;
        // The annotation alone would let a container name any other.
        let is_its = container_id_of(pid).as_deref() == Some(id);
        Some(Sandbox { id: ContainerId::try_from(id.to_owned()).ok().filter(|_| is_its)?, pid })
    }

    /// The sandbox's bundle, where podman has it beside that of the member
    /// (`ROOT/DRIVER-containers/ID/userdata`).
    pub(super) fn bundle(&self, of_member: &Path) -> Option<PathBuf> {
        let containers = of_member.parent()?.parent()?;
        let bundle = containers.join(self.id.as_str()).join(of_member.file_name()?);
        bundle.is_dir().then_some(bundle)
    }
}

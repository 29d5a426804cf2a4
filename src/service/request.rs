//! What the adapters ask the service for.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use crate::attachment::Attachment;
use crate::net::netns::NetNs;
use crate::oci::ContainerId;
use crate::service::AttachError;
use crate::state::Lifetime;
use crate::sys::files::is_in_proc;
use crate::sys::process::ProcessRef;
use crate::sys::procfs::process_of_network;

/// A container, and what it is to be attached to. Each adapter makes one from what it is told: the
/// OCI hook from a state and a bundle, `mcrun attach` from a container that was looked up.
#[derive(Debug)]
pub struct AttachRequest {
    /// Id of the container. The attachment is kept under it.
    pub id: ContainerId,
    /// What people call the container; the id if it has no other name.
    pub name: String,
    /// Where the interfaces are made.
    pub namespace: NetworkNamespace,
    /// When the attachment ends by itself.
    pub lifetime: Lifetime,
    /// Directory that the container's engine keeps about it. The service only records it, so that
    /// the container's present name can be looked up.
    pub directory: Option<PathBuf>,
    /// At least one attachment, checked by [`crate::attachment::parse_all`].
    pub attachments: Vec<Attachment>,
}

/// How an adapter names a network namespace.
#[derive(Debug)]
pub enum NetworkNamespace {
    /// That of a process.
    OfProcess(i32),
    /// That of a process, for all containers of a pod.
    OfPod(i32),
    /// Mounted at a path. Other containers may use it too.
    Path(PathBuf),
    /// A descriptor of its file. Other containers may use it too.
    Descriptor(OwnedFd),
}

impl AttachRequest {
    /// A container that lasts as long as a process, in the network namespace of that process.
    ///
    /// # Errors
    /// [`AttachError::Ended`] if there is no such process.
    pub fn of_process(
        id: ContainerId,
        name: String,
        pid: i32,
        attachments: Vec<Attachment>,
    ) -> Result<Self, AttachError> {
        let process = ProcessRef::of(pid).map_err(|_| AttachError::Ended(pid))?;
        Ok(AttachRequest {
            id,
            name,
            namespace: NetworkNamespace::OfProcess(pid),
            lifetime: Lifetime::Process(process),
            directory: None,
            attachments,
        })
    }
}

impl AttachRequest {
    /// A pod, by the container that holds its network namespace and the process of that container.
    /// Each of the pod's containers may ask for the same attachments; they are made once, and last
    /// as long as the process.
    ///
    /// # Errors
    /// [`AttachError::Ended`] if there is no such process.
    pub fn of_pod(
        id: ContainerId,
        pid: i32,
        attachments: Vec<Attachment>,
    ) -> Result<Self, AttachError> {
        let mut request = AttachRequest::of_process(id.clone(), id.to_string(), pid, attachments)?;
        request.namespace = NetworkNamespace::OfPod(pid);
        Ok(request)
    }

    /// A container that is known by the path of its network namespace only, such as
    /// `/run/netns/NAME`. The attachment lasts until the file is removed. The container's id is the
    /// name of the file.
    ///
    /// # Errors
    /// [`AttachError::NamespacePath`] if the file is in /proc, or its name cannot be an id.
    pub fn of_namespace_path(
        path: PathBuf,
        attachments: Vec<Attachment>,
    ) -> Result<Self, AttachError> {
        let refuse = |why| AttachError::NamespacePath { path: path.clone(), why };
        if is_in_proc(&path) {
            return Err(refuse("name the process by its id instead"));
        }
        let name = path.file_name().and_then(|name| name.to_str()).map(str::to_owned);
        let id = name.and_then(|name| ContainerId::try_from(name).ok());
        let id = id.ok_or_else(|| refuse("the name of the file cannot be a container id"))?;
        Ok(AttachRequest {
            name: id.to_string(),
            id,
            namespace: NetworkNamespace::Path(path.clone()),
            lifetime: Lifetime::NamespacePath(path),
            directory: None,
            attachments,
        })
    }
}

impl AttachRequest {
    /// A container of this id whose network namespace is at a path. The attachment lasts until the
    /// file is removed; where the path is `/proc/PID/ns/net`, as long as the process.
    ///
    /// # Errors
    /// [`AttachError::Ended`] if there is no such process, and [`AttachError::NamespacePath`] for
    /// another file in /proc.
    pub fn of_namespace(
        id: ContainerId,
        name: String,
        path: PathBuf,
        attachments: Vec<Attachment>,
    ) -> Result<Self, AttachError> {
        if let Some(pid) = process_of_network(&path) {
            return AttachRequest::of_process(id, name, pid, attachments);
        }
        if is_in_proc(&path) {
            let why = "the file is of no process; /proc/PID/ns/net is that of one";
            return Err(AttachError::NamespacePath { path, why });
        }
        Ok(AttachRequest {
            id,
            name,
            namespace: NetworkNamespace::Path(path.clone()),
            lifetime: Lifetime::NamespacePath(path),
            directory: None,
            attachments,
        })
    }
}

impl NetworkNamespace {
    /// Opens the namespace.
    ///
    /// # Errors
    /// That of open(2), and `EINVAL` if it is no network namespace.
    pub(super) fn open(&self) -> io::Result<NetNs> {
        match self {
            NetworkNamespace::OfProcess(pid) | NetworkNamespace::OfPod(pid) => NetNs::of_pid(*pid),
            NetworkNamespace::Path(path) => NetNs::open(path),
            NetworkNamespace::Descriptor(descriptor) => descriptor.try_clone()?.try_into(),
        }
    }

    /// Whether it is the network namespace of the calling thread: the host's, for a hook.
    ///
    /// # Errors
    /// That of open(2), and `EINVAL` if it is no network namespace.
    pub fn is_callers(&self) -> io::Result<bool> {
        Ok(self.open()?.id()? == NetNs::current()?.id()?)
    }

    /// Whether another container may be attached in it.
    pub(super) fn may_be_shared(&self) -> bool {
        matches!(self, NetworkNamespace::Path(_) | NetworkNamespace::Descriptor(_))
    }

    /// Whether several containers may ask for the same attachments in it.
    pub(super) fn is_pods(&self) -> bool {
        matches!(self, NetworkNamespace::OfPod(_))
    }

    /// Where it is mounted, if the adapter said so.
    pub(super) fn path(&self) -> Option<PathBuf> {
        match self {
            NetworkNamespace::Path(path) => Some(path.clone()),
            _ => None,
        }
    }
}

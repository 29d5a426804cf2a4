//! Why the driver refuses what docker asks for.

use crate::docker_network::kept::KeepError;
use crate::docker_network::options::OptionError;
use crate::docker_network::protocol::DockerId;
use crate::service::AttachError;
use crate::state::StateDirError;

/// Why docker's request is refused: one line.
#[derive(Debug, thiserror::Error)]
pub(super) enum DriverError {
    /// The options of a network.
    #[error(transparent)]
    Option(#[from] OptionError),
    /// A value of docker's.
    #[error("{0}")]
    Value(String),
    /// The network was not made by this driver, or what it has kept of it is lost.
    #[error(
        "mcrun does not know the network {0}: remove it and create it again (docker network rm, docker network create)"
    )]
    Network(DockerId),
    /// The endpoint was not made by this driver, or what it has kept of it is lost.
    #[error("mcrun does not know the endpoint {0}: stop the container and start it again")]
    Endpoint(DockerId),
    /// The namespace of a container is there and the container is not.
    #[error("no process is in the container's network namespace {0}")]
    NoProcess(String),
    /// The namespace of a container.
    #[error("cannot reach the container's network namespace {path}: {source}")]
    Namespace {
        /// Where it is mounted.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The attachment.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// What follows the containers.
    #[error("cannot follow containers: {0}")]
    Follow(std::io::Error),
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateDirError),
    /// What the driver keeps.
    #[error(transparent)]
    Kept(#[from] KeepError),
}

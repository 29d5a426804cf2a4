//! docker's networks of the driver `mcrun`: an adapter that turns docker's requests into requests to
//! [`crate::service`].
//!
//! docker keeps networks and addresses. `docker network create -d mcrun -o parent=eth1` asks the driver
//! whether the options are an attachment, and each container on the network gets that attachment with
//! docker's address: when it starts, or with `docker network connect`.
//!
//! The interface is made in the container's namespace by [`crate::service`], as an OCI hook has it made,
//! rather than on the host for docker to move. So it is up only when the proxy's rules stand, and at no
//! moment can IGMP of the container reach the LAN. A docker since 28 waits for that. An older docker has
//! containers join before they have a namespace, and asks for nothing after that: the container is then
//! attached when docker mounts the namespace, which the runtime has it do before it starts the
//! container's command.

mod docker_hook;
mod driver;
mod error;
mod followed;
mod garbage;
mod kept;
mod listener;
mod options;
mod protocol;
mod sandboxes;
mod server;

use std::io;
use std::path::Path;

use crate::docker_network::driver::Driver;
use crate::docker_network::error::DriverError;
use crate::docker_network::listener::Listener;
use crate::state::{Store, lib_dir};

pub use crate::docker_network::garbage::collect_garbage;
pub use crate::docker_network::listener::ListenError;

/// Where docker looks for the driver `mcrun`.
pub const SOCKET: &str = "/run/docker/plugins/mcrun.sock";

/// Why the driver cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The socket.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// What the driver keeps.
    #[error("{0}")]
    Driver(String),
    /// The server.
    #[error("cannot serve: {0}")]
    Server(#[from] io::Error),
}

/// Serves docker until SIGTERM or SIGINT, at this socket or at the one that the service manager has
/// passed.
///
/// # Errors
/// [`ServeError`], before the first request.
pub fn serve(socket: &Path) -> Result<(), ServeError> {
    let listener = Listener::open(socket)?;
    let driver = Driver::open(Store::from_env(), &lib_dir());
    let driver = driver.map_err(|error: DriverError| ServeError::Driver(error.to_string()))?;
    Ok(server::serve(&listener, driver)?)
}

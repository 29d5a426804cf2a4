//! What a service manager is told, if there is one (sd_notify(3)).

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// Sends a state to the socket of `NOTIFY_SOCKET`. Without one, or if it cannot be reached, nobody
/// is told.
pub(super) fn send(state: &str) {
    if let Some(socket) = connect() {
        let _ = socket.send(state.as_bytes());
    }
}

/// A socket that is connected to that of `NOTIFY_SOCKET`, if there is one.
pub(super) fn connect() -> Option<UnixDatagram> {
    let path = std::env::var("NOTIFY_SOCKET").ok()?;
    let address = match path.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&path),
    };
    let socket = UnixDatagram::unbound().ok()?;
    socket.connect_addr(&address.ok()?).ok()?;
    Some(socket)
}

/// How often the service manager wants to hear of the keeper, halved; `None`: never.
pub(super) fn watchdog() -> Option<Duration> {
    let microseconds: u64 = std::env::var("WATCHDOG_USEC").ok()?.parse().ok()?;
    (microseconds > 1).then(|| Duration::from_micros(microseconds / 2))
}

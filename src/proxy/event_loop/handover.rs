//! Relays that go from one proxy to the one that takes_over it. The new proxy has asked for nothing but
//! a connection at its start; when it is told to take over it asks for the relays, and from then on
//! the old one carries nothing.

use std::io;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::proxy::control::server::Next;
use crate::proxy::event_loop::Loop;
use crate::proxy::event_loop::interface::Interface;
use crate::proxy::process::container_dir::ContainerDir;
use crate::proxy::relay::RelayHandover;
use crate::sys::fd_passing::{MAX_FDS, receive_with_fds};

/// Bytes that are read of what relays leave: each has 4096 echoes of some 70 bytes at most.
const MOST_BYTES: u64 = 32 << 20;
/// The other proxy answers from memory; while it does not, nothing is relayed.
const PATIENCE: Duration = Duration::from_millis(500);

/// The proxy that this one takes_over.
pub(crate) struct Predecessor(UnixStream);

impl Predecessor {
    /// Connects to the proxy whose control socket is there.
    ///
    /// # Errors
    /// That of connect(2): `ECONNREFUSED` when it has ended.
    pub(crate) fn of(home: &ContainerDir) -> io::Result<Self> {
        let stream = home.connect()?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Predecessor(stream))
    }

    /// Has its relays, which carry nothing any more.
    fn relays(mut self) -> io::Result<(Vec<RelayHandover>, Vec<OwnedFd>)> {
        self.0.write_all(b"handover\n")?;
        let (_, sockets) = receive_with_fds(&self.0, &mut [0], MAX_FDS)?;
        let mut text = Vec::new();
        self.0.take(MOST_BYTES).read_to_end(&mut text)?;
        Ok((serde_json::from_slice(&text)?, sockets))
    }
}

impl Loop {
    /// Carries on with the relays of the proxy before this one; nothing happens when that one does not
    /// leave them.
    pub(super) fn take_over_relays(&mut self, now: Instant) {
        let left = self.predecessor.take().map(Predecessor::relays);
        let Some(Ok((inheritances, sockets))) = left else { return };
        let mut sockets = sockets.into_iter();
        for inheritance in inheritances {
            let own: Vec<_> = sockets.by_ref().take(inheritance.sockets()).collect();
            let of_it = |i: &&mut Interface| i.config.name == inheritance.interface;
            if let Some(interface) = self.interfaces.iter_mut().find(of_it) {
                interface.inherit(now, inheritance, own);
            }
        }
        if self.begin_relaying().is_err() {
            self.takes_over = true;
        }
    }

    /// Leaves all relays to a client.
    pub(super) fn hand_over(&mut self, client: u32) -> Next {
        let relays: Vec<_> = self.interfaces.iter_mut().filter_map(Interface::relay).collect();
        let ports =
            MAX_FDS.saturating_sub(relays.len() * RelayHandover::FIXED) / relays.len().max(1);
        let (inheritances, sockets): (Vec<_>, Vec<_>) =
            relays.iter().map(|relay| relay.hand_over(ports)).unzip();
        let text = serde_json::to_vec(&inheritances).unwrap_or_default();
        let sockets = sockets.concat();
        let Some(next) = self.control.hand_over(client, &sockets, text) else {
            return Next::Closed;
        };
        for relay in relays {
            let answering = relay.answering().map(|(_, socket)| socket);
            for socket in [relay.receiver(), relay.capture()].into_iter().chain(answering) {
                // The other process keeps it open, and with it the wish to be told. One that is
                // not watched is no error.
                let _ = self.epoll.delete(socket);
            }
        }
        for interface in &mut self.interfaces {
            interface.drop_relay();
        }
        next
    }
}

//! What a relay leaves to the one that follows it, so that each packet is carried once: the sockets with
//! all that waits in them, the ports that answers come to, and what is still to come back.

use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::proxy::relay::echo::Fingerprint;
use crate::proxy::relay::{Relay, group_filter};

/// All of one relay but its sockets, which go beside it in this order: what it receives with, its
/// tap, and one for each port that has one.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Inheritance {
    /// Name of the container's interface.
    pub(crate) interface: String,
    /// Name of the host's.
    upstream: String,
    /// The host's address, when ports are translated.
    host: Option<Ipv4Addr>,
    ports: Vec<InheritedPort>,
    echoes: Vec<Fingerprint>,
}

/// A port of the container that sends, and the host's that it sends from.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct InheritedPort {
    pub(super) inside: (Ipv4Addr, u16),
    pub(super) host_port: u16,
    /// Whether a socket of it goes along.
    pub(super) answered: bool,
}

impl Inheritance {
    /// Sockets that every relay leaves.
    pub(crate) const FIXED: usize = 2;

    /// How many sockets go beside it.
    pub(crate) fn sockets(&self) -> usize {
        Self::FIXED + self.ports.iter().filter(|port| port.answered).count()
    }
}

impl Relay {
    /// What it leaves, with at most `ports` ports, those that were used last. Who has it carries on, and this
    /// relay is to be dropped without another packet.
    pub(crate) fn leave(&self, ports: usize) -> (Inheritance, Vec<BorrowedFd<'_>>) {
        let translation = self.translation.iter();
        let (ports, sockets): (Vec<_>, Vec<_>) =
            translation.flat_map(|translation| translation.latest(ports)).unzip();
        let inheritance = Inheritance {
            interface: self.interface.clone(),
            upstream: self.upstream.clone(),
            host: self.translation.as_ref().and_then(|translation| translation.host()),
            ports,
            echoes: self.echoes.outstanding(),
        };
        let fixed = [self.receiver(), self.tap()];
        let answers = sockets.into_iter().flatten().map(AsFd::as_fd);
        (inheritance, fixed.into_iter().chain(answers).collect())
    }

    /// Carries on where another relay of the same interface has stopped. With another upstream, or with
    /// sockets missing, it begins anew.
    pub(crate) fn inherit(
        &mut self,
        now: Instant,
        from: Inheritance,
        sockets: impl IntoIterator<Item = OwnedFd>,
    ) {
        let mut sockets = sockets.into_iter();
        let (Some(receiver), Some(tap)) = (sockets.next(), sockets.next()) else { return };
        if from.upstream != self.upstream {
            return;
        }
        self.host.receiver = receiver.into();
        self.container.tap = tap.into();
        let groups: Vec<Ipv4Addr> = self.groups.keys().copied().collect();
        // Where it fails, it lets through what the other relay wanted, of which this one takes its own.
        let _ = self.host.receiver.attach_filter(&group_filter::only(&groups));
        for print in from.echoes {
            self.echoes.expect(now, print);
        }
        if let Some(translation) = &mut self.translation {
            translation.set_host(from.host);
            for port in from.ports {
                let socket = if port.answered { sockets.next() } else { None };
                translation.inherit(now, port, socket.map(UdpSocket::from));
            }
        }
    }

    /// The sockets that answers come to, and the port of the container that each is for.
    pub(crate) fn answering(&self) -> impl Iterator<Item = (u16, BorrowedFd<'_>)> {
        self.translation.iter().flat_map(|translation| translation.sockets())
    }
}

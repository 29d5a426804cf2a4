//! The handover of a relay from one proxy to its successor, so that each packet is relayed once:
//! the sockets with the packets queued in them, the translated ports, and the packets that are
//! still to be looped back.

use std::net::{IpAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::proxy::relay::family::{HostAddresses, Relayed};
use crate::proxy::relay::in_kernel::InKernel;
use crate::proxy::relay::packet::Packet;
use crate::proxy::relay::{FOLLOWED, Relay};

/// How long the successor of a dead relay does not inject packets with a source of its own. What
/// was looped back to the dead one waits in the socket and is read at once.
const LOOPED_BACK: Duration = Duration::from_secs(1);

/// The state of one relay, except its sockets. The sockets are passed beside it by SCM_RIGHTS in
/// this order: receiver, capture, and the answer socket of each port that has one.
///
/// This is the wire format between proxies of different versions: fields may be added, none may be
/// renamed in JSON.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RelayHandover {
    /// Name of the container's interface; of IPv6 with `/ipv6` behind it, which no interface has in its
    /// name. So a proxy that relays IPv4 alone knows of no such interface.
    interface: String,
    /// Name of the host's upstream interface.
    upstream: String,
    /// Index of that interface; 0: a proxy from before this field.
    #[serde(default)]
    upstream_index: u32,
    /// Whether the filter of the receiver can be set.
    #[serde(default = "yes")]
    is_filtered: bool,
    /// Whether the kernel relays. The descriptors of its programs come after the sockets of all relays.
    #[serde(default)]
    pub(crate) in_kernel: bool,
    /// The address of the upstream interface, when ports are translated.
    host: Option<IpAddr>,
    ports: Vec<HandedOverPort>,
    /// Packets that are still to be looped back.
    #[serde(rename = "echoes")]
    looped_back: Vec<Vec<u8>>,
}

/// A port that the container sends from, and the host's port that stands for it on the LAN.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct HandedOverPort {
    pub(super) inside: (IpAddr, u16),
    pub(super) host_port: u16,
    /// Whether an answer socket is passed along.
    pub(super) answered: bool,
    /// Whether routers may have forwarded what was sent from the port.
    #[serde(default)]
    pub(super) reaches_far: bool,
}

fn yes() -> bool {
    true
}

impl RelayHandover {
    /// Number of sockets that every relay hands over.
    pub(crate) const FIXED: usize = 2;

    /// Whether this is what the relay of a family and an interface leaves.
    pub(crate) fn is_of<A: Relayed>(&self, interface: &str) -> bool {
        self.interface == name_of::<A>(interface)
    }

    /// Number of sockets that are passed beside this state.
    pub(crate) fn sockets(&self) -> usize {
        Self::FIXED + self.ports.iter().filter(|port| port.answered).count()
    }
}

/// What stands for an interface in a handover.
fn name_of<A: Relayed>(interface: &str) -> String {
    match A::UNSPECIFIED.into() {
        IpAddr::V4(_) => interface.to_owned(),
        IpAddr::V6(_) => format!("{interface}/{}", A::NAME),
    }
}

impl<A: Relayed> Relay<A> {
    /// The state and sockets for the successor, with at most `ports` ports: those used last. The
    /// caller drops this relay before it relays another packet.
    pub(crate) fn hand_over(&self, ports: usize) -> (RelayHandover, Vec<BorrowedFd<'_>>) {
        let translation = self.translation.iter();
        let (ports, sockets): (Vec<_>, Vec<_>) =
            translation.flat_map(|translation| translation.latest(ports)).unzip();
        let inheritance = RelayHandover {
            interface: name_of::<A>(&self.interface),
            upstream: self.upstream.clone(),
            upstream_index: self.neighbourhood.upstream,
            is_filtered: self.host.is_filtered(),
            in_kernel: self.kernel.is_some(),
            host: self.translation.as_ref().and_then(|t| t.host().of_link).map(Into::into),
            ports,
            looped_back: self
                .looped_back
                .outstanding()
                .iter()
                .map(|p| p.as_ref().to_vec())
                .collect(),
        };
        let fixed = [self.receiver(), self.capture()];
        let answers = sockets.into_iter().flatten().map(AsFd::as_fd);
        (inheritance, fixed.into_iter().chain(answers).collect())
    }

    /// What the kernel needs to relay on, for the successor; none if it does not relay.
    pub(crate) fn kernel_descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.kernel.iter().flat_map(InKernel::descriptors)
    }

    /// Takes over the programs of the predecessor, after its sockets. Where that cannot be, the own
    /// programs relay, if there are any.
    pub(crate) fn take_over_kernel(&mut self, descriptors: Vec<OwnedFd>) {
        // The receiver of an interface that has gone was not taken over, and its programs went too.
        let descriptors = descriptors.try_into().ok().filter(|_| self.has_predecessors_receiver);
        let inherit = |descriptors| InKernel::inherit(descriptors, &self.inbound.rate).ok();
        match descriptors.and_then(inherit) {
            Some(kernel) if self.may_use_kernel => {
                let reason = "the program of the proxy before this one could not be taken over";
                self.leave_kernel(reason);
                self.peer = kernel.peer();
                // An error leaves everything to the proxy.
                let _ = self.use_kernel(kernel);
            }
            Some(mut kernel) => {
                // If this fails, the programs end with the predecessor all the same.
                let _ = kernel.set_peer(None);
            }
            None => {}
        }
        self.filter_receiver();
    }

    /// Gives the predecessor's receiver the filter of this relay.
    fn filter_receiver(&mut self) {
        if let Some(kernel) = &self.kernel {
            if kernel.programs().filter(self.host.receiver()).is_ok() {
                return;
            }
            // The filter of a receiver that has followed its interface is locked: packets that the kernel
            // relayed would be relayed twice.
            self.leave_kernel(FOLLOWED);
        }
        // When this fails, the predecessor's stays; packets of other groups are ignored later.
        let _ = self.receive_groups();
    }

    /// Carries on where the predecessor's relay of the same interface has stopped. With another
    /// upstream interface, or with sockets missing, nothing is taken over.
    pub(crate) fn take_over(
        &mut self,
        now: Instant,
        from: RelayHandover,
        sockets: impl IntoIterator<Item = OwnedFd>,
    ) {
        let mut sockets = sockets.into_iter();
        let (Some(receiver), Some(capture)) = (sockets.next(), sockets.next()) else { return };
        if from.upstream != self.upstream {
            return;
        }
        // A receiver of an interface that has gone receives nothing from the one of its name.
        if [0, self.neighbourhood.upstream].contains(&from.upstream_index) {
            self.host.take_over_receiver(receiver.into(), from.is_filtered);
            self.has_predecessors_receiver = true;
        }
        // It fails where the interface is gone, of which a notification follows.
        let _ = self.container.take_over_capture(capture.into());
        if !from.in_kernel {
            self.filter_receiver();
        }
        for print in &from.looped_back {
            if let Ok(print) = A::Fingerprint::try_from(print.as_slice()) {
                self.looped_back.remember(now, print);
            }
        }
        if let Some(translation) = &mut self.translation {
            // Other addresses would make the sockets useless. Where they do not, they are read anew.
            translation.set_host(HostAddresses::of(from.host.and_then(A::from_ip)));
            for port in from.ports {
                let socket = if port.answered { sockets.next() } else { None };
                translation.take_over_port(now, port, socket.map(UdpSocket::from));
            }
        }
    }

    /// The relay before this one has died: which of its packets are still to be looped back, only
    /// their sources show.
    pub(crate) fn succeed_dead(&mut self, now: Instant) {
        self.own_sources_until = Some(now + LOOPED_BACK);
    }

    /// Whether a received packet is one that the relay before this one has sent.
    pub(super) fn is_of_dead(&mut self, now: Instant, packet: &Packet<'_, A>) -> bool {
        if self.own_sources_until.is_none_or(|until| until <= now) {
            self.own_sources_until = None;
            return false;
        }
        let source = packet.source();
        match &self.translation {
            Some(translation) => {
                packet.ports().is_some_and(|(port, _)| translation.is_own(source, port))
            }
            None => {
                let container = &self.container;
                self.rules.is_own(now, source, || container.all_addresses())
            }
        }
    }

    /// The sockets that the event loop waits for.
    pub(crate) fn watched(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let answering = self.answering().map(|(_, socket)| socket);
        [self.receiver(), self.capture()].into_iter().chain(answering)
    }

    /// The answer sockets, each with the container's port that it serves.
    pub(crate) fn answering(&self) -> impl Iterator<Item = (u16, BorrowedFd<'_>)> {
        self.translation.iter().flat_map(|translation| translation.sockets())
    }
}

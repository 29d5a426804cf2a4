//! The relays of the interfaces, as the event loop serves them.

use std::io;
use std::time::Instant;

use crate::igmp::Igmp;
use crate::mld::Mld;
use crate::proxy::event_loop::event_source::{EventSource, RelaySocket};
use crate::proxy::event_loop::interface::Interface;
use crate::proxy::event_loop::speakers::Speaker;
use crate::proxy::event_loop::{EventLoop, Phase, watch};
use crate::proxy::process::log::Log;

impl EventLoop {
    /// Watches the sockets of the relays: from now on this proxy relays.
    pub(super) fn start_relaying(&mut self) -> io::Result<()> {
        self.watch_relays::<Igmp>()?;
        self.watch_relays::<Mld>()?;
        self.phase = Phase::Serving;
        Ok(())
    }

    fn watch_relays<P: Speaker>(&mut self) -> io::Result<()> {
        for (position, interface) in (0..).zip(&mut self.interfaces) {
            let Some(relay) = interface.relay::<P>() else { continue };
            let fixed = [
                (RelaySocket::Receiver, relay.receiver()),
                (RelaySocket::Capture, relay.capture()),
            ];
            let answers =
                relay.answering().map(|(port, socket)| (RelaySocket::Answers(port), socket));
            for (socket, descriptor) in fixed.into_iter().chain(answers) {
                let (interface, family) = (position, P::FAMILY);
                let source = EventSource::Relay { interface, family, socket };
                watch(&self.epoll, descriptor, source)?;
            }
        }
        Ok(())
    }

    /// Relays the packets that wait in a socket.
    pub(super) fn relay<P: Speaker>(
        &mut self,
        now: Instant,
        position: u32,
        socket: RelaySocket,
        log: &mut Log,
    ) {
        let EventLoop { interfaces, relay_batches, epoll, holding, .. } = self;
        let Some(batch) = P::batch(relay_batches) else { return };
        let interface = interfaces.get_mut(position as usize);
        let Some(relay) = interface.and_then(Interface::relay::<P>) else { return };
        match socket {
            RelaySocket::Receiver => relay.receive(now, batch),
            RelaySocket::Capture => relay.send(now, batch, &mut |socket, port| {
                let socket_of_port = RelaySocket::Answers(port);
                let (interface, family) = (position, P::FAMILY);
                let source = EventSource::Relay { interface, family, socket: socket_of_port };
                // If this fails, answers to the port do not arrive. The packet is sent anyway.
                let _ = watch(epoll, socket, source);
                holding.note_relays(now);
            }),
            RelaySocket::Answers(port) => relay.answer(now, port, batch),
        }
        while let Some(notice) = relay.poll_notice() {
            log.notice(now, notice);
        }
        if matches!(socket, RelaySocket::Receiver) {
            self.look_for_peer(now, position, log);
        }
    }
}

//! Takeover and handover of relays, from a proxy to the one that replaces it.
//!
//! The new proxy connects to the old one at its start. When a client sends it `takeover`, it sends
//! `handover` to the old proxy, and the answer brings the relays' sockets. The old proxy relays
//! nothing from then on, the new one relays what waits in the sockets: each packet has one reader.

use std::io;
use std::io::{Read, Write};
use std::net::Ipv6Addr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::bpf;
use crate::igmp::Igmp;
use crate::mld::Mld;
use crate::proxy::control::protocol::{
    AnswerError, ControlRequest, Format, HandoverPayload, handover_answer, parse_answer,
    parse_word_handover,
};
use crate::proxy::event_loop::interface::Interface;
use crate::proxy::event_loop::speakers::Speaker;
use crate::proxy::event_loop::{EventLoop, Phase};
use crate::proxy::process::container_dir::ContainerDir;
use crate::proxy::relay::{InHand, Relay, RelayHandover};
use crate::sys::fd_passing::{MAX_FDS, receive_with_fds};

/// Bytes of an answer that are read. One relay has at most 4096 echoes of some 70 bytes.
const MAX_ANSWER: u64 = 32 << 20;
/// The other proxy answers from memory. While it does not, nothing is relayed.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(500);

/// The proxy that this one replaces.
pub(crate) struct Predecessor {
    /// For the request of version 1.
    versioned: UnixStream,
    /// For the request in the format before version 1, if the proxy is that old. The path of its
    /// socket leads to this proxy by then, so both connections are made at the start.
    by_word: UnixStream,
}

impl Predecessor {
    /// Connects to the proxy whose control socket is there.
    ///
    /// # Errors
    /// That of connect(2): `ECONNREFUSED` when that proxy has ended.
    pub(crate) fn connect(container_dir: &ContainerDir) -> io::Result<Self> {
        let connect = || {
            let stream = container_dir.connect()?;
            stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
            stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
            Ok::<_, io::Error>(stream)
        };
        Ok(Predecessor { versioned: connect()?, by_word: connect()? })
    }

    /// Takes its relays: what they leave, and all their sockets in the same order.
    fn take_relays(self) -> io::Result<(Vec<RelayHandover>, Vec<OwnedFd>)> {
        let request = ControlRequest::Handover;
        let (answer, sockets) = ask(self.versioned, &request.to_line())?;
        match parse_answer::<HandoverPayload<RelayHandover>>(&answer) {
            Ok(payload) => Ok((payload.relays, sockets)),
            Err(AnswerError::NotVersioned) => {
                let line = request.to_word_line().ok_or(io::ErrorKind::Unsupported)?;
                let (answer, sockets) = ask(self.by_word, &line)?;
                Ok((parse_word_handover(&answer).map_err(io::Error::other)?, sockets))
            }
            Err(error) => Err(io::Error::other(error)),
        }
    }
}

fn ask(mut stream: UnixStream, line: &str) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    stream.write_all(line.as_bytes())?;
    let mut first = [0];
    let (length, sockets) = receive_with_fds(&stream, &mut first, MAX_FDS)?;
    let mut answer = first[..length].to_vec();
    stream.take(MAX_ANSWER).read_to_end(&mut answer)?;
    Ok((answer, sockets))
}

impl EventLoop {
    /// Takes over the relays of the proxy that this one replaces. If that proxy does not hand them
    /// over, this one starts to relay with the next `requery`.
    pub(super) fn take_over_relays(&mut self, now: Instant) {
        let Phase::WaitingForPredecessor(predecessor) = &mut self.phase else { return };
        let taken = predecessor.take().map(Predecessor::take_relays);
        let Some(Ok((handovers, sockets))) = taken else { return };
        let mut sockets = sockets.into_iter();
        let mut in_kernel = Vec::new();
        for handover in handovers {
            let own: Vec<_> = sockets.by_ref().take(handover.sockets()).collect();
            let (ipv4, ipv6) = (self.heir::<Igmp>(&handover), self.heir::<Mld>(&handover));
            in_kernel.extend(handover.in_kernel.then_some((ipv4, ipv6)));
            if let Some(relay) = self.relay_at::<Igmp>(ipv4) {
                relay.take_over(now, handover, own);
            } else if let Some(relay) = self.relay_at::<Mld>(ipv6) {
                relay.take_over(now, handover, own);
            }
        }
        for (ipv4, ipv6) in in_kernel {
            let own: Vec<_> = sockets.by_ref().take(bpf::relay::DESCRIPTORS).collect();
            if let Some(relay) = self.relay_at::<Igmp>(ipv4) {
                relay.take_over_kernel(own);
            } else if let Some(relay) = self.relay_at::<Mld>(ipv6) {
                relay.take_over_kernel(own);
            }
        }
        self.note_kernel_relays();
        self.holding.note_relays(now);
        if let Some(file) = sockets.next() {
            self.succeed_dead::<Igmp>(now, file);
        }
        if let Some(file) = sockets.next() {
            self.succeed_dead::<Mld>(now, file);
        }
        // If this fails, the next `requery` tries again.
        let _ = self.start_relaying();
    }

    /// Position of the interface whose relay of a family takes over what another relay has left.
    fn heir<P: Speaker>(&self, handover: &RelayHandover) -> Option<usize> {
        self.interfaces.iter().position(|i| handover.is_of::<P::Address>(&i.task.name))
    }

    /// The relay of a family of the interface at this position.
    fn relay_at<P: Speaker>(&mut self, position: Option<usize>) -> Option<&mut Relay<P::Address>> {
        self.interfaces.get_mut(position?)?.relay::<P>()
    }

    /// The proxy before this one has died, and somebody has held its relays of a family and this file
    /// for it. What it had in hand goes first.
    fn succeed_dead<P: Speaker>(&mut self, now: Instant, file: OwnedFd) {
        let EventLoop { interfaces, relay_batches, .. } = self;
        let Some(batch) = P::batch(relay_batches) else { return };
        interfaces
            .iter_mut()
            .filter_map(Interface::relay::<P>)
            .for_each(|relay| relay.succeed_dead(now));
        let Some(in_hand) = InHand::take::<P::Address>(file) else { return };
        let is_same = |i: &&mut Interface| i.task.name == in_hand.interface;
        if let Some(relay) = interfaces.iter_mut().find(is_same).and_then(Interface::relay::<P>) {
            // All sockets are watched as soon as this one relays.
            relay.resume(now, &in_hand, batch, &mut |_, _| ());
        }
    }

    /// Hands all relays over to a client. If the client does not get them, they stay here.
    pub(super) fn hand_over_relays(&mut self, client: u32, format: Format) {
        let relays = AllRelays::of(&self.interfaces);
        let (handovers, sockets) = relays.hand_over();
        let answer = handover_answer(handovers, sockets.len(), format);
        if !self.control.answer_with_descriptors(client, answer, &sockets) {
            return;
        }
        for socket in relays.watched() {
            // The other process keeps the socket open, so closing it here would not end the
            // wait for it. A socket that was not waited for gives an error that means nothing.
            let _ = self.epoll.delete(socket);
        }
        for interface in &mut self.interfaces {
            interface.drop_relay();
        }
        self.holding.note_relays(Instant::now());
    }
}

/// The relays of all interfaces, in both families.
pub(super) struct AllRelays<'i> {
    ipv4: Vec<&'i Relay>,
    ipv6: Vec<&'i Relay<Ipv6Addr>>,
}

impl<'i> AllRelays<'i> {
    /// The relays of these interfaces.
    pub(super) fn of(interfaces: &'i [Interface]) -> Self {
        AllRelays { ipv4: relays::<Igmp>(interfaces), ipv6: relays::<Mld>(interfaces) }
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.ipv4.is_empty() && self.ipv6.is_empty()
    }

    /// What the relays leave, and all their sockets in the same order: as many as one message takes
    /// with two descriptors more.
    pub(super) fn hand_over(&self) -> (Vec<RelayHandover>, Vec<BorrowedFd<'i>>) {
        let AllRelays { ipv4, ipv6 } = self;
        let count = ipv4.len() + ipv6.len();
        let fixed = RelayHandover::FIXED + bpf::relay::DESCRIPTORS;
        let room = MAX_FDS.saturating_sub(2 + count * fixed);
        let ports = room / count.max(1);
        let ipv4_left = ipv4.iter().map(|relay| relay.hand_over(ports));
        let ipv6_left = ipv6.iter().map(|relay| relay.hand_over(ports));
        let (handovers, sockets): (Vec<_>, Vec<_>) = ipv4_left.chain(ipv6_left).unzip();
        // A proxy that does not know of the programs finds the sockets where it expects them.
        let programs = ipv4.iter().flat_map(|relay| relay.kernel_descriptors());
        let programs = programs.chain(ipv6.iter().flat_map(|relay| relay.kernel_descriptors()));
        (handovers, sockets.into_iter().flatten().chain(programs).collect())
    }

    /// The sockets that the event loop waits for.
    fn watched(&self) -> impl Iterator<Item = BorrowedFd<'i>> {
        let ipv4 = self.ipv4.iter().flat_map(|relay| relay.watched());
        ipv4.chain(self.ipv6.iter().flat_map(|relay| relay.watched()))
    }
}

fn relays<P: Speaker>(interfaces: &[Interface]) -> Vec<&Relay<P::Address>> {
    interfaces.iter().filter_map(|interface| interface.speaker::<P>()?.relay.as_ref()).collect()
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{BufRead, BufReader};
    use std::net::Ipv4Addr;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixListener;
    use std::thread;
    use std::thread::JoinHandle;

    use super::*;
    use crate::proxy::process::container_dir::CONTROL_SOCKET;
    use crate::sys::fd_passing::send_with_fds;

    /// What a relay leaves, as a proxy from before version 1 writes it.
    const RELAYS: &str =
        r#"[{"interface":"eth0","upstream":"eth1","host":"10.0.0.9","ports":[],"echoes":[]}]"#;

    /// The proxy that is replaced. It answers each connection in turn, with these descriptors if
    /// the answer is not an error, and gives the requests.
    fn predecessor(listener: UnixListener, answers: Vec<String>) -> JoinHandle<Vec<String>> {
        thread::spawn(move || {
            // The new proxy makes both connections before it asks.
            let clients: Vec<_> = (0..2).map(|_| listener.accept().unwrap().0).collect();
            let serve = |(client, answer): (UnixStream, String)| {
                let mut client = BufReader::new(client);
                let mut request = String::new();
                client.read_line(&mut request).unwrap();
                let null = File::open("/dev/null").unwrap();
                let sockets = [null.as_fd(), null.as_fd()];
                let sockets = if answer.contains("error") { &[] } else { &sockets[..] };
                if !answer.is_empty() {
                    send_with_fds(client.get_ref(), answer.as_bytes(), sockets).unwrap();
                }
                request
            };
            clients.into_iter().zip(answers).map(serve).collect()
        })
    }

    /// Takes over from a proxy with these answers: the interfaces and the number of sockets, and
    /// what the proxy was asked.
    fn take(answers: &[&str]) -> (io::Result<(Vec<bool>, usize)>, Vec<String>) {
        let base = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(base.path().join("containers/c1")).unwrap();
        let dir = ContainerDir::open(base.path(), "c1").unwrap();
        let listener = dir.listen(CONTROL_SOCKET).unwrap();
        listener.set_nonblocking(false).unwrap();
        let answers = answers.iter().map(|answer| (*answer).to_owned()).collect();
        let asked = predecessor(listener, answers);
        let new = Predecessor::connect(&dir).unwrap();
        // The path of the socket leads to the new proxy by then.
        let _own = dir.listen(CONTROL_SOCKET).unwrap();
        let taken = new.take_relays().map(|(relays, sockets)| {
            (relays.iter().map(|relay| relay.is_of::<Ipv4Addr>("eth0")).collect(), sockets.len())
        });
        (taken, asked.join().unwrap())
    }

    #[test]
    fn relays_are_taken_over_from_a_proxy_of_either_version() {
        let line = ControlRequest::Handover.to_line();
        let (taken, asked) =
            take(&[&format!("{{\"version\":1,\"descriptors\":2,\"relays\":{RELAYS}}}\n")]);
        assert_eq!(taken.unwrap(), (vec![true], 2));
        assert_eq!(asked, [line.as_str()]);

        let old =
            r#"{"error":"unknown request \"{\\\"version\\\":1\"; there are status, requery"}"#;
        let (taken, asked) = take(&[old, &format!("n{RELAYS}")]);
        assert_eq!(taken.unwrap(), (vec![true], 2));
        assert_eq!(asked, [line.as_str(), "handover\n"]);
    }

    #[test]
    fn a_proxy_that_hands_nothing_over_is_an_error() {
        for answer in
            ["", "n", "{\"version\":1}\n", "{\"version\":1,\"error\":{\"message\":\"no\"}}\n"]
        {
            let (taken, _) = take(&[answer]);
            assert!(taken.is_err(), "{answer:?}");
        }
    }
}

//! The sender: RTP at a constant rate, paced by the clock.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use socket2::{Domain, Protocol, Socket, Type};

use crate::probe::batch::{BATCH, Sender};
use crate::probe::report::{Ended, SendReport, SendResult};
use crate::probe::rtp::{HEADER, Header, SENDER_INFO, SenderInfo};
use crate::probe::signals::Signals;
use crate::probe::units::{Destination, scoped};
use crate::probe::{ProbeError, route_hint};
use crate::sys::sockopt;

/// The longest RTP payload of a UDP datagram, in bytes: over IPv6, whose length does not count its own
/// header.
pub const MAX_PAYLOAD: usize = 65_535 - 8 - HEADER;
/// Length of an IPv4 header without options, in bytes, which an IPv4 length counts.
const IPV4_HEADER: usize = 20;
/// The payload type written: the first of the dynamic ones (RFC 3551 §3).
const PAYLOAD_TYPE: u8 = 96;
/// Clock of the timestamps written, in Hz.
const CLOCK_RATE: u128 = 90_000;
/// What is sent in a burst after a stall; the rest is let go, so as not to flood.
const MAX_BEHIND: Duration = Duration::from_millis(100);

/// What to send, and until when.
#[derive(Debug, Clone)]
pub struct SendOptions {
    /// Where to; not empty.
    pub destinations: Vec<Destination>,
    /// Address to send from; `None`: the interface's.
    pub source: Option<IpAddr>,
    /// Packets per second to each group, more than 0.
    pub rate: f64,
    /// RTP payload of a packet in bytes, at most [`max_payload`] of each group.
    pub size: usize,
    /// End after this long.
    pub duration: Option<Duration>,
    /// End after so many packets to each group.
    pub count: Option<u64>,
    /// Time to live; of IPv6 the hop limit.
    pub ttl: u8,
    /// Whether sockets of this host and namespace hear it too.
    pub multicast_loop: bool,
}

/// The longest RTP payload of a packet to this group, in bytes.
pub fn max_payload(group: IpAddr) -> usize {
    if group.is_ipv4() { MAX_PAYLOAD - IPV4_HEADER } else { MAX_PAYLOAD }
}

/// Sends until the options or a signal say it is enough.
///
/// # Errors
/// When a socket cannot be set up, or the very first packet cannot be sent. Later failures
/// are counted: a link that goes down for a moment does not end a stream.
pub fn send(options: &SendOptions) -> Result<SendResult, ProbeError> {
    let setup = || ProbeError::new("cannot set up the sender");
    let signals = Signals::block().map_err(io::Error::from).map_err(setup())?;
    // The default slack of 50 us is five packets at 100000 packets/s. Without it the sender
    // still works, a little burstier.
    let _ = nix::sys::prctl::set_timerslack(1);
    let mut streams = Vec::new();
    for &destination in &options.destinations {
        streams.push(Stream::open(destination, options)?);
    }
    let mut pace = Pace { start: Instant::now(), rate: options.rate, forgiven: Duration::ZERO };
    let start = pace.start;
    let mut sent = 0;
    let ended = loop {
        let elapsed = start.elapsed();
        if options.duration.is_some_and(|duration| elapsed >= duration) {
            break Ended::Duration;
        }
        let due = pace.due(elapsed, sent).min(options.count.unwrap_or(u64::MAX));
        while sent < due {
            let burst = usize::try_from(due - sent).unwrap_or(BATCH).min(BATCH);
            for stream in &mut streams {
                stream.send(burst, start).map_err(|error| {
                    let hint = route_hint(&error, stream.destination.ifindex);
                    ProbeError::new(format!("cannot send to {}{hint}", stream.destination))(error)
                })?;
            }
            sent += burst as u64;
        }
        if options.count.is_some_and(|count| sent >= count) {
            break Ended::Count;
        }
        let mut next = pace.time_of(sent);
        if let Some(duration) = options.duration {
            next = next.min(duration);
        }
        let wait = TimeSpec::from_duration(next.saturating_sub(start.elapsed()));
        let mut polled = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        let _ = ppoll(&mut polled, Some(wait), None);
        if signals.came() {
            break Ended::Signal;
        }
    };
    let groups = streams.into_iter().map(|s| s.destination.of(s.report)).collect();
    Ok(SendResult { elapsed: start.elapsed(), ended, groups })
}

/// Which packet is due when: packet n at n / rate.
struct Pace {
    start: Instant,
    rate: f64,
    /// Time in which nothing was sent and that is not made up for.
    forgiven: Duration,
}

impl Pace {
    /// How many packets are due when `elapsed` has passed and `sent` are sent.
    fn due(&mut self, elapsed: Duration, sent: u64) -> u64 {
        let behind = elapsed.saturating_sub(self.time_of(sent));
        self.forgiven += behind.saturating_sub(MAX_BEHIND);
        let active = elapsed.saturating_sub(self.forgiven);
        (active.as_secs_f64() * self.rate) as u64 + 1
    }

    fn time_of(&self, packet: u64) -> Duration {
        let time = Duration::try_from_secs_f64(packet as f64 / self.rate);
        time.unwrap_or(Duration::MAX).saturating_add(self.forgiven)
    }
}

struct Stream {
    destination: Destination,
    socket: Socket,
    packets: Sender,
    datagram: u64,
    /// Number of the next packet, in full; the first is random (RFC 3550 §5.1).
    sequence: u64,
    first_timestamp: u32,
    report: SendReport,
}

impl Stream {
    fn open(destination: Destination, options: &SendOptions) -> Result<Self, ProbeError> {
        let socket = open_socket(destination, options).map_err(|error| {
            let hint = route_hint(&error, destination.ifindex);
            ProbeError::new(format!("cannot send to {destination}{hint}"))(error)
        })?;
        let source = socket.local_addr().ok().and_then(|address| address.as_socket());
        let source = source.unwrap_or(SocketAddr::new([0, 0, 0, 0].into(), 0));
        let size = HEADER + options.size.min(max_payload(destination.group));
        let [sequence, numbers] = [random(), random()];
        let ssrc = (numbers >> 32) as u32;
        Ok(Stream {
            destination,
            socket,
            packets: Sender::new(size),
            datagram: size as u64,
            sequence: sequence & 0xffff,
            first_timestamp: numbers as u32,
            report: SendReport { source, ssrc, packets: 0, bytes: 0, failed: 0 },
        })
    }

    /// Sends the next `burst` packets. An error is that of the first packet of all.
    fn send(&mut self, burst: usize, start: Instant) -> io::Result<()> {
        let ticks = start.elapsed().as_nanos() * CLOCK_RATE / 1_000_000_000;
        let timestamp = self.first_timestamp.wrapping_add(ticks as u32);
        for (datagram, sequence) in self.packets.datagrams().take(burst).zip(self.sequence..) {
            let number = sequence as u16;
            let header = Header {
                payload_type: PAYLOAD_TYPE,
                sequence: number,
                timestamp,
                ssrc: self.report.ssrc,
            };
            let Some((head, payload)) = datagram.split_first_chunk_mut() else { continue };
            header.write(head);
            if let Some(info) = payload.first_chunk_mut::<SENDER_INFO>() {
                SenderInfo { sequence }.write(info);
            }
        }
        self.sequence += burst as u64;
        let mut done = 0;
        while done < burst {
            match self.packets.send(&self.socket, done, burst) {
                Ok(sent) => {
                    self.report.packets += sent as u64;
                    self.report.bytes += sent as u64 * self.datagram;
                    done += sent.max(1);
                }
                Err(error) if self.report.packets == 0 && self.report.failed == 0 => {
                    return Err(error);
                }
                Err(_) => {
                    self.report.failed += 1;
                    done += 1;
                }
            }
        }
        Ok(())
    }
}

fn open_socket(destination: Destination, options: &SendOptions) -> io::Result<Socket> {
    let domain = Domain::for_address(destination.address());
    let socket = Socket::new(domain, Type::DGRAM.cloexec(), Some(Protocol::UDP))?;
    if destination.ifindex != 0 {
        sockopt::set_multicast_interface(&socket, destination.ifindex, destination.group)?;
    }
    let (level, hops, looped) = match destination.group {
        IpAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_MULTICAST_TTL, libc::IP_MULTICAST_LOOP),
        IpAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_HOPS, libc::IPV6_MULTICAST_LOOP),
    };
    sockopt::set_int(&socket, level, hops, options.ttl.into())?;
    sockopt::set_int(&socket, level, looped, options.multicast_loop.into())?;
    if let Some(source) = options.source {
        socket.bind(&scoped(source, 0, destination.ifindex).into())?;
    }
    socket.connect(&destination.address().into())?;
    Ok(socket)
}

/// Random by the keys the standard library draws from the kernel for each hasher's maker.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace() -> Pace {
        Pace { start: Instant::now(), rate: 1000.0, forgiven: Duration::ZERO }
    }

    #[test]
    fn packets_are_due_by_the_clock() {
        let mut pace = pace();
        assert_eq!(pace.due(Duration::ZERO, 0), 1, "the first one at once");
        assert_eq!(pace.due(Duration::from_micros(9_500), 1), 10);
        assert_eq!(pace.time_of(10), Duration::from_millis(10));
    }

    #[test]
    fn a_short_stall_is_made_up_for_and_a_long_one_is_not() {
        let mut pace = pace();
        assert_eq!(pace.due(Duration::from_millis(90), 0), 91);
        assert_eq!(pace.due(Duration::from_secs(10), 91), 91 + 101, "100 ms worth and the next");
        assert!(pace.due(Duration::from_millis(10_001), 192) <= 194);
    }
}

//! Measures what a network namespace receives of a group, and joins nothing: a raw socket gets a copy
//! of what the namespace's own memberships let in.
//!
//! `raw_v4_input` in net/ipv4/raw.c hands it on behind the namespace's firewall, with the membership
//! of the namespace and without one of the socket (`ip_mc_sf_allow`).

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsFd;
use std::time::{Duration, Instant, SystemTime};

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use serde::Serialize;
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use crate::probe::ProbeError;
use crate::probe::arrival::Arrival;
use crate::probe::batch::{BATCH, Receiver};
use crate::probe::mdi::DelayFactor;
use crate::probe::signals::Signals;
use crate::probe::stats::GroupStats;
use crate::sys::sockopt;

/// Receive buffer asked for, as that of [`receive`](crate::probe::receive).
const RECEIVE_BUFFER: usize = 64 << 20;
/// Batches that are taken before the time is looked at.
const BATCHES: usize = 16;
/// Time between two questions whether anything can come: the socket keeps the namespace.
const ASK: Duration = Duration::from_secs(1);
/// Bytes of a packet that are kept: its headers, and what this program's sender puts behind them.
const KEPT: u32 = 64;
/// Length of a UDP header.
const UDP_HEADER: usize = 8;
/// `PACKET_LOOPBACK` of linux/if_packet.h: what the namespace itself has sent.
const PACKET_LOOPBACK: u32 = 5;
/// `PACKET_HOST`: what the kernel relays.
const PACKET_HOST: u32 = 0;
/// Offset of the packet type among a filter's ancillary data (linux/filter.h).
const PACKET_TYPE: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_PKTTYPE).cast_unsigned();
/// Offsets in an IPv4 header (RFC 791 §3.1).
const IP_TTL: u32 = 8;
const IP_DESTINATION: u32 = 16;
/// Offset of the destination port in a UDP header.
const UDP_DESTINATION: u32 = 2;

/// What to listen to.
#[derive(Debug, Clone)]
pub struct ListenOptions {
    /// The group.
    pub group: Ipv4Addr,
    /// One UDP port of it; `None`: all.
    pub port: Option<u16>,
    /// The interface at which it arrives.
    pub interface: String,
    /// A relay carries what arrives there: a proxy injects it with a TTL of 0, and what the kernel passes on
    /// has the interface's own MAC address. Elsewhere what is looped back is the namespace's own.
    pub is_relayed: bool,
    /// Time between two measurements; not 0.
    pub interval: Duration,
    /// End after so many.
    pub count: Option<u64>,
    /// Clock of the RTP timestamps in Hz; `None`: by payload type.
    pub clock_rate: Option<u32>,
}

/// What has arrived in one interval.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Measured {
    /// Seconds since the start.
    pub elapsed_s: f64,
    /// Packets.
    pub packets: u64,
    /// Bytes of their UDP payload.
    pub bytes: u64,
    /// Packets a second.
    pub packet_rate: f64,
    /// Bytes a second.
    pub byte_rate: f64,
    /// Packets newly known to be lost; `None`: it is not RTP.
    pub lost: Option<u64>,
    /// Longest time without a packet, the silence that lasts included; `None` before the first packet.
    pub longest_gap_ms: Option<f64>,
    /// Jitter now (RFC 3550 §6.4.1), the greatest of all sources; `None`: it is not RTP.
    pub jitter_ms: Option<f64>,
    /// Delay factor (RFC 4445 §3.1); `None` without packets.
    pub delay_factor_ms: Option<f64>,
    /// Media loss rate (RFC 4445 §3.2): packets lost a second; `None`: it is not RTP.
    pub media_loss_rate: Option<f64>,
    /// Since the start.
    pub total: Total,
}

/// What has arrived since the start.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Total {
    /// Packets.
    pub packets: u64,
    /// Bytes of their UDP payload.
    pub bytes: u64,
    /// Packets that never came; `None`: it is not RTP.
    pub lost: Option<u64>,
    /// Packets that came after one with a higher number.
    pub reordered: u64,
    /// Packets whose number had come already.
    pub duplicated: u64,
    /// Longest time without a packet; `None` before the first.
    pub longest_gap_ms: Option<f64>,
    /// Packets that have arrived and could not be measured, because this program was too slow. They
    /// count as lost.
    pub kernel_dropped: u64,
}

/// A socket that listens.
pub struct Listener {
    socket: Socket,
    options: ListenOptions,
}

impl Listener {
    /// Opens one in the caller's namespace.
    ///
    /// # Errors
    /// `EPERM` without CAP_NET_RAW, `ENODEV` when there is no such interface.
    pub fn open(options: ListenOptions) -> Result<Self, ProbeError> {
        let open = || -> io::Result<Socket> {
            let socket = Socket::new(
                Domain::IPV4,
                Type::RAW.nonblocking().cloexec(),
                Some(Protocol::from(libc::IPPROTO_UDP)),
            )?;
            // Nothing is received before the filter is there and the socket is bound.
            socket.attach_filter(&[SockFilter::new(
                (libc::BPF_RET | libc::BPF_K) as u16,
                0,
                0,
                0,
            )])?;
            socket.bind_device(Some(options.interface.as_bytes()))?;
            sockopt::grow_receive_buffer(&socket, RECEIVE_BUFFER)?;
            sockopt::set_int(&socket, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1)?;
            socket.attach_filter(&filter(&options))?;
            sockopt::lock_filter(&socket)?;
            Ok(socket)
        };
        let what = format!("cannot listen on {}", options.interface);
        let socket = open().map_err(ProbeError::new(what))?;
        Ok(Listener { socket, options })
    }

    /// Measures until SIGINT or SIGTERM comes, the options' count is reached, `on_interval` fails, or
    /// `is_alive`, which is asked each second, says that nothing can come any more.
    ///
    /// # Errors
    /// When signals cannot be received, or nothing can be waited for.
    pub fn run(
        self,
        is_alive: impl Fn() -> bool,
        mut on_interval: impl FnMut(Measured) -> io::Result<()>,
    ) -> Result<(), ProbeError> {
        let signals = Signals::block().map_err(io::Error::from);
        let signals = signals.map_err(ProbeError::new("cannot receive signals"))?;
        let mut receiver = Receiver::new();
        let start = Instant::now();
        let mut stats = GroupStats::new(Duration::ZERO, self.options.clock_rate);
        let mut delay = DelayFactor::new(Duration::ZERO);
        let (mut last, mut next) = (Duration::ZERO, self.options.interval);
        let mut left = self.options.count;
        let mut asked = Duration::ZERO;
        while left != Some(0) {
            let wait = next.min(asked + ASK).saturating_sub(start.elapsed());
            let mut polled = [
                PollFd::new(self.socket.as_fd(), PollFlags::POLLIN),
                PollFd::new(signals.as_fd(), PollFlags::POLLIN),
            ];
            match ppoll(&mut polled, Some(TimeSpec::from(wait)), None) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(ProbeError::new("cannot wait for packets")(error.into())),
            }
            if signals.came() {
                break;
            }
            self.take(&mut receiver, start, &mut stats, &mut delay);
            let now = start.elapsed();
            if now >= asked + ASK {
                asked = now;
                if !is_alive() {
                    break;
                }
            }
            if now < next {
                continue;
            }
            let measured = self.measured(now, now - last, &mut stats, &mut delay);
            if on_interval(measured).is_err() {
                break;
            }
            left = left.map(|left| left - 1);
            last = now;
            // After a stall the measurements that were missed are not made up for.
            next = if next + self.options.interval > now {
                next + self.options.interval
            } else {
                now + self.options.interval
            };
        }
        Ok(())
    }

    /// Counts what waits.
    fn take(
        &self,
        receiver: &mut Receiver,
        start: Instant,
        stats: &mut GroupStats,
        delay: &mut DelayFactor,
    ) {
        for _ in 0..BATCHES {
            // An error is an empty queue or one the socket will tell again.
            let Ok(taken) = receiver.receive(&self.socket) else { return };
            let (now, wall) = (start.elapsed(), SystemTime::now());
            let since_epoch = wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            for packet in receiver.datagrams() {
                let Some(datagram) = Datagram::parse(packet.start) else { continue };
                let age = packet.arrived.map_or(Duration::ZERO, |t| since_epoch.saturating_sub(t));
                let at = now.saturating_sub(age);
                let Datagram { source, payload, length } = datagram;
                stats.packet(Arrival { at, source: source.into(), start: payload, length });
                delay.packet(at, length);
            }
            if taken < BATCH {
                return;
            }
        }
    }

    fn measured(
        &self,
        now: Duration,
        time: Duration,
        stats: &mut GroupStats,
        delay: &mut DelayFactor,
    ) -> Measured {
        let ms = |time: Duration| time.as_secs_f64() * 1000.0;
        let dropped = sockopt::dropped(&self.socket).unwrap_or(0);
        let (interval, all) = (stats.interval(now), stats.report(now, dropped.into()));
        let seconds = time.as_secs_f64();
        Measured {
            elapsed_s: now.as_secs_f64(),
            packets: interval.packets,
            bytes: interval.bytes,
            packet_rate: interval.packets as f64 / seconds,
            byte_rate: interval.bytes as f64 / seconds,
            lost: interval.lost,
            longest_gap_ms: interval.longest_gap.map(ms),
            jitter_ms: interval.jitter.map(ms),
            delay_factor_ms: delay.take(now).map(ms),
            media_loss_rate: interval.lost.map(|lost| lost as f64 / seconds),
            total: Total {
                packets: all.packets,
                bytes: all.bytes,
                lost: all.lost,
                reordered: all.reordered,
                duplicated: all.duplicated,
                longest_gap_ms: all.longest_gap.map(ms),
                kernel_dropped: all.kernel_dropped,
            },
        }
    }
}

/// A UDP datagram as it begins, from its IPv4 header on.
struct Datagram<'a> {
    source: SocketAddrV4,
    /// The first bytes of the payload.
    payload: &'a [u8],
    /// Length of the whole payload.
    length: usize,
}

impl<'a> Datagram<'a> {
    /// `None` for what is no UDP datagram.
    fn parse(packet: &'a [u8]) -> Option<Self> {
        let header = usize::from(packet.first()? & 0x0f) * 4;
        let address: [u8; 4] = *packet.get(12..)?.first_chunk()?;
        let udp = packet.get(header..)?;
        let word = |at: usize| Some(u16::from_be_bytes(*udp.get(at..)?.first_chunk()?));
        let length = usize::from(word(4)?).checked_sub(UDP_HEADER)?;
        let source = SocketAddrV4::new(address.into(), word(0)?);
        let payload = udp.get(UDP_HEADER..)?;
        Some(Datagram { source, payload: &payload[..payload.len().min(length)], length })
    }
}

/// Accepts the beginnings of the packets of the options' group, from their IPv4 headers on.
fn filter(options: &ListenOptions) -> Vec<SockFilter> {
    let op = |code: u32, jt, jf, k| SockFilter::new(code as u16, jt, jf, k);
    let load = |size, at| op(libc::BPF_LD | size | libc::BPF_ABS, 0, 0, at);
    let equal = |jt, jf, k| op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, jt, jf, k);
    let refuse = || op(libc::BPF_RET | libc::BPF_K, 0, 0, 0);
    let mut program =
        vec![load(libc::BPF_W, IP_DESTINATION), equal(1, 0, options.group.into()), refuse()];
    match options.is_relayed {
        true => program.extend([
            load(libc::BPF_B, PACKET_TYPE),
            equal(3, 0, PACKET_HOST),
            load(libc::BPF_B, IP_TTL),
            equal(1, 0, 0),
            refuse(),
        ]),
        false => {
            program.extend([load(libc::BPF_B, PACKET_TYPE), equal(0, 1, PACKET_LOOPBACK), refuse()])
        }
    }
    if let Some(port) = options.port {
        program.extend([
            // The length of the IPv4 header.
            op(libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH, 0, 0, 0),
            op(libc::BPF_LD | libc::BPF_H | libc::BPF_IND, 0, 0, UDP_DESTINATION),
            equal(1, 0, port.into()),
            refuse(),
        ]);
    }
    program.push(op(libc::BPF_RET | libc::BPF_K, 0, 0, KEPT));
    program
}

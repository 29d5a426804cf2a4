//! Bytes as a sequence of what servers, stations and time do to a client of DHCP, and what must hold
//! after each. The client is the whole of what the process that speaks to servers decides: frames in,
//! frames and orders to the holder of the address out.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use mcrun::dhcp::order::{LONGEST, Order};
use mcrun::dhcp::protocol::{Protocol, Step};
use mcrun::dhcp::{client, client_v6, frame, frame_v6, message, message_v6};
use mcrun::net::address_probe::WINDOW;
use mcrun::primitives::MacAddr;

use crate::input::Input;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];
/// Stations that answer. The last one is none: a group.
const STATIONS: [[u8; 6]; 4] =
    [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 7], [1, 0, 0x5e, 0, 0, 1]];
/// Seconds that a server may say of a lease.
const TIMES: [u32; 12] = [120, 3600, 0, 1, 3, 4, 5, 8, 60, 86_400, u32::MAX - 1, u32::MAX];
const DUID: &[u8] = b"\0\x04client";
const IAID: u32 = 9;
const ETHERNET: usize = 14;
/// Most events of one run: the rest of longer input is passed over.
const MAX_EVENTS: usize = 300;
const DAY: Duration = Duration::from_secs(86_400);
/// In which the client is to ask ever more rarely.
const SILENCE: Duration = Duration::from_secs(3 * 3600);

/// A message of the client.
#[derive(Debug, Clone, Copy)]
pub struct Question<A> {
    transaction: u32,
    is_release: bool,
    /// The address from which it came, unless that says nothing of a lease.
    own: Option<A>,
}

/// What an answer of a server says of leases: whose question it answers, and the addresses that it gives
/// for certain, with their seconds.
pub struct Heard<A> {
    transaction: u32,
    given: Vec<(A, u32)>,
}

/// A protocol as the events need it.
pub trait Family {
    type Address: Copy + Ord + Debug + Into<IpAddr>;
    /// Addresses that the bytes choose from, those that no host can have among them.
    const ADDRESSES: [Self::Address; 8];

    fn other_address(input: &mut Input<'_>) -> Self::Address;

    fn client(previous: Option<Self::Address>, probes: bool, seed: u64, now: Instant) -> Protocol;

    /// The message in a frame of the client; `None`: the frame tells the LAN of an address.
    fn question(frame: &[u8]) -> Option<Question<Self::Address>>;

    /// The address of which a frame tells the LAN, or for which it asks.
    fn subject(frame: &[u8]) -> Self::Address;

    /// An answer to the transaction, as a server may write it or never would.
    fn answer(input: &mut Input<'_>, transaction: u32) -> Vec<u8>;

    /// Puts this transaction into a message.
    fn mark(message: &mut [u8], transaction: u32);

    /// The frame of a server's message.
    fn frame(from: [u8; 6], message: &[u8]) -> Vec<u8>;

    fn read(frame: &[u8]) -> Option<Heard<Self::Address>>;

    /// The frame of a station that has an address, or asks for it.
    fn station(input: &mut Input<'_>, address: Self::Address) -> Vec<u8>;

    /// The address that an order sets, and for how many seconds.
    fn set(order: &Order) -> Option<(Self::Address, u32)>;
}

pub enum V4 {}

impl Family for V4 {
    type Address = Ipv4Addr;
    const ADDRESSES: [Ipv4Addr; 8] = [
        Ipv4Addr::new(192, 0, 2, 7),
        Ipv4Addr::new(192, 0, 2, 8),
        Ipv4Addr::new(10, 0, 0, 1),
        Ipv4Addr::new(192, 0, 2, 255),
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::new(224, 0, 0, 251),
        Ipv4Addr::LOCALHOST,
        Ipv4Addr::BROADCAST,
    ];

    fn other_address(input: &mut Input<'_>) -> Ipv4Addr {
        input.number().into()
    }

    fn client(previous: Option<Ipv4Addr>, probes: bool, seed: u64, now: Instant) -> Protocol {
        let identity = client::Identity {
            mac: MAC.into(),
            identifier: b"\0client".to_vec(),
            host_name: Some("c1".into()),
        };
        Protocol::v4(client::Client::new(identity, previous, probes, seed, now), MAC.into())
    }

    fn question(frame: &[u8]) -> Option<Question<Ipv4Addr>> {
        let (ethernet, packet) = frame.split_at(ETHERNET);
        assert_eq!(ethernet[6..12], MAC);
        if ethernet[12..] == [8, 6] {
            return None;
        }
        assert_eq!(packet.len(), usize::from(u16::from_be_bytes([packet[2], packet[3]])));
        let (source, destination) = (address_v4(packet, 12), address_v4(packet, 16));
        let (to_all, to_one) = (destination.is_broadcast(), ethernet[0] & 1 == 0);
        assert!(to_all || message::is_host(destination), "sent to {destination}");
        assert!(to_all != to_one, "{destination} at {:x?}", &ethernet[..6]);
        assert_eq!(packet[20..24], [0, 68, 0, 67]);
        let message = &packet[28..];
        assert_eq!((message[0], &message[28..34]), (1, &MAC[..]));
        let (kind, own) = (message[242], address_v4(message, 12));
        assert!(matches!(kind, 1 | 3 | 4 | 7));
        // What is sent to one server is sent from the address that this one gave.
        assert!(own == source && (to_all || !own.is_unspecified()));
        Some(Question {
            transaction: number_at(message, 4),
            is_release: kind == 7,
            own: Some(own).filter(|own| !own.is_unspecified()),
        })
    }

    fn subject(frame: &[u8]) -> Ipv4Addr {
        assert_eq!((frame.len(), &frame[12..14]), (42, &[8, 6][..]));
        address_v4(frame, 38)
    }

    fn answer(input: &mut Input<'_>, transaction: u32) -> Vec<u8> {
        let kind = [5, 2, 6, 5][usize::from(input.byte() % 4)];
        let mut message = vec![0; 236];
        message[..3].copy_from_slice(&[2, 1, 6]);
        message[16..20].copy_from_slice(&input.address::<V4>().octets());
        message[28..34].copy_from_slice(&MAC);
        message.extend([99, 130, 83, 99, 53, 1, kind]);
        let servers = [[192, 0, 2, 1], [192, 0, 2, 2], [192, 0, 2, 7], [224, 0, 0, 1]];
        let mut add = |code: u8, value: &[u8]| {
            message.extend([code, value.len() as u8]);
            message.extend(value);
        };
        add(54, &servers[usize::from(input.byte() % 4)]);
        // Mostly a network of 256 addresses.
        let mask = match input.byte() {
            prefix @ 1..=32 => u32::MAX << (32 - prefix),
            33 => 0,
            34 => 0xff00_ff00,
            _ => 0xffff_ff00,
        };
        add(1, &mask.to_be_bytes());
        for code in [51, 58, 59] {
            if let Some(seconds) = input.seconds() {
                add(code, &seconds.to_be_bytes());
            }
        }
        match input.byte() % 4 {
            0 => {}
            1 => add(3, &input.address::<V4>().octets()),
            _ => {
                let mut routes = Vec::new();
                for _ in 0..input.byte() % 24 {
                    let prefix = input.byte() % 34;
                    routes.push(prefix);
                    routes.extend(input.bytes(usize::from(prefix).div_ceil(8)));
                    routes.extend(input.address::<V4>().octets());
                }
                for part in routes.chunks(255) {
                    add(121, part);
                }
            }
        }
        message.push(255);
        Self::mark(&mut message, transaction);
        message
    }

    fn mark(message: &mut [u8], transaction: u32) {
        if let Some(at) = message.get_mut(4..8) {
            at.copy_from_slice(&transaction.to_be_bytes());
        }
        if let Some(at) = message.get_mut(28..34) {
            at.copy_from_slice(&MAC);
        }
    }

    fn frame(from: [u8; 6], message: &[u8]) -> Vec<u8> {
        let udp = (8 + message.len()) as u16;
        let mut frame = [&[0xff; 6][..], &from, &[8, 0, 0x45, 0]].concat();
        frame.extend((20 + udp).to_be_bytes());
        frame.extend([0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 255, 255, 255, 255]);
        frame.extend([0, 67, 0, 68]);
        frame.extend(udp.to_be_bytes());
        frame.extend([0, 0]);
        frame.extend(message);
        frame
    }

    fn read(frame: &[u8]) -> Option<Heard<Ipv4Addr>> {
        let (_, payload) = frame::server_payload(frame)?;
        let message = message::ServerMessage::parse(payload)?;
        let is_certain = message.kind == message::Kind::Ack && message.mac == MAC.into();
        let given = message.lifetime.filter(|_| is_certain).map(|s| (message.address, s));
        let given = given.into_iter().collect();
        Some(Heard { transaction: message.transaction, given })
    }

    fn station(input: &mut Input<'_>, address: Ipv4Addr) -> Vec<u8> {
        let from = input.station();
        let reply = input.byte() % 2;
        let mut frame = [&[0xff; 6][..], &from, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1 + reply]].concat();
        frame.extend(from);
        // A question from no address is one of somebody who wants it.
        frame.extend(if reply == 1 { address.octets() } else { [0; 4] });
        frame.extend([0; 6]);
        frame.extend(address.octets());
        frame
    }

    fn set(order: &Order) -> Option<(Ipv4Addr, u32)> {
        let Order::Set(leased) = order else { return None };
        let (net, address) = (leased.address, leased.address.addr());
        assert!(!address.is_unspecified() && !address.is_loopback());
        assert!(!address.is_multicast() && address.octets()[0] < 224);
        let is_whole = net.prefix_len() >= 31;
        assert!(is_whole || (address != net.network() && address != net.broadcast()), "{net}");
        for (position, route) in leased.routes.iter().enumerate() {
            let before = &leased.routes[..position];
            assert!(before.iter().all(|r| r.destination != route.destination), "twice");
            let by_route = before
                .iter()
                .any(|r| r.gateway.is_unspecified() && r.destination.contains(&route.gateway));
            let is_direct = route.gateway.is_unspecified() && route.destination.prefix_len() > 0;
            assert!(is_direct || net.contains(&route.gateway) || by_route, "{route:?}");
            assert_ne!(route.gateway, address);
        }
        Some((address, leased.seconds))
    }
}

pub enum V6 {}

impl Family for V6 {
    type Address = Ipv6Addr;
    const ADDRESSES: [Ipv6Addr; 8] = [
        Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 7),
        Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 8),
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1),
        Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 7),
        Ipv6Addr::UNSPECIFIED,
        Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1),
        Ipv6Addr::LOCALHOST,
        Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0xc000, 0x0207),
    ];

    fn other_address(input: &mut Input<'_>) -> Ipv6Addr {
        let numbers = [0; 4].map(|_| input.number());
        Ipv6Addr::from_bits(numbers.iter().fold(0, |all, n| all << 32 | u128::from(*n)))
    }

    fn client(previous: Option<Ipv6Addr>, probes: bool, seed: u64, now: Instant) -> Protocol {
        let duid = DUID.to_vec();
        let identity = client_v6::Identity { duid, iaid: IAID, host_name: Some("c1".into()) };
        Protocol::v6(client_v6::Client::new(identity, previous, probes, seed, now), MAC.into())
    }

    fn question(frame: &[u8]) -> Option<Question<Ipv6Addr>> {
        let (ethernet, packet) = frame.split_at(ETHERNET);
        assert_eq!((&ethernet[6..12], &ethernet[12..]), (&MAC[..], &[0x86, 0xdd][..]));
        assert_eq!(packet.len() - 40, usize::from(u16::from_be_bytes([packet[4], packet[5]])));
        if packet[6] != 17 {
            return None;
        }
        assert_eq!(address_v6(packet, 8), MacAddr::from(MAC).link_local_address());
        let servers = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
        assert_eq!(address_v6(packet, 24), servers);
        let message = &packet[48..];
        assert!(matches!(message[0], 1 | 3 | 5 | 6 | 8 | 9));
        let transaction = number_at(message, 0) & 0xff_ffff;
        Some(Question { transaction, is_release: message[0] == 8, own: None })
    }

    fn subject(frame: &[u8]) -> Ipv6Addr {
        assert_eq!((&frame[12..14], frame[20]), (&[0x86, 0xdd][..], 58));
        address_v6(frame, 62)
    }

    fn answer(input: &mut Input<'_>, transaction: u32) -> Vec<u8> {
        let mut message = vec![[7, 2][usize::from(input.byte() % 2)], 0, 0, 0];
        put(&mut message, 1, DUID);
        put(&mut message, 2, &[0, 4, b's', input.byte() % 2]);
        let flags = input.byte();
        if flags & 1 != 0 {
            put(&mut message, 14, &[]);
        }
        if flags & 2 != 0 {
            put(&mut message, 7, &[[255, 0, 7][usize::from(input.byte() % 3)]]);
        }
        if flags & 4 != 0 {
            put(&mut message, 13, &[0, input.byte() % 7]);
        }
        if flags & 8 != 0 {
            put(&mut message, 82, &input.seconds().unwrap_or(61).to_be_bytes());
        }
        for _ in 0..[1, 2, 0, 1][usize::from(flags >> 6)] {
            let mut association = (IAID + u32::from(input.byte() == 255)).to_be_bytes().to_vec();
            for _ in 0..2 {
                association.extend(input.seconds().unwrap_or(30).to_be_bytes());
            }
            for _ in 0..[1, 1, 2, 0][usize::from(input.byte() % 4)] {
                let mut given = input.address::<V6>().octets().to_vec();
                // For how long it is preferred is mostly as long as it is valid.
                let valid = input.seconds().unwrap_or(120);
                let preferred = if flags & 16 == 0 { Some(valid) } else { input.seconds() };
                given.extend(preferred.unwrap_or(60).to_be_bytes());
                given.extend(valid.to_be_bytes());
                if flags & 32 != 0 {
                    put(&mut given, 13, &[0, input.byte() % 7]);
                }
                put(&mut association, 5, &given);
            }
            let code = input.byte();
            if code % 4 == 3 {
                put(&mut association, 13, &[0, code / 4 % 7]);
            }
            put(&mut message, 3, &association);
        }
        Self::mark(&mut message, transaction);
        message
    }

    fn mark(message: &mut [u8], transaction: u32) {
        if let Some(at) = message.get_mut(1..4) {
            at.copy_from_slice(&transaction.to_be_bytes()[1..]);
        }
    }

    fn frame(from: [u8; 6], message: &[u8]) -> Vec<u8> {
        let udp = (8 + message.len()) as u16;
        let mut frame = [&MAC[..], &from, &[0x86, 0xdd, 0x60, 0, 0, 0]].concat();
        frame.extend(udp.to_be_bytes());
        frame.extend([17, 64]);
        frame.extend(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1).octets());
        frame.extend(MacAddr::from(MAC).link_local_address().octets());
        frame.extend([2, 35, 2, 34]);
        frame.extend(udp.to_be_bytes());
        frame.extend([0, 0]);
        frame.extend(message);
        frame
    }

    fn read(frame: &[u8]) -> Option<Heard<Ipv6Addr>> {
        let message = message_v6::ServerMessage::parse(frame_v6::server_payload(frame)?)?;
        let is_certain = message.kind == message_v6::Kind::Reply && message.client == DUID;
        let own = message.associations.iter().filter(|a| is_certain && a.iaid == IAID);
        let given = own.flat_map(|a| &a.addresses).map(|given| (given.address, given.valid));
        Some(Heard { transaction: message.transaction, given: given.collect() })
    }

    fn station(input: &mut Input<'_>, address: Ipv6Addr) -> Vec<u8> {
        let from = input.station();
        let (kind, source) = match input.byte() % 2 {
            0 => (136, Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 9)),
            _ => (135, Ipv6Addr::UNSPECIFIED),
        };
        let mut frame = [&[0x33, 0x33, 0, 0, 0, 1][..], &from, &[0x86, 0xdd]].concat();
        frame.extend([0x60, 0, 0, 0, 0, 24, 58, 255]);
        frame.extend(source.octets());
        frame.extend(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).octets());
        frame.extend([kind, 0, 0, 0, 0, 0, 0, 0]);
        frame.extend(address.octets());
        frame
    }

    fn set(order: &Order) -> Option<(Ipv6Addr, u32)> {
        let Order::SetV6(leased) = order else { return None };
        let address = leased.address;
        assert!(!address.is_unspecified() && !address.is_loopback() && !address.is_multicast());
        assert!(!address.is_unicast_link_local());
        assert!(leased.preferred <= leased.valid && leased.valid > 0);
        Some((address, leased.valid))
    }
}

fn put(message: &mut Vec<u8>, code: u16, value: &[u8]) {
    message.extend(code.to_be_bytes());
    message.extend((value.len() as u16).to_be_bytes());
    message.extend(value);
}

fn number_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn address_v4(bytes: &[u8], at: usize) -> Ipv4Addr {
    number_at(bytes, at).into()
}

fn address_v6(bytes: &[u8], at: usize) -> Ipv6Addr {
    <[u8; 16]>::try_from(&bytes[at..at + 16]).expect("sixteen bytes").into()
}

impl Input<'_> {
    fn number(&mut self) -> u32 {
        u32::from_be_bytes([0; 4].map(|_| self.byte()))
    }

    /// `None`: the server does not say.
    fn seconds(&mut self) -> Option<u32> {
        match self.byte() % 16 {
            n @ 0..=11 => Some(TIMES[usize::from(n)]),
            12 | 13 => Some(self.number()),
            _ => None,
        }
    }

    fn address<F: Family>(&mut self) -> F::Address {
        match self.byte() % 16 {
            // Mostly the first one.
            n @ 0..=7 => F::ADDRESSES[usize::from(n)],
            8 => F::other_address(self),
            _ => F::ADDRESSES[0],
        }
    }

    fn station(&mut self) -> [u8; 6] {
        STATIONS[usize::from(self.byte() % 4)]
    }
}

/// Runs the events in `data`.
pub fn run<F: Family>(data: &[u8]) {
    let mut input = Input(data);
    let flags = input.byte();
    let probes = flags & 1 != 0;
    let previous = (flags & 2 != 0).then(|| input.address::<F>());
    let seed = u64::from(input.byte()) << 32 | u64::from(flags);
    let start = Instant::now();
    let mut lab = Lab::<F> {
        start,
        now: start,
        protocol: F::client(previous, probes, seed, start),
        probes,
        link_is_up: true,
        sent: None,
        heard: None,
        given: BTreeMap::new(),
        interface: previous.map(|address| Held { address, is_leased: false, is_for_ever: false }),
        asked: None,
        messages: 0,
        causes: 0,
    };
    lab.drain();
    lab.check();
    for _ in 0..MAX_EVENTS {
        if input.0.is_empty() {
            break;
        }
        match input.byte() % 16 {
            0 => lab.pass(Duration::from_millis(u64::from(input.byte()) * 20)),
            1 => lab.pass(Duration::from_secs(input.byte().into())),
            2 => lab.pass(Duration::from_secs(u64::from(input.byte()) * 60)),
            3 => lab.pass_to_timeout(),
            // The processor was somebody else's all the time.
            4 => lab.late(Duration::from_millis(u64::from(input.byte()) * 100)),
            5 => lab.late(Duration::from_secs(u64::from(input.byte()) * 60)),
            // A link that is down is looked at again and again.
            6 => lab.link_is_up = false,
            7 => lab.link_is_up = true,
            8 => {
                let n = usize::from(input.byte()) * 2;
                lab.hear(&[input.bytes(n).to_vec()]);
            }
            9 => {
                let (from, n) = (input.station(), usize::from(input.byte()) * 2);
                let mut message = input.bytes(n).to_vec();
                F::mark(&mut message, lab.transaction());
                lab.hear(&[F::frame(from, &message)]);
            }
            10 => {
                let probed = lab.asked.map(|(address, _)| address);
                let other = input.address::<F>();
                let address = if input.byte() % 4 == 0 { other } else { probed.unwrap_or(other) };
                lab.hear_station(&F::station(&mut input, address));
            }
            11 => {
                let n = usize::from(input.byte());
                lab.hear_station(input.bytes(n));
            }
            12 => {
                let wrong = lab.transaction() ^ u32::from(input.byte().max(1));
                let frame = F::frame(input.station(), &F::answer(&mut input, wrong));
                lab.hear_of_others(&frame);
            }
            // What comes together is read before anything is done.
            13 => {
                let frames: Vec<_> =
                    (0..1 + input.byte() % 3).map(|_| lab.answer(&mut input)).collect();
                lab.hear(&frames);
            }
            _ => {
                let frame = lab.answer(&mut input);
                lab.hear(&[frame]);
            }
        }
        lab.check();
    }
    lab.link_is_up = true;
    let (before, most) = (lab.messages, SILENCE.as_secs() / 40 + 20);
    lab.pass(SILENCE);
    assert!(lab.messages - before <= most, "{} messages in silence", lab.messages - before);
    lab.release();
}

/// What an interface has.
#[derive(Debug, Clone, Copy)]
struct Held<A> {
    address: A,
    /// Whether this client has set it; else it is that of before.
    is_leased: bool,
    is_for_ever: bool,
}

struct Lab<F: Family> {
    start: Instant,
    now: Instant,
    protocol: Protocol,
    probes: bool,
    link_is_up: bool,
    /// The last message of the client, and the last one that servers have heard.
    sent: Option<Question<F::Address>>,
    heard: Option<Question<F::Address>>,
    /// What servers have given, and when the last lease of it ends; `None`: never.
    given: BTreeMap<F::Address, Option<Instant>>,
    interface: Option<Held<F::Address>>,
    /// The address for which the LAN was asked last, and when.
    asked: Option<(F::Address, Instant)>,
    /// How many messages the client has sent, and how many frames it has heard.
    messages: u64,
    causes: u64,
}

impl<F: Family> Lab<F> {
    /// That of the last question, which servers know.
    fn transaction(&self) -> u32 {
        self.heard.map_or(0, |question| question.transaction)
    }

    /// An answer that is mostly good.
    fn answer(&mut self, input: &mut Input<'_>) -> Vec<u8> {
        let from = input.station();
        let mut message = F::answer(input, self.transaction());
        for _ in 0..[0, 0, 1, 3][usize::from(input.byte() % 4)] {
            let at = usize::from(input.byte()) << 8 | usize::from(input.byte());
            let at = at % message.len();
            message[at] ^= input.byte();
        }
        F::frame(from, &message)
    }

    fn hear(&mut self, frames: &[Vec<u8>]) {
        if !self.link_is_up {
            return;
        }
        for frame in frames {
            self.causes += 1;
            for (address, seconds) in F::read(frame).into_iter().flat_map(|heard| heard.given) {
                let end = self.now + Duration::from_secs(seconds.into());
                let end = (seconds != u32::MAX).then_some(end);
                let known = self.given.entry(address).or_insert(end);
                *known = known.zip(end).map(|(known, end)| known.max(end));
            }
            self.protocol.handle_frame(frame, self.now);
        }
        self.protocol.handle_timeout(self.now);
        self.drain();
    }

    /// A frame of another transaction changes nothing.
    fn hear_of_others(&mut self, frame: &[u8]) {
        let is_own = |heard: Heard<F::Address>| {
            self.sent.is_some_and(|sent| sent.transaction == heard.transaction)
        };
        if F::read(frame).is_some_and(is_own) {
            return;
        }
        let before = self.protocol.poll_timeout();
        self.protocol.handle_frame(frame, self.now);
        assert_eq!(self.protocol.poll_timeout(), before);
        assert!(self.protocol.next_step().is_none(), "an answer to another question counts");
    }

    fn hear_station(&mut self, frame: &[u8]) {
        if !self.link_is_up {
            return;
        }
        self.causes += 1;
        self.protocol.handle_answer(frame, self.now);
        self.protocol.handle_timeout(self.now);
        self.drain();
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.protocol.poll_timeout()
            && at <= end
        {
            if at > self.now {
                // Too early: nothing is to be done yet.
                self.protocol.handle_timeout(self.now);
                assert!(self.protocol.next_step().is_none(), "done too early");
                assert_eq!(self.protocol.poll_timeout(), Some(at));
            }
            self.late(at.saturating_duration_since(self.now));
            self.check();
        }
        self.now = end;
    }

    fn pass_to_timeout(&mut self) {
        if let Some(at) = self.protocol.poll_timeout() {
            self.late(at.saturating_duration_since(self.now).min(DAY));
        }
    }

    /// Time passes, and what was due by the way is done at its end.
    fn late(&mut self, time: Duration) {
        self.now += time;
        self.protocol.handle_timeout(self.now);
        self.drain();
    }

    fn drain(&mut self) {
        let mut steps = 0;
        while let Some(step) = self.protocol.next_step() {
            steps += 1;
            assert!(steps <= 40, "no end of what is to be done");
            match step {
                Step::Send(frame) => self.handle_sent(&frame),
                Step::Ask(frame) => {
                    assert!(self.probes);
                    self.asked = Some((F::subject(&frame), self.now));
                }
                Step::Order(order) => self.obey(&order),
            }
        }
    }

    fn handle_sent(&mut self, frame: &[u8]) {
        self.messages += 1;
        let held = self.interface.map(|held| held.address);
        let Some(question) = F::question(frame) else {
            assert_eq!(Some(F::subject(frame)), held, "the LAN is told of what nobody has");
            return;
        };
        if let Some(own) = question.own {
            assert_eq!(Some(own), held, "sent from an address that the interface has not");
        }
        self.sent = Some(question);
        if self.link_is_up {
            self.heard = self.sent;
        }
    }

    /// As the holder of the address does.
    fn obey(&mut self, order: &Order) {
        let bytes = order.bytes();
        assert!(bytes.len() <= LONGEST);
        assert_eq!(Order::parse(&bytes).as_ref(), Some(order), "the holder does not understand it");
        if let Some((address, seconds)) = F::set(order) {
            self.obey_set(address, seconds);
        } else if let Order::Declined { address, .. } = order {
            let (asked, _) = self.asked.take().expect("nobody was asked");
            assert_eq!(asked.into(), *address);
        } else {
            assert!(self.interface.take().is_some(), "there is nothing to be removed");
        }
    }

    fn obey_set(&mut self, address: F::Address, seconds: u32) {
        let end = *self.given.get(&address).expect("no server has given this address");
        let is_for_ever = seconds == u32::MAX;
        // The seconds are whole ones.
        let until = self.now + Duration::from_secs(u64::from(seconds).saturating_sub(1));
        assert!(seconds > 0 && (end.is_none() || (!is_for_ever && Some(until) < end)), "{seconds}");
        let is_there = self.interface.is_some_and(|held| held.address == address && held.is_leased);
        if self.probes && !is_there {
            let (asked, at) = self.asked.expect("the LAN was not asked");
            assert!(asked == address && self.now >= at + WINDOW, "not asked for long enough");
        }
        self.interface = Some(Held { address, is_leased: true, is_for_ever });
    }

    fn check(&self) {
        let timeout = self.protocol.poll_timeout();
        assert!(timeout.is_none_or(|at| at > self.now), "what was due was not done");
        let held = self.interface.filter(|held| held.is_leased);
        assert!(timeout.is_some() || held.is_some_and(|held| held.is_for_ever), "it has given up");
        if let Some(held) = held {
            let end = self.given[&held.address];
            assert!(end.is_none_or(|end| end > self.now), "{:?} after its lease", held.address);
        }
        let allowed = 8 + 4 * self.causes + 2 * (self.now - self.start).as_secs();
        assert!(self.messages <= allowed, "{} messages of {allowed}", self.messages);
    }

    /// The last thing that a client does.
    fn release(&mut self) {
        let is_leased = self.interface.is_some_and(|held| held.is_leased);
        self.protocol.release();
        let mut sent = Vec::new();
        while let Some(step) = self.protocol.next_step() {
            let Step::Send(frame) = step else { panic!("{step:?}") };
            sent.extend(F::question(&frame));
        }
        assert!(sent.len() <= 1 && sent.iter().all(|question| question.is_release));
        assert_eq!(sent.is_empty(), !is_leased, "given back");
    }
}

//! The state machine of a DHCP client (RFC 2131 §4.4) for one interface: pure.
//!
//! It knows no socket and no clock. Whoever drives it calls [`Client::handle_message`] for what
//! arrives and [`Client::handle_timeout`] when [`Client::poll_timeout`] has come, and after each of
//! them takes what is to be done from [`Client::poll_action`] until there is nothing more.

use std::collections::VecDeque;
use std::mem;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use ipnet::{IpNet, Ipv4Net};

use crate::dhcp::frame::{Destination, client_frame};
use crate::dhcp::message::{ClientMessage, Kind, LeasedRoute, ServerMessage, is_host};
use crate::net::address_probe::WINDOW;
use crate::primitives::MacAddr;

/// The wait for the first answer; each further one is twice as long. RFC 2131 §4.1 proposes 4 s, for
/// slow networks; a container's start waits for this.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LAST_WAIT: Duration = Duration::from_secs(64);
/// Questions to one server before the client begins anew.
const REQUESTS: u32 = 4;
/// Shortest wait between two questions for more time (RFC 2131 §4.4.5).
const LEAST_RENEWAL_WAIT: Duration = Duration::from_secs(60);
/// Earliest renewal, whatever a server says, and what is left at least of a lease that is taken.
const LEAST_RENEWAL: Duration = Duration::from_secs(1);
/// Shortest lease that is taken: less would keep the LAN busy.
const LEAST_LIFETIME: u32 = 4;
/// Pause after a refusal, so that a server that refuses everything is not asked all the time.
const AFTER_REFUSAL: Duration = Duration::from_secs(1);
/// Pause after an address that somebody else has (RFC 2131 §3.1, step 5: a minimum of ten seconds).
pub const AFTER_DECLINE: Duration = Duration::from_secs(10);

/// Whose address it is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Hardware address of the interface.
    pub mac: MacAddr,
    /// Client identifier, 2 to 255 bytes.
    pub identifier: Vec<u8>,
    /// Host name, if one is told.
    pub host_name: Option<String>,
}

/// An address, and what comes with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The address with the length of its prefix.
    pub address: Ipv4Net,
    /// The routes, in the order in which they are to be added.
    pub routes: Vec<LeasedRoute>,
    /// How long the address is the client's, from the action on; `None`: for ever.
    pub lifetime: Option<Duration>,
    /// The server.
    pub server: Ipv4Addr,
    /// The station from which its answer came.
    pub server_mac: MacAddr,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send this frame.
    Send(Vec<u8>),
    /// Give the interface this address with its routes, and take an earlier one away.
    Set(Lease),
    /// Ask the LAN for this address, from no address (RFC 5227 §2.1.1), and tell the client of who has it.
    Probe(Ipv4Addr),
    /// Somebody else has the address that a server has given: it was declined.
    Declined {
        /// The address.
        address: Ipv4Addr,
        /// The station.
        mac: MacAddr,
    },
    /// Take the address away.
    Remove,
}

/// The state, as RFC 2131 figure 5 names it.
#[derive(Debug, Clone)]
enum State {
    Selecting,
    Requesting {
        address: Ipv4Addr,
        server: Ipv4Addr,
    },
    /// INIT-REBOOT: the address of before is asked for.
    Rebooting {
        address: Ipv4Addr,
    },
    /// A server has given an address, and the LAN is asked for it (RFC 2131 §4.4.1).
    Probing(Box<Held>),
    Bound,
    Renewing,
    Rebinding,
}

/// A lease, and when it is to be renewed.
#[derive(Debug, Clone)]
struct Held {
    lease: Lease,
    /// `None`: it lasts for ever.
    times: Option<Times>,
}

impl Held {
    /// Whether so little is left of it that it is not worth taking.
    fn is_over(&self, now: Instant) -> bool {
        self.times.is_some_and(|times| times.end < now + LEAST_RENEWAL)
    }
}

#[derive(Debug, Clone, Copy)]
struct Times {
    renewal: Instant,
    rebinding: Instant,
    end: Instant,
}

/// A client.
#[derive(Debug)]
pub struct Client {
    identity: Identity,
    state: State,
    held: Option<Held>,
    /// Whether the LAN is asked for an address before it is taken.
    probes: bool,
    /// Whether the interface may have an address: that of before.
    has_address: bool,
    transaction: u32,
    /// Begin of the present attempt.
    since: Instant,
    /// When the question that is answered now was sent: leases count from there (RFC 2131 §4.4.1).
    asked_at: Instant,
    tries: u32,
    timeout: Option<Instant>,
    actions: VecDeque<Action>,
    random: u64,
}

impl Client {
    /// A client that asks for an address, at first for the `previous` one. With `probes` it takes none
    /// that somebody on the LAN has. `seed` is random.
    pub fn new(
        identity: Identity,
        previous: Option<Ipv4Addr>,
        probes: bool,
        seed: u64,
        now: Instant,
    ) -> Self {
        let mut client = Client {
            identity,
            state: State::Selecting,
            held: None,
            probes,
            has_address: previous.is_some(),
            transaction: 0,
            since: now,
            asked_at: now,
            tries: 0,
            timeout: None,
            actions: VecDeque::new(),
            // The generator stays at 0.
            random: seed | 1,
        };
        match previous.filter(|address| is_host(*address)) {
            Some(address) => client.enter(State::Rebooting { address }, now),
            None => client.enter(State::Selecting, now),
        }
        client
    }

    /// What to do next.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When to call [`Client::handle_timeout`]; `None`: not before an answer.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timeout
    }

    /// The lease.
    pub fn lease(&self) -> Option<&Lease> {
        self.held.as_ref().map(|held| &held.lease)
    }

    /// The address that the LAN is being asked for.
    pub fn probed(&self) -> Option<Ipv4Addr> {
        match &self.state {
            State::Probing(given) => Some(given.lease.address.addr()),
            _ => None,
        }
    }

    /// The station `mac` has an address: if it is the one that the LAN is being asked for, the client
    /// declines it, and begins anew after a pause (RFC 2131 §4.4.4).
    pub fn handle_conflict(&mut self, address: Ipv4Addr, mac: MacAddr, now: Instant) {
        if self.probed() != Some(address) {
            return;
        }
        let given = mem::replace(&mut self.state, State::Selecting);
        if let State::Probing(given) = given {
            self.transaction = self.next_random();
            let message = ClientMessage {
                requested: Some(address),
                server: Some(given.lease.server),
                ..self.message(Kind::Decline, 0)
            };
            let own = Ipv4Addr::UNSPECIFIED;
            let bytes = message.bytes();
            let frame = client_frame(self.identity.mac, own, Destination::BROADCAST, &bytes);
            self.actions.push_back(Action::Send(frame));
            self.actions.push_back(Action::Declined { address, mac });
        }
        self.held = None;
        self.remove();
        self.begin_after(AFTER_DECLINE, now);
    }

    /// Gives the address back: the last thing that a client does.
    pub fn release(&mut self) {
        let given = match mem::replace(&mut self.state, State::Selecting) {
            State::Probing(given) => Some(*given),
            _ => None,
        };
        let Some(Held { lease, .. }) = self.held.take().or(given) else { return };
        self.timeout = None;
        self.transaction = self.next_random();
        let to = Destination { mac: lease.server_mac.octets(), address: lease.server };
        let own = lease.address.addr();
        let message =
            ClientMessage { own, server: Some(lease.server), ..self.message(Kind::Release, 0) };
        let frame = client_frame(self.identity.mac, own, to, &message.bytes());
        self.actions.push_back(Action::Send(frame));
    }

    /// Time has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.timeout.is_none_or(|at| at > now) {
            return;
        }
        let times = self.held.as_ref().and_then(|held| held.times);
        if times.is_some_and(|times| times.end <= now) {
            self.lose(now);
            return;
        }
        match &self.state {
            // This process was kept from running for longer than the lease lasts.
            State::Probing(given) if given.is_over(now) => self.lose(now),
            State::Probing(given) => {
                let given = (**given).clone();
                self.take(given, now);
            }
            State::Bound | State::Renewing if times.is_some_and(|times| times.rebinding <= now) => {
                self.enter(State::Rebinding, now);
            }
            State::Bound => self.enter(State::Renewing, now),
            // The server is gone, or does not know the address: another one may.
            State::Requesting { .. } | State::Rebooting { .. } if self.tries >= REQUESTS => {
                self.enter(State::Selecting, now);
            }
            _ => self.ask(now),
        }
    }

    /// A message has come from the station `from`.
    pub fn handle_message(&mut self, message: &ServerMessage, from: MacAddr, now: Instant) {
        if message.transaction != self.transaction || message.mac != self.identity.mac {
            return;
        }
        match (message.kind, &self.state) {
            (Kind::Offer, State::Selecting) => {
                if let Some((lease, ..)) = usable(message, from) {
                    let (address, server) = (lease.address.addr(), lease.server);
                    self.enter(State::Requesting { address, server }, now);
                }
            }
            (Kind::Ack, State::Requesting { address, server })
                if message.address == *address && message.server == Some(*server) =>
            {
                self.bind(message, from, now);
            }
            (Kind::Ack, State::Rebooting { address }) if message.address == *address => {
                self.bind(message, from, now);
            }
            (Kind::Ack, State::Renewing | State::Rebinding) => self.bind(message, from, now),
            // Another server than the chosen one has no say.
            (Kind::Nak, State::Requesting { server, .. }) if message.server == Some(*server) => {
                self.lose(now);
            }
            (Kind::Nak, State::Rebooting { .. } | State::Renewing | State::Rebinding) => {
                self.lose(now);
            }
            _ => {}
        }
    }

    /// The address is not the client's any more: it begins anew after a moment.
    fn lose(&mut self, now: Instant) {
        let held = self.held.take();
        self.remove();
        match held.is_some_and(|held| held.times.is_some_and(|times| times.end <= now)) {
            true => self.enter(State::Selecting, now),
            false => self.begin_after(AFTER_REFUSAL, now),
        }
    }

    fn remove(&mut self) {
        if mem::take(&mut self.has_address) {
            self.actions.push_back(Action::Remove);
        }
    }

    /// Begins anew, with the first question after a pause.
    fn begin_after(&mut self, pause: Duration, now: Instant) {
        self.transaction = self.next_random();
        self.since = now;
        self.state = State::Selecting;
        self.tries = 0;
        self.timeout = Some(now + pause);
    }

    fn enter(&mut self, state: State, now: Instant) {
        // An offer and the request for it have one transaction (RFC 2131 §4.4.1).
        if !matches!(state, State::Requesting { .. }) {
            self.transaction = self.next_random();
            self.since = now;
        }
        self.state = state;
        self.tries = 0;
        self.ask(now);
    }

    fn bind(&mut self, message: &ServerMessage, from: MacAddr, now: Instant) {
        let Some((lease, renewal, rebinding)) = usable(message, from) else { return };
        let times = lease.lifetime.map(|lifetime| {
            let end = self.asked_at + lifetime;
            // Random, so that clients that started together do not renew together.
            let spread = lifetime / 64 * (self.next_random() % 16) / 16;
            let rebinding = rebinding.filter(|at| *at < lifetime).unwrap_or(lifetime / 8 * 7);
            let renewal = renewal.filter(|at| *at < rebinding);
            let renewal = renewal.unwrap_or_else(|| (lifetime / 2).min(rebinding));
            let renewal = renewal.saturating_sub(spread).max(LEAST_RENEWAL);
            let rebinding = rebinding.max(renewal);
            Times { renewal: self.asked_at + renewal, rebinding: self.asked_at + rebinding, end }
        });
        let address = lease.address.addr();
        let given = Held { lease, times };
        if given.is_over(now) {
            // The answer was under way for longer than it counts: the client goes on asking.
            return;
        }
        if self.probes && self.lease().is_none_or(|held| held.address.addr() != address) {
            // The lease of an earlier address may end before.
            let end = self.held.as_ref().and_then(|held| held.times).map(|times| times.end);
            let asked = now + WINDOW;
            self.timeout = Some(end.map_or(asked, |end| end.min(asked)));
            self.state = State::Probing(Box::new(given));
            self.actions.push_back(Action::Probe(address));
        } else {
            self.take(given, now);
        }
    }

    /// Takes a lease that is not over.
    fn take(&mut self, given: Held, now: Instant) {
        self.state = State::Bound;
        self.timeout = given.times.map(|times| times.renewal.max(now + LEAST_RENEWAL));
        self.has_address = true;
        let lifetime = given.times.map(|times| times.end.saturating_duration_since(now));
        self.actions.push_back(Action::Set(Lease { lifetime, ..given.lease.clone() }));
        self.held = Some(given);
    }

    /// Sends the question of the state, and sets the time for the next one.
    fn ask(&mut self, now: Instant) {
        self.asked_at = now;
        let seconds = now.saturating_duration_since(self.since).as_secs();
        let seconds = u16::try_from(seconds).unwrap_or(u16::MAX);
        let unicast = |held: &Held| Destination {
            mac: held.lease.server_mac.octets(),
            address: held.lease.server,
        };
        let own =
            self.held.as_ref().map_or(Ipv4Addr::UNSPECIFIED, |held| held.lease.address.addr());
        let (message, to) = match self.state {
            State::Selecting => (self.message(Kind::Discover, seconds), Destination::BROADCAST),
            State::Requesting { address, server } => {
                let message = ClientMessage {
                    requested: Some(address),
                    server: Some(server),
                    ..self.message(Kind::Request, seconds)
                };
                (message, Destination::BROADCAST)
            }
            State::Rebooting { address } => {
                let request = self.message(Kind::Request, seconds);
                (ClientMessage { requested: Some(address), ..request }, Destination::BROADCAST)
            }
            State::Bound | State::Probing(_) => return,
            State::Renewing => {
                let to = self.held.as_ref().map_or(Destination::BROADCAST, unicast);
                (ClientMessage { own, ..self.message(Kind::Request, seconds) }, to)
            }
            State::Rebinding => {
                let request = self.message(Kind::Request, seconds);
                (ClientMessage { own, ..request }, Destination::BROADCAST)
            }
        };
        let frame = client_frame(self.identity.mac, message.own, to, &message.bytes());
        self.actions.push_back(Action::Send(frame));
        self.tries += 1;
        let wait = (FIRST_WAIT * 2u32.saturating_pow(self.tries - 1).min(64)).min(LAST_WAIT);
        // Up to a quarter more or less (RFC 2131 §4.1: randomized).
        let random = self.next_random() % 512;
        let usual = now + wait * 3 / 4 + wait * random / 1024;
        let times = self.held.as_ref().and_then(|held| held.times);
        self.timeout = Some(match (&self.state, times) {
            (State::Renewing, Some(times)) => half_way(now, times.rebinding),
            (State::Rebinding, Some(times)) => half_way(now, times.end),
            _ => usual,
        });
    }

    fn message(&self, kind: Kind, seconds: u16) -> ClientMessage<'_> {
        ClientMessage {
            kind,
            transaction: self.transaction,
            seconds,
            mac: self.identity.mac,
            identifier: &self.identity.identifier,
            host_name: self.identity.host_name.as_deref(),
            own: Ipv4Addr::UNSPECIFIED,
            requested: None,
            server: None,
        }
    }

    /// xorshift64: what it gives need not be secret from the LAN, which sees it anyway.
    fn next_random(&mut self) -> u32 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 16) as u32
    }
}

/// When to ask again while there is time until `end` (RFC 2131 §4.4.5).
fn half_way(now: Instant, end: Instant) -> Instant {
    let left = end.saturating_duration_since(now);
    (now + (left / 2).max(LEAST_RENEWAL_WAIT)).min(end)
}

/// The lease of a message with its renewal and rebinding times; `None`: no host can use it.
fn usable(
    message: &ServerMessage,
    from: MacAddr,
) -> Option<(Lease, Option<Duration>, Option<Duration>)> {
    let (server, prefix, lifetime) = (message.server?, message.prefix?, message.lifetime?);
    let address = Ipv4Net::new(message.address, prefix).ok()?;
    let whole = prefix >= 31;
    let is_own = |address: Ipv4Addr| address == message.address;
    if !is_host(message.address)
        || !is_host(server)
        || is_own(server)
        || (!whole && (is_own(address.network()) || is_own(address.broadcast())))
        || lifetime < LEAST_LIFETIME
    {
        return None;
    }
    // A next hop is on the link, or is made so by a route before it.
    let mut routes: Vec<LeasedRoute> = Vec::new();
    let (direct, via): (Vec<&LeasedRoute>, Vec<&LeasedRoute>) =
        message.routes.iter().partition(|route| route.gateway.is_unspecified());
    for route in direct.into_iter().chain(via) {
        let known = address.contains(&route.gateway)
            || routes
                .iter()
                .any(|r| r.gateway.is_unspecified() && r.destination.contains(&route.gateway));
        let twice = routes.iter().any(|r| r.destination == route.destination);
        let is_link = route.destination == address.trunc();
        if (route.gateway.is_unspecified() || known) && !is_own(route.gateway) && !twice && !is_link
        {
            routes.push(*route);
        }
    }
    let seconds = |number: u32| Duration::from_secs(number.into());
    let lifetime = (lifetime != u32::MAX).then(|| seconds(lifetime));
    let lease = Lease { address, routes, lifetime, server, server_mac: from };
    Some((lease, message.renewal.map(seconds), message.rebinding.map(seconds)))
}

impl Lease {
    /// The address, as other modules have addresses.
    pub fn net(&self) -> IpNet {
        IpNet::V4(self.address)
    }
}

#[cfg(test)]
mod tests;

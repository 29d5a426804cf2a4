//! The state machine of a DHCPv6 client (RFC 8415 §18.2) for one address of one interface: pure.
//!
//! It is driven as [`crate::dhcp::client`] is: [`Client::handle_message`] for what arrives,
//! [`Client::handle_timeout`] when [`Client::poll_timeout`] has come, and after each of them
//! [`Client::poll_action`] until there is nothing more.

use std::collections::VecDeque;
use std::mem;
use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use crate::dhcp::message_v6::{
    Association, ClientMessage, FOR_EVER, GivenAddress, Kind, ServerMessage, is_host, status,
};
use crate::net::address_probe::WINDOW;
use crate::primitives::MacAddr;

/// Waits between messages (RFC 8415 §7.6).
#[derive(Debug, Clone, Copy)]
struct Pace {
    first: Duration,
    longest: Duration,
    /// Messages at most; 0: without end.
    count: u32,
}

const fn pace(first: u64, longest: u64, count: u32) -> Pace {
    Pace { first: Duration::from_secs(first), longest: Duration::from_secs(longest), count }
}

const SOLICIT: Pace = pace(1, 3600, 0);
const REQUEST: Pace = pace(1, 30, 10);
const RENEW: Pace = pace(10, 600, 0);
const REBIND: Pace = pace(10, 600, 0);
/// The address of before is asked for, while a container waits or runs with it.
const REBOOT: Pace = pace(1, 4, 4);
const DECLINE: Pace = pace(1, 1, 4);
/// What a server may say of the longest wait between Solicits (RFC 8415 §21.24), in seconds.
const SOL_MAX_RT: std::ops::RangeInclusive<u32> = 60..=86400;
/// Earliest renewal, and what is left at least of a lease that is taken.
const LEAST_RENEWAL: Duration = Duration::from_secs(1);
/// Shortest lease that a server may give: less would keep the LAN busy.
const LEAST_LIFETIME: u32 = 4;
/// Pause after a refusal, so that a server that refuses everything is not asked all the time.
const AFTER_REFUSAL: Duration = Duration::from_secs(1);

/// Whose address it is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The DUID, 3 to 130 bytes.
    pub duid: Vec<u8>,
    /// The identity association.
    pub iaid: u32,
    /// Host name, if one is told.
    pub host_name: Option<String>,
}

/// An address, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// The address.
    pub address: Ipv6Addr,
    /// For how many seconds it is preferred, from the action on; `u32::MAX`: for ever.
    pub preferred: u32,
    /// For how many seconds it is valid, from the action on; `u32::MAX`: for ever.
    pub valid: u32,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send this message to all servers.
    Send(Vec<u8>),
    /// Give the interface this address, and take an earlier one away.
    Set(Lease),
    /// Ask the LAN for this address (RFC 4862 §5.4.2), and tell the client of who has it.
    Probe(Ipv6Addr),
    /// Somebody else has the address that a server has given: it is declined.
    Declined {
        /// The address.
        address: Ipv6Addr,
        /// The station.
        mac: MacAddr,
    },
    /// Take the address away.
    Remove,
}

#[derive(Debug, Clone)]
enum State {
    /// With the best offer so far.
    Soliciting(Option<Offer>),
    Requesting(Offer),
    /// The address of before is asked for, by a Rebind.
    Rebooting(Ipv6Addr),
    /// A server has given an address, and the LAN is asked for it.
    Probing(Held),
    Bound,
    Renewing,
    Rebinding,
    Declining(Offer),
}

/// An address that a server would give.
#[derive(Debug, Clone)]
struct Offer {
    server: Vec<u8>,
    address: Option<Ipv6Addr>,
    preference: u8,
}

/// A lease with its server, and when it is to be renewed.
#[derive(Debug, Clone)]
struct Held {
    lease: Lease,
    /// When the server's answer came: the lease counts from there.
    since: Instant,
    server: Vec<u8>,
    times: Times,
}

/// What is `None` does not come.
#[derive(Debug, Clone, Copy)]
struct Times {
    renewal: Option<Instant>,
    rebinding: Option<Instant>,
    end: Option<Instant>,
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
    /// Begin of the present exchange.
    since: Instant,
    tries: u32,
    /// The wait after the last message.
    wait: Duration,
    longest_solicit: Duration,
    timeout: Option<Instant>,
    actions: VecDeque<Action>,
    random: u64,
}

impl Client {
    /// A client that asks for an address, at first for the `previous` one. With `probes` it takes none
    /// that somebody on the LAN has. `seed` is random.
    pub fn new(
        identity: Identity,
        previous: Option<Ipv6Addr>,
        probes: bool,
        seed: u64,
        now: Instant,
    ) -> Self {
        let mut client = Client {
            identity,
            state: State::Soliciting(None),
            held: None,
            probes,
            has_address: previous.is_some(),
            transaction: 0,
            since: now,
            tries: 0,
            wait: Duration::ZERO,
            longest_solicit: SOLICIT.longest,
            timeout: None,
            actions: VecDeque::new(),
            // The generator stays at 0.
            random: seed | 1,
        };
        let state = previous.filter(|address| is_host(*address)).map(State::Rebooting);
        client.enter(state.unwrap_or(State::Soliciting(None)), now);
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
    pub fn probed(&self) -> Option<Ipv6Addr> {
        match &self.state {
            State::Probing(given) => Some(given.lease.address),
            _ => None,
        }
    }

    /// The station `mac` has an address: if it is the one that the LAN is being asked for, the client
    /// declines it, and begins anew when the server has heard that (RFC 8415 §18.2.8).
    pub fn handle_conflict(&mut self, address: Ipv6Addr, mac: MacAddr, now: Instant) {
        let State::Probing(given) = &self.state else { return };
        if given.lease.address != address {
            return;
        }
        let offer = Offer { server: given.server.clone(), address: Some(address), preference: 0 };
        self.actions.push_back(Action::Declined { address, mac });
        self.held = None;
        self.remove();
        self.enter(State::Declining(offer), now);
    }

    /// Gives the address back: the last thing that a client does. Nobody waits for the answer.
    pub fn release(&mut self) {
        let given = match mem::replace(&mut self.state, State::Soliciting(None)) {
            State::Probing(given) => Some(given),
            _ => None,
        };
        let Some(Held { lease, server, .. }) = self.held.take().or(given) else { return };
        self.timeout = None;
        self.transaction = self.next_random() >> 8;
        let message = ClientMessage {
            kind: Kind::Release,
            server: Some(&server),
            address: Some(lease.address),
            ..self.message(0)
        };
        let bytes = message.bytes();
        self.actions.push_back(Action::Send(bytes));
    }

    /// Time has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.timeout.is_none_or(|at| at > now) {
            return;
        }
        let times = self.held.as_ref().map(|held| held.times);
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if times.is_some_and(|times| is_due(times.end)) {
            self.held = None;
            self.remove();
            self.enter(State::Soliciting(None), now);
            return;
        }
        let is_rebinding = times.is_some_and(|times| is_due(times.rebinding));
        let is_over = self.pace().count != 0 && self.tries >= self.pace().count;
        match &self.state {
            // This process was kept from running for longer than the lease lasts.
            State::Probing(given) if is_due(given.times.end.map(|end| end - LEAST_RENEWAL)) => {
                self.begin_after(AFTER_REFUSAL, now);
            }
            State::Probing(given) => {
                let given = given.clone();
                self.take(given, now);
            }
            State::Soliciting(Some(offer)) => {
                let offer = offer.clone();
                self.enter(State::Requesting(offer), now);
            }
            State::Bound | State::Renewing if is_rebinding => self.enter(State::Rebinding, now),
            State::Bound => self.enter(State::Renewing, now),
            State::Rebooting(_) if is_over => {
                self.remove();
                self.enter(State::Soliciting(None), now);
            }
            State::Requesting(_) | State::Declining(_) if is_over => {
                self.enter(State::Soliciting(None), now);
            }
            _ => self.ask(now),
        }
    }

    /// A message has come.
    pub fn handle_message(&mut self, message: &ServerMessage, now: Instant) {
        if message.transaction != self.transaction || message.client != self.identity.duid {
            return;
        }
        if let Some(seconds) = message.sol_max_rt.filter(|seconds| SOL_MAX_RT.contains(seconds)) {
            self.longest_solicit = Duration::from_secs(seconds.into());
        }
        let own = message.associations.iter().find(|a| a.iaid == self.identity.iaid);
        let is_success = message.status == status::SUCCESS;
        match (message.kind, &self.state) {
            (Kind::Advertise, State::Soliciting(best)) if is_success => {
                let Some(given) = own.and_then(usable) else { return };
                if best.as_ref().is_some_and(|best| best.preference >= message.preference) {
                    return;
                }
                let offer = Offer {
                    server: message.server.clone(),
                    address: Some(given.address),
                    preference: message.preference,
                };
                // The first wait collects offers; a later one takes the first (RFC 8415 §18.2.1).
                match message.preference == u8::MAX || self.tries > 1 {
                    true => self.enter(State::Requesting(offer), now),
                    false => self.state = State::Soliciting(Some(offer)),
                }
            }
            (Kind::Reply, State::Soliciting(_)) if is_success && message.is_rapid => {
                if let Some(given) = own.and_then(usable) {
                    self.bind(message, own, given, now);
                }
            }
            (Kind::Reply, State::Requesting(offer)) if message.server == offer.server => {
                let is_refused = own.is_some_and(|own| own.status != status::SUCCESS);
                match own.and_then(usable).filter(|_| is_success) {
                    Some(given) => self.bind(message, own, given, now),
                    // No address is left, or the address is none of this LAN's.
                    None if is_refused || !is_success => self.begin_after(AFTER_REFUSAL, now),
                    // It says nothing of the address: the client goes on asking.
                    None => {}
                }
            }
            (Kind::Reply, State::Rebooting(_) | State::Renewing | State::Rebinding) => {
                self.handle_renewal(message, own, now);
            }
            (Kind::Reply, State::Declining(offer)) if message.server == offer.server => {
                self.begin_after(AFTER_REFUSAL, now);
            }
            _ => {}
        }
    }

    /// The answer to a Renew or a Rebind (RFC 8415 §18.2.10.1).
    fn handle_renewal(&mut self, message: &ServerMessage, own: Option<&Association>, now: Instant) {
        let current = match &self.state {
            State::Rebooting(address) => Some(*address),
            _ => self.lease().map(|lease| lease.address),
        };
        if own.is_some_and(|own| own.status == status::NO_BINDING) {
            // The server may make a binding: it is asked for one of this address.
            let server = message.server.clone();
            let offer = Offer { server, address: current, preference: 0 };
            self.enter(State::Requesting(offer), now);
            return;
        }
        let is_refused = message.status == status::NOT_ON_LINK
            || own.is_some_and(|own| {
                own.status == status::NOT_ON_LINK
                    || own.addresses.iter().any(|g| Some(g.address) == current && g.valid == 0)
            });
        match own.and_then(usable).filter(|_| message.status == status::SUCCESS) {
            Some(given) => self.bind(message, own, given, now),
            None if is_refused => {
                self.held = None;
                self.remove();
                self.begin_after(AFTER_REFUSAL, now);
            }
            // It says nothing of the address: the client goes on asking.
            None => {}
        }
    }

    fn remove(&mut self) {
        if mem::take(&mut self.has_address) {
            self.actions.push_back(Action::Remove);
        }
    }

    /// Begins anew, with the first question after a pause. An address that is held until its end stays.
    fn begin_after(&mut self, pause: Duration, now: Instant) {
        self.held = None;
        self.remove();
        self.transaction = self.next_random() >> 8;
        self.since = now;
        self.state = State::Soliciting(None);
        self.tries = 0;
        self.timeout = Some(now + pause);
    }

    fn enter(&mut self, state: State, now: Instant) {
        self.transaction = self.next_random() >> 8;
        self.since = now;
        self.state = state;
        self.tries = 0;
        self.ask(now);
    }

    fn bind(
        &mut self,
        message: &ServerMessage,
        own: Option<&Association>,
        given: GivenAddress,
        now: Instant,
    ) {
        let GivenAddress { address, preferred, valid } = given;
        let (t1, t2) = own.map_or((0, 0), |own| (own.t1, own.t2));
        // What the server leaves open (RFC 8415 §14.2).
        let share = |tenths: u32| match preferred {
            FOR_EVER => FOR_EVER,
            preferred => (u64::from(preferred) * u64::from(tenths) / 10) as u32,
        };
        let rebinding = if t2 == 0 { share(8).max(t1) } else { t2 };
        let renewal = if t1 == 0 { share(5).min(rebinding) } else { t1 };
        let at = |seconds: u32, least: Duration| {
            let after = Duration::from_secs(seconds.into()).max(least);
            (seconds != FOR_EVER).then(|| now + after)
        };
        let end = at(valid, LEAST_RENEWAL);
        let times = Times {
            renewal: at(renewal, LEAST_RENEWAL),
            rebinding: at(rebinding, LEAST_RENEWAL),
            end,
        };
        let held = Held {
            lease: Lease { address, preferred, valid },
            since: now,
            server: message.server.clone(),
            times,
        };
        if self.probes && self.lease().is_none_or(|held| held.address != address) {
            // The lease of an earlier address may end before.
            let end = self.held.as_ref().and_then(|held| held.times.end);
            let asked = now + WINDOW;
            self.timeout = Some(end.map_or(asked, |end| end.min(asked)));
            self.state = State::Probing(held);
            self.actions.push_back(Action::Probe(address));
        } else {
            self.take(held, now);
        }
    }

    /// Takes a lease that is not over.
    fn take(&mut self, given: Held, now: Instant) {
        self.state = State::Bound;
        let Times { renewal, rebinding, end } = given.times;
        let next = [renewal, rebinding, end].into_iter().flatten().min();
        self.timeout = next.map(|at| at.max(now + LEAST_RENEWAL));
        self.has_address = true;
        let gone = now.saturating_duration_since(given.since).as_secs();
        let left = |seconds: u32| match seconds {
            FOR_EVER => FOR_EVER,
            // Less than the seconds of the lease, which is not over.
            seconds => seconds.saturating_sub(u32::try_from(gone).unwrap_or(u32::MAX)),
        };
        let Lease { address, preferred, valid } = given.lease;
        let lease = Lease { address, preferred: left(preferred), valid: left(valid) };
        self.actions.push_back(Action::Set(lease));
        self.held = Some(given);
    }

    fn pace(&self) -> Pace {
        match self.state {
            State::Soliciting(_) => Pace { longest: self.longest_solicit, ..SOLICIT },
            State::Requesting(_) => REQUEST,
            State::Rebooting(_) => REBOOT,
            State::Declining(_) => DECLINE,
            State::Rebinding => REBIND,
            State::Renewing | State::Bound | State::Probing(_) => RENEW,
        }
    }

    /// Sends the question of the state, and sets the time for the next one (RFC 8415 §15).
    fn ask(&mut self, now: Instant) {
        if matches!(self.state, State::Bound | State::Probing(_)) {
            return;
        }
        let elapsed = now.saturating_duration_since(self.since).as_millis() / 10;
        let message = self.message(u16::try_from(elapsed).unwrap_or(u16::MAX));
        let bytes = message.bytes();
        self.actions.push_back(Action::Send(bytes));
        let Pace { first, longest, .. } = self.pace();
        // Up to a tenth more or less; the first Solicit waits for no less than its time.
        let random = self.next_random() % 1025;
        let spread = |wait: Duration| wait * 9 / 10 + wait * random / 5120;
        self.wait = match (self.tries, &self.state) {
            (0, State::Soliciting(_)) => first + first * random / 10240,
            (0, _) => spread(first),
            _ if self.wait * 2 > longest => spread(longest),
            _ => self.wait + spread(self.wait),
        };
        self.tries += 1;
        let times = self.held.as_ref().map(|held| held.times);
        let next = match (&self.state, times) {
            // A server may say a T2 behind the end.
            (State::Renewing, Some(times)) => {
                [times.rebinding, times.end].into_iter().flatten().min()
            }
            (_, Some(times)) => times.end,
            _ => None,
        };
        let usual = now + self.wait;
        self.timeout = Some(next.map_or(usual, |next| next.min(usual)));
    }

    fn message(&self, elapsed: u16) -> ClientMessage<'_> {
        let held = self.held.as_ref();
        let own = held.map(|held| held.lease.address);
        let (kind, server, address) = match &self.state {
            State::Soliciting(_) => (Kind::Solicit, None, None),
            State::Requesting(offer) => (Kind::Request, Some(&offer.server), offer.address),
            State::Declining(offer) => (Kind::Decline, Some(&offer.server), offer.address),
            State::Rebooting(address) => (Kind::Rebind, None, Some(*address)),
            State::Rebinding => (Kind::Rebind, None, own),
            State::Renewing | State::Bound | State::Probing(_) => {
                (Kind::Renew, held.map(|held| &held.server), own)
            }
        };
        ClientMessage {
            kind,
            transaction: self.transaction,
            elapsed,
            client: &self.identity.duid,
            server: server.map(Vec::as_slice),
            iaid: self.identity.iaid,
            address,
            host_name: self.identity.host_name.as_deref(),
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

/// The address of an association that a host can use; `None`: it has none, or contradicts itself.
fn usable(association: &Association) -> Option<GivenAddress> {
    let Association { t1, t2, .. } = *association;
    if association.status != status::SUCCESS || (t1 > t2 && t2 != 0) {
        return None;
    }
    let is_good = |given: &&GivenAddress| {
        is_host(given.address) && given.preferred <= given.valid && given.valid >= LEAST_LIFETIME
    };
    association.addresses.iter().find(is_good).copied()
}

#[cfg(test)]
mod tests;

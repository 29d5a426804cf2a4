//! The client beside a server that the test plays, on a virtual clock.

use proptest::prelude::*;

use super::*;
use crate::dhcp::frame::server_payload;
use crate::dhcp::message::tests::answer;

const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);

fn mac(last: u8) -> MacAddr {
    format!("02:00:00:00:00:{last:02x}").parse().unwrap()
}

/// What a client has sent: its message, and where it went.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Sent {
    kind: u8,
    own: Ipv4Addr,
    requested: Option<Ipv4Addr>,
    server: Option<Ipv4Addr>,
    to: Ipv4Addr,
    transaction: u32,
}

fn sent(frame: &[u8]) -> Sent {
    let parsed = etherparse::PacketHeaders::from_ethernet_slice(frame).unwrap();
    let Some(etherparse::NetHeaders::Ipv4(ip, _)) = parsed.net else { panic!("{frame:x?}") };
    assert_eq!(server_payload(frame), None, "it is no answer");
    let bytes = parsed.payload.slice();
    let address = |at: &[u8]| Ipv4Addr::from(<[u8; 4]>::try_from(at).unwrap());
    let mut options = std::collections::BTreeMap::new();
    let mut rest = &bytes[240..];
    while let [code, length, behind @ ..] = rest {
        if *code == 255 {
            break;
        }
        let (value, behind) = behind.split_at(usize::from(*length));
        options.insert(*code, value);
        rest = behind;
    }
    assert_eq!(options[&61], b"\0mcrun-c1-mc0");
    Sent {
        kind: options[&53][0],
        own: address(&bytes[12..16]),
        requested: options.get(&50).map(|value| address(value)),
        server: options.get(&54).map(|value| address(value)),
        to: ip.destination.into(),
        transaction: u32::from_be_bytes(bytes[4..8].try_into().unwrap()),
    }
}

struct Bench {
    client: Client,
    start: Instant,
    now: Instant,
}

impl Bench {
    fn new(previous: Option<Ipv4Addr>) -> Self {
        Bench::with_probes(previous, false)
    }

    fn with_probes(previous: Option<Ipv4Addr>, probes: bool) -> Self {
        let now = Instant::now();
        let identity = Identity {
            mac: mac(7),
            identifier: b"\0mcrun-c1-mc0".to_vec(),
            host_name: Some("c1".into()),
        };
        Bench { client: Client::new(identity, previous, probes, 7, now), start: now, now }
    }

    fn actions(&mut self) -> Vec<Action> {
        std::iter::from_fn(|| self.client.poll_action()).collect()
    }

    /// The only message since the last look.
    fn message(&mut self) -> Sent {
        let actions = self.actions();
        let [Action::Send(frame)] = actions.as_slice() else { panic!("{actions:?}") };
        sent(frame)
    }

    /// Waits for the client's next timeout; how many seconds the test lasts by then.
    fn wait(&mut self) -> u64 {
        let at = self.client.poll_timeout().expect("it waits for something");
        assert!(at >= self.now, "no timeout in the past");
        self.now = at;
        self.client.handle_timeout(at);
        self.now.duration_since(self.start).as_secs()
    }

    fn reply(&mut self, kind: Kind, options: &[(u8, &[u8])]) {
        self.reply_from(kind, SERVER, ADDRESS, options);
    }

    fn reply_from(
        &mut self,
        kind: Kind,
        server: Ipv4Addr,
        address: Ipv4Addr,
        more: &[(u8, &[u8])],
    ) {
        let octets = server.octets();
        let base: [(u8, &[u8]); 3] =
            [(54, &octets), (1, &[255, 255, 255, 0]), (3, &[192, 0, 2, 254])];
        let options = [&base[..], more].concat();
        let bytes = answer(kind, self.client.transaction, mac(7), address, &options);
        let message = ServerMessage::parse(&bytes).unwrap();
        self.client.handle_message(&message, mac(1), self.now);
    }

    /// Gets an address for so many seconds.
    fn lease(&mut self, lifetime: u32) {
        let discover = self.message();
        let seconds = lifetime.to_be_bytes();
        self.reply(Kind::Offer, &[(51, &seconds)]);
        let request = self.message();
        assert_eq!((discover.kind, request.kind), (1, 3));
        assert_eq!(discover.transaction, request.transaction);
        assert_eq!((request.requested, request.server), (Some(ADDRESS), Some(SERVER)));
        self.reply(Kind::Ack, &[(51, &seconds)]);
        let actions = self.actions();
        let [Action::Set(lease)] = actions.as_slice() else { panic!("{actions:?}") };
        assert_eq!(lease.net().to_string(), "192.0.2.7/24");
        assert_eq!(lease.routes.len(), 1);
    }
}

#[test]
fn an_address_is_leased_renewed_by_its_server_and_rebound_by_any() {
    let mut bench = Bench::new(None);
    bench.lease(800);
    let at = bench.wait();
    assert!((387..=400).contains(&at), "renewed after half the time: {at}");
    let renewal = bench.message();
    assert_eq!((renewal.kind, renewal.own, renewal.to), (3, ADDRESS, SERVER));
    assert_eq!((renewal.requested, renewal.server), (None, None));
    let before = bench.now;
    bench.reply(Kind::Ack, &[(51, &800u32.to_be_bytes())]);
    assert!(matches!(bench.actions().as_slice(), [Action::Set(_)]));
    bench.wait();
    assert!(bench.now.duration_since(before).as_secs() >= 387);
    // The server is gone: the client asks it a few times, and then everybody.
    let mut renewals = 0;
    let rebinding = loop {
        let message = bench.message();
        if message.to == Ipv4Addr::BROADCAST {
            break message;
        }
        renewals += 1;
        bench.wait();
    };
    assert!((2..=8).contains(&renewals), "{renewals}");
    assert_eq!((rebinding.kind, rebinding.own, rebinding.server), (3, ADDRESS, None));
    assert_eq!(bench.now.duration_since(before).as_secs(), 700);
    bench.reply_from(Kind::Ack, [192, 0, 2, 2].into(), ADDRESS, &[(51, &[0, 0, 0, 100])]);
    assert_eq!(bench.client.lease().unwrap().server, Ipv4Addr::new(192, 0, 2, 2));
}

#[test]
fn an_address_that_nobody_prolongs_is_taken_away_at_its_end_and_another_one_is_asked_for() {
    let mut bench = Bench::new(None);
    bench.lease(120);
    loop {
        bench.wait();
        let actions = bench.actions();
        if let [Action::Remove, Action::Send(frame)] = actions.as_slice() {
            assert_eq!(sent(frame).kind, 1);
            break;
        }
    }
    assert_eq!(bench.now.duration_since(bench.start).as_secs(), 120);
    assert!(bench.client.lease().is_none());
}

#[test]
fn times_of_the_server_count_and_nonsense_does_not() {
    for (renewal, rebinding, expected) in
        [(10u32, 20u32, 10u64), (0xffff_ffff, 20, 20), (90, 80, 60), (5, 0xffff_ffff, 5), (0, 0, 1)]
    {
        let mut bench = Bench::new(None);
        bench.message();
        let options: &[(u8, &[u8])] = &[
            (51, &120u32.to_be_bytes()),
            (58, &renewal.to_be_bytes()),
            (59, &rebinding.to_be_bytes()),
        ];
        bench.reply(Kind::Offer, options);
        bench.reply(Kind::Ack, options);
        let at = bench.wait();
        assert!(
            (expected.saturating_sub(2).max(1)..=expected.min(60)).contains(&at),
            "{renewal} {rebinding}: {at}"
        );
    }
}

#[test]
fn a_lease_for_ever_is_never_renewed() {
    let mut bench = Bench::new(None);
    bench.lease(u32::MAX);
    assert_eq!(bench.client.poll_timeout(), None);
}

#[test]
fn a_refusal_takes_the_address_away_and_the_client_begins_anew_after_a_pause() {
    let mut bench = Bench::new(None);
    bench.lease(120);
    bench.wait();
    bench.message();
    bench.reply(Kind::Nak, &[]);
    assert_eq!(bench.actions(), [Action::Remove]);
    let before = bench.now;
    bench.wait();
    assert_eq!(bench.now - before, AFTER_REFUSAL);
    bench.lease(120);
}

#[test]
fn the_address_of_before_is_asked_for_first() {
    let mut bench = Bench::new(Some(ADDRESS));
    let request = bench.message();
    assert_eq!((request.kind, request.requested, request.server), (3, Some(ADDRESS), None));
    bench.reply(Kind::Ack, &[(51, &120u32.to_be_bytes())]);
    assert!(matches!(bench.actions().as_slice(), [Action::Set(_)]));
    // A server that refuses it, and one that is silent.
    let mut bench = Bench::new(Some(ADDRESS));
    bench.message();
    bench.reply(Kind::Nak, &[]);
    assert_eq!(bench.actions(), [Action::Remove]);
    bench.wait();
    bench.lease(120);
    let mut bench = Bench::new(Some(ADDRESS));
    let mut kinds = Vec::new();
    while kinds.last() != Some(&1) {
        kinds.push(bench.message().kind);
        bench.wait();
    }
    assert_eq!(kinds, [3, 3, 3, 3, 1]);
}

#[test]
fn an_address_is_asked_for_before_it_is_taken() {
    let mut bench = Bench::with_probes(None, true);
    let seconds = 120u32.to_be_bytes();
    bench.message();
    bench.reply(Kind::Offer, &[(51, &seconds)]);
    bench.message();
    bench.reply(Kind::Ack, &[(51, &seconds)]);
    assert_eq!(bench.actions(), [Action::Probe(ADDRESS)]);
    assert!(bench.client.lease().is_none());
    // Somebody has another one.
    bench.client.handle_conflict([192, 0, 2, 8].into(), mac(9), bench.now);
    let before = bench.now;
    bench.wait();
    assert_eq!(bench.now - before, WINDOW);
    assert!(matches!(bench.actions().as_slice(), [Action::Set(_)]));
    // The same one is not asked for again.
    bench.wait();
    bench.message();
    bench.reply(Kind::Ack, &[(51, &seconds)]);
    assert!(matches!(bench.actions().as_slice(), [Action::Set(_)]));
    bench.client.handle_conflict(ADDRESS, mac(9), bench.now);
    assert!(bench.actions().is_empty(), "the wait is over");
}

#[test]
fn an_address_that_somebody_has_is_declined_and_another_one_is_asked_for_after_ten_seconds() {
    for previous in [None, Some(ADDRESS)] {
        let mut bench = Bench::with_probes(previous, true);
        let seconds = 120u32.to_be_bytes();
        bench.message();
        if previous.is_none() {
            bench.reply(Kind::Offer, &[(51, &seconds)]);
            bench.message();
        }
        bench.reply(Kind::Ack, &[(51, &seconds)]);
        assert_eq!(bench.actions(), [Action::Probe(ADDRESS)]);
        bench.client.handle_conflict(ADDRESS, mac(9), bench.now);
        let mut actions = bench.actions();
        // What the interface had before goes.
        let removed = actions.pop_if(|last| *last == Action::Remove);
        assert_eq!(removed.is_some(), previous.is_some());
        let [Action::Send(frame), declined] = actions.as_slice() else { panic!("{actions:?}") };
        assert_eq!(*declined, Action::Declined { address: ADDRESS, mac: mac(9) });
        let decline = sent(frame);
        assert_eq!((decline.kind, decline.own, decline.to), (4, [0; 4].into(), [255; 4].into()));
        assert_eq!((decline.requested, decline.server), (Some(ADDRESS), Some(SERVER)));
        let before = bench.now;
        bench.wait();
        assert_eq!(bench.now - before, Duration::from_secs(10));
        assert_eq!(bench.message().kind, 1);
    }
}

#[test]
fn an_address_that_is_being_asked_for_is_given_back_at_the_end() {
    let mut bench = Bench::with_probes(Some(ADDRESS), true);
    bench.message();
    bench.reply(Kind::Ack, &[(51, &120u32.to_be_bytes())]);
    bench.actions();
    bench.client.release();
    assert_eq!(bench.message().kind, 7);
}

#[test]
fn silence_is_answered_by_rarer_questions() {
    let mut bench = Bench::new(None);
    let mut waits = Vec::new();
    for _ in 0..10 {
        assert_eq!(bench.message().kind, 1);
        let before = bench.now;
        bench.wait();
        waits.push((bench.now - before).as_secs_f32());
    }
    assert!((0.7..=1.3).contains(&waits[0]), "{waits:?}");
    assert!((48.0..=80.0).contains(&waits[9]), "{waits:?}");
}

#[test]
fn the_last_message_gives_the_address_back() {
    let mut bench = Bench::new(None);
    bench.lease(120);
    bench.client.release();
    let release = bench.message();
    assert_eq!((release.kind, release.own, release.to), (7, ADDRESS, SERVER));
    assert_eq!(release.server, Some(SERVER));
    assert_eq!(bench.client.poll_timeout(), None);
    bench.client.release();
    assert!(bench.actions().is_empty());
}

#[test]
fn what_nobody_can_use_is_no_lease() {
    let seconds = 120u32.to_be_bytes();
    for (address, options) in [
        ([224, 0, 0, 1], [(51, &seconds[..])]),
        ([127, 0, 0, 1], [(51, &seconds)]),
        ([0, 0, 0, 0], [(51, &seconds)]),
        ([192, 0, 2, 255], [(51, &seconds)]),
        ([192, 0, 2, 1], [(51, &seconds)]),
        ([192, 0, 2, 7], [(51, &[0, 0, 0, 1])]),
        ([192, 0, 2, 7], [(43, &[])]),
    ] {
        let mut bench = Bench::new(None);
        bench.message();
        bench.reply_from(Kind::Offer, SERVER, address.into(), &options);
        assert!(bench.actions().is_empty(), "{address:?} {options:?}");
    }
}

#[test]
fn what_is_for_others_is_passed_over() {
    let mut bench = Bench::new(None);
    bench.message();
    let options: &[(u8, &[u8])] =
        &[(54, &[192, 0, 2, 1]), (1, &[255, 255, 255, 0]), (51, &[0, 0, 1, 0])];
    for (transaction, to) in
        [(bench.client.transaction ^ 1, mac(7)), (bench.client.transaction, mac(8))]
    {
        let bytes = answer(Kind::Offer, transaction, to, ADDRESS, options);
        let message = ServerMessage::parse(&bytes).unwrap();
        bench.client.handle_message(&message, mac(1), bench.now);
    }
    // An acknowledgement of what was not asked for, too.
    bench.reply(Kind::Ack, &[(51, &[0, 0, 1, 0])]);
    assert!(bench.actions().is_empty());
}

proptest! {
    /// Whatever servers say and whenever: the client has no timeout in the past, asks at a bounded
    /// rate, and what it says of the address is in order.
    #[test]
    fn no_server_confuses_the_client(
        probes in any::<bool>(),
        steps in proptest::collection::vec((0u8..7, any::<[u8; 4]>(), 0u32..400, any::<bool>()), 1..60),
    ) {
        let mut bench = Bench::with_probes(None, probes);
        let mut has_address = false;
        let mut sends = 0u32;
        for (kind, address, lifetime, is_usual) in steps {
            match kind {
                0 => { bench.wait(); }
                1 => bench.now += Duration::from_millis(lifetime.into()),
                6 => {
                    let address = bench.client.probed().filter(|_| is_usual).unwrap_or(ADDRESS);
                    bench.client.handle_conflict(address, mac(9), bench.now);
                }
                _ => {
                    let kind = [Kind::Offer, Kind::Ack, Kind::Nak, Kind::Ack][usize::from(kind) - 2];
                    let address = if is_usual { ADDRESS } else { address.into() };
                    bench.reply_from(kind, SERVER, address, &[(51, &lifetime.to_be_bytes())]);
                }
            }
            if bench.client.poll_timeout().is_some_and(|at| at <= bench.now) {
                bench.client.handle_timeout(bench.now);
            }
            for action in bench.actions() {
                match action {
                    Action::Send(frame) => { sent(&frame); sends += 1; }
                    Action::Set(lease) => {
                        prop_assert!(is_host(lease.address.addr()));
                        has_address = true;
                    }
                    Action::Probe(address) => prop_assert!(probes && is_host(address)),
                    Action::Declined { .. } => prop_assert!(probes),
                    Action::Remove => { prop_assert!(has_address); has_address = false; }
                }
            }
            prop_assert_eq!(bench.client.lease().is_some(), has_address);
        }
        prop_assert!(sends <= 130, "{}", sends);
    }
}

#[test]
fn a_lease_counts_from_its_question_and_one_that_is_over_is_not_taken() {
    for (late, expected) in [(0, Some(8)), (3, Some(5)), (7, Some(1)), (8, None), (50, None)] {
        let mut bench = Bench::new(None);
        bench.message();
        bench.reply(Kind::Offer, &[(51, &[0, 0, 0, 8])]);
        bench.message();
        bench.now += Duration::from_secs(late);
        bench.reply(Kind::Ack, &[(51, &[0, 0, 0, 8])]);
        let left = match bench.actions().as_slice() {
            [Action::Set(lease)] => lease.lifetime.map(|left| left.as_secs()),
            actions => actions.first().map(|action| panic!("{action:?}")),
        };
        assert_eq!(left, expected, "{late} s later");
        let next = bench.client.poll_timeout().expect("a timeout");
        assert!(left.is_none() || next > bench.now, "{late} s later");
    }
}

#[test]
fn a_client_that_was_kept_from_running_asks_everybody_once_and_then_waits() {
    let mut bench = Bench::new(None);
    bench.lease(800);
    bench.now += Duration::from_secs(750);
    bench.client.handle_timeout(bench.now);
    assert_eq!(bench.message().to, Ipv4Addr::BROADCAST);
    assert!(bench.client.poll_timeout().expect("a timeout") > bench.now);
}

#[test]
fn a_lease_that_ends_while_the_lan_is_asked_for_it_is_not_taken() {
    let mut bench = Bench::with_probes(None, true);
    bench.message();
    bench.reply(Kind::Offer, &[(51, &[0, 0, 0, 8])]);
    bench.message();
    bench.reply(Kind::Ack, &[(51, &[0, 0, 0, 8])]);
    assert_eq!(bench.actions(), [Action::Probe(ADDRESS)]);
    bench.now += Duration::from_secs(9);
    bench.client.handle_timeout(bench.now);
    assert_eq!(bench.actions(), []);
    let before = bench.now;
    bench.wait();
    assert_eq!((bench.now - before, bench.message().kind), (AFTER_REFUSAL, 1));
}

#[test]
fn an_address_goes_at_its_end_also_while_the_lan_is_asked_for_another_one() {
    let mut bench = Bench::with_probes(None, true);
    bench.message();
    let seconds: (u8, &[u8]) = (51, &[0, 0, 0, 120]);
    bench.reply(Kind::Offer, &[seconds]);
    bench.message();
    bench.reply(Kind::Ack, &[seconds]);
    bench.wait();
    assert!(matches!(bench.actions().as_slice(), [Action::Probe(_), Action::Set(_)]));
    let end = bench.start + Duration::from_secs(120);
    while bench.client.poll_timeout().is_some_and(|at| at < end) {
        bench.wait();
    }
    bench.actions();
    bench.now = end - Duration::from_millis(1);
    let other = Ipv4Addr::new(192, 0, 2, 9);
    bench.reply_from(Kind::Ack, SERVER, other, &[seconds]);
    assert_eq!(bench.actions(), [Action::Probe(other)]);
    bench.wait();
    assert_eq!((bench.now, bench.actions().first()), (end, Some(&Action::Remove)));
}

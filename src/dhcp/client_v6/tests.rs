use proptest::prelude::*;

use super::*;
use crate::dhcp::message_v6::tests::{SERVER, answer};

const DUID: &[u8] = b"\0\x04client";
const IAID: u32 = 9;
const ADDRESS: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 7);

/// A client on a virtual clock.
struct Run {
    client: Client,
    now: Instant,
}

impl Run {
    fn new(previous: Option<Ipv6Addr>, probes: bool) -> Self {
        let now = Instant::now();
        let identity = Identity { duid: DUID.to_vec(), iaid: IAID, host_name: None };
        Run { client: Client::new(identity, previous, probes, 7, now), now }
    }

    /// What it does now, with the kind of the message that it sent last.
    fn actions(&mut self) -> (Vec<Action>, Option<u8>) {
        let all: Vec<_> = std::iter::from_fn(|| self.client.poll_action()).collect();
        let sent = all.iter().rev().find_map(|action| match action {
            Action::Send(bytes) => bytes.first().copied(),
            _ => None,
        });
        (all, sent)
    }

    fn sent(&mut self) -> Option<u8> {
        self.actions().1
    }

    /// Waits for the next timeout; how long that took.
    fn wait(&mut self) -> Duration {
        let at = self.client.poll_timeout().expect("a timeout");
        let waited = at - self.now;
        self.now = at;
        self.client.handle_timeout(at);
        waited
    }

    fn hear(&mut self, kind: Kind, valid: u32, times: (u32, u32), code: u16) {
        let given = GivenAddress { address: ADDRESS, preferred: valid, valid };
        let given = Some(given).filter(|_| valid != 1);
        let ids = (self.client.transaction, IAID);
        let bytes = answer(kind, ids, DUID, given, times, code);
        let message = ServerMessage::parse(&bytes).expect("an answer");
        self.client.handle_message(&message, self.now);
    }

    fn bound(probes: bool) -> Self {
        let mut run = Run::new(None, probes);
        assert_eq!(run.sent(), Some(1));
        run.hear(Kind::Advertise, 120, (30, 60), 0);
        run.wait();
        assert_eq!(run.sent(), Some(3));
        run.hear(Kind::Reply, 120, (30, 60), 0);
        run
    }
}

#[test]
fn an_offer_is_asked_for_when_the_first_wait_is_over_and_the_lease_is_renewed_at_its_time() {
    let mut run = Run::bound(false);
    let set = Action::Set(Lease { address: ADDRESS, preferred: 120, valid: 120 });
    assert_eq!(run.actions().0, std::slice::from_ref(&set));
    assert_eq!(run.wait(), Duration::from_secs(30));
    assert_eq!(run.sent(), Some(5));
    run.hear(Kind::Reply, 120, (30, 60), 0);
    assert_eq!(run.actions().0, [set]);
    // Nobody answers any more: it is asked of all servers, and the address goes at its end.
    let begin = run.now;
    let mut kinds = Vec::new();
    loop {
        run.wait();
        let (actions, sent) = run.actions();
        if actions.contains(&Action::Remove) {
            assert_eq!(sent, Some(1));
            break;
        }
        kinds.push((sent, (run.now - begin).as_secs()));
    }
    assert_eq!(run.now - begin, Duration::from_secs(120));
    assert_eq!(kinds[0], (Some(5), 30));
    assert!(kinds.contains(&(Some(6), 60)), "{kinds:?}");
    assert!(
        kinds.iter().all(|(kind, at)| *kind == Some(if *at < 60 { 5 } else { 6 })),
        "{kinds:?}"
    );
}

#[test]
fn solicits_are_repeated_ever_more_rarely() {
    let mut run = Run::new(None, false);
    let waits: Vec<_> = (0..16).map(|_| run.wait().as_secs_f64()).collect();
    assert!((1.0..=1.1).contains(&waits[0]), "{waits:?}");
    for pair in waits.windows(2).take(10) {
        assert!((1.89..=2.11).contains(&(pair[1] / pair[0])), "{waits:?}");
    }
    assert!(waits.iter().all(|wait| *wait <= 3960.0) && waits[15] >= 3240.0, "{waits:?}");
}

#[test]
fn a_server_that_does_not_know_the_address_is_asked_for_it_anew() {
    let mut run = Run::bound(false);
    run.wait();
    run.actions();
    run.hear(Kind::Reply, 1, (0, 0), status::NO_BINDING);
    let (actions, sent) = run.actions();
    assert_eq!((sent, actions.len()), (Some(3), 1), "the address stays");
    run.hear(Kind::Reply, 120, (30, 60), 0);
    assert!(matches!(run.actions().0[..], [Action::Set(_)]));
}

#[test]
fn an_address_whose_lifetime_is_over_goes_and_no_address_is_none() {
    let mut run = Run::bound(false);
    run.wait();
    run.actions();
    run.hear(Kind::Reply, 0, (0, 0), 0);
    assert_eq!(run.actions().0, [Action::Remove]);
    run.wait();
    assert_eq!(run.sent(), Some(1));
    // NoAddrsAvail.
    run.hear(Kind::Advertise, 1, (0, 0), 2);
    run.wait();
    assert_eq!(run.sent(), Some(1), "it goes on asking");
}

#[test]
fn an_address_that_a_station_has_is_declined() {
    let mut run = Run::bound(true);
    assert_eq!(run.actions().0, [Action::Probe(ADDRESS)]);
    assert_eq!(run.client.probed(), Some(ADDRESS));
    let mac: MacAddr = "02:00:00:00:00:09".parse().unwrap();
    run.client.handle_conflict(ADDRESS, mac, run.now);
    let (actions, sent) = run.actions();
    assert_eq!(actions[0], Action::Declined { address: ADDRESS, mac });
    assert_eq!(sent, Some(9));
    run.hear(Kind::Reply, 1, (0, 0), 0);
    run.wait();
    assert_eq!(run.sent(), Some(1));
}

#[test]
fn nobody_has_the_address_so_it_is_taken_and_released_in_the_end() {
    let mut run = Run::bound(true);
    run.actions();
    assert_eq!(run.wait(), WINDOW);
    assert!(matches!(run.actions().0[..], [Action::Set(_)]));
    run.client.release();
    assert_eq!(run.sent(), Some(8));
    assert_eq!(run.client.poll_timeout(), None);
}

#[test]
fn the_address_of_before_is_asked_for_first() {
    let mut run = Run::new(Some(ADDRESS), false);
    assert_eq!(run.sent(), Some(6));
    run.hear(Kind::Reply, 120, (30, 60), 0);
    assert!(matches!(run.actions().0[..], [Action::Set(_)]));
    let mut run = Run::new(Some(ADDRESS), false);
    run.actions();
    for _ in 0..4 {
        run.wait();
    }
    let (actions, sent) = run.actions();
    assert!(actions.contains(&Action::Remove) && sent == Some(1), "{actions:?}");
}

#[test]
fn what_is_not_for_this_client_changes_nothing() {
    let mut run = Run::new(None, false);
    run.actions();
    let given = Some(GivenAddress { address: ADDRESS, preferred: 60, valid: 60 });
    let transaction = run.client.transaction;
    for (transaction, iaid, client, times) in [
        (transaction ^ 1, IAID, DUID, (0, 0)),
        (transaction, IAID + 1, DUID, (0, 0)),
        (transaction, IAID, b"\0\x04other", (0, 0)),
        (transaction, IAID, DUID, (50, 40)),
    ] {
        let bytes = answer(Kind::Advertise, (transaction, iaid), client, given, times, 0);
        let message = ServerMessage::parse(&bytes).unwrap();
        assert_eq!(message.server, SERVER);
        run.client.handle_message(&message, run.now);
        assert!(matches!(run.client.state, State::Soliciting(None)));
    }
}

proptest! {
    #[test]
    fn whatever_servers_say_the_client_knows_when_it_does_what_next(
        steps in proptest::collection::vec(
            (any::<bool>(), 0u8..2, 0u16..6, 0u32..400, 0u32..100, 0u32..100), 0..60),
        probes in any::<bool>(),
        previous in any::<bool>(),
    ) {
        let mut run = Run::new(previous.then_some(ADDRESS), probes);
        let mut has_address = previous;
        for (waits, kind, code, valid, t1, t2) in steps {
            match waits {
                true => { run.wait(); }
                false => {
                    let kind = [Kind::Advertise, Kind::Reply][usize::from(kind)];
                    run.hear(kind, valid, (t1, t2), code);
                }
            }
            for action in run.actions().0 {
                match action {
                    Action::Set(lease) => {
                        prop_assert!(lease.valid >= LEAST_LIFETIME);
                        has_address = true;
                    }
                    Action::Remove => {
                        prop_assert!(has_address);
                        has_address = false;
                    }
                    _ => {}
                }
            }
            prop_assert!(run.client.poll_timeout().is_some());
            prop_assert!(run.client.lease().is_none() || has_address);
        }
    }
}

#[test]
fn a_reply_that_says_nothing_of_the_address_is_passed_over() {
    let mut run = Run::new(None, false);
    run.actions();
    run.hear(Kind::Advertise, 120, (30, 60), 0);
    run.wait();
    assert_eq!(run.sent(), Some(3));
    let ids = (run.client.transaction, IAID + 1);
    let message = ServerMessage::parse(&answer(Kind::Reply, ids, DUID, None, (0, 0), 0)).unwrap();
    run.client.handle_message(&message, run.now);
    assert_eq!(run.actions().0, []);
    run.hear(Kind::Reply, 120, (30, 60), 0);
    assert!(matches!(run.actions().0[..], [Action::Set(_)]));
    // A refusal is none of these.
    let mut run = Run::new(None, false);
    run.hear(Kind::Advertise, 120, (30, 60), 0);
    run.wait();
    run.actions();
    run.hear(Kind::Reply, 1, (0, 0), 2);
    assert_eq!(run.wait(), AFTER_REFUSAL);
    assert_eq!(run.sent(), Some(1));
}

#[test]
fn an_address_goes_at_its_end_also_where_the_server_would_be_asked_later() {
    let mut run = Run::bound(false);
    run.wait();
    run.actions();
    run.hear(Kind::Reply, 120, (30, 3600), 0);
    let begin = run.now;
    while run.client.lease().is_some() {
        run.wait();
    }
    assert_eq!(run.now - begin, Duration::from_secs(120));
    let (actions, sent) = run.actions();
    assert!(actions.contains(&Action::Remove) && sent == Some(1), "{actions:?}");
}

#[test]
fn a_lease_counts_from_its_answer_and_one_that_is_over_is_not_taken() {
    for (late, expected) in [(10, Some(110)), (118, Some(2)), (119, None), (500, None)] {
        let mut run = Run::bound(true);
        assert_eq!(run.actions().0, [Action::Probe(ADDRESS)]);
        run.now += Duration::from_secs(late);
        run.client.handle_timeout(run.now);
        let set = expected
            .map(|left| Action::Set(Lease { address: ADDRESS, preferred: left, valid: left }));
        assert_eq!(run.actions().0, Vec::from_iter(set), "{late} s later");
        assert!(run.client.poll_timeout().expect("a timeout") > run.now, "{late} s later");
    }
}

#[test]
fn an_address_goes_at_its_end_also_while_the_lan_is_asked_for_another_one() {
    let mut run = Run::bound(true);
    let end = run.now + Duration::from_secs(120);
    while run.client.poll_timeout().is_some_and(|at| at < end) {
        run.wait();
    }
    run.actions();
    run.now = end - Duration::from_millis(1);
    let other = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 8);
    let given = Some(GivenAddress { address: other, preferred: 120, valid: 120 });
    let ids = (run.client.transaction, IAID);
    let message = ServerMessage::parse(&answer(Kind::Reply, ids, DUID, given, (30, 60), 0));
    run.client.handle_message(&message.unwrap(), run.now);
    assert_eq!(run.actions().0, [Action::Probe(other)]);
    run.wait();
    assert_eq!((run.now, run.actions().0.first()), (end, Some(&Action::Remove)));
}

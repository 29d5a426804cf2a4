//! Streams of numbered packets, of which each has to come once and in order.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::{Family, Lab, SOURCES, Udp};

/// Time between two packets of [`stream_while`].
const INTERVAL: Duration = Duration::from_millis(1);
/// The last packet of [`assert_whole_while`].
const END: &str = "end";

/// The packet of this number.
pub fn numbered(stream: &str, number: u32) -> Vec<u8> {
    format!("{stream} {number}").into_bytes()
}

/// Sends so many packets at a pace that any machine keeps up with.
pub fn stream<A: Family>(socket: &Udp<A>, name: &str, count: u32, to: (A, u16)) {
    for number in 0..count {
        socket.send(&numbered(name, number), to);
        if number % 50 == 49 {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// What came, as text.
pub fn payloads<F>(received: &[(Vec<u8>, F)]) -> Vec<String> {
    received.iter().map(|(bytes, _)| String::from_utf8_lossy(bytes).into_owned()).collect()
}

/// Asserts that a stream came whole, in order and once, from one address, and nothing else.
pub fn assert_whole<A: Family>(
    received: &[(Vec<u8>, A::SocketAddress)],
    name: &str,
    count: u32,
    from: A,
) {
    let expected: Vec<String> = (0..count).map(|n| format!("{name} {n}")).collect();
    let got = payloads(received);
    // The first that is not as it should be says more than thousands of lines.
    let wrong = got.iter().zip(&expected).find(|(got, expected)| got != expected);
    assert_eq!(wrong, None, "of {} packets of {name}, {count} were sent", got.len());
    assert_eq!(got.len(), expected.len(), "packets of {name}");
    let sources: BTreeSet<A> = received.iter().map(|(_, from)| A::without_port(*from)).collect();
    assert_eq!(sources, BTreeSet::from([from]));
}

/// Sends by `send` each millisecond, with numbers from 0 on, until `changes` returns, and then by `end`.
/// Each of `receivers` receives meanwhile, until what `end` sends has come. Returns how often was sent,
/// and what each has received.
pub fn stream_while<R: Send>(
    send: impl Fn(u32) + Sync,
    end: impl Fn() + Sync,
    receivers: Vec<impl FnOnce() -> Vec<R> + Send>,
    changes: impl FnOnce(),
) -> (u32, Vec<Vec<R>>) {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let receiving: Vec<_> = receivers.into_iter().map(|r| scope.spawn(r)).collect();
        let sending = scope.spawn(|| {
            let start = Instant::now();
            let mut number = 0;
            while !stop.load(Ordering::Relaxed) {
                send(number);
                number += 1;
                let next = start + INTERVAL * number;
                std::thread::sleep(next.saturating_duration_since(Instant::now()));
            }
            end();
            number
        });
        let result = catch_unwind(AssertUnwindSafe(changes));
        stop.store(true, Ordering::Relaxed);
        let sent = sending.join().expect("it has sent");
        let received: Vec<_> = receiving.into_iter().map(|r| r.join().expect("received")).collect();
        let counts: Vec<_> = received.iter().map(Vec::len).collect();
        println!("{sent} packets sent, {counts:?} received");
        match result {
            Ok(()) => (sent, received),
            Err(panic) => resume_unwind(panic),
        }
    })
}

/// Sends a numbered packet each millisecond until `changes` returns, and asserts that each arrives
/// once at each socket, and nothing else does. `beside` sends more by the same socket, behind each
/// packet.
pub fn assert_whole_while(
    lab: &Lab,
    sockets: &[&Udp],
    to: (Ipv4Addr, u16),
    beside: impl Fn(&Udp) + Sync,
    changes: impl FnOnce(),
) {
    let sender = lab.socket("src", SOURCES[0], 0);
    let send = |number| {
        sender.send(&numbered("in", number), to);
        beside(&sender);
    };
    let end = || sender.send(END.as_bytes(), to);
    let receivers = sockets.iter().map(|socket| || socket.receive_until(END)).collect();
    let (sent, received) = stream_while(send, end, receivers, changes);
    received.iter().for_each(|r| assert_whole(r, "in", sent, SOURCES[0]));
}

//! Streams of numbered packets, of which each has to come once and in order.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use super::Udp;

/// The packet of this number.
pub fn numbered(stream: &str, number: u32) -> Vec<u8> {
    format!("{stream} {number}").into_bytes()
}

/// Sends so many packets at a pace that any machine keeps up with.
pub fn stream(socket: &Udp, name: &str, count: u32, to: (Ipv4Addr, u16)) {
    for number in 0..count {
        socket.send(&numbered(name, number), to);
        if number % 50 == 49 {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// What came, as text.
pub fn payloads(received: &[(Vec<u8>, SocketAddrV4)]) -> Vec<String> {
    received.iter().map(|(bytes, _)| String::from_utf8_lossy(bytes).into_owned()).collect()
}

/// Asserts that a stream came whole, in order and once, from one address, and nothing else.
pub fn assert_whole(received: &[(Vec<u8>, SocketAddrV4)], name: &str, count: u32, from: Ipv4Addr) {
    let expected: Vec<String> = (0..count).map(|n| format!("{name} {n}")).collect();
    let got = payloads(received);
    // The first that is not as it should be says more than thousands of lines.
    let wrong = got.iter().zip(&expected).find(|(got, expected)| got != expected);
    assert_eq!(wrong, None, "of {} packets of {name}, {count} were sent", got.len());
    assert_eq!(got.len(), expected.len(), "packets of {name}");
    let sources: BTreeSet<Ipv4Addr> = received.iter().map(|(_, from)| *from.ip()).collect();
    assert_eq!(sources, BTreeSet::from([from]));
}

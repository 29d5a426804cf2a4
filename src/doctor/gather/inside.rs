//! What is seen in a container's network namespace. The files are the kernel's, opened there; nothing
//! that a container can write is read.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::io::Read;
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::doctor::facts::UdpSocket;

/// Bytes of a file that are read: some 8000 sockets.
const MAX_FILE: u64 = 1 << 20;

/// Counters and sockets of a network namespace at one moment.
#[derive(Debug, Default)]
pub(super) struct Snapshot {
    /// Sockets of UDP by their inode.
    sockets: BTreeMap<u64, UdpSocket>,
    /// `Ip`, `Udp` and `TcpExt` counters by name, such as `Udp.InDatagrams`.
    counters: BTreeMap<String, u64>,
}

impl Snapshot {
    /// That of the calling thread's namespace.
    ///
    /// # Errors
    /// Those of open(2) and read(2).
    pub(super) fn take() -> io::Result<Self> {
        let mut snapshot = Snapshot::default();
        for (file, is_v6) in [("udp", false), ("udp6", true)] {
            match read(file) {
                Ok(text) => snapshot.sockets.extend(sockets(&text, is_v6)),
                // A kernel without IPv6.
                Err(error) if is_v6 && error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        for file in ["snmp", "netstat"] {
            snapshot.counters.extend(counters(&read(file)?));
        }
        Ok(snapshot)
    }

    /// By how much a counter has grown since.
    pub(super) fn grown(&self, before: &Self, name: &str) -> u64 {
        let of = |snapshot: &Self| snapshot.counters.get(name).copied().unwrap_or_default();
        of(self).saturating_sub(of(before))
    }

    /// The sockets, with what each has dropped since.
    pub(super) fn sockets_since(self, before: &Self) -> Vec<UdpSocket> {
        let each = self.sockets.into_iter().map(|(inode, socket)| {
            let before = before.sockets.get(&inode).map_or(0, |socket| socket.dropped_before);
            let dropped = socket.dropped_before.saturating_sub(before);
            UdpSocket { dropped, ..socket }
        });
        each.collect()
    }
}

fn read(name: &str) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(format!("/proc/thread-self/net/{name}"))?.take(MAX_FILE).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The sockets of /proc/net/udp or udp6 (`udp4_format_sock` in net/ipv4/udp.c): by inode. Those that
/// have an address of IPv6 receive no group of IPv4.
fn sockets(text: &str, is_v6: bool) -> BTreeMap<u64, UdpSocket> {
    let each = text.lines().skip(1).filter_map(|line| {
        let columns: Vec<_> = line.split_whitespace().collect();
        let (address, port) = columns.get(1)?.split_once(':')?;
        let address = if is_v6 { mapped(address)? } else { address_of(address)? };
        let (_, waiting) = columns.get(4)?.split_once(':')?;
        let socket = UdpSocket {
            address,
            port: u16::from_str_radix(port, 16).ok()?,
            waiting: u64::from_str_radix(waiting, 16).ok()?,
            dropped_before: columns.get(12)?.parse().ok()?,
            dropped: 0,
        };
        Some((columns.get(9)?.parse().ok()?, socket))
    });
    each.collect()
}

/// Eight hexadecimal digits, the number as the machine has it in memory.
fn address_of(text: &str) -> Option<Ipv4Addr> {
    let number = (text.len() == 8).then(|| u32::from_str_radix(text, 16).ok()).flatten()?;
    Some(Ipv4Addr::from(number.to_ne_bytes()))
}

/// Four such words: the unspecified address, or one that is an IPv4 address (RFC 4291 §2.5.5.2).
fn mapped(text: &str) -> Option<Ipv4Addr> {
    let mut octets = [0; 16];
    if text.len() != 32 || !text.is_ascii() {
        return None;
    }
    for (place, word) in octets.chunks_exact_mut(4).zip(text.as_bytes().chunks(8)) {
        place.copy_from_slice(&address_of(std::str::from_utf8(word).ok()?)?.octets());
    }
    match Ipv6Addr::from(octets) {
        Ipv6Addr::UNSPECIFIED => Some(Ipv4Addr::UNSPECIFIED),
        address => address.to_ipv4_mapped(),
    }
}

/// The counters of /proc/net/snmp or netstat: a line of names, then one of numbers.
fn counters(text: &str) -> BTreeMap<String, u64> {
    let lines: Vec<_> = text.lines().collect();
    let pairs = lines.chunks_exact(2).flat_map(|pair| {
        let (group, names) = pair[0].split_once(':').unwrap_or_default();
        let (_, numbers) = pair[1].split_once(':').unwrap_or_default();
        let each = names.split_whitespace().zip(numbers.split_whitespace());
        each.filter_map(move |(name, number)| {
            Some((format!("{group}.{name}"), number.parse().ok()?))
        })
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Linux 6.18 shows them on a machine of little endian.
    #[cfg(target_endian = "little")]
    #[test]
    fn sockets_are_read_with_their_queues_and_drops() {
        let text = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops             \n  620: 00000000:138C 00000000:0000 07 00000000:00034C00 00:00000000 00000000     0        0 81125 2 00000000b2f0c1de 1742        \n  621: 010514EF:138D 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 81126 2 00000000b2f0c1df 0        \n";
        let found = sockets(text, false);
        let first = UdpSocket {
            address: Ipv4Addr::UNSPECIFIED,
            port: 5004,
            waiting: 0x34c00,
            dropped_before: 1742,
            dropped: 0,
        };
        assert_eq!(found[&81125], first);
        assert_eq!(found[&81126].address, Ipv4Addr::new(239, 20, 5, 1));
        let line = |address: &str| {
            format!("head\n 1: {address}:138C {address}:0000 07 0:0 0:0 0 0 0 7 2 0 3\n")
        };
        let of = |address: &str| sockets(&line(address), true).get(&7).map(|socket| socket.address);
        assert_eq!(of(&"0".repeat(32)), Some(Ipv4Addr::UNSPECIFIED));
        assert_eq!(of("0000000000000000FFFF0000010514EF"), Some(Ipv4Addr::new(239, 20, 5, 1)));
        assert_eq!(of("000080FE000000000000000001000000"), None);
        assert!(sockets("head\n 1: x\n\u{1b}\n", false).is_empty());
    }

    #[test]
    fn counters_have_their_group_and_grow() {
        let before =
            counters("Udp: InDatagrams NoPorts\nUdp: 7 1\nUdpLite: InDatagrams\nUdpLite: 0\n");
        assert_eq!(before["Udp.InDatagrams"], 7);
        assert!(counters("Udp: A B\n").is_empty());
        let before = Snapshot { counters: before, ..Snapshot::default() };
        let after = counters("Udp: InDatagrams NoPorts\nUdp: 19 1\n");
        let after = Snapshot { counters: after, ..Snapshot::default() };
        assert_eq!(after.grown(&before, "Udp.InDatagrams"), 12);
        assert_eq!(after.grown(&before, "TcpExt.IPReversePathFilter"), 0);
    }

    #[test]
    fn this_namespace_has_sockets() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let before = Snapshot::take().unwrap();
        let found = Snapshot::take().unwrap().sockets_since(&before);
        assert!(found.iter().any(|s| s.port == port && s.address == Ipv4Addr::LOCALHOST));
    }
}

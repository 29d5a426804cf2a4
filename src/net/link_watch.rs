//! Notices that one link of a namespace has changed, gone or come again.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use socket2::{SockFilter, SockRef};

const RTNLGRP_LINK: u32 = 1;
const IFLA_IFNAME: u32 = 3;
const IFLA_MASTER: u32 = 10;
/// How often the link has lost its carrier and got one.
const IFLA_CARRIER_CHANGES: u16 = 35;
/// `IFF_LOWER_UP` of linux/if.h: there is a carrier. `IFF_RUNNING` follows up to a second later
/// (`linkwatch_schedule_work` in net/core/link_watch.c).
const IFF_LOWER_UP: u32 = 1 << 16;
/// Bytes of a message that are looked at: those up to the last attribute above.
const LOOKED_AT: usize = 1024;
/// Offset of `ifi_index`, behind the header of 16 bytes.
const INDEX: u32 = 20;
/// Offset of `ifi_flags`, behind the index.
const FLAGS: u32 = 24;
/// Offset of the message type in its header, of 16 bits.
const TYPE: u32 = 4;
/// The flags whose changes are noticed.
const NOTICED: u32 = (libc::IFF_UP | libc::IFF_RUNNING).cast_unsigned();
/// Offset of the first attribute, behind `struct ifinfomsg`.
const ATTRIBUTES: u32 = 32;
/// Length of an attribute's header.
const ATTRIBUTE_HEADER: u32 = 4;
/// Finds an attribute: its type is in X, the offset to begin at in A (linux/filter.h).
const FIND_ATTRIBUTE: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_NLATTR).cast_unsigned();

/// A netlink socket that is readable when the link of an index has gone, has come or has changed
/// between up and down, has lost its carrier or got one, or has changed in having a bridge, bond or
/// team, and when one of another index has a name. All other changes are dropped by the kernel and
/// wake nobody, such as the new child links of a parent with hundreds of them.
pub(crate) struct LinkWatch {
    socket: Socket,
    name: String,
    index: Cell<u32>,
    /// As the last message of the link has told it.
    seen: Cell<Option<Carrier>>,
    /// The carrier was lost and came again, and nobody has been told.
    has_flapped: Cell<bool>,
}

/// The carrier of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Carrier {
    is_there: bool,
    /// How often it has come or gone.
    changes: u32,
}

impl LinkWatch {
    /// Watches the links of this name and of this index in the caller's namespace.
    ///
    /// # Errors
    /// Those of socket(2), bind(2) and setsockopt(2).
    pub(crate) fn open(name: &str, index: u32) -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.set_non_blocking(true)?;
        let watch = LinkWatch {
            socket,
            name: name.to_owned(),
            index: Cell::new(index),
            seen: Cell::new(None),
            has_flapped: Cell::new(false),
        };
        watch.follow(index, None)?;
        watch.socket.add_membership(RTNLGRP_LINK)?;
        Ok(watch)
    }

    /// Watches this index from now on. Messages that show these flags of the link (`IFF_UP`,
    /// `IFF_RUNNING`; others do not count), and that it has a bridge, bond or team (or a VRF) or has
    /// none, tell nothing new; `None`: nothing is known of it.
    ///
    /// # Errors
    /// `ENOMEM`: the kernel has no room for the filter.
    pub(crate) fn follow(&self, index: u32, known: Option<(u32, bool)>) -> io::Result<()> {
        if self.index.replace(index) != index {
            self.seen.set(None);
        }
        let changes = self.seen.get().map(|carrier| carrier.changes);
        SockRef::from(&self.socket).attach_filter(&about(&self.name, index, known, changes))
    }

    /// Takes what is queued; whether there was anything. What has changed is to be looked up then:
    /// notifications may be lost, and the last one alone would not tell of a link that came and went.
    pub(crate) fn drain(&self) -> bool {
        let mut buffer = [0u8; LOOKED_AT];
        let mut was_there = false;
        while let Ok(length) = self.socket.recv(&mut &mut buffer[..], 0) {
            was_there = true;
            let Some(now) = carrier(&buffer[..length.min(LOOKED_AT)], self.index.get()) else {
                continue;
            };
            let before = self.seen.replace(Some(now));
            let has_changed = before.is_some_and(|before| before.changes != now.changes);
            self.has_flapped.set(self.has_flapped.get() || has_changed);
        }
        was_there
    }

    /// Takes what is queued; whether there was anything, or the link has lost its carrier now, or had
    /// lost it since the last message. The kernel tells of that once a second at the most; this asks,
    /// and the answer is there at once, except while another program changes links.
    pub(crate) fn has_news(&self) -> bool {
        let mut request = [0u8; ATTRIBUTES as usize];
        let length = ATTRIBUTES.to_ne_bytes();
        request[..4].copy_from_slice(&length);
        request[4..6].copy_from_slice(&libc::RTM_GETLINK.to_ne_bytes());
        request[6..8].copy_from_slice(&(libc::NLM_F_REQUEST as u16).to_ne_bytes());
        let index = INDEX as usize;
        request[index..index + 4].copy_from_slice(&self.index.get().to_ne_bytes());
        // An answer with what is known already is dropped by the filter.
        let _ = self.socket.send_to(&request, &SocketAddr::new(0, 0), 0);
        self.drain()
    }

    /// Whether the carrier has come or gone since the last call.
    pub(crate) fn take_flap(&self) -> bool {
        self.has_flapped.take()
    }

    /// Whether there is a carrier, as far as messages have told.
    pub(crate) fn has_carrier(&self) -> bool {
        self.seen.get().is_none_or(|carrier| carrier.is_there)
    }
}

/// What a message tells of the carrier of a link; `None`: it is about another one.
fn carrier(message: &[u8], index: u32) -> Option<Carrier> {
    let word = |at: usize| Some(u32::from_ne_bytes(*message.get(at..)?.first_chunk()?));
    let half = |at: usize| Some(u16::from_ne_bytes(*message.get(at..)?.first_chunk()?));
    if half(TYPE as usize)? != libc::RTM_NEWLINK || word(INDEX as usize)? != index {
        return None;
    }
    let is_there = word(FLAGS as usize)? & IFF_LOWER_UP != 0;
    let mut at = ATTRIBUTES as usize;
    loop {
        let (length, kind) = (usize::from(half(at)?), half(at + 2)?);
        if kind == IFLA_CARRIER_CHANGES {
            return Some(Carrier { is_there, changes: word(at + ATTRIBUTE_HEADER as usize)? });
        }
        at += length.max(ATTRIBUTE_HEADER as usize).next_multiple_of(4);
    }
}

impl AsFd for LinkWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A socket filter for messages about the link of this index, except those that show these flags,
/// whether it has a master and so many changes of the carrier, and about links of this name.
fn about(
    name: &str,
    index: u32,
    known: Option<(u32, bool)>,
    changes: Option<u32>,
) -> Vec<SockFilter> {
    let op = |code: u32, jt, jf, k| SockFilter::new(code as u16, jt, jf, k);
    let equal = |jt, jf, k| op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, jt, jf, k);
    // The attribute ends with a zero and is filled up with zeros.
    let mut padded = name.as_bytes().to_vec();
    padded.push(0);
    padded.resize(padded.len().next_multiple_of(4), 0);
    let words: Vec<u32> =
        padded.chunks_exact(4).map(|w| u32::from_be_bytes([w[0], w[1], w[2], w[3]])).collect();
    // The comparisons, of two instructions each, and the acceptance.
    let to_end = (words.len() * 2 + 1) as u8;
    // A load takes the bytes in network order, and the kernel writes them in the machine's.
    let native = |number: u32| u32::from_be_bytes(number.to_ne_bytes());
    let new_link = u32::from(u16::from_be_bytes(libc::RTM_NEWLINK.to_ne_bytes()));
    // No link has all bits and none.
    let flags = known.map_or(u32::MAX, |(flags, _)| native(flags & NOTICED));
    // Without the attribute it is found at 0.
    let as_known = if known.is_some_and(|(_, has_master)| has_master) { (7, 0) } else { (0, 7) };
    let same_carrier = match changes {
        Some(changes) => equal(0, 1, native(changes)),
        None => equal(1, 1, 0),
    };
    let mut program = vec![
        op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, INDEX),
        equal(0, 17, native(index)),
        op(libc::BPF_LD | libc::BPF_H | libc::BPF_ABS, 0, 0, TYPE),
        equal(0, 14, new_link),
        op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, FLAGS),
        op(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0, 0, native(NOTICED)),
        equal(0, 11, flags),
        op(libc::BPF_LD | libc::BPF_IMM, 0, 0, ATTRIBUTES),
        op(libc::BPF_LDX | libc::BPF_IMM, 0, 0, IFLA_MASTER),
        op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, FIND_ATTRIBUTE),
        equal(as_known.0, as_known.1, 0),
        op(libc::BPF_LD | libc::BPF_IMM, 0, 0, ATTRIBUTES),
        op(libc::BPF_LDX | libc::BPF_IMM, 0, 0, IFLA_CARRIER_CHANGES.into()),
        op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, FIND_ATTRIBUTE),
        op(libc::BPF_MISC | libc::BPF_TAX, 0, 0, 0),
        op(libc::BPF_LD | libc::BPF_W | libc::BPF_IND, 0, 0, ATTRIBUTE_HEADER),
        same_carrier,
        op(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
        op(libc::BPF_LD | libc::BPF_IMM, 0, 0, ATTRIBUTES),
        op(libc::BPF_LDX | libc::BPF_IMM, 0, 0, IFLA_IFNAME),
        op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, FIND_ATTRIBUTE),
        equal(to_end + 1, 0, 0),
        op(libc::BPF_MISC | libc::BPF_TAX, 0, 0, 0),
    ];
    for (position, word) in (0u32..).zip(&words) {
        let offset = ATTRIBUTE_HEADER + position * 4;
        program.push(op(libc::BPF_LD | libc::BPF_W | libc::BPF_IND, 0, 0, offset));
        let left = (words.len() - 1 - position as usize) * 2 + 1;
        program.push(equal(0, left as u8, *word));
    }
    program.push(op(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX));
    program.push(op(libc::BPF_RET | libc::BPF_K, 0, 0, 0));
    program
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::thread;
    use std::time::{Duration, Instant};

    use nix::poll::{PollFd, PollFlags, poll};

    use super::*;
    use crate::net::netns::NetNs;

    fn is_readable(watch: &LinkWatch) -> bool {
        let mut polled = [PollFd::new(watch.as_fd(), PollFlags::POLLIN)];
        poll(&mut polled, 0u8).unwrap() == 1
    }

    fn ip(namespace: &NetNs, words: &str) {
        let mut command = Command::new("ip");
        command.args(words.split(' '));
        let status = namespace.run(|| command.status()).unwrap().unwrap();
        assert!(status.success(), "{words}");
    }

    #[test]
    fn only_the_link_of_the_name_or_of_the_index_is_noticed() {
        let namespace = NetNs::create().unwrap();
        let run = |words: &str| ip(&namespace, words);
        for name in ["lan", "lan0", "a-name-of-15-by"] {
            let watch = namespace.run(|| LinkWatch::open(name, 0x7fff_fff0)).unwrap().unwrap();
            run("link add other type bridge");
            run("link add lan01 type bridge");
            assert!(!is_readable(&watch), "{name}");
            run(&format!("link add {name} type bridge"));
            assert!(is_readable(&watch), "{name}");
            watch.drain();
            assert!(!is_readable(&watch));
            run("link del other");
            run("link del lan01");
            assert!(!is_readable(&watch));
            run(&format!("link del {name}"));
            assert!(is_readable(&watch));
            watch.drain();
            // lo, whose carrier is known from here on.
            watch.follow(1, None).unwrap();
            assert!(watch.has_news());
            watch.follow(1, Some((0, false))).unwrap();
            run("link set lo mtu 60000");
            assert!(!is_readable(&watch), "lo is down, as before");
            run("link set lo up");
            assert!(is_readable(&watch));
            watch.drain();
            watch.follow(1, Some((NOTICED, false))).unwrap();
            run("link set lo mtu 65536");
            assert!(!is_readable(&watch), "lo is up, as before");
            run("link set lo down");
            assert!(is_readable(&watch));
            watch.drain();
            // A port of a bridge.
            run("link add br0 type bridge");
            run("link add port0 index 700 type veth peer name end0");
            watch.follow(700, None).unwrap();
            assert!(watch.has_news());
            watch.follow(700, Some((0, false))).unwrap();
            run("link set port0 mtu 1400");
            assert!(!is_readable(&watch), "nothing that counts");
            run("link set port0 master br0");
            assert!(is_readable(&watch));
            watch.follow(700, Some((0, true))).unwrap();
            watch.drain();
            run("link set port0 mtu 1300");
            assert!(!is_readable(&watch), "a port as before");
            run("link set port0 nomaster");
            assert!(is_readable(&watch));
            run("link del port0");
            run("link del br0");
        }
    }

    #[test]
    fn a_carrier_that_goes_and_comes_is_noticed_at_once() {
        let namespace = NetNs::create().unwrap();
        let run = |words: &str| ip(&namespace, words);
        run("link add port0 index 700 type veth peer name end0");
        run("link set end0 up");
        run("link set port0 up");
        let watch = namespace.run(|| LinkWatch::open("port0", 700)).unwrap().unwrap();
        // IFF_RUNNING follows up to a second later.
        let settle = || {
            let start = Instant::now();
            while start.elapsed() < Duration::from_secs(10) {
                watch.follow(700, Some((NOTICED, false))).unwrap();
                if !watch.has_news() {
                    return;
                }
                thread::sleep(Duration::from_millis(10));
            }
            panic!("something is always new");
        };
        assert!(watch.has_news() && watch.has_carrier());
        settle();
        assert!(!watch.take_flap());
        run("link set end0 down");
        assert!(watch.has_news() && !watch.has_carrier());
        run("link set end0 up");
        assert!(watch.has_news() && watch.has_carrier());
        assert!(watch.take_flap() && !watch.take_flap());
        settle();
        run("link set port0 mtu 1400");
        assert!(!watch.has_news());
        // The kernel tells of it unasked, and of nothing else.
        run("link set port0 mtu 1300");
        assert!(!watch.drain() && !watch.take_flap());
        run("link set end0 down");
        run("link set end0 up");
        // In one message or in two, up to a second apart.
        let mut has_flapped = false;
        while !(has_flapped && watch.has_carrier()) {
            let mut polled = [PollFd::new(watch.as_fd(), PollFlags::POLLIN)];
            assert_eq!(poll(&mut polled, 5000u16).unwrap(), 1);
            watch.drain();
            has_flapped |= watch.take_flap();
        }
        // Who asks for the carrier takes no other news away.
        settle();
        run("link del port0");
        assert!(watch.has_news());
    }
}

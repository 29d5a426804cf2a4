//! Streams that have stopped, and streams that arrive at one interface of a container and not at the
//! other any more (the legs of SMPTE ST 2022-7).
//!
//! What arrives is looked at every [`LOOK`], and only while somebody subscribes to the proxy's events,
//! or asks for its status. A group is silent for many good reasons: nobody sends, a switch has an old
//! query interval, a protocol of discovery waits for a question. So only a group that arrived steadily
//! can stop. Time is an argument, and nothing here makes a system call.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use crate::multicast::{Address, FilterMode};
use crate::notice::Notice;
use crate::proxy::control::status::SteadyStream;

/// Time between two looks, at least.
pub(super) const LOOK: Duration = Duration::from_secs(5);
/// While nothing arrives, each look comes after twice the time, this often: up to 80 s. Hundreds of
/// idle containers on a host are to cost nothing.
const DOUBLINGS: u32 = 4;
/// Looks in a row at each of which a packet has arrived since the one before: a stream.
const STEADY: u32 = 3;
/// Time without a packet after which a stream has stopped.
const SILENCE: Duration = Duration::from_secs(10);

/// A group that the container has joined, at one look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen<'a> {
    /// Interface in the container.
    pub(super) interface: &'a str,
    /// The group.
    pub(super) group: Ipv4Addr,
    /// How its sources are joined.
    pub(super) mode: FilterMode,
    /// Time since the last packet from a wanted source; `None`: none has arrived.
    pub(super) silent: Option<Duration>,
    /// The interface is known to get nothing, which another notice tells.
    pub(super) is_down: bool,
}

/// What was seen of the groups.
#[derive(Debug, Default)]
pub(super) struct StreamWatch {
    looked: Option<Instant>,
    /// Looks in a row at which nothing had arrived and nothing was new, up to [`DOUBLINGS`].
    idle: u32,
    /// By group and interface.
    watched: BTreeMap<(Ipv4Addr, String), Watched>,
}

#[derive(Debug)]
struct Watched {
    mode: FilterMode,
    /// Looks in a row at which something had arrived, up to [`STEADY`].
    steady: u32,
    /// It was a stream once since the join.
    is_stream: bool,
    /// When the last packet arrived, as far as anybody has looked.
    last: Option<Instant>,
    /// For how long nothing has arrived, where that is long enough for a stream to have stopped.
    stopped: Option<Duration>,
    is_down: bool,
    /// When it was seen that the container has left it, while it arrives at another interface.
    left: Option<Instant>,
}

impl StreamWatch {
    /// Whether a group can be one that arrives steadily: not one that no router forwards, and not one
    /// of the last 256 of a scope, where protocols of discovery and announcement are (RFC 2365 §9).
    pub(super) fn watches(group: Ipv4Addr) -> bool {
        let [a, b, c, _] = group.octets();
        !group.is_link_scope() && !matches!((a, b, c), (239, 255, 255) | (239, 195, 255))
    }

    /// Whether the next look may find that a group was left.
    pub(super) fn is_watching(&self) -> bool {
        !self.watched.is_empty()
    }

    /// When the next look is due.
    pub(super) fn next_look(&self, now: Instant) -> Instant {
        self.looked.map_or(now, |at| at + LOOK * 2u32.pow(self.idle))
    }

    /// The streams of an interface, for subscribers and for the proxy that takes over.
    pub(super) fn steady(&self, now: Instant, interface: &str) -> Vec<SteadyStream> {
        let seconds = |at: Instant| now.saturating_duration_since(at).as_secs();
        let own =
            self.watched.iter().filter(|((_, of), watched)| of == interface && watched.is_stream);
        own.map(|((group, _), watched)| SteadyStream {
            group: (*group).into(),
            mode: watched.mode,
            silent_s: watched.last.map_or(0, seconds),
            stopped: watched.stopped.is_some(),
            left_s: watched.left.map(seconds),
        })
        .collect()
    }

    /// Goes on with the streams of an interface that another proxy has watched.
    pub(super) fn inherit(&mut self, now: Instant, interface: &str, streams: &[SteadyStream]) {
        let before = |seconds| now.checked_sub(Duration::from_secs(seconds));
        for stream in streams {
            let Some(group) = Ipv4Addr::from_ip(stream.group) else { continue };
            let silent = Duration::from_secs(stream.silent_s);
            let watched = Watched {
                steady: STEADY,
                is_stream: true,
                last: before(stream.silent_s),
                stopped: stream.stopped.then_some(silent),
                left: stream.left_s.and_then(before),
                ..Watched::new(stream.mode)
            };
            self.watched.insert((group, interface.to_owned()), watched);
        }
    }

    /// Takes a look at all groups of all interfaces that are counted. Tells whether a proxy that takes
    /// over has to know something new.
    pub(super) fn look<'a>(&mut self, now: Instant, seen: impl Iterator<Item = Seen<'a>>) -> bool {
        self.looked = Some(now);
        let known = self.streams();
        let (mut joined, before) = (BTreeSet::new(), self.watched.len());
        for one in seen {
            let key = (one.group, one.interface.to_owned());
            let watched = self.watched.entry(key.clone()).or_insert_with(|| Watched::new(one.mode));
            watched.look(now, &one);
            joined.insert(key);
        }
        let is_new = self.watched.len() > before;
        self.idle = match is_new || self.watched.values().any(Watched::is_active) {
            true => 0,
            false => (self.idle + 1).min(DOUBLINGS),
        };
        let flows = self.flowing();
        self.watched.retain(|(group, interface), watched| {
            if joined.contains(&(*group, interface.clone())) {
                return true;
            }
            watched.left.get_or_insert(now);
            watched.is_stream && other_leg(&flows, *group, interface, watched.mode).is_some()
        });
        self.streams() != known
    }

    /// How many streams there are, and how many of them have stopped or were left.
    fn streams(&self) -> (usize, usize) {
        let streams = || self.watched.values().filter(|watched| watched.is_stream);
        (streams().count(), streams().filter(|watched| !watched.flows()).count())
    }

    /// What is wrong.
    pub(super) fn notices(&self) -> Vec<Notice> {
        let flows = self.flowing();
        let looked = self.looked;
        let notices = self.watched.iter().filter_map(|((group, interface), watched)| {
            let silent_s = match (watched.left, watched.stopped) {
                (Some(left), _) => {
                    let time = looked?.saturating_duration_since(left);
                    (time >= SILENCE).then_some(time.as_secs())?
                }
                (None, Some(stopped)) if watched.is_stream && !watched.is_down => stopped.as_secs(),
                (None, _) => return None,
            };
            let (interface, group) = (interface.clone(), *group);
            match other_leg(&flows, group, &interface, watched.mode) {
                Some(other) => Some(Notice::LegDiffers {
                    interface,
                    other: other.to_owned(),
                    group: group.into(),
                    joined: watched.left.is_none(),
                    silent_s,
                }),
                None => {
                    let stopped = watched.left.is_none();
                    let group = group.into();
                    stopped.then_some(Notice::StreamStopped { interface, group, silent_s })
                }
            }
        });
        notices.collect()
    }

    /// The streams that arrive.
    fn flowing(&self) -> BTreeSet<(Ipv4Addr, FilterModeKey, String)> {
        let flow = self.watched.iter().filter(|(_, watched)| watched.flows());
        flow.map(|((group, interface), watched)| (*group, key(watched.mode), interface.clone()))
            .collect()
    }
}

/// A filter mode that can be sorted: whether it is `exclude`.
type FilterModeKey = bool;

fn key(mode: FilterMode) -> FilterModeKey {
    mode == FilterMode::Exclude
}

/// Another interface at which the same group arrives, joined in the same mode.
fn other_leg<'f>(
    flows: &'f BTreeSet<(Ipv4Addr, FilterModeKey, String)>,
    group: Ipv4Addr,
    interface: &str,
    mode: FilterMode,
) -> Option<&'f str> {
    let mode = key(mode);
    let same = flows.range((group, mode, String::new())..);
    let mut same = same.take_while(|(of, in_mode, _)| (*of, *in_mode) == (group, mode));
    same.find(|(_, _, other)| other != interface).map(|(_, _, other)| other.as_str())
}

impl Watched {
    fn new(mode: FilterMode) -> Self {
        Watched {
            mode,
            steady: 0,
            is_stream: false,
            last: None,
            stopped: None,
            is_down: false,
            left: None,
        }
    }

    fn look(&mut self, now: Instant, seen: &Seen<'_>) {
        self.mode = seen.mode;
        self.left = None;
        self.is_down = seen.is_down;
        let has_arrived = seen.silent.is_some_and(|silent| silent <= LOOK);
        self.steady = if has_arrived { (self.steady + 1).min(STEADY) } else { 0 };
        self.is_stream |= self.steady == STEADY;
        self.last = seen.silent.and_then(|silent| now.checked_sub(silent)).or(self.last);
        // The table may have it no more: other streams have pushed it out, which has not arrived for
        // long then, or the table is new.
        let silent = self.last.map_or(SILENCE, |last| now.saturating_duration_since(last));
        self.stopped = (silent >= SILENCE).then_some(silent);
    }

    /// Whether it is or may become a stream.
    fn is_active(&self) -> bool {
        self.is_stream || self.steady > 0
    }

    fn flows(&self) -> bool {
        self.is_stream && self.left.is_none() && self.stopped.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: Ipv4Addr = Ipv4Addr::new(239, 1, 1, 1);

    /// A watch of `mc0` and `mc1` that is looked at every [`LOOK`].
    struct Looks {
        watch: StreamWatch,
        now: Instant,
    }

    /// What a look finds of an interface.
    #[derive(Clone, Copy, PartialEq)]
    enum Found {
        Left,
        Never,
        Silent(u64),
        Down,
    }
    use Found::{Down, Left, Never, Silent};

    impl Looks {
        fn new() -> Self {
            Looks { watch: StreamWatch::default(), now: Instant::now() }
        }

        /// The notices after looks that all find the same, as `stream-stopped mc0`.
        fn look(&mut self, times: u32, found: [Found; 2]) -> Vec<String> {
            for _ in 0..times {
                self.now += LOOK;
                let each = ["mc0", "mc1"].into_iter().zip(found);
                let seen =
                    each.filter(|(_, found)| *found != Left).map(|(interface, found)| Seen {
                        interface,
                        group: GROUP,
                        mode: FilterMode::Exclude,
                        silent: match found {
                            Silent(seconds) => Some(Duration::from_secs(seconds)),
                            Never | Left => None,
                            Down => Some(Duration::from_secs(99)),
                        },
                        is_down: found == Down,
                    });
                self.watch.look(self.now, seen);
            }
            let notices = self.watch.notices().into_iter();
            let text = |notice: Notice| {
                let object = serde_json::to_value(&notice).unwrap();
                let joined = if object["joined"] == false { " left" } else { "" };
                format!("{} {}{joined}", notice.code(), object["interface"].as_str().unwrap())
            };
            notices.map(text).collect()
        }
    }

    #[test]
    fn a_stream_stops_and_comes_again() {
        let mut looks = Looks::new();
        assert!(looks.look(STEADY, [Silent(1), Left]).is_empty());
        assert!(looks.look(1, [Silent(9), Left]).is_empty());
        assert_eq!(looks.look(1, [Silent(14), Left]), ["stream-stopped mc0"]);
        assert!(looks.look(1, [Silent(2), Left]).is_empty());
        // It stays a stream until it is left.
        assert_eq!(looks.look(1, [Silent(10), Left]), ["stream-stopped mc0"]);
        // Pushed out of the table.
        assert_eq!(looks.look(1, [Never, Left]), ["stream-stopped mc0"]);
        assert!(looks.look(1, [Left, Left]).is_empty());
        assert!(looks.look(9, [Silent(60), Left]).is_empty());
    }

    #[test]
    fn another_proxy_goes_on_where_one_has_ended() {
        let goes_on = |looks: &Looks, passed| {
            let mut next = Looks { watch: StreamWatch::default(), now: looks.now + passed };
            for interface in ["mc0", "mc1"] {
                let streams = looks.watch.steady(next.now, interface);
                next.watch.inherit(next.now, interface, &streams);
            }
            next
        };
        let second = Duration::from_secs(1);
        let mut looks = Looks::new();
        looks.look(STEADY, [Silent(1), Left]);
        // The table of the next one is new, and nothing has come yet.
        let mut next = goes_on(&looks, second);
        assert!(next.watch.notices().is_empty());
        assert!(next.look(1, [Never, Left]).is_empty());
        assert_eq!(next.look(1, [Never, Left]), ["stream-stopped mc0"]);

        looks.look(1, [Silent(30), Left]);
        let mut next = goes_on(&looks, second);
        let silent = |next: &Looks| match &next.watch.notices()[..] {
            [Notice::StreamStopped { silent_s, .. }] => *silent_s,
            other => panic!("{other:?}"),
        };
        assert_eq!(silent(&next), 31);
        next.look(1, [Never, Left]);
        assert_eq!(silent(&next), 36);
        assert!(next.look(1, [Silent(1), Left]).is_empty());

        // A leg that was left.
        let mut looks = Looks::new();
        looks.look(STEADY, [Silent(0), Silent(0)]);
        looks.look(3, [Silent(0), Left]);
        let mut next = goes_on(&looks, second);
        assert_eq!(next.look(1, [Silent(0), Left]), ["leg-differs mc1 left"]);
    }

    #[test]
    fn what_never_arrived_or_not_steadily_does_not_stop() {
        let mut looks = Looks::new();
        assert!(looks.look(99, [Never, Left]).is_empty());
        for _ in 0..20 {
            assert!(looks.look(STEADY - 1, [Silent(1), Left]).is_empty());
            assert!(looks.look(2, [Silent(12), Left]).is_empty());
        }
    }

    #[test]
    fn what_another_notice_tells_is_not_told_again() {
        let mut looks = Looks::new();
        looks.look(STEADY, [Silent(0), Silent(0)]);
        assert!(looks.look(4, [Down, Silent(0)]).is_empty());
    }

    #[test]
    fn a_pair_differs_when_one_leg_stops_or_is_left() {
        let mut looks = Looks::new();
        // One that has never arrived at the other interface is no pair.
        assert!(looks.look(STEADY + 1, [Silent(0), Never]).is_empty());
        assert!(looks.look(STEADY, [Silent(0), Silent(0)]).is_empty());
        assert_eq!(looks.look(1, [Silent(0), Silent(10)]), ["leg-differs mc1"]);
        // Both have stopped: no leg differs.
        let both = ["stream-stopped mc0", "stream-stopped mc1"];
        assert_eq!(looks.look(1, [Silent(10), Silent(20)]), both);
        assert_eq!(looks.look(1, [Silent(15), Silent(0)]), ["leg-differs mc0"]);
        assert!(looks.look(1, [Silent(0), Silent(0)]).is_empty());

        // A container that starts anew leaves both, one after the other.
        assert!(looks.look(2, [Silent(0), Left]).is_empty());
        assert_eq!(looks.look(1, [Silent(0), Left]), ["leg-differs mc1 left"]);
        assert!(looks.look(1, [Silent(0), Silent(0)]).is_empty());
        assert!(looks.look(1, [Left, Silent(0)]).is_empty());
        assert!(looks.look(9, [Left, Left]).is_empty());
        assert!(looks.watch.watched.is_empty());
    }

    #[test]
    fn looks_are_rare_while_nothing_arrives() {
        let (mut watch, now) = (StreamWatch::default(), Instant::now());
        let mut pause = |silent| {
            let (interface, group) = ("mc0", Ipv4Addr::new(239, 1, 1, 1));
            let mode = FilterMode::Exclude;
            watch.look(now, [Seen { interface, group, mode, silent, is_down: false }].into_iter());
            (watch.next_look(now) - now).as_secs()
        };
        assert_eq!([(); 6].map(|()| pause(None)), [5, 10, 20, 40, 80, 80]);
        assert_eq!(pause(Some(LOOK)), 5);
        assert_eq!(pause(Some(LOOK * 2)), 10, "a packet is no stream");
        assert_eq!([(); 9].map(|()| pause(Some(LOOK))), [5; 9]);
        assert_eq!(pause(Some(SILENCE)), 5, "a stream may come again");
    }

    #[test]
    fn groups_of_discovery_are_not_watched() {
        for group in ["224.0.0.251", "239.255.255.250", "239.255.255.253", "239.195.255.255"] {
            assert!(!StreamWatch::watches(group.parse().unwrap()), "{group}");
        }
        for group in ["224.0.1.129", "239.255.1.1", "239.1.1.1", "232.1.1.1"] {
            assert!(StreamWatch::watches(group.parse().unwrap()), "{group}");
        }
    }
}

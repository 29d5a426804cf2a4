//! The programs that relay multicast into a container, `bpf/relay.bpf.c`, and those of IPv6,
//! `bpf/relay6.bpf.c`.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::bpf::element_map::{ElementMap, Plain};
use crate::bpf::object;
use crate::bpf::program::{Hook, Map, MappedNumbers, Program, Writer};
use crate::multicast::Address;

const OBJECT: &[u8] = include_bytes!("../../bpf/relay.o");
const OBJECT_V6: &[u8] = include_bytes!("../../bpf/relay6.o");
const INBOUND: &[u8] = b"tcx";
const SIBLINGS: &[u8] = b"tcx/egress";
static INBOUND_INSTRUCTIONS: [u64; object::instruction_count(OBJECT, INBOUND)] =
    object::instructions(OBJECT, INBOUND);
static INBOUND_REFERENCES: [object::Reference; object::reference_count(OBJECT, INBOUND)] =
    object::references(OBJECT, INBOUND);
static SIBLINGS_INSTRUCTIONS: [u64; object::instruction_count(OBJECT, SIBLINGS)] =
    object::instructions(OBJECT, SIBLINGS);
static SIBLINGS_REFERENCES: [object::Reference; object::reference_count(OBJECT, SIBLINGS)] =
    object::references(OBJECT, SIBLINGS);
static INBOUND_INSTRUCTIONS_V6: [u64; object::instruction_count(OBJECT_V6, INBOUND)] =
    object::instructions(OBJECT_V6, INBOUND);
static INBOUND_REFERENCES_V6: [object::Reference; object::reference_count(OBJECT_V6, INBOUND)] =
    object::references(OBJECT_V6, INBOUND);
static SIBLINGS_INSTRUCTIONS_V6: [u64; object::instruction_count(OBJECT_V6, SIBLINGS)] =
    object::instructions(OBJECT_V6, SIBLINGS);
static SIBLINGS_REFERENCES_V6: [object::Reference; object::reference_count(OBJECT_V6, SIBLINGS)] =
    object::references(OBJECT_V6, SIBLINGS);
const FILTER: &[u8] = b"socket";
static FILTER_INSTRUCTIONS: [u64; object::instruction_count(OBJECT, FILTER)] =
    object::instructions(OBJECT, FILTER);
static FILTER_REFERENCES: [object::Reference; object::reference_count(OBJECT, FILTER)] =
    object::references(OBJECT, FILTER);
static FILTER_INSTRUCTIONS_V6: [u64; object::instruction_count(OBJECT_V6, FILTER)] =
    object::instructions(OBJECT_V6, FILTER);
static FILTER_REFERENCES_V6: [object::Reference; object::reference_count(OBJECT_V6, FILTER)] =
    object::references(OBJECT_V6, FILTER);

/// Groups and sources that have entries. The table takes 16 bytes for each, the entries more.
pub const MAX_ENTRIES: usize = 4096;
/// Descriptors of the programs.
pub const DESCRIPTORS: usize = 6;

/// A group and a source: `struct relay_key`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key<const N: usize> {
    group: [u8; N],
    source: [u8; N],
}

impl<const N: usize> Default for Key<N> {
    fn default() -> Self {
        Key { group: [0; N], source: [0; N] }
    }
}

/// Instructions of a program, and the places in them that refer to maps.
pub struct Code {
    instructions: &'static [u64],
    references: &'static [object::Reference],
}

/// An address family that the kernel can relay.
pub trait KernelRelayed: Address {
    /// A group and a source, as the programs look for them.
    type Key: Plain + std::fmt::Debug;
    /// The program that relays what arrives.
    const INBOUND: Code;
    /// The program that relays what macvlan children of the interface send.
    const SIBLINGS: Code;
    /// The filter of the process's socket.
    const FILTER: Code;
    /// Bytes of the programs' state.
    const STATE_SIZE: usize;

    /// The key of a group and a source.
    fn key(group: Self, source: Self) -> Self::Key;

    /// Group and source of a key.
    fn of_key(key: Self::Key) -> (Self, Self);
}

impl KernelRelayed for Ipv4Addr {
    type Key = Key<4>;
    const INBOUND: Code =
        Code { instructions: &INBOUND_INSTRUCTIONS, references: &INBOUND_REFERENCES };
    const SIBLINGS: Code =
        Code { instructions: &SIBLINGS_INSTRUCTIONS, references: &SIBLINGS_REFERENCES };
    const FILTER: Code =
        Code { instructions: &FILTER_INSTRUCTIONS, references: &FILTER_REFERENCES };
    const STATE_SIZE: usize = object::data_size(OBJECT);

    fn key(group: Self, source: Self) -> Key<4> {
        Key { group: group.octets(), source: source.octets() }
    }

    fn of_key(key: Key<4>) -> (Self, Self) {
        (key.group.into(), key.source.into())
    }
}

impl KernelRelayed for Ipv6Addr {
    type Key = Key<16>;
    const INBOUND: Code =
        Code { instructions: &INBOUND_INSTRUCTIONS_V6, references: &INBOUND_REFERENCES_V6 };
    const SIBLINGS: Code =
        Code { instructions: &SIBLINGS_INSTRUCTIONS_V6, references: &SIBLINGS_REFERENCES_V6 };
    const FILTER: Code =
        Code { instructions: &FILTER_INSTRUCTIONS_V6, references: &FILTER_REFERENCES_V6 };
    const STATE_SIZE: usize = object::data_size(OBJECT_V6);

    fn key(group: Self, source: Self) -> Key<16> {
        Key { group: group.octets(), source: source.octets() }
    }

    fn of_key(key: Key<16>) -> (Self, Self) {
        (key.group.into(), key.source.into())
    }
}

/// `struct relay_entry`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct Entry {
    verdict: u64,
    relayed: u64,
    limited: u64,
    dropped: u64,
}

/// What is set for all groups: `struct relay_settings`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Settings {
    /// Index of the host's end of the container's veth link; 0: the kernel relays nothing.
    pub peer: u32,
    /// MTU of the container's end, in bytes.
    pub mtu: u32,
    /// Hardware address of the container's end.
    pub mac: [u8; 6],
    /// Not 0: packets of groups without an entry are for the process.
    pub is_incomplete: u8,
    /// Not 0: `upstream_mac` is known, and what macvlan children of the interface send is relayed.
    pub has_upstream_mac: u8,
    /// Nanoseconds that a packet takes, and those of the longest burst; 0: no limit.
    pub packet_time: u64,
    /// See `packet_time`.
    pub packet_burst: u64,
    /// Bytes a second, and the nanoseconds of the longest burst; 0: no limit.
    pub byte_rate: u64,
    /// See `byte_rate`.
    pub byte_burst: u64,
    /// Hardware address of the interface whose packets are relayed.
    pub upstream_mac: [u8; 6],
    unused: [u8; 2],
}

// SAFETY: `repr(C)`, no padding, and numbers only.
unsafe impl Plain for Key<4> {}
// SAFETY: as above.
unsafe impl Plain for Key<16> {}
// SAFETY: as above.
unsafe impl Plain for Entry {}
// SAFETY: as above: 16 bytes, four numbers of eight, and 8 bytes.
unsafe impl Plain for Settings {}

/// What happens to packets of a group from a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// They are relayed.
    Admit = 1,
    /// They are dropped.
    Refuse = 2,
}

/// Packets of one entry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Passed on to the container.
    pub relayed: u64,
    /// Above the rate limit.
    pub limited: u64,
    /// Refused by the kernel.
    pub dropped: u64,
}

/// The programs of one relay, with their maps. They end when all copies of their descriptors are closed.
#[derive(Debug)]
pub struct RelayPrograms<A: KernelRelayed = Ipv4Addr> {
    /// Keeps the program at the ingress of the interface.
    link: OwnedFd,
    /// Keeps the program at the egress of the interface.
    siblings_link: OwnedFd,
    filter: Program,
    entries: ElementMap<A::Key, Entry>,
    settings: ElementMap<u32, Settings>,
    state: Map,
}

impl<A: KernelRelayed> RelayPrograms<A> {
    /// Loads the programs, and attaches those that relay to the ingress and the egress of the interface of
    /// this index in the caller's network namespace. Nothing is relayed until [`RelayPrograms::configure`].
    ///
    /// # Errors
    /// `EPERM` without CAP_BPF and CAP_NET_ADMIN, or where a sysctl or a lockdown forbids it; `EINVAL` where
    /// the kernel is older than Linux 6.6; `ERANGE` where 64 programs are attached already.
    pub fn load(interface: u32) -> io::Result<Self> {
        let entries = ElementMap::hash(c"mcrun_relayed", MAX_ENTRIES as u32)?;
        let settings = ElementMap::single(c"mcrun_relay")?;
        let state = Map::create(c"mcrun_limits", A::STATE_SIZE, Writer::Process)?;
        let maps = [entries.as_fd(), settings.as_fd()];
        let filter = Program::load_socket_filter(c"mcrun_relay", &A::FILTER.with(&state, &maps))?;
        let attach = |hook, code: Code| {
            Program::load_at(hook, c"mcrun_relay", &code.with(&state, &maps))?
                .attach(hook, interface)
        };
        let link = attach(Hook::Ingress, A::INBOUND)?;
        let siblings_link = attach(Hook::Egress, A::SIBLINGS)?;
        Ok(RelayPrograms { link, siblings_link, filter, entries, settings, state })
    }

    /// Programs of another process, by the [descriptors](RelayPrograms::descriptors) that it has passed.
    ///
    /// # Errors
    /// `EINVAL` if a descriptor is something else.
    pub fn inherit(descriptors: [OwnedFd; DESCRIPTORS]) -> io::Result<Self> {
        let [link, filter, entries, settings, state, siblings_link] = descriptors;
        Ok(RelayPrograms {
            link,
            siblings_link,
            filter: Program::from_descriptor(filter),
            entries: ElementMap::hash_from(entries, MAX_ENTRIES as u32)?,
            settings: ElementMap::single_from(settings)?,
            state: Map::from_descriptor(state, A::STATE_SIZE)?,
        })
    }

    /// What another process needs to go on with the programs.
    pub fn descriptors(&self) -> [BorrowedFd<'_>; DESCRIPTORS] {
        let RelayPrograms { link, siblings_link, filter, entries, settings, state } = self;
        let maps = [entries.as_fd(), settings.as_fd(), state.as_fd()];
        let [entries, settings, state] = maps;
        [link.as_fd(), filter.as_fd(), entries, settings, state, siblings_link.as_fd()]
    }

    /// Makes the filter of a raw UDP socket the one that leaves to the process what the kernel does not
    /// relay.
    ///
    /// # Errors
    /// Those of setsockopt(2).
    pub fn filter(&self, socket: &impl AsFd) -> io::Result<()> {
        self.filter.filter(socket)
    }

    /// What is set for all groups.
    ///
    /// # Errors
    /// Those of bpf(2).
    pub fn settings(&self) -> io::Result<Settings> {
        self.settings.get(0)
    }

    /// Changes what is set for all groups.
    ///
    /// # Errors
    /// Those of bpf(2).
    pub fn configure(&self, settings: &Settings) -> io::Result<()> {
        self.settings.set(0, *settings)
    }

    /// Sets what happens to packets of a group from a source; `None`: from each source that has no entry.
    ///
    /// # Errors
    /// `E2BIG` if there are too many entries.
    pub fn set(&self, group: A, source: Option<A>, verdict: Verdict) -> io::Result<()> {
        let entry = Entry { verdict: verdict as u64, ..Entry::default() };
        self.entries.set(key(group, source), entry)
    }

    /// Removes an entry. Returns its counts.
    pub fn remove(&self, group: A, source: Option<A>) -> Counts {
        self.entries.take(key(group, source)).map_or_else(|_| Counts::default(), Counts::of)
    }

    /// The counts of an entry.
    pub fn counts(&self, group: A, source: Option<A>) -> Counts {
        self.entries.get(key(group, source)).map_or_else(|_| Counts::default(), Counts::of)
    }

    /// What an entry says; `None`: there is none.
    pub fn verdict(&self, group: A, source: Option<A>) -> Option<Verdict> {
        match self.entries.get(key(group, source)).ok()?.verdict {
            verdict if verdict == Verdict::Admit as u64 => Some(Verdict::Admit),
            _ => Some(Verdict::Refuse),
        }
    }

    /// Groups and sources of all entries.
    pub fn entries(&self) -> Vec<(A, Option<A>)> {
        let parse = |key: A::Key| {
            let (group, source) = A::of_key(key);
            (group, (source != A::UNSPECIFIED).then_some(source))
        };
        self.entries.keys(MAX_ENTRIES).into_iter().map(parse).collect()
    }

    /// When the limits of packets and of bytes have been used up: CLOCK_MONOTONIC in nanoseconds.
    ///
    /// # Errors
    /// Those of mmap(2).
    pub fn limits(&self) -> io::Result<MappedNumbers<2>> {
        self.state.numbers()
    }
}

fn key<A: KernelRelayed>(group: A, source: Option<A>) -> A::Key {
    A::key(group, source.unwrap_or(A::UNSPECIFIED))
}

impl Code {
    /// The instructions, which refer to these maps.
    fn with(&self, state: &Map, maps: &[BorrowedFd<'_>]) -> Vec<u64> {
        let mut instructions = self.instructions.to_vec();
        object::point_to(&mut instructions, self.references, state, maps);
        instructions
    }
}

impl Counts {
    fn of(entry: Entry) -> Self {
        let Entry { relayed, limited, dropped, .. } = entry;
        Counts { relayed, limited, dropped }
    }
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    use super::*;
    use crate::sys::bpf;

    /// No interface has this index: the kernel refuses to pass a packet on, and it is counted as dropped.
    const NO_PEER: u32 = 0x7fff_ffff;
    const MTU: u32 = 300;
    const GROUP: Ipv4Addr = Ipv4Addr::new(239, 1, 1, 1);
    const CHANNEL: Ipv4Addr = Ipv4Addr::new(232, 1, 1, 1);
    const SOURCE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const REFUSED: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

    /// Groups and sources of one family.
    #[derive(Clone, Copy)]
    struct Names<A> {
        group: A,
        channel: A,
        source: A,
        refused: A,
    }

    const V4: Names<Ipv4Addr> =
        Names { group: GROUP, channel: CHANNEL, source: SOURCE, refused: REFUSED };

    /// The programs with their maps, attached to nothing.
    struct Loaded<A: KernelRelayed = Ipv4Addr> {
        inbound: Program,
        siblings: Program,
        filter: Program,
        entries: ElementMap<A::Key, Entry>,
        settings: ElementMap<u32, Settings>,
        names: Names<A>,
    }

    impl Loaded {
        fn new(settings: Settings) -> Self {
            Loaded::of(V4, settings)
        }
    }

    impl<A: KernelRelayed> Loaded<A> {
        /// The group from any source except one, and the channel from one source.
        fn of(names: Names<A>, settings: Settings) -> Self {
            let entries = ElementMap::hash(c"t", MAX_ENTRIES as u32).unwrap();
            let map = ElementMap::single(c"t").unwrap();
            let state = Map::create(c"t", A::STATE_SIZE, Writer::Process).unwrap();
            let maps = [entries.as_fd(), map.as_fd()];
            let filter = A::FILTER.with(&state, &maps);
            let filter = Program::load_socket_filter(c"t", &filter).unwrap();
            let load =
                |hook, code: Code| Program::load_at(hook, c"t", &code.with(&state, &maps)).unwrap();
            let inbound = load(Hook::Ingress, A::INBOUND);
            let siblings = load(Hook::Egress, A::SIBLINGS);
            map.set(0, settings).unwrap();
            let loaded = Loaded { inbound, siblings, filter, entries, settings: map, names };
            loaded.set(names.group, None, Verdict::Admit);
            loaded.set(names.group, Some(names.refused), Verdict::Refuse);
            loaded.set(names.channel, Some(names.source), Verdict::Admit);
            loaded
        }

        fn set(&self, group: A, source: Option<A>, verdict: Verdict) {
            let entry = Entry { verdict: verdict as u64, ..Entry::default() };
            self.entries.set(key(group, source), entry).unwrap();
        }

        /// Packets that were to be relayed, and those above the limit.
        fn counts(&self) -> (u64, u64) {
            let Names { group, channel, source, refused } = self.names;
            let all = [(group, None), (group, Some(refused)), (channel, Some(source))];
            all.iter().fold((0, 0), |(relayed, limited), (group, source)| {
                let entry = self.entries.get(key(*group, *source)).unwrap();
                assert_eq!(entry.relayed, 0);
                (relayed + entry.dropped, limited + entry.limited)
            })
        }

        /// Runs both programs with a frame: whether the kernel would relay it, and whether the proxy gets it
        /// from its socket.
        fn run(&self, frame: &[u8]) -> (bool, bool) {
            const NEXT: u32 = u32::MAX;
            let (before, _) = self.counts();
            // The kernel tests no frame that is shorter than an Ethernet header.
            let verdict = self.inbound.test_run(frame, 0).unwrap_or(NEXT);
            assert_eq!(verdict, NEXT, "a packet goes on");
            let taken = self.filter.test_run(frame, 0).unwrap_or(0) != 0;
            (self.counts().0 > before, taken)
        }
    }

    fn settings() -> Settings {
        Settings { peer: NO_PEER, mtu: MTU, mac: [2, 0, 0, 0, 0, 1], ..Settings::default() }
    }

    fn frame(source: Ipv4Addr, group: Ipv4Addr, payload: usize) -> Vec<u8> {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], [1, 0, 0x5e, 1, 1, 1])
            .ipv4(source.octets(), group.octets(), 5)
            .udp(5000, 5000)
            .write(&mut frame, &vec![7; payload])
            .unwrap();
        frame
    }

    #[test]
    fn the_kernel_relays_what_was_asked_for_and_the_proxy_what_is_too_long() {
        let loaded = Loaded::new(settings());
        let other = Ipv4Addr::new(10, 0, 0, 3);
        assert_eq!(loaded.run(&frame(other, GROUP, 100)), (true, false));
        assert_eq!(loaded.run(&frame(other, GROUP, 300)), (false, true), "longer than the MTU");
        assert_eq!(loaded.run(&frame(REFUSED, GROUP, 100)), (false, false));
        assert_eq!(loaded.run(&frame(REFUSED, GROUP, 300)), (false, false));
        assert_eq!(loaded.run(&frame(SOURCE, CHANNEL, 100)), (true, false));
        assert_eq!(loaded.run(&frame(other, CHANNEL, 100)), (false, false));
        assert_eq!(loaded.run(&frame(other, Ipv4Addr::new(239, 1, 1, 2), 100)), (false, false));
        loaded.settings.set(0, Settings { peer: 0, ..settings() }).unwrap();
        assert_eq!(loaded.run(&frame(other, GROUP, 100)), (false, true), "no link is known");
        assert_eq!(loaded.run(&frame(other, CHANNEL, 100)), (false, false));
        let unknown = frame(other, Ipv4Addr::new(239, 1, 1, 2), 100);
        assert_eq!(loaded.run(&unknown), (false, false));
        loaded.settings.set(0, Settings { is_incomplete: 1, ..settings() }).unwrap();
        assert_eq!(loaded.run(&unknown), (false, true), "for the proxy to decide");
    }

    /// Packets of children that were to be relayed.
    fn relayed_of_children<A: KernelRelayed>(loaded: &Loaded<A>, frame: &[u8]) -> u64 {
        let (before, _) = loaded.counts();
        assert_eq!(loaded.siblings.test_run(frame, 0).unwrap(), u32::MAX, "a packet goes on");
        loaded.counts().0 - before
    }

    #[test]
    fn what_children_of_the_interface_send_is_relayed_and_what_it_sends_itself_is_not() {
        let of_child = frame(SOURCE, GROUP, 100);
        let mut of_host = of_child.clone();
        of_host[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 8]);
        let known =
            Settings { has_upstream_mac: 1, upstream_mac: [2, 0, 0, 0, 0, 8], ..settings() };
        let loaded = Loaded::new(known);
        assert_eq!(relayed_of_children(&loaded, &of_child), 1);
        assert_eq!(relayed_of_children(&loaded, &of_host), 0);
        assert_eq!(relayed_of_children(&loaded, &frame(REFUSED, GROUP, 100)), 0);
        assert_eq!(relayed_of_children(&loaded, &frame(SOURCE, CHANNEL, 100)), 1);
        assert_eq!(relayed_of_children(&loaded, &frame(Ipv4Addr::new(10, 0, 0, 3), CHANNEL, 9)), 0);
        for unknown in [Settings { peer: 0, ..known }, Settings { has_upstream_mac: 0, ..known }] {
            loaded.settings.set(0, unknown).unwrap();
            assert_eq!(relayed_of_children(&loaded, &of_child), 0);
        }
    }

    #[test]
    fn fragments_that_children_send_by_ipv6_are_relayed_and_the_first_is_counted() {
        let known =
            Settings { has_upstream_mac: 1, upstream_mac: [2, 0, 0, 0, 0, 8], ..settings() };
        let loaded = Loaded::of(V6, known);
        let whole = frame_v6(V6.source, V6.group, 200);
        assert_eq!(relayed_of_children(&loaded, &whole), 1);
        assert_eq!(relayed_of_children(&loaded, &fragment_v6(&whole, true)), 1);
        assert_eq!(relayed_of_children(&loaded, &fragment_v6(&whole, false)), 0);
        let mut other = fragment_v6(&whole, true);
        other[54] = 6;
        assert_eq!(relayed_of_children(&loaded, &other), 0, "no UDP");
    }

    #[test]
    fn all_fragments_go_the_way_of_the_first() {
        let loaded = Loaded::new(settings());
        let fragment = |identification: u16, flags: u16, payload: usize| {
            let mut frame = frame(SOURCE, GROUP, payload);
            frame[18..20].copy_from_slice(&identification.to_be_bytes());
            frame[20..22].copy_from_slice(&flags.to_be_bytes());
            frame
        };
        let (more, last) = (0x2000, 31);
        // Each fits: the kernel relays each, of which the first is counted. What the host puts together is
        // longer than the MTU.
        assert!(loaded.run(&fragment(1, more, 248)).0);
        loaded.run(&fragment(1, last, 200));
        let (relayed, _) = loaded.counts();
        assert_eq!(relayed, 1);
        let is_left = |identification: u16| {
            loaded.filter.test_run(&fragment(identification, 0, 440), 0).unwrap() != 0
        };
        assert!(!is_left(1), "was relayed");
        assert!(!is_left(2), "nothing was left to the proxy so far");
        // The first is too long for the container.
        assert!(!loaded.run(&fragment(3, more, 400)).0);
        assert!(!loaded.run(&fragment(3, last, 100)).0);
        assert!(is_left(3));
        assert!(is_left(2), "may have been left to the proxy");
        assert!(!is_left(1));
    }

    #[test]
    fn a_segment_size_of_a_neighbour_uses_up_no_more_than_the_packet_takes() {
        // A packet a second, and a burst of ten.
        let limited =
            Settings { packet_time: 1_000_000_000, packet_burst: 10_000_000_000, ..settings() };
        let loaded = Loaded::new(limited);
        for length in 20u16..31 {
            let mut frame = frame(SOURCE, GROUP, 100);
            frame[16..18].copy_from_slice(&length.to_be_bytes());
            loaded.inbound.test_run(&frame, 5).unwrap();
        }
        assert_eq!(loaded.counts(), (10, 1));
    }

    #[test]
    fn what_is_above_a_limit_is_counted_and_goes_nowhere() {
        // A packet a second, and a burst of two.
        let limited =
            Settings { packet_time: 1_000_000_000, packet_burst: 2_000_000_000, ..settings() };
        let loaded = Loaded::new(limited);
        for _ in 0..5 {
            assert!(!loaded.run(&frame(SOURCE, GROUP, 100)).1);
        }
        let (relayed, above) = loaded.counts();
        assert_eq!(relayed + above, 5);
        assert!((2..=3).contains(&relayed), "{relayed}");
        let bytes = Settings { byte_rate: 1000, byte_burst: 300_000_000, ..settings() };
        let loaded = Loaded::new(bytes);
        // 128 bytes each, of 300.
        for _ in 0..4 {
            loaded.run(&frame(SOURCE, GROUP, 100));
        }
        assert_eq!(loaded.counts(), (2, 2));
    }

    #[test]
    fn a_descriptor_that_is_something_else_is_not_inherited() {
        let map =
            || ElementMap::<u32, Settings>::single(c"t").unwrap().as_fd().try_clone_to_owned();
        let wrong = [map(), map(), map(), map(), map(), map()].map(Result::unwrap);
        let error = RelayPrograms::<Ipv4Addr>::inherit(wrong).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
        let file: OwnedFd = tempfile::tempfile().unwrap().into();
        assert!(bpf::check_map(&file, bpf::MapShape::default()).is_err());
    }

    const V6: Names<Ipv6Addr> = Names {
        group: Ipv6Addr::new(0xff0e, 0, 0, 0, 0, 0, 1, 1),
        channel: Ipv6Addr::new(0xff3e, 0, 0, 0, 0, 0, 1, 1),
        source: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1),
        refused: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2),
    };

    fn frame_v6(source: Ipv6Addr, group: Ipv6Addr, payload: usize) -> Vec<u8> {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], [0x33, 0x33, 0, 1, 0, 1])
            .ipv6(source.octets(), group.octets(), 5)
            .udp(5000, 5000)
            .write(&mut frame, &vec![7; payload])
            .unwrap();
        frame
    }

    /// The same with a header of fragments: the first, or a later one.
    fn fragment_v6(frame: &[u8], is_first: bool) -> Vec<u8> {
        let field = if is_first { [0, 1] } else { [0, 8] };
        let header = [17, 0, field[0], field[1], 0, 0, 0, 9];
        let mut fragment = [&frame[..54], &header, &frame[54..]].concat();
        let length = (fragment.len() - 54) as u16;
        fragment[18..20].copy_from_slice(&length.to_be_bytes());
        fragment[20] = 44;
        fragment
    }

    #[test]
    fn ipv6_is_relayed_as_ipv4_is() {
        let loaded = Loaded::of(V6, settings());
        let Names { group, channel, source, refused } = V6;
        let other = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 3);
        assert_eq!(loaded.run(&frame_v6(other, group, 100)), (true, false));
        assert_eq!(loaded.run(&frame_v6(other, group, 300)), (false, true), "longer than the MTU");
        assert_eq!(loaded.run(&frame_v6(refused, group, 100)), (false, false));
        assert_eq!(loaded.run(&frame_v6(source, channel, 100)), (true, false));
        assert_eq!(loaded.run(&frame_v6(other, channel, 100)), (false, false));
        // What stays on its host is nobody's.
        let own = Ipv6Addr::new(0xff01, 0, 0, 0, 0, 0, 1, 1);
        loaded.set(own, None, Verdict::Admit);
        assert_eq!(loaded.run(&frame_v6(other, own, 100)), (false, false));
        loaded.settings.set(0, Settings { peer: 0, ..settings() }).unwrap();
        assert_eq!(loaded.run(&frame_v6(other, group, 100)), (false, true), "no link is known");
    }

    #[test]
    fn fragments_of_ipv6_are_left_to_the_proxy_which_gets_them_as_one() {
        let loaded = Loaded::of(V6, settings());
        let whole = frame_v6(V6.source, V6.group, 200);
        let is_left = |frame: &[u8]| loaded.filter.test_run(frame, 0).unwrap() != 0;
        assert!(!is_left(&whole), "was relayed");
        assert!(!loaded.run(&fragment_v6(&whole, true)).0);
        assert!(!loaded.run(&fragment_v6(&whole, false)).0);
        assert!(is_left(&whole), "was put together");
        assert!(!is_left(&whole), "asked for once");
        let other = frame_v6(V6.source, V6.group, 199);
        assert!(!loaded.run(&fragment_v6(&other, true)).0);
        assert!(!is_left(&whole) && is_left(&other));
    }

    proptest! {
        /// As for IPv4, below.
        #[test]
        fn only_what_was_asked_for_is_relayed_of_ipv6(
            bytes in prop::collection::vec(any::<u8>(), 0..400),
            is_patched in any::<bool>(),
            length in 0u16..420,
            next in prop::sample::select(vec![17u8, 44, 0, 6]),
        ) {
            let loaded = Loaded::of(V6, settings());
            let mut frame = bytes;
            frame.iter_mut().take(1).for_each(|first| *first |= 1);
            if is_patched && frame.len() >= 54 {
                frame[12..15].copy_from_slice(&[0x86, 0xdd, 0x60]);
                frame[18..20].copy_from_slice(&length.to_be_bytes());
                frame[20] = next;
                frame[38..54].copy_from_slice(&V6.group.octets());
            }
            let (relayed, taken) = loaded.run(&frame);
            let whole = frame.len() >= 54 && frame[12..14] == [0x86, 0xdd] && frame[14] >> 4 == 6
                && frame[38..54] == V6.group.octets() && frame[22..38] != V6.refused.octets();
            let total = if whole { 40 + u32::from(u16::from_be_bytes([frame[18], frame[19]])) } else { 0 };
            let fits = whole && total as usize + 14 <= frame.len() && total <= MTU;
            prop_assert_eq!(relayed, fits && frame[20] == 17);
            prop_assert!(!taken || (whole && (total > MTU || frame[20] != 17)));
        }

        /// Whatever arrives, what is relayed is UDP to a group that was asked for, and whole.
        #[test]
        fn only_what_was_asked_for_is_relayed(
            bytes in prop::collection::vec(any::<u8>(), 0..400),
            is_patched in any::<bool>(),
            length in 0u16..420,
            fragment in prop::sample::select(vec![0u16, 0x2000, 0x4000, 5, 0x2005]),
            words in 4u8..16,
        ) {
            let loaded = Loaded::new(settings());
            let mut frame = bytes;
            // To a group: the kernel passes by what is for another host.
            frame.iter_mut().take(1).for_each(|first| *first |= 1);
            if is_patched && frame.len() >= 34 {
                frame[12..15].copy_from_slice(&[8, 0, 0x40 | words]);
                frame[16..18].copy_from_slice(&length.to_be_bytes());
                frame[20..22].copy_from_slice(&fragment.to_be_bytes());
                frame[23] = 17;
                frame[30..34].copy_from_slice(&GROUP.octets());
            }
            let (relayed, taken) = loaded.run(&frame);
            let whole = frame.len() >= 34 && frame[12..14] == [8, 0]
                && frame[14] >> 4 == 4 && frame[14] & 15 >= 5 && frame[23] == 17
                && frame[30..34] == GROUP.octets() && frame[26..30] != REFUSED.octets();
            let total = if whole { u16::from_be_bytes([frame[16], frame[17]]) } else { 0 };
            let later = whole && u16::from_be_bytes([frame[20], frame[21]]) & 0x1fff != 0;
            let fits = whole && usize::from(total) + 14 <= frame.len() && u32::from(total) <= MTU;
            // Fragments after the first are not counted.
            prop_assert_eq!(relayed, fits && !later);
            prop_assert!(!taken || (whole && u32::from(total) > MTU));
        }
    }
}

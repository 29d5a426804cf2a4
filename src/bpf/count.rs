//! The programs that count multicast streams, `bpf/count.bpf.c`.

use std::io;
use std::os::fd::OwnedFd;

use crate::bpf::object;
use crate::bpf::program::{Map, Program, Writer};

const OBJECT: &[u8] = include_bytes!("../../bpf/count.o");
const SECTION: &[u8] = b"socket";
static INSTRUCTIONS: [u64; object::instruction_count(OBJECT, SECTION)] =
    object::instructions(OBJECT, SECTION);
static REFERENCES: [object::Reference; object::reference_count(OBJECT, SECTION)] =
    object::references(OBJECT, SECTION);
const RELAYED: &[u8] = b"relayed";
static RELAYED_INSTRUCTIONS: [u64; object::instruction_count(OBJECT, RELAYED)] =
    object::instructions(OBJECT, RELAYED);
static RELAYED_REFERENCES: [object::Reference; object::reference_count(OBJECT, RELAYED)] =
    object::references(OBJECT, RELAYED);

/// Bytes of the programs' table.
pub const TABLE_SIZE: usize = object::data_size(OBJECT);

/// Makes a table without streams.
///
/// # Errors
/// `EPERM` without CAP_BPF, or where a sysctl or a lockdown forbids it; `ENOSYS` and `EINVAL` where
/// the kernel has no BPF.
pub fn table() -> io::Result<Map> {
    Map::create(c"mcrun_streams", TABLE_SIZE, Writer::Program)
}

/// Loads the program that counts in this table what arrives at a link.
///
/// # Errors
/// Those of [`table`]; `EINVAL` also where the kernel is older than Linux 5.12.
pub fn load(table: &Map) -> io::Result<Program> {
    let mut instructions = INSTRUCTIONS;
    object::point_to(&mut instructions, &REFERENCES, table, &[]);
    Program::load_socket_filter(c"mcrun_count", &instructions)
}

/// Loads the program that counts in this table what [the kernel relays](crate::bpf::relay) to a link.
///
/// # Errors
/// Those of [`load`].
pub fn load_relayed(table: &Map) -> io::Result<Program> {
    let mut instructions = RELAYED_INSTRUCTIONS;
    object::point_to(&mut instructions, &RELAYED_REFERENCES, table, &[]);
    Program::load_socket_filter(c"mcrun_count", &instructions)
}

/// A table of another process, which has passed it.
///
/// # Errors
/// `EINVAL` if the descriptor is not such a table.
pub fn inherit_table(table: OwnedFd) -> io::Result<Map> {
    Map::from_descriptor(table, TABLE_SIZE)
}

/// A program of another process, which has passed it.
pub fn inherit(program: OwnedFd) -> Program {
    Program::from_descriptor(program)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use proptest::prelude::*;

    use super::*;
    use crate::stream_count::{self, Datagram, Offload, Stream, Table};

    /// Index of the loopback interface, where the kernel says that tested packets arrive.
    const LOOPBACK: u32 = 1;

    /// The program beside the same arithmetic in Rust.
    struct Both {
        program: Program,
        map: Map,
        table: Box<Table>,
        /// A place that was used at time 0 would look free.
        now: u64,
    }

    impl Both {
        fn new() -> Self {
            assert_eq!(TABLE_SIZE, stream_count::SIZE);
            let map = table().unwrap();
            let program = load(&map).unwrap();
            Both { program, map, table: Table::new(), now: 0 }
        }

        fn count(&mut self, packet: &[u8], segment: u32) {
            let frame = [&[0; 12][..], &0x0800u16.to_be_bytes(), packet].concat();
            match self.program.test_run(&frame, segment) {
                Ok(result) => assert_eq!(result, 0, "the packet is taken"),
                // The kernel tests no packet that is shorter than an IPv4 header.
                Err(error) => assert!(packet.len() < 20, "{error}"),
            }
            if let Some(datagram) = Datagram::parse(packet, Offload { segment }) {
                // Streams of the same tick of the kernel's clock are equally old.
                self.now = self.program().iter().map(|stream| stream.last).max().unwrap_or(0);
                self.table.count(LOOPBACK, &datagram, self.now);
            }
        }

        /// The streams of the program.
        fn program(&self) -> Vec<Stream> {
            // SAFETY: the map is of the program's table, and stays mapped meanwhile.
            self.map.with(|table| unsafe { stream_count::read(table) }).unwrap()
        }

        /// The streams of both, without the times.
        fn streams(&self) -> (Vec<Stream>, Vec<Stream>) {
            let program = self.program();
            let without_times = |streams: Vec<Stream>| {
                let mut streams: Vec<_> = streams.into_iter().map(Stream::without_times).collect();
                streams.sort_unstable_by_key(|s| (s.group(), s.source(), s.port));
                streams
            };
            (without_times(program), without_times(self.table.streams().copied().collect()))
        }
    }

    /// A packet whose fields are mostly right.
    fn packets() -> impl Strategy<Value = Vec<u8>> {
        let header = (
            prop_oneof![8 => Just(0x45u8), 1 => any::<u8>(), 1 => 0x46u8..0x4f],
            prop_oneof![6 => Just(None), 1 => any::<u16>().prop_map(Some)],
            prop_oneof![8 => Just(0x4000u16), 1 => any::<u16>(), 1 => Just(0x2000)],
            prop_oneof![9 => Just(17u8), 1 => any::<u8>()],
            (
                0u8..3,
                prop_oneof![9 => Just([239, 1]), 1 => any::<[u8; 2]>(), 1 => Just([224, 0])],
                0u8..4,
            ),
        );
        let body = (
            prop_oneof![6 => Just(None), 1 => any::<u16>().prop_map(Some)],
            prop_oneof![8 => Just(0x80u8), 1 => any::<u8>()],
            prop_oneof![8 => Just(96u8), 1 => any::<u8>()],
            prop_oneof![6 => 0u16..150, 1 => any::<u16>()],
            prop_oneof![8 => Just(7u32), 1 => 0u32..3],
            prop_oneof![4 => 12usize..200, 1 => 0usize..12],
        );
        (header, body, 0u16..3).prop_map(|(header, body, port)| {
            let (version, length, fragment, protocol, (source, group, last)) = header;
            let (udp_length, flags, kind, sequence, ssrc, size) = body;
            let mut payload = vec![0; size.max(12)];
            payload[0] = flags;
            payload[1] = kind;
            payload[2..4].copy_from_slice(&sequence.to_be_bytes());
            payload[8..12].copy_from_slice(&ssrc.to_be_bytes());
            payload.truncate(size);
            let options = usize::from(version & 0x0f).saturating_sub(5) * 4;
            let whole = (20 + options + 8 + size) as u16;
            let mut packet = vec![version, 0];
            packet.extend(length.unwrap_or(whole).to_be_bytes());
            packet.extend([0, 0]);
            packet.extend(fragment.to_be_bytes());
            packet.extend([1, protocol, 0, 0, 10, 0, 0, source, group[0], group[1], 0, last]);
            packet.extend(vec![0; options]);
            packet.extend([0, 9]);
            packet.extend((5000 + port).to_be_bytes());
            packet.extend(udp_length.unwrap_or(8 + size as u16).to_be_bytes());
            packet.extend([0, 0]);
            packet.extend(payload);
            packet
        })
    }

    #[test]
    fn a_table_is_inherited_and_another_file_is_not() {
        let own = |descriptor: &dyn AsFd| descriptor.as_fd().try_clone_to_owned().unwrap();
        let table = table().unwrap();
        let program = load(&table).unwrap();
        let inherit = |file: OwnedFd| inherit_table(file).map(|_| ()).map_err(|e| e.kind());
        let shorter = Map::create(c"shorter", TABLE_SIZE - 8, Writer::Program).unwrap();
        assert_eq!(inherit(own(&table)), Ok(()));
        for file in [own(&shorter), own(&program), File::open("/dev/null").unwrap().into()] {
            assert_eq!(inherit(file), Err(io::ErrorKind::InvalidInput));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn the_program_counts_as_the_relay_does(
            packets in prop::collection::vec(
                (prop_oneof![9 => packets(), 1 => prop::collection::vec(any::<u8>(), 0..80)],
                 prop_oneof![9 => Just(0u32), 1 => 1u32..100]),
                1..200,
            )
        ) {
            let mut both = Both::new();
            for (packet, segment) in &packets {
                both.count(packet, *segment);
            }
            let (program, rust) = both.streams();
            prop_assert_eq!(program, rust);
        }
    }
}

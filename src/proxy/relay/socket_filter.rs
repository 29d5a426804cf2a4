//! Classic BPF programs of the relay's sockets. A receiver's accepts packets to a set of groups, so that
//! the kernel drops packets of other groups before they are queued.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use socket2::SockFilter;

/// Offset of the destination in an IPv4 header (RFC 791 §3.1).
const DESTINATION: u32 = 16;
/// Most addresses that are compared one by one at the end of the binary search.
const LEAF: usize = 4;
/// Most groups for which the program stays below the kernel's limit of 4096 instructions
/// (`BPF_MAXINSNS`).
const MAX_GROUPS: usize = 1024;
/// Offsets of a filter's ancillary data and of the network header (linux/filter.h).
const ANCILLARY: u32 = libc::SKF_AD_OFF.cast_unsigned();
const NETWORK: u32 = libc::SKF_NET_OFF.cast_unsigned();
/// Offset of the destination in an IPv6 header (RFC 8200 §3). The data of a raw socket of IPv6 begin
/// behind the headers.
const DESTINATION_V6: u32 = NETWORK.wrapping_add(24);
/// `PACKET_OUTGOING` of linux/if_packet.h.
const PACKET_OUTGOING: u32 = 4;
/// Protocol number of UDP, and the next header of fragments (RFC 8200 §4.5).
const UDP: u32 = libc::IPPROTO_UDP.cast_unsigned();
const FRAGMENT: u32 = 44;
/// 224.0.0.0, the first multicast address, and 240.0.0.0, the first address behind the last.
const FIRST: u32 = 0xe000_0000;
const END: u32 = 0xf000_0000;

/// A program for packets that begin with their IPv4 header. `groups` ascend. For more than
/// [`MAX_GROUPS`] groups the program accepts all multicast: the relay looks the group up in any
/// case.
pub(super) fn only(groups: &[Ipv4Addr]) -> Vec<SockFilter> {
    let groups: Vec<u32> = groups.iter().map(|group| u32::from(*group)).collect();
    let mut program = vec![op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, DESTINATION)];
    if groups.len() > MAX_GROUPS {
        return all();
    }
    search(&groups, &mut program);
    program
}

/// A program that accepts all multicast.
pub(super) fn all() -> Vec<SockFilter> {
    vec![
        op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, DESTINATION),
        jump(libc::BPF_JGE, 0, 2, FIRST),
        jump(libc::BPF_JGE, 1, 0, END),
        accept(),
        reject(),
    ]
}

/// Emits a binary search; every path ends with a return instruction.
fn search(groups: &[u32], program: &mut Vec<SockFilter>) {
    if groups.len() <= LEAF {
        for group in groups {
            program.push(jump(libc::BPF_JEQ, 0, 1, *group));
            program.push(accept());
        }
        program.push(reject());
        return;
    }
    let (lower, upper) = groups.split_at(groups.len() / 2);
    let Some(pivot) = upper.first() else { return };
    program.push(jump(libc::BPF_JGE, 0, 1, *pivot));
    // A conditional jump reaches 255 instructions; an unconditional one reaches any.
    let over = program.len();
    program.push(op(libc::BPF_JMP | libc::BPF_JA, 0, 0, 0));
    search(lower, program);
    let distance = (program.len() - over - 1) as u32;
    program[over] = op(libc::BPF_JMP | libc::BPF_JA, 0, 0, distance);
    search(upper, program);
}

/// As [`only`], for packets of IPv6. The last 32 bits of a group are compared, which are those of its MAC
/// address (RFC 2464 §7): an interface lets the others of these bits in, too.
pub(super) fn only_v6(groups: &[Ipv6Addr]) -> Vec<SockFilter> {
    let groups: BTreeSet<u32> = groups.iter().map(|group| group.to_bits() as u32).collect();
    if groups.len() > MAX_GROUPS {
        return all_v6();
    }
    let groups: Vec<u32> = groups.into_iter().collect();
    let mut program = vec![load(libc::BPF_W, DESTINATION_V6.wrapping_add(12))];
    search(&groups, &mut program);
    program
}

/// A program that accepts all multicast of IPv6.
pub(super) fn all_v6() -> Vec<SockFilter> {
    vec![
        op(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, DESTINATION_V6),
        jump(libc::BPF_JEQ, 0, 1, 0xff),
        accept(),
        reject(),
    ]
}

/// A program for a packet socket: accepts outgoing, untagged IPv4 UDP packets to a group whose TTL is
/// not 0.
pub(super) fn outgoing() -> [SockFilter; 15] {
    [
        load(libc::BPF_W, ANCILLARY.wrapping_add(libc::SKF_AD_PKTTYPE as u32)),
        jump(libc::BPF_JEQ, 0, 12, PACKET_OUTGOING),
        load(libc::BPF_W, ANCILLARY.wrapping_add(libc::SKF_AD_PROTOCOL as u32)),
        jump(libc::BPF_JEQ, 0, 10, libc::ETH_P_IP as u32),
        load(libc::BPF_W, ANCILLARY.wrapping_add(libc::SKF_AD_VLAN_TAG_PRESENT as u32)),
        jump(libc::BPF_JEQ, 0, 8, 0),
        load(libc::BPF_B, NETWORK.wrapping_add(9)),
        jump(libc::BPF_JEQ, 0, 6, UDP),
        load(libc::BPF_B, NETWORK.wrapping_add(8)),
        jump(libc::BPF_JGE, 0, 4, 1),
        load(libc::BPF_B, NETWORK.wrapping_add(16)),
        jump(libc::BPF_JGE, 0, 2, 224),
        jump(libc::BPF_JGE, 1, 0, 240),
        accept(),
        reject(),
    ]
}

/// The same for IPv6, where a hop limit of 0 and the scopes 0 and 1 do not leave the host. UDP may be
/// in fragments.
pub(super) fn outgoing_v6() -> [SockFilter; 19] {
    let header = |offset: u32| load(libc::BPF_B, NETWORK.wrapping_add(offset));
    [
        load(libc::BPF_W, ANCILLARY.wrapping_add(libc::SKF_AD_PKTTYPE as u32)),
        jump(libc::BPF_JEQ, 0, 16, PACKET_OUTGOING),
        load(libc::BPF_W, ANCILLARY.wrapping_add(libc::SKF_AD_PROTOCOL as u32)),
        jump(libc::BPF_JEQ, 0, 14, libc::ETH_P_IPV6 as u32),
        load(libc::BPF_W, ANCILLARY.wrapping_add(libc::SKF_AD_VLAN_TAG_PRESENT as u32)),
        jump(libc::BPF_JEQ, 0, 12, 0),
        header(6),
        jump(libc::BPF_JEQ, 3, 0, UDP),
        jump(libc::BPF_JEQ, 0, 9, FRAGMENT),
        header(40),
        jump(libc::BPF_JEQ, 0, 7, UDP),
        header(7),
        jump(libc::BPF_JGE, 0, 5, 1),
        header(24),
        jump(libc::BPF_JEQ, 0, 3, 0xff),
        header(25),
        jump(libc::BPF_JSET, 0, 1, 0x0e),
        accept(),
        reject(),
    ]
}

fn load(size: u32, offset: u32) -> SockFilter {
    op(libc::BPF_LD | size | libc::BPF_ABS, 0, 0, offset)
}

fn accept() -> SockFilter {
    op(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX)
}

fn reject() -> SockFilter {
    op(libc::BPF_RET | libc::BPF_K, 0, 0, 0)
}

fn jump(condition: u32, yes: u8, no: u8, value: u32) -> SockFilter {
    op(libc::BPF_JMP | condition | libc::BPF_K, yes, no, value)
}

fn op(code: u32, jt: u8, jf: u8, k: u32) -> SockFilter {
    SockFilter::new(code as u16, jt, jf, k)
}

#[cfg(test)]
mod tests {

    use proptest::prelude::*;
    use socket2::{Domain, Socket, Type};

    use super::*;
    use crate::sys::classic_bpf;

    fn lets_through(program: &[SockFilter], destination: u32) -> bool {
        // SAFETY: SockFilter is `repr(transparent)` over the C structure.
        let code: &[libc::sock_filter] =
            unsafe { std::slice::from_raw_parts(program.as_ptr().cast(), program.len()) };
        let word = |offset| if offset == DESTINATION { destination } else { 0 };
        classic_bpf::run(code, word) != 0
    }

    fn lets_through_v6(program: &[SockFilter], destination: Ipv6Addr) -> bool {
        // SAFETY: as above.
        let code: &[libc::sock_filter] =
            unsafe { std::slice::from_raw_parts(program.as_ptr().cast(), program.len()) };
        let word = |offset: u32| {
            let shift = 96 - 8 * offset.wrapping_sub(DESTINATION_V6);
            (destination.to_bits() >> shift) as u32
        };
        classic_bpf::run(code, word) != 0
    }

    proptest! {
        #[test]
        fn listed_groups_of_ipv6_pass_and_none_with_other_last_bits(
            groups in prop::collection::btree_set((0u128..3, 0u32..300), 0..200),
            probe in (0u128..3, 0u32..300),
        ) {
            let group = |(scope, last): (u128, u32)| {
                Ipv6Addr::from_bits((0xff02 + scope) << 112 | u128::from(last))
            };
            let list: Vec<_> = groups.iter().map(|parts| group(*parts)).collect();
            let program = only_v6(&list);
            let is_listed = groups.iter().any(|(_, last)| *last == probe.1);
            prop_assert_eq!(lets_through_v6(&program, group(probe)), is_listed);
            prop_assert!(list.iter().all(|group| lets_through_v6(&program, *group)));
        }

        #[test]
        fn only_listed_groups_pass(
            groups in prop::collection::btree_set(0xe000_0000u32..0xe000_0200, 0..300),
            probe in 0xdfff_ff00u32..0xe000_0300,
        ) {
            let list: Vec<Ipv4Addr> = groups.iter().map(|g| Ipv4Addr::from(*g)).collect();
            let program = only(&list);
            prop_assert_eq!(lets_through(&program, probe), groups.contains(&probe));
            prop_assert!(groups.iter().all(|group| lets_through(&program, *group)));
        }
    }

    #[test]
    fn the_longest_program_is_accepted_and_a_longer_list_accepts_all_groups() {
        let list = |count: u32| -> Vec<Ipv4Addr> {
            let groups: BTreeSet<u32> = (0..count).map(|n| 0xe100_0000 + n * 3).collect();
            groups.into_iter().map(Ipv4Addr::from).collect()
        };
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        for count in [0, 1, MAX_GROUPS as u32] {
            socket.attach_filter(&only(&list(count))).unwrap();
        }
        let list_v6 = |count: u128| -> Vec<_> {
            (0..count).map(|n| Ipv6Addr::from_bits((0xff0e << 112) + n * 3)).collect()
        };
        socket.attach_filter(&only_v6(&list_v6(MAX_GROUPS as u128))).unwrap();
        socket.attach_filter(&only_v6(&list_v6(MAX_GROUPS as u128 + 1))).unwrap();
        let wide = only(&list(MAX_GROUPS as u32 + 1));
        socket.attach_filter(&wide).unwrap();
        assert!(lets_through(&wide, 0xe000_0001) && lets_through(&wide, 0xefff_ffff));
        assert!(!lets_through(&wide, 0xdfff_ffff) && !lets_through(&wide, 0xf000_0000));
    }
}

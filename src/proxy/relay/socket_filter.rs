//! A classic BPF program that accepts packets to a set of groups, so that the kernel drops packets
//! of other groups before they are queued.

use std::net::Ipv4Addr;

use socket2::SockFilter;

/// Offset of the destination in an IPv4 header (RFC 791 §3.1).
const DESTINATION: u32 = 16;
/// Most addresses that are compared one by one at the end of the binary search.
const LEAF: usize = 4;
/// Most groups for which the program stays below the kernel's limit of 4096 instructions
/// (`BPF_MAXINSNS`).
const MAX_GROUPS: usize = 1024;
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
    use std::collections::BTreeSet;

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

    proptest! {
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
        let wide = only(&list(MAX_GROUPS as u32 + 1));
        socket.attach_filter(&wide).unwrap();
        assert!(lets_through(&wide, 0xe000_0001) && lets_through(&wide, 0xefff_ffff));
        assert!(!lets_through(&wide, 0xdfff_ffff) && !lets_through(&wide, 0xf000_0000));
    }
}

//! A filter of what the processes of a control group may send (`BPF_PROG_TYPE_CGROUP_SKB`).
//!
//! The kernel runs it for each IP packet of a socket that was made in the group, in whatever network
//! namespace, where the packet leaves the IP layer (`ip_finish_output` and `ip_mc_finish_output` in
//! net/ipv4/ip_output.c): also for what goes to loopback, and for the copy of a multicast packet
//! that is looped back. It sees the packet as it is, whatever a raw socket was told to route by.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::sys::bpf;

/// Commands and constants of linux/bpf.h.
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_PROG_QUERY: libc::c_int = 16;
const BPF_PROG_TYPE_CGROUP_SKB: u32 = 8;
const BPF_CGROUP_INET_EGRESS: u32 = 1;
const BPF_F_ALLOW_MULTI: u32 = 2;
const SKB_LOAD_BYTES: i32 = 26;
/// Offsets in `struct __sk_buff`.
const MARK: i16 = 8;
const PROTOCOL: i16 = 16;
/// Offsets of the destination in an IP packet.
const DESTINATION_V4: i32 = 16;
const DESTINATION_V6: i32 = 24;

/// One instruction (`struct bpf_insn`).
#[repr(C)]
#[derive(Clone, Copy)]
struct Instruction {
    code: u8,
    /// The destination register in the lower half, the source register in the upper one.
    registers: u8,
    offset: i16,
    immediate: i32,
}

const fn op(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { code, registers: from << 4 | to, offset, immediate }
}

/// Copies a register.
const fn copy(to: u8, from: u8) -> Instruction {
    op(0xbf, to, from, 0, 0)
}

/// Sets a register.
const fn set(to: u8, value: i32) -> Instruction {
    op(0xb7, to, 0, 0, value)
}

/// Loads 32 bits of the memory that a register points to.
const fn load(to: u8, from: u8, offset: i16) -> Instruction {
    op(0x61, to, from, offset, 0)
}

/// Skips instructions if a register has this value.
const fn skip_if_equal(register: u8, value: i32, skip: i16) -> Instruction {
    op(0x15, register, 0, skip, value)
}

/// Skips instructions if a register has another value.
const fn skip_unless_equal(register: u8, value: i32, skip: i16) -> Instruction {
    op(0x55, register, 0, skip, value)
}

const EXIT: Instruction = op(0x95, 0, 0, 0, 0);

/// Lets through what has a mark, and what goes to a multicast group.
///
/// The sockets with a mark are those in the container's namespace. To set a mark needs a capability
/// that the proxy has given up.
const PROGRAM: [Instruction; 24] = [
    copy(6, 1),
    load(2, 6, MARK),
    skip_unless_equal(2, 0, 19),
    load(2, 6, PROTOCOL),
    set(7, DESTINATION_V4),
    skip_if_equal(2, (libc::ETH_P_IP as u16).to_be() as i32, 2),
    skip_unless_equal(2, (libc::ETH_P_IPV6 as u16).to_be() as i32, 13),
    set(7, DESTINATION_V6),
    // The first byte of the destination.
    copy(1, 6),
    copy(2, 7),
    copy(3, 10),
    op(0x07, 3, 0, 0, -8),
    set(4, 1),
    op(0x85, 0, 0, 0, SKB_LOAD_BYTES),
    skip_unless_equal(0, 0, 5),
    op(0x71, 2, 10, -8, 0),
    skip_unless_equal(7, DESTINATION_V4, 2),
    // 224.0.0.0/4.
    op(0x57, 2, 0, 0, 0xf0),
    skip_if_equal(2, 0xe0, 3),
    // ff00::/8. The masked byte of IPv4 is never 0xff.
    skip_if_equal(2, 0xff, 2),
    set(0, 0),
    EXIT,
    set(0, 1),
    EXIT,
];

/// Whether the group has a filter of this kind.
///
/// # Errors
/// `EPERM` without CAP_NET_ADMIN, `EINVAL` where the kernel has no such filters.
pub(crate) fn is_attached(group: BorrowedFd<'_>) -> io::Result<bool> {
    /// The query part of `union bpf_attr`.
    #[repr(C)]
    #[derive(Default)]
    struct Query {
        group: u32,
        kind: u32,
        flags: u32,
        attach_flags: u32,
        ids: u64,
        count: u32,
        padding: u32,
    }
    let mut query = Query {
        group: group.as_raw_fd().cast_unsigned(),
        kind: BPF_CGROUP_INET_EGRESS,
        ..Query::default()
    };
    // SAFETY: the structure is a beginning of bpf_attr. Without room for ids the kernel writes the
    // number of programs only.
    unsafe { bpf::call(BPF_PROG_QUERY, &raw mut query) }?;
    Ok(query.count > 0)
}

/// Attaches the filter to a group.
///
/// # Errors
/// `EPERM` without CAP_BPF and CAP_NET_ADMIN, `EINVAL` where the kernel has no such filters.
pub(crate) fn attach(group: BorrowedFd<'_>) -> io::Result<()> {
    /// The attach part of `union bpf_attr`.
    #[repr(C)]
    struct Attach {
        group: u32,
        program: u32,
        kind: u32,
        flags: u32,
    }
    let (kind, attach_kind) = (BPF_PROG_TYPE_CGROUP_SKB, BPF_CGROUP_INET_EGRESS);
    let program = bpf::load_program(kind, attach_kind, c"mcrun_egress", &PROGRAM)?;
    let mut attach = Attach {
        group: group.as_raw_fd().cast_unsigned(),
        program: program.as_raw_fd().cast_unsigned(),
        kind: BPF_CGROUP_INET_EGRESS,
        flags: BPF_F_ALLOW_MULTI,
    };
    // SAFETY: the structure is a beginning of bpf_attr, and both descriptors are open.
    unsafe { bpf::call(BPF_PROG_ATTACH, &raw mut attach) }.map(drop)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
    use std::os::fd::AsFd;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::sys::cgroup::ControlGroup;

    /// A group of this test, removed at its end.
    struct TestGroup(ControlGroup);

    impl TestGroup {
        fn new() -> Self {
            static COUNTER: AtomicU32 = AtomicU32::new(0);
            let number = COUNTER.fetch_add(1, Ordering::Relaxed);
            let name = format!("mcrun-test-{}-{number}", std::process::id());
            TestGroup(ControlGroup::open_or_make(&name).unwrap())
        }
    }

    impl Drop for TestGroup {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir(self.0.path());
        }
    }

    #[test]
    fn the_kernel_accepts_the_program_and_tells_of_it() {
        let group = TestGroup::new();
        assert!(!is_attached(group.0.as_fd()).unwrap());
        attach(group.0.as_fd()).unwrap();
        assert!(is_attached(group.0.as_fd()).unwrap());
    }

    #[test]
    fn jumps_lead_to_the_two_ends() {
        let ends = |at: usize| {
            let jump = PROGRAM[at];
            assert!(matches!(jump.code, 0x15 | 0x55), "{at}");
            at + 1 + jump.offset as usize
        };
        let (deny, allow) = (20, 22);
        assert_eq!([2, 6, 14, 18, 19].map(ends), [allow, deny, deny, allow, allow]);
        assert_eq!([5, 16].map(ends), [8, 19]);
    }

    /// Sends are refused to the group's processes alone.
    #[test]
    fn another_group_is_not_affected() {
        let group = TestGroup::new();
        attach(group.0.as_fd()).unwrap();
        let receiver = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let to = SocketAddrV4::new(Ipv4Addr::LOCALHOST, receiver.local_addr().unwrap().port());
        let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        assert_eq!(sender.send_to(b"x", to).unwrap(), 1);
    }
}

use std::collections::BTreeMap;
use std::sync::LazyLock;

use libc::sock_filter;
use proptest::prelude::*;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

use crate::proxy::config;
use crate::proxy::process::sandbox::assembler::OneOf;
use crate::proxy::process::sandbox::system_calls::{
    ALWAYS, ARCHITECTURE, CHECKED, NOT_BY, OPTIONS, PROGRAM, value,
};
use crate::sys::classic_bpf;

const ALLOWED: u32 = libc::SECCOMP_RET_ALLOW;
const DENIED: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;

/// `struct seccomp_data`.
#[derive(Debug, Clone, Copy)]
struct Data {
    number: u32,
    architecture: u32,
    arguments: [u64; 6],
}

impl Data {
    fn word(&self, offset: u32) -> u32 {
        match offset {
            0 => self.number,
            4 => self.architecture,
            16..64 if offset.is_multiple_of(4) => {
                let argument = self.arguments[(offset as usize - 16) / 8];
                (argument >> (offset % 8 * 8)) as u32
            }
            _ => panic!("nothing is read at {offset}"),
        }
    }
}

fn call(number: libc::c_long, arguments: &[u64]) -> Data {
    let mut data = Data { number: number as u32, architecture: ARCHITECTURE, arguments: [0; 6] };
    data.arguments[..arguments.len()].copy_from_slice(arguments);
    data
}

fn verdict(program: &[sock_filter], data: &Data) -> u32 {
    classic_bpf::run(program, |offset| data.word(offset))
}

/// The same rules, assembled by the crate seccompiler.
static ORACLE: LazyLock<Vec<sock_filter>> = LazyLock::new(oracle);

fn oracle() -> Vec<sock_filter> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        ALWAYS.iter().map(|number| (*number, Vec::new())).collect();
    for (number, descriptors) in NOT_BY {
        let others = descriptors.iter().map(|fd| condition(0, SeccompCmpOp::Ne, u64::from(*fd)));
        rules.insert(*number, vec![SeccompRule::new(others.collect()).unwrap()]);
    }
    for (number, checks) in CHECKED {
        rules.insert(*number, alternatives(checks));
    }
    let options = OPTIONS
        .iter()
        .map(|(level, names, checks)| [&[value(1, level), value(2, names)], *checks].concat());
    let options = options.flat_map(|checks| alternatives(&checks));
    rules.insert(libc::SYS_setsockopt, options.collect());
    let program: BpfProgram = SeccompFilter::new(
        rules,
        SeccompAction::Errno(libc::EPERM as u32),
        SeccompAction::Allow,
        std::env::consts::ARCH.try_into().unwrap(),
    )
    .and_then(TryInto::try_into)
    .unwrap();
    program.iter().map(|i| sock_filter { code: i.code, jt: i.jt, jf: i.jf, k: i.k }).collect()
}

fn condition(argument: u8, operator: SeccompCmpOp, value: u64) -> SeccompCondition {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value).unwrap()
}

/// One rule for each combination of values.
fn alternatives(checks: &[OneOf]) -> Vec<SeccompRule> {
    let mut chosen = vec![Vec::new()];
    for OneOf { argument, mask, values } in checks {
        let operator = SeccompCmpOp::MaskedEq(u64::from(*mask));
        let with = |value: &u32| condition(*argument as u8, operator.clone(), u64::from(*value));
        chosen = chosen
            .iter()
            .flat_map(|before| {
                values.iter().map(|value| [before.clone(), vec![with(value)]].concat())
            })
            .collect();
    }
    chosen.into_iter().map(|conditions| SeccompRule::new(conditions).unwrap()).collect()
}

/// Values that a rule compares with, values that differ in a high bit, and others.
fn argument() -> impl Strategy<Value = u64> {
    let options = OPTIONS.iter().flat_map(|(levels, names, _)| levels.iter().chain(*names));
    let checked = CHECKED.iter().flat_map(|(_, checks)| checks.iter().flat_map(|c| c.values));
    let known: Vec<_> = options.chain(checked).map(|value| u64::from(*value)).collect();
    prop_oneof![
        8 => proptest::sample::select(known.clone()),
        1 => proptest::sample::select(known).prop_map(|value| value ^ 1 << 35),
        1 => 0u64..300,
        1 => proptest::sample::select(vec![
            config::PACKET_SOCKET as u64,
            config::PARENT_FRAME_SOCKET as u64,
            config::COUNT_SOCKETS.start as u64,
            config::COUNT_SOCKETS.end as u64 - 1,
            config::TAP_SOCKETS.start as u64,
            config::TAP_SOCKETS.end as u64 - 1,
        ]),
        1 => any::<u64>(),
    ]
}

fn number() -> impl Strategy<Value = u32> {
    let checked = CHECKED.iter().map(|(number, _)| *number as u32);
    let not_by = NOT_BY.iter().map(|(number, _)| *number as u32);
    let checked: Vec<_> = checked.chain(not_by).chain([libc::SYS_setsockopt as u32]).collect();
    prop_oneof![
        3 => proptest::sample::select(checked),
        1 => 0u32..500,
        1 => any::<u32>(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn both_assemblers_treat_a_call_alike(
        number in number(),
        arguments in proptest::array::uniform6(argument()),
    ) {
        let data = Data { number, architecture: ARCHITECTURE, arguments };
        prop_assert_eq!(verdict(&PROGRAM, &data), verdict(&ORACLE, &data));
    }
}

#[test]
fn both_assemblers_treat_every_number_alike() {
    for number in 0..2000 {
        let data = call(number, &[]);
        assert_eq!(verdict(&PROGRAM, &data), verdict(&ORACLE, &data), "{number}");
    }
}

#[test]
fn what_a_proxy_does_is_allowed_and_the_rest_is_not() {
    let (inet, dgram) = (libc::AF_INET as u64, (libc::SOCK_DGRAM | libc::SOCK_CLOEXEC) as u64);
    let ip = libc::IPPROTO_IP as u64;
    let packet_socket = config::PACKET_SOCKET as u64;
    let parent_socket = config::PARENT_FRAME_SOCKET as u64;
    let counting: Vec<_> = config::COUNT_SOCKETS.map(|socket| socket as u64).collect();
    let allowed = [
        call(libc::SYS_recvmsg, &[7, 1 << 40]),
        call(libc::SYS_socket, &[inet, dgram]),
        call(libc::SYS_setsockopt, &[7, ip, libc::MCAST_JOIN_GROUP as u64]),
        call(libc::SYS_mmap, &[0, 4096, libc::PROT_READ as u64]),
        call(libc::SYS_sendto, &[packet_socket + 1]),
        call(libc::SYS_write, &[parent_socket]),
        call(libc::SYS_close, &[parent_socket]),
        call(libc::SYS_bind, &[config::TAP_SOCKETS.start as u64]),
        call(libc::SYS_bind, &[config::COUNT_SOCKETS.start as u64]),
        // BPF_MAP_UPDATE_ELEM
        call(libc::SYS_bpf, &[2]),
        call(
            libc::SYS_setsockopt,
            &[packet_socket, libc::SOL_PACKET as u64, libc::PACKET_ADD_MEMBERSHIP as u64],
        ),
    ];
    let denied = [
        call(libc::SYS_openat, &[]),
        call(libc::SYS_execve, &[]),
        call(libc::SYS_socket, &[inet, libc::SOCK_RAW as u64]),
        call(libc::SYS_socket, &[libc::AF_INET6 as u64, libc::SOCK_RAW as u64]),
        call(libc::SYS_setsockopt, &[7, ip, libc::IP_HDRINCL as u64]),
        call(libc::SYS_setsockopt, &[7, libc::SOL_SOCKET as u64, libc::MCAST_JOIN_GROUP as u64]),
        call(libc::SYS_mmap, &[0, 4096, libc::PROT_EXEC as u64]),
        call(libc::SYS_sendto, &[packet_socket]),
        // The kernel uses the lower 32 bits of a descriptor.
        call(libc::SYS_sendmsg, &[packet_socket | 1 << 32]),
        call(libc::SYS_bind, &[packet_socket]),
        call(libc::SYS_write, &[packet_socket]),
        call(libc::SYS_sendto, &[parent_socket]),
        call(libc::SYS_sendmmsg, &[parent_socket]),
        call(libc::SYS_bind, &[parent_socket]),
        call(
            libc::SYS_setsockopt,
            &[parent_socket, libc::SOL_PACKET as u64, libc::PACKET_ADD_MEMBERSHIP as u64],
        ),
        // BPF_PROG_LOAD and BPF_LINK_CREATE
        call(libc::SYS_bpf, &[5]),
        call(libc::SYS_bpf, &[28]),
        // The x32 numbers of x86_64.
        call(libc::SYS_read | 0x4000_0000, &[]),
    ];
    let by_counting = counting.iter().flat_map(|socket| {
        let numbers = [libc::SYS_sendto, libc::SYS_sendmsg, libc::SYS_sendmmsg, libc::SYS_write];
        numbers.map(|number| call(number, &[*socket]))
    });
    let by_tap = config::TAP_SOCKETS.map(|socket| socket as u64).flat_map(|socket| {
        let numbers = [libc::SYS_sendto, libc::SYS_sendmsg, libc::SYS_sendmmsg, libc::SYS_write];
        numbers.map(|number| call(number, &[socket]))
    });
    let denied = denied.into_iter().chain(by_counting).chain(by_tap).collect::<Vec<_>>();
    allowed.iter().for_each(|data| assert_eq!(verdict(&PROGRAM, data), ALLOWED, "{data:?}"));
    denied.iter().for_each(|data| assert_eq!(verdict(&PROGRAM, data), DENIED, "{data:?}"));
}

#[test]
fn numbers_of_another_architecture_end_the_process() {
    // AUDIT_ARCH_I386, where 3 is read.
    let foreign = Data { architecture: 0x4000_0003, ..call(3, &[]) };
    assert_eq!(verdict(&PROGRAM, &foreign), libc::SECCOMP_RET_KILL_PROCESS);
}

#[test]
fn the_kernel_accepts_the_program() {
    // SAFETY: the child makes system calls only; nothing is allocated in it.
    match unsafe { nix::unistd::fork() }.unwrap() {
        nix::unistd::ForkResult::Child => {
            let privileges = crate::proxy::process::sandbox::prctl(libc::PR_SET_NO_NEW_PRIVS, 1);
            let done =
                privileges.and_then(|()| crate::proxy::process::sandbox::system_calls::restrict());
            // SAFETY: as above. The path is not read: the filter comes before.
            let opened = unsafe { libc::open(c"/".as_ptr(), libc::O_RDONLY) };
            let denied = opened < 0 && nix::errno::Errno::last() == nix::errno::Errno::EPERM;
            // SAFETY: as above.
            unsafe { libc::_exit(i32::from(!(done.is_ok() && denied))) };
        }
        nix::unistd::ForkResult::Parent { child } => {
            let ended = nix::sys::wait::waitpid(child, None).unwrap();
            assert_eq!(ended, nix::sys::wait::WaitStatus::Exited(child, 0));
        }
    }
}

//! An interpreter for classic BPF, with which the tests run the programs that are made here.

use libc::{
    BPF_ABS, BPF_ALU, BPF_AND, BPF_JA, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W,
    sock_filter,
};

/// What the program returns; `word` is the data at an offset.
///
/// # Panics
/// At an instruction that no program of ours has, and at a jump out of the program.
pub(crate) fn run(program: &[sock_filter], word: impl Fn(u32) -> u32) -> u32 {
    let (mut at, mut accumulator) = (0, 0);
    loop {
        let sock_filter { code, jt, jf, k } = program[at];
        at += 1;
        let mut choose = |condition| at += usize::from(if condition { jt } else { jf });
        match u32::from(code) {
            code if code == BPF_LD | BPF_W | BPF_ABS => accumulator = word(k),
            code if code == BPF_ALU | BPF_AND | BPF_K => accumulator &= k,
            code if code == BPF_JMP | BPF_JEQ | BPF_K => choose(accumulator == k),
            code if code == BPF_JMP | BPF_JGE | BPF_K => choose(accumulator >= k),
            code if code == BPF_JMP | BPF_JA => at += k as usize,
            code if code == BPF_RET | BPF_K => return k,
            code => panic!("an instruction {code:#x}"),
        }
    }
}

//! Reads an object of clang, an ELF file for the machine `EM_BPF`, while mcrun is compiled.
//!
//! A section of the object is one program. All variables are in `.bss`, so that they begin as zeros
//! and the object has no data. Other maps are objects of four bytes in `.maps`, of which only the order
//! counts. Whatever is not as expected here ends the compilation.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use crate::bpf::program::Map;

/// Offsets in the ELF header (elf(5)).
const SECTIONS_AT: usize = 40;
const SECTION_COUNT: usize = 60;
const NAMES_INDEX: usize = 62;
/// Bytes of a section header, and offsets in it.
const SECTION_HEADER: usize = 64;
const KIND: usize = 4;
const OFFSET: usize = 24;
const SIZE: usize = 32;
const LINK: usize = 40;
/// Kinds of sections.
const NOBITS: u32 = 8;
/// Bytes of a symbol and of a relocation.
const SYMBOL: usize = 24;
const RELOCATION: usize = 16;
/// `R_BPF_64_64`: the address of a variable, in an instruction of 16 bytes.
const ADDRESS: u32 = 1;
/// `BPF_LD | BPF_DW | BPF_IMM`: loads 64 bits that are in the instruction.
const LOAD_IMMEDIATE: u64 = 0x18;
/// `BPF_PSEUDO_MAP_FD`: what is loaded is a map.
const MAP: u64 = 1;
/// `BPF_PSEUDO_MAP_VALUE`: what is loaded is the address of a map's value.
const MAP_VALUE: u64 = 2;
/// Bytes of an object in `.maps`.
const MAP_OBJECT: u64 = 4;

/// An instruction that loads the address of a variable, or a map.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reference {
    /// Number of the instruction.
    instruction: u32,
    target: Target,
}

#[derive(Debug, Clone, Copy)]
enum Target {
    /// The variable at this offset.
    Variable(u32),
    /// The map of this position in `.maps`.
    Map(u32),
}

/// Makes the instructions load the addresses of the variables, and the maps: those of `.maps` in their
/// order. The kernel does not load a program for which
/// one is missing.
pub(super) fn point_to(
    instructions: &mut [u64],
    references: &[Reference],
    variables: &Map,
    maps: &[BorrowedFd<'_>],
) {
    for Reference { instruction, target } in references {
        let (descriptor, kind, offset) = match *target {
            Target::Variable(offset) => (Some(variables.as_fd()), MAP_VALUE, offset),
            Target::Map(position) => (maps.get(position as usize).copied(), MAP, 0),
        };
        let descriptor = descriptor.map_or(-1, |map| map.as_raw_fd()).cast_unsigned();
        let at = *instruction as usize;
        if let Some([first, second]) = instructions.get_mut(at..at + 2) {
            *first = *first & 0x0fff | kind << 12 | u64::from(descriptor) << 32;
            *second = u64::from(offset) << 32;
        }
    }
}

/// Instructions of 8 bytes in a section.
pub(super) const fn instruction_count(object: &[u8], section: &[u8]) -> usize {
    long(object, find(object, b"", section) + SIZE) as usize / 8
}

/// The instructions of a section, as the kernel takes them on a machine that is little-endian.
pub(super) const fn instructions<const N: usize>(object: &[u8], section: &[u8]) -> [u64; N] {
    const { assert!(cfg!(target_endian = "little"), "the objects are made for little-endian machines") };
    let start = long(object, find(object, b"", section) + OFFSET) as usize;
    let mut instructions = [0; N];
    let mut at = 0;
    while at < N {
        instructions[at] = long(object, start + at * 8);
        at += 1;
    }
    instructions
}

/// References of a section's instructions to variables and maps.
pub(super) const fn reference_count(object: &[u8], section: &[u8]) -> usize {
    long(object, find(object, b".rel", section) + SIZE) as usize / RELOCATION
}

/// The references of a section's instructions to variables and maps.
pub(super) const fn references<const N: usize>(object: &[u8], section: &[u8]) -> [Reference; N] {
    let relocations = find(object, b".rel", section);
    let start = long(object, relocations + OFFSET) as usize;
    let symbols = header(object, word(object, relocations + LINK) as usize);
    let symbols = long(object, symbols + OFFSET) as usize;
    let program = long(object, find(object, b"", section) + OFFSET) as usize;
    let mut references = [Reference { instruction: 0, target: Target::Variable(0) }; N];
    let mut at = 0;
    while at < N {
        let relocation = start + at * RELOCATION;
        let place = long(object, relocation) as usize;
        assert!(word(object, relocation + 8) == ADDRESS, "a relocation of another kind");
        let symbol = symbols + word(object, relocation + 12) as usize * SYMBOL;
        let instruction = long(object, program + place);
        assert!(instruction & 0xff == LOAD_IMMEDIATE, "a relocation of another instruction");
        // What the instruction has is added to where the symbol is.
        let offset = (instruction >> 32) + long(object, symbol + 8);
        let index = short(object, symbol + 6) as usize;
        let target = if is_named(object, index, b".maps") {
            Target::Map((offset / MAP_OBJECT) as u32)
        } else {
            let is_bss = word(object, header(object, index) + KIND) == NOBITS;
            assert!(is_bss, "a variable that is not in .bss");
            Target::Variable(offset as u32)
        };
        references[at] = Reference { instruction: place as u32 / 8, target };
        at += 1;
    }
    references
}

/// Bytes of all variables.
pub(super) const fn data_size(object: &[u8]) -> usize {
    long(object, find(object, b"", b".bss") + SIZE) as usize
}

/// Where the header of a section is whose name has these two parts.
const fn find(object: &[u8], first: &[u8], second: &[u8]) -> usize {
    let names = header(object, short(object, NAMES_INDEX) as usize);
    let names = long(object, names + OFFSET) as usize;
    let mut index = 0;
    while index < short(object, SECTION_COUNT) as usize {
        let section = header(object, index);
        let name = names + word(object, section) as usize;
        let rest = name + first.len();
        if is(object, name, first) && is(object, rest, second) && object[rest + second.len()] == 0 {
            return section;
        }
        index += 1;
    }
    panic!("a section is missing")
}

/// Whether the section of this number has this name.
const fn is_named(object: &[u8], index: usize, expected: &[u8]) -> bool {
    let names = header(object, short(object, NAMES_INDEX) as usize);
    let name = long(object, names + OFFSET) as usize + word(object, header(object, index)) as usize;
    is(object, name, expected) && object[name + expected.len()] == 0
}

/// Where the header of a section is.
const fn header(object: &[u8], index: usize) -> usize {
    long(object, SECTIONS_AT) as usize + index * SECTION_HEADER
}

const fn is(object: &[u8], at: usize, text: &[u8]) -> bool {
    let mut index = 0;
    while index < text.len() {
        if object[at + index] != text[index] {
            return false;
        }
        index += 1;
    }
    true
}

const fn short(object: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([object[at], object[at + 1]])
}

const fn word(object: &[u8], at: usize) -> u32 {
    short(object, at) as u32 | (short(object, at + 2) as u32) << 16
}

const fn long(object: &[u8], at: usize) -> u64 {
    word(object, at) as u64 | (word(object, at + 4) as u64) << 32
}

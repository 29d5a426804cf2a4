//! The programs are static: they run in any image and on any distribution.

use std::fs;
use std::path::Path;

/// Program header types of the ELF format (elf(5)).
const PT_DYNAMIC: u32 = 2;
const PT_INTERP: u32 = 3;
/// Tag of a needed shared library in the dynamic section.
const DT_NEEDED: u64 = 1;

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// Whether a 64-bit little-endian ELF file asks for a loader, and how many libraries it needs.
fn needs(file: &[u8]) -> (bool, usize) {
    assert_eq!(&file[..6], b"\x7fELF\x02\x01", "a 64-bit little-endian ELF file");
    let table = u64_at(file, 32) as usize;
    let size = usize::from(u16::from_le_bytes([file[54], file[55]]));
    let count = usize::from(u16::from_le_bytes([file[56], file[57]]));
    let (mut interpreter, mut libraries) = (false, 0);
    for header in file[table..].chunks(size).take(count) {
        let (offset, length) = (u64_at(header, 8) as usize, u64_at(header, 32) as usize);
        match u32::from_le_bytes(header[..4].try_into().expect("four bytes")) {
            PT_INTERP => interpreter = true,
            PT_DYNAMIC => {
                let entries = file[offset..offset + length].chunks(16);
                libraries += entries.filter(|entry| u64_at(entry, 0) == DT_NEEDED).count();
            }
            _ => {}
        }
    }
    (interpreter, libraries)
}

#[test]
fn the_programs_need_no_loader_and_no_library() {
    for program in [
        env!("CARGO_BIN_EXE_mcrun"),
        env!("CARGO_BIN_EXE_mcrun-hook"),
        env!("CARGO_BIN_EXE_mcrun-cni"),
        env!("CARGO_BIN_EXE_mcrun-dhcp"),
        env!("CARGO_BIN_EXE_mcrun-netavark"),
        env!("CARGO_BIN_EXE_mcrun-proxy"),
        env!("CARGO_BIN_EXE_mcrun-runtime"),
    ] {
        assert_eq!(needs(&fs::read(program).expect("readable")), (false, 0), "{program}");
    }
}

#[test]
fn the_check_sees_a_dynamic_program() {
    let shell = ["/bin/bash", "/bin/dash"].into_iter().find(|path| Path::new(path).exists());
    let (interpreter, libraries) = needs(&fs::read(shell.expect("a shell")).expect("readable"));
    assert!(interpreter && libraries > 0);
}

//! `mcrun-proxy`: the IGMP proxy of one container, started by the hook.

#![no_main]

use mcrun::sys::program;

// SAFETY: this is the only `main` of the program, and has a type that C calls.
#[unsafe(no_mangle)]
extern "C" fn main(count: i32, _arguments: *const *const u8) -> program::Status {
    program::begin();
    // With an argument, the process holds a lease of DHCP.
    match count > 1 {
        true => mcrun::dhcp::main(),
        false => mcrun::proxy::main(),
    }
}

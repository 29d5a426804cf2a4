//! `mcrun-proxy`: the IGMP proxy of one container, started by the hook.

#![no_main]

use mcrun::sys::program;

// SAFETY: this is the only `main` of the program, and has a type that C calls.
#[unsafe(no_mangle)]
extern "C" fn main() -> program::Status {
    program::begin();
    mcrun::proxy::main()
}

//! `mcrun-dhcp`: holds the lease of one interface, started by the attachment service.
//!
//! It is no part of `mcrun-proxy`, of which there is one for each container: what sets addresses takes
//! memory in each process that has it.

#![no_main]

use mcrun::sys::program;

// SAFETY: this is the only `main` of the program, and has a type that C calls.
#[unsafe(no_mangle)]
extern "C" fn main() -> program::Status {
    program::begin();
    mcrun::dhcp::main()
}

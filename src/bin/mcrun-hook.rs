//! `mcrun-hook`: what OCI runtimes call. Not for people, so it has no options to learn.

#![no_main]

use std::io::{Read, stdin};

use mcrun::hook;
use mcrun::oci::MAX_STATE;
use mcrun::state::Store;
use mcrun::sys::program;

const USAGE: &str = "usage: mcrun-hook createRuntime|prestart|poststart|poststop, with the container's OCI state on standard input";

/// The exit status of a wrong command line.
const USAGE_STATUS: program::Status = 2;

// SAFETY: this is the only `main` of the program, and has a type that C calls.
#[unsafe(no_mangle)]
extern "C" fn main() -> program::Status {
    program::begin();
    let mut args = std::env::args_os().skip(1);
    let stage = args.next().unwrap_or_default();
    let extra = args.next().is_some();
    let run = match stage.to_str() {
        Some("--help" | "-h") => {
            println!("{USAGE}");
            return program::SUCCESS;
        }
        Some("--version" | "-V") => {
            println!("mcrun-hook {}", env!("CARGO_PKG_VERSION"));
            return program::SUCCESS;
        }
        Some("createRuntime" | "prestart") if !extra => hook::create,
        Some("poststart") if !extra => hook::poststart,
        Some("poststop") if !extra => hook::poststop,
        _ => {
            eprintln!("mcrun-hook: {USAGE}");
            return USAGE_STATUS;
        }
    };
    let mut state = Vec::new();
    if let Err(error) = stdin().lock().take(MAX_STATE as u64 + 1).read_to_end(&mut state) {
        eprintln!("mcrun-hook: cannot read the state on standard input: {error}");
        return program::FAILURE;
    }
    match run(&state, &Store::from_env()) {
        Ok(()) => program::SUCCESS,
        Err(error) => {
            hook::report(&state, &error);
            // The container has stopped: a failure now could only keep the runtime from
            // forgetting it. mcrun gc finds what is left.
            let harmless = stage == "poststop" && !matches!(error, hook::HookError::State(_));
            if harmless { program::SUCCESS } else { program::FAILURE }
        }
    }
}

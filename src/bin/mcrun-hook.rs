//! `mcrun-hook`: what OCI runtimes call. Not for people, so it has no options to learn.

use std::io::{Read, stdin};
use std::process::ExitCode;

use mcrun::hook;
use mcrun::oci::MAX_STATE;
use mcrun::state::Store;

const USAGE: &str = "usage: mcrun-hook createRuntime|prestart|poststart|poststop, with the container's OCI state on standard input";

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let stage = args.next().unwrap_or_default();
    let extra = args.next().is_some();
    let run = match stage.to_str() {
        Some("--help" | "-h") => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Some("--version" | "-V") => {
            println!("mcrun-hook {}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        Some("createRuntime" | "prestart") if !extra => hook::create,
        Some("poststart") if !extra => hook::poststart,
        Some("poststop") if !extra => hook::poststop,
        _ => {
            eprintln!("mcrun-hook: {USAGE}");
            return ExitCode::from(2);
        }
    };
    let mut state = Vec::new();
    if let Err(error) = stdin().lock().take(MAX_STATE as u64 + 1).read_to_end(&mut state) {
        eprintln!("mcrun-hook: cannot read the state on standard input: {error}");
        return ExitCode::FAILURE;
    }
    match run(&state, &Store::from_env()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            hook::report(&state, &error);
            // The container has stopped: a failure now could only keep the runtime from
            // forgetting it. mcrun gc finds what is left.
            let harmless = stage == "poststop" && !matches!(error, hook::HookError::State(_));
            if harmless { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
    }
}

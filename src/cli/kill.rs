//! `mcrun kill`.

use std::process::ExitCode;

use clap::Args;

use crate::standalone;

/// Arguments of `mcrun kill`.
#[derive(Debug, Args)]
pub struct KillArgs {
    /// Signal, by name or number.
    #[arg(short, long, value_name = "SIGNAL", default_value = "SIGKILL")]
    signal: String,
    /// Names, ids, or beginnings of ids.
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

pub(super) fn run(args: KillArgs) -> anyhow::Result<ExitCode> {
    let signal = match standalone::parse_signal(&args.signal) {
        Ok(signal) => signal,
        Err(error) => return Ok(crate::cli::run::exit_code(Err(error))),
    };
    Ok(crate::cli::stop::for_each("kill", &args.containers, |container| {
        standalone::kill(container, signal)
    }))
}

//! `mcrun stop`.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use crate::standalone;
use crate::standalone::StandaloneError;

/// Arguments of `mcrun stop`.
#[derive(Debug, Args)]
pub struct StopArgs {
    /// Seconds from SIGTERM to SIGKILL.
    #[arg(short, long, value_name = "SECONDS", default_value_t = 10)]
    time: u32,
    /// Names, ids, or beginnings of ids.
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

pub(super) fn run(args: StopArgs) -> anyhow::Result<ExitCode> {
    let grace = Duration::from_secs(args.time.into());
    Ok(for_each(&args.containers, |name| standalone::stop(name, grace)))
}

/// Does it to each, printing its name as docker does; status 1 when one failed.
pub(super) fn for_each(
    names: &[String],
    action: impl Fn(&str) -> Result<(), StandaloneError>,
) -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    for name in names {
        match action(name) {
            Ok(()) => println!("{name}"),
            Err(error) => {
                eprintln!("mcrun: {error}");
                code = ExitCode::FAILURE;
            }
        }
    }
    code
}

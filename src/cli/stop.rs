//! `mcrun stop`.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use crate::cli::causes;
use crate::lookup;
use crate::standalone;
use crate::standalone::{Container, StandaloneError};
use crate::state::Store;

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
    Ok(for_each("stop", &args.containers, |container| standalone::stop(container, grace)))
}

/// Finds each container and applies `action`, printing the name as docker does; status 1 when one
/// failed.
pub(super) fn for_each(
    command: &str,
    names: &[String],
    action: impl Fn(&Container) -> Result<(), StandaloneError>,
) -> ExitCode {
    let store = Store::from_env();
    let mut code = ExitCode::SUCCESS;
    for name in names {
        let result = lookup::find_standalone(name, command, &store)
            .map_err(anyhow::Error::from)
            .and_then(|container| Ok(action(&container)?));
        match result {
            Ok(()) => println!("{name}"),
            Err(error) => {
                eprintln!("mcrun: {}", causes(&error));
                code = ExitCode::FAILURE;
            }
        }
    }
    code
}

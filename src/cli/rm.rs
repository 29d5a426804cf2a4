//! `mcrun rm`.

use std::process::ExitCode;

use clap::Args;

use crate::standalone;

/// Arguments of `mcrun rm`.
#[derive(Debug, Args)]
pub struct RmArgs {
    /// Kill and remove running containers too.
    #[arg(short, long)]
    force: bool,
    /// Names, ids, or beginnings of ids.
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

pub(super) fn run(args: RmArgs) -> anyhow::Result<ExitCode> {
    Ok(crate::cli::stop::for_each("rm", &args.containers, |container| {
        standalone::remove(container, args.force)
    }))
}

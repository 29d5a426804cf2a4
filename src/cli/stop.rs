//! `mcrun stop`.

use std::process::ExitCode;

use clap::Args;

/// Arguments of `mcrun stop`.
#[derive(Debug, Args)]
pub struct StopArgs {}

pub(super) fn run(_args: StopArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not implemented")
}

//! `mcrun run`.

use std::process::ExitCode;

use clap::Args;

/// Arguments of `mcrun run`.
#[derive(Debug, Args)]
pub struct RunArgs {}

pub(super) fn run(_args: RunArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not implemented")
}

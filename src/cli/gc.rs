//! `mcrun gc`.

use std::process::ExitCode;

use clap::Args;

/// Arguments of `mcrun gc`.
#[derive(Debug, Args)]
pub struct GcArgs {}

pub(super) fn run(_args: GcArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not implemented")
}

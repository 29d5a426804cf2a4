//! `mcrun probe`.

use std::process::ExitCode;

use clap::Args;

/// Arguments of `mcrun probe`.
#[derive(Debug, Args)]
pub struct ProbeArgs {}

pub(super) fn run(_args: ProbeArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not implemented")
}

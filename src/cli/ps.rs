//! `mcrun ps`.

use std::process::ExitCode;

use clap::Args;

/// Arguments of `mcrun ps`.
#[derive(Debug, Args)]
pub struct PsArgs {}

pub(super) fn run(_args: PsArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not implemented")
}

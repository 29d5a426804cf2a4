//! `mcrun kill`.

use std::process::ExitCode;

use clap::Args;

/// Arguments of `mcrun kill`.
#[derive(Debug, Args)]
pub struct KillArgs {}

pub(super) fn run(_args: KillArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not implemented")
}

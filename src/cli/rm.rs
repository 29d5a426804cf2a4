//! `mcrun rm`.

use std::process::ExitCode;

use clap::Args;

/// Arguments of `mcrun rm`.
#[derive(Debug, Args)]
pub struct RmArgs {}

pub(super) fn run(_args: RmArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not implemented")
}

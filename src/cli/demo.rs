//! `mcrun demo`.

use std::process::ExitCode;

use clap::Args;

/// Arguments of `mcrun demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {}

pub(super) fn run(_args: DemoArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not implemented")
}

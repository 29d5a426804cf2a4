//! `mcrun exec`.

use std::process::ExitCode;

use clap::Args;

/// Arguments of `mcrun exec`.
#[derive(Debug, Args)]
pub struct ExecArgs {}

pub(super) fn run(_args: ExecArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not implemented")
}

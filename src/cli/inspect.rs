//! `mcrun inspect`.

use std::process::ExitCode;

use clap::Args;

/// Arguments of `mcrun inspect`.
#[derive(Debug, Args)]
pub struct InspectArgs {}

pub(super) fn run(_args: InspectArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not implemented")
}

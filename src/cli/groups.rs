//! `mcrun groups`.

use std::process::ExitCode;

use clap::Args;

/// Arguments of `mcrun groups`.
#[derive(Debug, Args)]
pub struct GroupsArgs {}

pub(super) fn run(_args: GroupsArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not implemented")
}

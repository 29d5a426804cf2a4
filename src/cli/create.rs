//! `mcrun create`. clap sees it only when help is asked for: `engine` takes the rest.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Args;

use crate::attachment::option_help;

/// Arguments of `mcrun create`.
#[derive(Debug, Args)]
#[command(
    override_usage = "mcrun create [--engine ENGINE] [--mcast SPEC]... [ENGINE OPTIONS] IMAGE [COMMAND]..."
)]
pub struct CreateArgs {
    /// Engine, by name or path; the default is MCRUN_ENGINE, else the first usable one of docker,
    /// podman and nerdctl.
    #[arg(long, value_name = "ENGINE")]
    engine: Option<String>,
    /// Attach to a LAN: KEY=VALUE[,KEY=VALUE...] (repeatable).
    #[arg(long, value_name = "SPEC", long_help = option_help())]
    mcast: Vec<String>,
    /// The engine's options, the image, and the command.
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        required = true,
        value_name = "IMAGE"
    )]
    arguments: Vec<OsString>,
}

pub(super) fn run(_args: CreateArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!(
        "create needs docker, podman or nerdctl; an OCI runtime runs containers with mcrun run"
    )
}

//! `mcrun start`. clap sees it only when help is asked for: `engine` takes the rest.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Args;

/// Arguments of `mcrun start`.
#[derive(Debug, Args)]
#[command(override_usage = "mcrun start [--engine ENGINE] [ENGINE OPTIONS] CONTAINER...")]
pub struct StartArgs {
    /// Engine, by name or path; the default is MCRUN_ENGINE, else the first usable one of docker,
    /// podman and nerdctl.
    #[arg(long, value_name = "ENGINE")]
    engine: Option<String>,
    /// The engine's options and the containers.
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        required = true,
        value_name = "CONTAINER"
    )]
    arguments: Vec<OsString>,
}

pub(super) fn run(_args: StartArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("start needs docker, podman or nerdctl")
}

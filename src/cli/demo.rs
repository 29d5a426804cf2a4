//! `mcrun demo`.

use std::io;
use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;

use crate::demo::{DemoOptions, demo};

/// Arguments of `mcrun demo`.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit status:
  0    container 2 lost no packet with mcrun, and the switch port saw one IGMP host, or MLD host
  1    container 2 lost packets with mcrun, or the switch port saw several
  125  the demonstration could not run")]
pub struct DemoArgs {
    /// OCI runtime for the containers, such as runc or crun.
    #[arg(long, value_name = "ENGINE")]
    engine: Option<String>,
    /// Show the same with IPv6 and MLD.
    #[arg(long)]
    ipv6: bool,
    /// Print only the result, as one JSON object.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: DemoArgs) -> anyhow::Result<ExitCode> {
    let result = demo(&DemoOptions { engine: args.engine, ipv6: args.ipv6, silent: args.json })?;
    if args.json {
        let text = serde_json::to_string(&result)?;
        writeln!(io::stdout(), "{text}").context("cannot print the result")?;
    }
    Ok(if result.broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

//! `mcrun logs`.

use std::process::ExitCode;

use clap::Args;

use crate::lookup;
use crate::standalone;
use crate::standalone::LogOptions;
use crate::state::Store;

/// Arguments of `mcrun logs`.
#[derive(Debug, Args)]
pub struct LogsArgs {
    /// Go on until the container ends.
    #[arg(short, long)]
    follow: bool,
    /// Show only the last lines: so many, or all.
    #[arg(short = 'n', long, value_name = "NUMBER", default_value = "all", value_parser = parse_tail)]
    tail: Tail,
    /// Show when each line was written, in UTC.
    #[arg(short, long)]
    timestamps: bool,
    /// Name, id, or the beginning of an id.
    container: String,
}

/// Lines from the end; `None` for all.
#[derive(Debug, Clone, Copy)]
struct Tail(Option<usize>);

fn parse_tail(text: &str) -> Result<Tail, String> {
    match text {
        "all" => Ok(Tail(None)),
        _ => text
            .parse()
            .map(|lines| Tail(Some(lines)))
            .map_err(|_| "expected a number or all".into()),
    }
}

pub(super) fn run(args: LogsArgs) -> anyhow::Result<ExitCode> {
    let container = lookup::find_standalone(&args.container, "logs", &Store::from_env())?;
    let options =
        LogOptions { follow: args.follow, tail: args.tail.0, timestamps: args.timestamps };
    Ok(crate::cli::run::exit_code(standalone::logs(&container, &options).map(|()| 0)))
}

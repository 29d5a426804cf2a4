//! `mcrun exec`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::lookup;
use crate::standalone;
use crate::standalone::ExecOptions;
use crate::state::Store;

/// Arguments of `mcrun exec`.
#[derive(Debug, Args)]
pub struct ExecArgs {
    /// Do not wait for the command.
    #[arg(short, long)]
    detach: bool,
    /// Pass standard input to the command.
    #[arg(short, long)]
    interactive: bool,
    /// Give the command a terminal.
    #[arg(short, long)]
    tty: bool,
    /// Set an environment variable: NAME=VALUE, or NAME for the value that it has here
    /// (repeatable).
    #[arg(short, long, value_name = "VARIABLE")]
    env: Vec<String>,
    /// Set environment variables from a file, one on each line (repeatable).
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// Directory in the container in which the command starts.
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// User of the command: USER[:GROUP], as names of the container or numbers.
    #[arg(short, long, value_name = "USER")]
    user: Option<String>,
    /// Name, id, or the beginning of an id.
    container: String,
    /// The command and its arguments.
    #[arg(trailing_var_arg = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

pub(super) fn run(args: ExecArgs) -> anyhow::Result<ExitCode> {
    let options = ExecOptions {
        command: args.command,
        detach: args.detach,
        interactive: args.interactive,
        tty: args.tty,
        env: args.env,
        env_file: args.env_file,
        workdir: args.workdir,
        user: args.user,
    };
    let container = lookup::find_standalone(&args.container, "exec", &Store::from_env())?;
    Ok(crate::cli::run::exit_code(standalone::exec(&container, &options)))
}

//! `mcrun exec`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::standalone;
use crate::standalone::ExecOptions;

/// Arguments of `mcrun exec`.
#[derive(Debug, Args)]
pub struct ExecArgs {
    /// Do not wait for the command.
    #[arg(short, long)]
    detach: bool,
    /// Pass stdin on to the command.
    #[arg(short, long)]
    interactive: bool,
    /// Give the command a terminal.
    #[arg(short, long)]
    tty: bool,
    /// Set a variable, NAME=VALUE, or pass one on, NAME (repeatable).
    #[arg(short, long, value_name = "VARIABLE")]
    env: Vec<String>,
    /// Set the variables of a file, one to a line (repeatable).
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// Directory in the container in which the command starts.
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// User of the command: USER[:GROUP], names or numbers of the container.
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
        container: args.container,
        command: args.command,
        detach: args.detach,
        interactive: args.interactive,
        tty: args.tty,
        env: args.env,
        env_file: args.env_file,
        workdir: args.workdir,
        user: args.user,
    };
    Ok(crate::cli::run::exit_code(standalone::exec(&options)))
}

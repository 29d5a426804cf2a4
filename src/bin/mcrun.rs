//! `mcrun`: the command people use.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().collect();
    // The command lines of engines are theirs to understand: clap gets the others.
    if let Err(error) = mcrun::cli::hand_on(&arguments) {
        eprintln!("mcrun: {error}");
        return ExitCode::from(125);
    }
    match mcrun::cli::run(mcrun::cli::Cli::parse_from(arguments)) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("mcrun: {error:#}");
            ExitCode::from(125)
        }
    }
}

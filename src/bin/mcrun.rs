//! `mcrun`: the command people use.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match mcrun::cli::run(mcrun::cli::Cli::parse()) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("mcrun: {error:#}");
            ExitCode::from(125)
        }
    }
}

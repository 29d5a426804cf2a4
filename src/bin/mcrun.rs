//! `mcrun`: the command people use.

use std::process::ExitCode;

fn main() -> ExitCode {
    mcrun::cli::main()
}

//! `mcrun gc`.

use std::process::ExitCode;

use clap::Args;

use super::output::print;
use crate::hook::collect_garbage;
use crate::state::Store;

/// Arguments of `mcrun gc`.
#[derive(Debug, Args)]
pub struct GcArgs {}

pub(super) fn run(_args: GcArgs) -> anyhow::Result<ExitCode> {
    let mut status = ExitCode::SUCCESS;
    for collected in collect_garbage(&Store::from_env())? {
        match collected.result {
            Ok(()) => print(&format!("{}\n", collected.container))?,
            Err(error) => {
                eprintln!("mcrun: {}: {error}", collected.container);
                status = ExitCode::FAILURE;
            }
        }
    }
    Ok(status)
}

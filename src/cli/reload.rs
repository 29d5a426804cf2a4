//! `mcrun reload`.

use std::process::ExitCode;

use clap::Args;

use crate::attachment::AdminConfig;
use crate::cli::output::print;
use crate::service::{reload, sync_shims};
use crate::state::{Store, config_dir};

/// Arguments of `mcrun reload`.
#[derive(Debug, Args)]
pub struct ReloadArgs {}

pub(super) fn run(_args: ReloadArgs) -> anyhow::Result<ExitCode> {
    let admin = AdminConfig::read(&config_dir())?;
    let mut status = ExitCode::SUCCESS;
    let store = Store::from_env();
    for reloaded in reload(&store, &admin)? {
        for (interface, why) in &reloaded.refusals {
            let container = &reloaded.container;
            eprintln!(
                "mcrun: {container}: {why}: {interface} stays as it is; mcrun detach {container} \
                 {interface} removes it"
            );
            status = ExitCode::FAILURE;
        }
        match reloaded.result {
            Ok(true) => print(&format!("{}\n", reloaded.container))?,
            Ok(false) => {}
            Err(error) => {
                eprintln!("mcrun: {}: {error}", reloaded.container);
                status = ExitCode::FAILURE;
            }
        }
    }
    if let Err(error) = sync_shims(&store) {
        eprintln!("mcrun: {error}");
        status = ExitCode::FAILURE;
    }
    Ok(status)
}

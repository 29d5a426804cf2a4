//! `mcrun detach`.

use std::process::ExitCode;

use clap::Args;

use crate::cli::containers;
use crate::cli::output::print;
use crate::service::detach;
use crate::state::Store;

/// Arguments of `mcrun detach`.
#[derive(Debug, Args)]
pub struct DetachArgs {
    /// Name, id or beginning of an id of an attached container.
    container: String,
    /// Name of the interface in the container; the default is all attached interfaces.
    interface: Option<String>,
}

pub(super) fn run(args: DetachArgs) -> anyhow::Result<ExitCode> {
    let store = Store::from_env();
    let container = containers::find(&store, &args.container)?.record.container.id;
    let names = detach(&container, args.interface.as_deref(), &store)?;
    print(&names.iter().map(|name| format!("{name}\n")).collect::<String>())?;
    Ok(ExitCode::SUCCESS)
}

//! `mcrun gc`.

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::Args;

use crate::cli::output::print;
use crate::state::Store;
use crate::{docker_network, service, standalone};

/// Arguments of `mcrun gc`.
///
/// Removes the attachments of containers that have ended, and containers of mcrun run whose shim
/// was killed before they ended. Prints the id of each container that it cleaned up. Running
/// containers stay as they are. The control group of proxies goes when there is none.
#[derive(Debug, Args)]
pub struct GcArgs {}

pub(super) fn run(_args: GcArgs) -> anyhow::Result<ExitCode> {
    let mut results: BTreeMap<String, Vec<String>> = BTreeMap::new();
    // First the containers: their removal runs the poststop hook.
    for (container, result) in standalone::collect_garbage() {
        results.entry(container).or_default().extend(result.err().map(|e| e.to_string()));
    }
    let store = Store::from_env();
    let garbage = service::collect_garbage(&store)?;
    for collected in garbage.containers {
        let errors = results.entry(collected.container.to_string()).or_default();
        errors.extend(collected.result.err().map(|e| e.to_string()));
    }
    let mut status = ExitCode::SUCCESS;
    for (container, errors) in results {
        if errors.is_empty() {
            print(&format!("{container}\n"))?;
        } else {
            eprintln!("mcrun: {container}: {}", errors.join("; "));
            status = ExitCode::FAILURE;
        }
    }
    for error in docker_network::collect_garbage(&store) {
        eprintln!("mcrun: {error}");
        status = ExitCode::FAILURE;
    }
    let shims = garbage.shims.map_err(anyhow::Error::from);
    for links in [shims, garbage.host_links.map_err(anyhow::Error::from)] {
        match links {
            Ok(links) => print(&links.iter().map(|link| format!("{link}\n")).collect::<String>())?,
            Err(error) => {
                eprintln!("mcrun: {error}");
                status = ExitCode::FAILURE;
            }
        }
    }
    Ok(status)
}

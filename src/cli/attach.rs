//! `mcrun attach`.

use std::process::ExitCode;

use anyhow::Context;
use clap::Args;

use crate::attachment::parse_spec;
use crate::cli::output::print;
use crate::lookup;
use crate::oci::ContainerState;
use crate::service::attach_running;
use crate::state::Store;

/// Arguments of `mcrun attach`.
#[derive(Debug, Args)]
pub struct AttachArgs {
    /// Name, id, beginning of an id, or process id of a running container.
    container: String,
    /// What to attach it to: KEY=VALUE[,KEY=VALUE...] (repeatable).
    ///
    /// parent= is the host's LAN interface; driver= is macvlan, ipvlan, or relay, which carries multicast to an interface
    /// that the container has. The README lists all keys.
    #[arg(long, value_name = "SPEC", required = true)]
    mcast: Vec<String>,
}

pub(super) fn run(args: AttachArgs) -> anyhow::Result<ExitCode> {
    let attachments = args.mcast.iter().map(|spec| parse_spec(spec));
    let attachments = attachments.collect::<Result<Vec<_>, _>>().context("--mcast")?;
    let store = Store::from_env();
    let found = lookup::find(&args.container, &store)?;
    let state = ContainerState {
        id: found.id,
        pid: Some(found.pid),
        bundle: found.bundle,
        annotations: Default::default(),
    };
    let names = attach_running(&state, attachments, &store)?;
    print(&names.iter().map(|name| format!("{name}\n")).collect::<String>())?;
    Ok(ExitCode::SUCCESS)
}

//! `mcrun attach`.

use std::process::ExitCode;

use anyhow::Context;
use clap::Args;

use crate::attachment::{Attachment, Networks, option_help, parse_each};
use crate::cli::output::print;
use crate::lookup;
use crate::service::{AttachError, AttachRequest, attach_more};
use crate::state::{Store, config_dir};
use crate::survey;

/// Arguments of `mcrun attach`.
#[derive(Debug, Args)]
pub struct AttachArgs {
    /// Name, id, beginning of an id, or process id of a running container; or the path of a network
    /// namespace, such as /run/netns/NAME, which is attached until the path is removed.
    container: String,
    /// What to attach it to: KEY=VALUE[,KEY=VALUE...] (repeatable).
    #[arg(long, value_name = "SPEC", required = true, long_help = option_help())]
    mcast: Vec<String>,
}

pub(super) fn run(args: AttachArgs) -> anyhow::Result<ExitCode> {
    let networks = Networks::of(config_dir());
    let attachments =
        parse_each(args.mcast.iter().map(String::as_str), &networks).context("--mcast")?;
    survey::warn(&attachments);
    let store = Store::from_env();
    let request = request(&args.container, attachments, &store)?;
    let names = match attach_more(request, &store) {
        Err(AttachError::Together(error)) => Err(error).context("--mcast")?,
        other => other?,
    };
    print(&names.iter().map(|name| format!("{name}\n")).collect::<String>())?;
    Ok(ExitCode::SUCCESS)
}

fn request(
    container: &str,
    attachments: Vec<Attachment>,
    store: &Store,
) -> anyhow::Result<AttachRequest> {
    if container.contains('/') {
        let path = std::path::absolute(container)?;
        return Ok(AttachRequest::of_namespace_path(path, attachments)?);
    }
    let found = lookup::find(container, store)?;
    // Engines rename containers: they are asked for the name when it is shown.
    let name = found.id.to_string();
    let mut request = AttachRequest::of_process(found.id, name, found.pid, attachments)?;
    request.directory = found.bundle;
    Ok(request)
}

//! `mcrun attach`.

use std::process::ExitCode;

use anyhow::Context;
use clap::Args;

use crate::attachment::{Attachment, Networks, option_help, parse_each};
use crate::cli::output::print;
use crate::lookup;
use crate::lookup::{ContainerEngine, LookupError, RunningContainer};
use crate::service::{AttachError, AttachRequest, attach_more};
use crate::state::{Store, config_dir};
use crate::survey;

/// Arguments of `mcrun attach`.
#[derive(Debug, Args)]
pub struct AttachArgs {
    /// Name, id, beginning of an id, or process id of a running container; or the path of a network
    /// namespace, such as /run/netns/NAME, which is attached until the path is removed.
    container: String,
    /// Look among the containers of one engine only: docker, podman, nerdctl, kubernetes, containerd,
    /// lxc, incus, nspawn, runc, crun or youki. Of several containers that the name fits,
    /// MCRUN_ENGINE decides.
    #[arg(long, value_name = "ENGINE")]
    engine: Option<String>,
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
    let request = request(&args, attachments, &store)?;
    let names = match attach_more(request, &store) {
        Err(AttachError::Together(error)) => Err(error).context("--mcast")?,
        other => other?,
    };
    print(&names.iter().map(|name| format!("{name}\n")).collect::<String>())?;
    Ok(ExitCode::SUCCESS)
}

fn request(
    args: &AttachArgs,
    attachments: Vec<Attachment>,
    store: &Store,
) -> anyhow::Result<AttachRequest> {
    if args.container.contains('/') {
        let path = std::path::absolute(&args.container)?;
        return Ok(AttachRequest::of_namespace_path(path, attachments)?);
    }
    let found = find(&args.container, args.engine.as_deref(), store)?;
    // Engines with ids rename containers: they are asked for the name when it is shown.
    let name = found.name().unwrap_or(found.id.as_str()).to_owned();
    let mut request = AttachRequest::of_process(found.id, name, found.pid, attachments)?;
    request.directory = found.bundle;
    Ok(request)
}

fn find(container: &str, engine: Option<&str>, store: &Store) -> anyhow::Result<RunningContainer> {
    let named = |name: &str, origin: &str| {
        ContainerEngine::named(name).with_context(|| {
            format!("{origin}{name}: no such engine; there are {}", ContainerEngine::names())
        })
    };
    if let Some(name) = engine {
        return Ok(lookup::find_of(named(name, "--engine ")?, container, store)?);
    }
    match lookup::find(container, store) {
        Err(several @ LookupError::Several { .. }) => match std::env::var("MCRUN_ENGINE") {
            Ok(name) if !name.is_empty() => {
                Ok(lookup::find_of(named(&name, "MCRUN_ENGINE=")?, container, store)?)
            }
            _ => Err(several.into()),
        },
        found => Ok(found?),
    }
}

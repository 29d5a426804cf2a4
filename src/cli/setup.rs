//! `mcrun setup`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::bail;
use clap::Args;

use crate::cli::output::print;
use crate::setup::{Outcome, Setup, SetupTarget};

/// Arguments of `mcrun setup`.
#[derive(Debug, Args)]
pub struct SetupArgs {
    /// The engine to register with.
    #[arg(value_enum)]
    target: SetupTarget,
    /// Print the files as they would become, and write nothing.
    #[arg(long, conflicts_with_all = ["remove", "reload"])]
    print: bool,
    /// Undo an earlier setup.
    #[arg(long)]
    remove: bool,
    /// Make the running dockerd reload its configuration.
    #[arg(long)]
    reload: bool,
    /// The directory that stands for /.
    #[arg(long, value_name = "DIR", default_value = "/", hide = true)]
    root: PathBuf,
}

impl SetupArgs {
    /// Whether it writes to the system's own configuration.
    pub(super) fn needs_root(&self) -> bool {
        !self.print && self.root == Path::new("/")
    }
}

pub(super) fn run(args: SetupArgs) -> anyhow::Result<ExitCode> {
    if args.reload && args.target != SetupTarget::Docker {
        bail!("--reload: only dockerd can be told while it runs; restart the others");
    }
    let setup = Setup::new(&args.root)?;
    if args.print {
        for (position, (path, content)) in setup.preview(args.target)?.iter().enumerate() {
            let gap = if position > 0 { "\n" } else { "" };
            print(&format!("{gap}==> {} <==\n{content}", path.display()))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let changes =
        if args.remove { setup.remove(args.target)? } else { setup.apply(args.target)? };
    for change in &changes {
        let path = change.path.display();
        print(&match &change.outcome {
            Outcome::Unchanged => format!("{path}: nothing to do\n"),
            Outcome::Written(None) => format!("{path}: written\n"),
            Outcome::Written(Some(kept)) => {
                format!("{path}: written; as it was before: {}\n", kept.display())
            }
            Outcome::Restored => format!("{path}: as it was before\n"),
            Outcome::PartRemoved => {
                format!("{path}: changed since the setup; mcrun's part is taken out\n")
            }
            Outcome::Removed => format!("{path}: removed\n"),
        })?;
    }
    if args.reload {
        print(&format!("dockerd (pid {}): told to reload\n", setup.reload_docker()?))?;
    } else if changes.iter().any(|change| change.outcome != Outcome::Unchanged) {
        print(in_force(args.target))?;
        if args.target == SetupTarget::Cdi
            && !args.remove
            && let Some(line) = setup.docker_without_devices()
        {
            print(&format!("{line}\n"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// How a change comes into force.
fn in_force(target: SetupTarget) -> &'static str {
    match target {
        SetupTarget::Docker => {
            "In force after: systemctl reload docker (or mcrun setup docker --reload)\n\
             Then: docker run --runtime mcrun --annotation io.mcrun.mcast=parent=INTERFACE ...\n\
             (before docker 24: --env MCRUN_MCAST=parent=INTERFACE)\n"
        }
        SetupTarget::Podman => "In force for the next container.\n",
        SetupTarget::Containerd => {
            "In force after: systemctl restart containerd (containers keep running)\n"
        }
        SetupTarget::Crio => "In force after: systemctl restart crio (containers keep running)\n",
        SetupTarget::Cdi => {
            "In force for the next container: --device mcrun.io/mcast=hook --annotation \
             io.mcrun.mcast=...\n"
        }
    }
}

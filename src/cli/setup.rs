//! `mcrun setup`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use clap::Args;

use crate::cli::output::print;
use crate::setup::{Outcome, Setup, SetupTarget};

/// Arguments of `mcrun setup`.
#[derive(Debug, Args)]
pub struct SetupArgs {
    /// What to set up.
    #[arg(value_enum)]
    target: SetupTarget,
    /// Show the files as they would be; write nothing.
    #[arg(long, conflicts_with_all = ["remove", "reload"])]
    print: bool,
    /// Take back what a setup has written.
    #[arg(long)]
    remove: bool,
    /// Have the running dockerd read its configuration anew.
    #[arg(long)]
    reload: bool,
    /// The directory that stands for /.
    #[arg(long, value_name = "DIR", default_value = "/", hide = true)]
    root: PathBuf,
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
    }
    Ok(ExitCode::SUCCESS)
}

/// How a change comes into force.
fn in_force(target: SetupTarget) -> &'static str {
    match target {
        SetupTarget::Docker => {
            "In force after: systemctl reload docker (or mcrun setup docker --reload)\n\
             Then: docker run --runtime mcrun --env MCRUN_MCAST=parent=INTERFACE ...\n"
        }
        SetupTarget::Podman => "In force for the next container.\n",
        SetupTarget::Containerd => {
            "In force after: systemctl restart containerd (containers keep running)\n"
        }
        SetupTarget::Crio => "In force after: systemctl restart crio (containers keep running)\n",
        SetupTarget::Cdi => {
            "In force for the next container: --device mcrun.io/mcast=hook --env MCRUN_MCAST=...\n"
        }
    }
}

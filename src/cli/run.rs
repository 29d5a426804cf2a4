//! `mcrun run`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgGroup, Args};

use crate::attachment::option_help;
use crate::standalone;
use crate::standalone::{ContainerSource, RunOptions};

/// The two forms of `mcrun run`.
const USAGE: &str =
    "mcrun run [--engine ENGINE] [--mcast SPEC]... [ENGINE OPTIONS] IMAGE [COMMAND]...
       mcrun run <--rootfs DIR|--bundle DIR> [--mcast SPEC]... [OPTIONS] [COMMAND]...";

/// What the help says beyond that.
pub(super) const ABOUT: &str = "Run a container attached to a LAN.

With an image, docker, podman or nerdctl runs it: the first of them that can be used, or the one of --engine or \
MCRUN_ENGINE. --engine and --mcast may stand anywhere before the image; everything else goes to the \
engine as it is, which takes mcrun's place: `mcrun run -it --rm --mcast parent=eth1 alpine sh` behaves as \
`docker run -it --rm alpine sh` does. docker needs `mcrun setup docker` once; podman needs nothing.

With --rootfs or --bundle, an OCI runtime runs the container directly, and the options below are mcrun's own.";

/// Arguments of `mcrun run` with an OCI runtime.
#[derive(Debug, Args)]
#[command(
    override_usage = USAGE,
    group = ArgGroup::new("source").required(true)
)]
pub struct RunArgs {
    /// Root filesystem of the container: a directory, used in place.
    #[arg(long, value_name = "DIR", group = "source")]
    rootfs: Option<PathBuf>,
    /// OCI bundle: a directory with a config.json, which is not changed.
    #[arg(long, value_name = "DIR", group = "source")]
    bundle: Option<PathBuf>,
    /// Attach to a LAN: KEY=VALUE[,KEY=VALUE...] (repeatable).
    #[arg(long, value_name = "SPEC", long_help = option_help())]
    mcast: Vec<String>,
    /// Engine or, with --rootfs and --bundle, OCI runtime, by name or path.
    ///
    /// By default the first that can be used of docker, podman and nerdctl, or of runc, crun and youki.
    #[arg(long, value_name = "ENGINE")]
    engine: Option<String>,
    /// Name of the container.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Run in the background and print the container's id.
    #[arg(short, long)]
    detach: bool,
    /// Pass stdin on to the container.
    #[arg(short, long)]
    interactive: bool,
    /// Give the container a terminal.
    #[arg(short, long)]
    tty: bool,
    /// Remove the container when it ends (always so without -d).
    #[arg(long)]
    rm: bool,
    /// Set a variable, NAME=VALUE, or pass one on, NAME (repeatable).
    #[arg(short, long, value_name = "VARIABLE")]
    env: Vec<String>,
    /// Set the variables of a file, one to a line (repeatable).
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// Mount a file or directory of the host: SOURCE:DESTINATION[:OPTIONS] (repeatable).
    #[arg(short, long, value_name = "VOLUME")]
    volume: Vec<String>,
    /// Directory in the container in which the command starts.
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// User of the command: USER[:GROUP], names or numbers of the container.
    #[arg(short, long, value_name = "USER")]
    user: Option<String>,
    /// Host name of the container.
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,
    /// Give a capability, or ALL (repeatable).
    #[arg(long, value_name = "CAPABILITY", value_delimiter = ',')]
    cap_add: Vec<String>,
    /// Take a capability away, or ALL (repeatable).
    #[arg(long, value_name = "CAPABILITY", value_delimiter = ',')]
    cap_drop: Vec<String>,
    /// Give all capabilities and devices, and filter and mask nothing.
    #[arg(long)]
    privileged: bool,
    /// Make the root filesystem read-only.
    #[arg(long)]
    read_only: bool,
    /// Limit of memory, in bytes or with a suffix k, m or g.
    #[arg(short, long, value_name = "BYTES")]
    memory: Option<String>,
    /// Limit of CPU time, in CPUs, such as 1.5.
    #[arg(long, value_name = "NUMBER")]
    cpus: Option<String>,
    /// Add an annotation (repeatable).
    #[arg(long, value_name = "KEY=VALUE")]
    annotation: Vec<String>,
    /// The command and its arguments; a bundle has one of its own.
    #[arg(trailing_var_arg = true, value_name = "COMMAND")]
    command: Vec<String>,
}

pub(super) fn run(args: RunArgs) -> anyhow::Result<ExitCode> {
    let source = match (args.rootfs, args.bundle) {
        (Some(rootfs), _) => Some(ContainerSource::Rootfs(rootfs)),
        (None, bundle) => bundle.map(ContainerSource::Bundle),
    };
    let options = RunOptions {
        source,
        engine: args.engine,
        name: args.name,
        mcast: args.mcast,
        detach: args.detach,
        interactive: args.interactive,
        tty: args.tty,
        remove: args.rm,
        env: args.env,
        env_file: args.env_file,
        volume: args.volume,
        workdir: args.workdir,
        user: args.user,
        hostname: args.hostname,
        cap_add: args.cap_add,
        cap_drop: args.cap_drop,
        privileged: args.privileged,
        read_only: args.read_only,
        memory: args.memory,
        cpus: args.cpus,
        annotation: args.annotation,
        command: args.command,
    };
    Ok(exit_code(standalone::run(&options)))
}

/// The status a command ends with; an error is told on stderr.
pub(super) fn exit_code(result: Result<i32, standalone::StandaloneError>) -> ExitCode {
    let status = result.unwrap_or_else(|error| {
        eprintln!("mcrun: {error}");
        error.status()
    });
    ExitCode::from(u8::try_from(status).unwrap_or(255))
}

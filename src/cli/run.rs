//! `mcrun run`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgGroup, Args};

use crate::attachment::{Networks, option_help, parse_each};
use crate::standalone;
use crate::standalone::{ContainerSource, RunOptions};
use crate::state::config_dir;
use crate::survey;

/// The two forms of `mcrun run`.
const USAGE: &str =
    "mcrun run [--engine ENGINE] [--mcast SPEC]... [ENGINE OPTIONS] IMAGE [COMMAND]...
       mcrun run <--rootfs DIR|--bundle DIR> [--mcast SPEC]... [OPTIONS] [COMMAND]...";

/// What the help says beyond that.
pub(super) const ABOUT: &str = "Run a container attached to a LAN.

With an image, docker, podman or nerdctl runs the container: the one that --engine or MCRUN_ENGINE names, else the \
first that can be used. --engine and --mcast may stand anywhere before the image; the engine gets all other \
options unchanged and replaces mcrun's process. So `mcrun run -it --rm --mcast parent=eth1 alpine sh` behaves like \
`docker run -it --rm alpine sh`. docker needs `mcrun setup docker` once; podman needs no setup.

With --rootfs or --bundle, an OCI runtime (runc, crun or youki) runs the container directly. The options below are \
for this form.";

/// Arguments of `mcrun run` with an OCI runtime.
#[derive(Debug, Args)]
#[command(
    override_usage = USAGE,
    group = ArgGroup::new("source").required(true)
)]
pub struct RunArgs {
    /// Root filesystem of the container: a directory, which is used in place.
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
    /// The default is MCRUN_ENGINE, else the first that can be used of docker, podman and nerdctl;
    /// with --rootfs and --bundle, of runc, crun and youki.
    #[arg(long, value_name = "ENGINE")]
    engine: Option<String>,
    /// Name of the container.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Run in the background and print the container's id.
    #[arg(short, long)]
    detach: bool,
    /// Pass standard input to the container.
    #[arg(short, long)]
    interactive: bool,
    /// Give the container a terminal.
    #[arg(short, long)]
    tty: bool,
    /// Remove the container when it ends; without -d this is always done.
    #[arg(long)]
    rm: bool,
    /// Set an environment variable: NAME=VALUE, or NAME for the value that it has here
    /// (repeatable).
    #[arg(short, long, value_name = "VARIABLE")]
    env: Vec<String>,
    /// Set environment variables from a file, one on each line (repeatable).
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// Mount a file or directory of the host: SOURCE:DESTINATION[:OPTIONS] (repeatable).
    #[arg(short, long, value_name = "VOLUME")]
    volume: Vec<String>,
    /// Directory in the container in which the command starts.
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// User of the command: USER[:GROUP], as names of the container or numbers.
    #[arg(short, long, value_name = "USER")]
    user: Option<String>,
    /// Host name of the container.
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,
    /// Add a capability, or ALL (repeatable).
    #[arg(long, value_name = "CAPABILITY", value_delimiter = ',')]
    cap_add: Vec<String>,
    /// Drop a capability, or ALL (repeatable).
    #[arg(long, value_name = "CAPABILITY", value_delimiter = ',')]
    cap_drop: Vec<String>,
    /// Give all capabilities and devices; no seccomp filter, no masked paths.
    #[arg(long)]
    privileged: bool,
    /// Make the root filesystem read-only.
    #[arg(long)]
    read_only: bool,
    /// Memory limit, in bytes or with a suffix k, m or g.
    #[arg(short, long, value_name = "BYTES")]
    memory: Option<String>,
    /// CPU limit, as a number of CPUs such as 1.5.
    #[arg(long, value_name = "NUMBER")]
    cpus: Option<String>,
    /// Add an annotation (repeatable).
    #[arg(long, value_name = "KEY=VALUE")]
    annotation: Vec<String>,
    /// The command and its arguments; required with --rootfs.
    #[arg(trailing_var_arg = true, value_name = "COMMAND")]
    command: Vec<String>,
}

pub(super) fn run(args: RunArgs) -> anyhow::Result<ExitCode> {
    // What cannot be parsed is told when the container is made.
    let networks = Networks::of(config_dir());
    let given = args.mcast.iter().map(String::as_str);
    if let Ok(attachments) = parse_each(given, &networks) {
        survey::warn(&attachments);
    }
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

/// The status that a command ends with; an error is printed on stderr.
pub(super) fn exit_code(result: Result<i32, standalone::StandaloneError>) -> ExitCode {
    let status = result.unwrap_or_else(|error| {
        eprintln!("mcrun: {error}");
        error.status()
    });
    ExitCode::from(u8::try_from(status).unwrap_or(255))
}

//! The `mcrun` command line: one clap definition, from which help, man pages and completions come.

mod attach;
mod config;
mod containers;
mod create;
mod demo;
mod detach;
mod doctor;
mod events;
mod exec;
mod gc;
mod groups;
mod host;
mod inspect;
mod keep;
mod kill;
mod logs;
mod memberships;
mod metrics;
mod network;
mod output;
mod parents;
mod probe;
mod ps;
mod queriers;
mod reload;
mod rm;
mod run;
mod serve;
mod setup;
mod shim;
mod start;
mod stop;
mod summary;
mod top;
mod watch;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};

use crate::attachment::{Attachment, NetworkError, Networks};
use crate::engine;
use crate::engine::EngineError;
use crate::lookup::LookupError;
use crate::service::ShimError;
use crate::state::{Store, config_dir, state_dir};
use crate::survey;

/// Multicast for containers: each one a host of its own on the LAN.
#[derive(Debug, Parser)]
#[command(
    name = "mcrun",
    version,
    max_term_width = 100,
    disable_help_subcommand = true,
    help_template = help_template()
)]
pub struct Cli {
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a container attached to a LAN.
    #[command(long_about = run::ABOUT)]
    Run(Box<run::RunArgs>),
    /// Create a container with docker, podman or nerdctl; starting it attaches it.
    ///
    /// As mcrun run with an image, except that the container is not started.
    Create(create::CreateArgs),
    /// Start containers that docker, podman or nerdctl has created or stopped.
    ///
    /// When podman starts a container again, it forgets hooks that are not in its own
    /// configuration. This command passes mcrun's hooks again, so that the container is attached
    /// without mcrun setup podman.
    Start(start::StartArgs),
    /// Attach a running container to a LAN.
    ///
    /// The container may be one of docker, podman, containerd, Kubernetes, runc, crun or youki, and
    /// may be attached already. It keeps running and gets a new interface; its other interfaces
    /// lose no packet. Prints the names of the new interfaces. They go when the container ends;
    /// starting it again does not bring them back.
    Attach(attach::AttachArgs),
    /// Remove attached interfaces from a running container.
    ///
    /// The container keeps running; its other interfaces lose no packet. Prints the names of the
    /// removed interfaces.
    Detach(detach::DetachArgs),
    /// List attached containers.
    ///
    /// QUERIER is the IGMP querier of the LAN and the IGMP version that it speaks, as any proxy on
    /// the same parent has heard it: `none heard for 12 s` as long as one may be silent, which
    /// is 255 seconds if none has told its interval, then `none`; `-` if no proxy listens. Warnings are
    /// printed on standard error, one a line.
    Ps(ps::PsArgs),
    /// List the multicast groups that containers have joined.
    ///
    /// STATUS is joined; denied, with the rule that denies it; limited, with the limit that is
    /// reached; or failed, with what the kernel of the host lacks. With --json these are "status"
    /// and "reason".
    Groups(groups::GroupsArgs),
    /// Show all groups and what arrives for them, live.
    #[command(long_about = top::ABOUT)]
    Top(top::TopArgs),
    /// Show one stream of a container as it arrives.
    #[command(long_about = watch::ABOUT)]
    Watch(watch::WatchArgs),
    /// List the interfaces of the host that can be parents.
    ///
    /// USERS is the number of containers' interfaces on the parent, QUERIER the LAN's querier as their
    /// proxies have heard it, and LIMITS what keeps containers from the LAN, or may. Ports of a
    /// bridge, bond or team are left out: that one is the parent.
    Parents(parents::ParentsArgs),
    /// Show everything known about a container.
    Inspect(inspect::InspectArgs),
    /// List what mcrun has changed on this host, and whose it is.
    #[command(long_about = host::ABOUT)]
    Host(host::HostArgs),
    /// Find out what is wrong, and what to do about it.
    #[command(long_about = doctor::ABOUT, after_help = doctor::STATUS)]
    Doctor(doctor::DoctorArgs),
    /// Show what has happened to containers.
    #[command(long_about = events::ABOUT)]
    Events(events::EventsArgs),
    /// Tell Prometheus of containers, groups and queriers.
    #[command(long_about = metrics::ABOUT)]
    Metrics(metrics::MetricsArgs),
    /// Run a command in a container that mcrun run started.
    Exec(exec::ExecArgs),
    /// Show the output of a detached container that mcrun run started.
    ///
    /// What the container wrote to standard output appears on standard output, the rest on standard
    /// error. The last 5 to 10 MiB are kept until the container is removed.
    Logs(logs::LogsArgs),
    /// Stop containers that mcrun run started: SIGTERM, then SIGKILL.
    Stop(stop::StopArgs),
    /// Send a signal to containers that mcrun run started.
    Kill(kill::KillArgs),
    /// Remove stopped containers that mcrun run started.
    Rm(rm::RmArgs),
    /// Send or receive a measured multicast stream.
    Probe(probe::ProbeArgs),
    /// Show what mcrun does, on a simulated LAN that leaves the host untouched.
    Demo(demo::DemoArgs),
    /// Register mcrun with a container engine.
    Setup(setup::SetupArgs),
    /// Apply a changed mcrun.toml, or an upgrade, to running containers.
    ///
    /// A container gets a new proxy when its limits have changed, when its proxy is dead, and when
    /// its proxy is not the installed program, as after an upgrade. The container stays joined to
    /// its groups and loses no packet. Prints a line for each container that got a new proxy.
    Reload(reload::ReloadArgs),
    /// Make, show, check and remove named networks.
    ///
    /// A network is a file of the administrator's that says how containers are attached which ask for
    /// net=NAME.
    Network(network::NetworkArgs),
    /// Give the host a leg of its own on a parent, by which it and the containers reach each other.
    #[command(long_about = shim::ABOUT)]
    Shim(shim::ShimArgs),
    /// Check mcrun.toml, or show what is in force of it.
    Config(config::ConfigArgs),
    /// Keep memberships and rules of proxies that die, and replace those proxies.
    ///
    /// Runs until it is ended by a signal; one for each host. Without it, the memberships and rules
    /// of a proxy end with the proxy. The keeper also keeps events, which mcrun events shows, and keeps
    /// from the host's sockets what only containers have joined. See mcrun-keeper.service.
    Keep(keep::KeepArgs),
    /// Be a network driver of an engine.
    Serve(serve::ServeArgs),
    /// Remove what killed containers and proxies left behind.
    Gc(gc::GcArgs),
}

/// The commands as `mcrun --help` groups them.
const GROUPS: [(&str, &[&str]); 5] = [
    ("Containers on a LAN", &["run", "create", "start", "attach", "detach"]),
    (
        "What they do",
        &["ps", "groups", "top", "watch", "inspect", "parents", "events", "metrics", "doctor"],
    ),
    ("Containers of mcrun run --rootfs", &["exec", "logs", "stop", "kill", "rm"]),
    ("Try and measure", &["demo", "probe"]),
    (
        "Administration",
        &["setup", "config", "network", "shim", "serve", "reload", "keep", "host", "gc"],
    ),
];

/// clap's template, with the commands in their groups.
fn help_template() -> String {
    let commands = Command::augment_subcommands(clap::Command::new("mcrun"));
    let mut text = "{about-with-newline}\n{usage-heading} {usage}\n".to_owned();
    for (heading, names) in GROUPS {
        text += &format!("\n{heading}:\n");
        for name in names {
            let about = commands.find_subcommand(name).and_then(|command| command.get_about());
            text +=
                &format!("  {name:<8} {}\n", about.map(ToString::to_string).unwrap_or_default());
        }
    }
    text + "\nOptions:\n{options}\n\nmcrun COMMAND --help tells more about a command.\n"
}

/// All of `mcrun`: parses, runs, and tells errors in one line on standard error.
///
/// The exit status is the command's; 125 for an error of mcrun, as docker has it, and 2 for a usage
/// error of any command but `run`, `create` and `start`, whose own status that would be.
pub fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().collect();
    // The command lines of engines are theirs to understand: clap gets the others.
    if let Err(error) = hand_on(&arguments) {
        eprintln!("mcrun: {error}");
        return ExitCode::from(125);
    }
    let result = match Cli::try_parse_from(arguments) {
        Ok(cli) => check_root(&cli.command).and_then(|()| run(cli)),
        Err(error) => return usage(&error),
    };
    result.unwrap_or_else(|error| {
        eprintln!("mcrun: {}", causes(&error));
        ExitCode::from(status(&error))
    })
}

/// Refuses a command that needs root to another user, before the kernel refuses it halfway; and to
/// root, if the state directory is somebody else's.
fn check_root(command: &Command) -> anyhow::Result<()> {
    let needs_root = match command {
        Command::Probe(args) => args.needs_root(),
        Command::Create(_) | Command::Start(_) | Command::Config(_) | Command::Doctor(_) => false,
        Command::Host(_) => false,
        Command::Setup(args) => args.needs_root(),
        Command::Network(args) => args.needs_root(),
        _ => true,
    };
    if needs_root && !nix::unistd::geteuid().is_root() {
        let name = std::env::args().nth(1).unwrap_or_default();
        anyhow::bail!("{name} needs root: run it with sudo");
    }
    if needs_root && !matches!(command, Command::Setup(_)) {
        Store::from_env().check()?;
    }
    Ok(())
}

/// An error and its causes in one line; a cause whose text the error ends with is not said again.
fn causes(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |text, cause| {
        let cause = cause.to_string();
        match text.as_str() {
            "" => cause,
            said if said.ends_with(&cause) => text,
            _ => format!("{text}: {cause}"),
        }
    })
}

/// docker's: 1 for a container that is not there or in another state, and for a network or a leg of the
/// host that is not there; 125 for other errors.
fn status(error: &anyhow::Error) -> u8 {
    let network = matches!(error.downcast_ref(), Some(NetworkError::Unknown { .. }));
    let shim = matches!(error.downcast_ref(), Some(ShimError::None(_)));
    if network || shim || error.downcast_ref::<LookupError>().is_some() { 1 } else { 125 }
}

/// Hands a command line that is an engine's on to it; the engine takes this process's place.
/// Returns when it is none: [`run`] has it then.
fn hand_on(arguments: &[OsString]) -> Result<(), EngineError> {
    let (Some(command), Some(rest)) = (arguments.get(1), arguments.get(2..)) else {
        return Ok(());
    };
    match command.to_str() {
        Some(command @ ("run" | "create")) => {
            let networks = Networks::of(config_dir());
            let warn = |attachments: &[Attachment], publishes_udp: bool| {
                survey::warn(attachments);
                if publishes_udp {
                    survey::warn_of_ports(attachments);
                }
            };
            engine::create(command, rest, &state_dir(), &networks, warn)
        }
        Some("start") => engine::start(rest, &state_dir()),
        _ => Ok(()),
    }
}

/// Prints help where it was asked for, and a usage error as one line.
fn usage(error: &clap::Error) -> ExitCode {
    let is_help = error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
    if is_help || !error.use_stderr() {
        let _ = error.print();
        return if is_help { ExitCode::from(2) } else { ExitCode::SUCCESS };
    }
    eprintln!("mcrun: {}", one_line(&error.render().to_string()));
    let command = std::env::args_os().nth(1).unwrap_or_default();
    let is_engines = ["run", "create", "start"].iter().any(|known| command == *known);
    ExitCode::from(if is_engines { 125 } else { 2 })
}

/// clap's text without its usage section, in one line.
fn one_line(text: &str) -> String {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let wanted: Vec<_> = lines
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"))
        .collect();
    let text = wanted.join(" ").replace(" tip: ", "; ");
    text.strip_prefix("error: ").unwrap_or(&text).to_owned()
}

/// Runs the command line; the exit status is the command's.
///
/// # Errors
/// Whatever stopped the command before it had a status of its own.
pub fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Run(args) => run::run(*args),
        Command::Create(args) => create::run(args),
        Command::Start(args) => start::run(args),
        Command::Attach(args) => attach::run(args),
        Command::Detach(args) => detach::run(args),
        Command::Exec(args) => exec::run(args),
        Command::Logs(args) => logs::run(args),
        Command::Stop(args) => stop::run(args),
        Command::Kill(args) => kill::run(args),
        Command::Rm(args) => rm::run(args),
        Command::Ps(args) => ps::run(args),
        Command::Groups(args) => groups::run(args),
        Command::Top(args) => top::run(args),
        Command::Watch(args) => watch::run(args),
        Command::Parents(args) => parents::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Events(args) => events::run(args),
        Command::Metrics(args) => metrics::run(args),
        Command::Probe(args) => probe::run(args),
        Command::Demo(args) => demo::run(args),
        Command::Reload(args) => reload::run(args),
        Command::Setup(args) => setup::run(args),
        Command::Config(args) => config::run(args),
        Command::Network(args) => network::run(args),
        Command::Shim(args) => shim::run(args),
        Command::Keep(args) => keep::run(args),
        Command::Serve(args) => serve::run(args),
        Command::Host(args) => host::run(args),
        Command::Gc(args) => gc::run(args),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaint(args: &[&str]) -> String {
        one_line(&Cli::try_parse_from(args).unwrap_err().render().to_string())
    }

    #[test]
    fn each_command_is_in_one_group() {
        let mut grouped: Vec<_> = GROUPS.iter().flat_map(|(_, names)| *names).copied().collect();
        let commands = Command::augment_subcommands(clap::Command::new("mcrun"));
        let mut all: Vec<_> = commands.get_subcommands().map(clap::Command::get_name).collect();
        grouped.sort_unstable();
        all.sort_unstable();
        assert_eq!(grouped, all);
    }

    #[test]
    fn each_cause_is_said_once() {
        let inner = std::io::Error::other("Permission denied");
        let error = anyhow::Error::new(inner).context("cannot open /x: Permission denied");
        assert_eq!(causes(&error.context("state")), "state: cannot open /x: Permission denied");
        assert_eq!(status(&LookupError::None("x".into()).into()), 1);
    }

    #[test]
    fn a_usage_error_is_one_line() {
        let text = complaint(&["mcrun", "ps", "--jsn"]);
        assert_eq!(text, "unexpected argument '--jsn' found; a similar argument exists: '--json'");
        let text = complaint(&["mcrun", "inspect"]);
        assert_eq!(text, "the following required arguments were not provided: <CONTAINER>");
    }
}

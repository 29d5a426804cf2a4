//! The `mcrun` command line: one clap definition, from which help, man pages and completions come.

mod attach;
mod containers;
mod create;
mod demo;
mod detach;
mod exec;
mod gc;
mod groups;
mod inspect;
mod kill;
mod output;
mod probe;
mod ps;
mod reload;
mod rm;
mod run;
mod setup;
mod start;
mod stop;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};

use crate::engine;
use crate::engine::EngineError;

/// Multicast for containers: each one a host of its own on the media LAN.
#[derive(Debug, Parser)]
#[command(name = "mcrun", version, max_term_width = 100, disable_help_subcommand = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a container attached to a LAN.
    #[command(long_about = run::ABOUT)]
    Run(Box<run::RunArgs>),
    /// Create a container of docker, podman or nerdctl, attached when it is started.
    ///
    /// As mcrun run with an image, but for the start.
    Create(create::CreateArgs),
    /// Start containers that docker, podman or nerdctl have created or stopped.
    ///
    /// podman forgets hooks that its own configuration does not name when it starts a container again: started
    /// by this command, the container is attached again also without mcrun setup podman.
    Start(start::StartArgs),
    /// Attach a running container to a LAN.
    ///
    /// The container is one of docker, podman, containerd, Kubernetes, runc, crun or youki, attached already or
    /// not. It runs on and gets a new interface; what it has is served without a gap. Prints the names of the
    /// new interfaces. They go when the container ends, and are not there when it is started again.
    Attach(attach::AttachArgs),
    /// Take interfaces of a running container away.
    ///
    /// The container runs on; its other interfaces are served without a gap. Prints the names of the
    /// interfaces that are gone.
    Detach(detach::DetachArgs),
    /// Run a command in a running container.
    Exec(exec::ExecArgs),
    /// Stop containers: their stop signal, then SIGKILL.
    Stop(stop::StopArgs),
    /// Send a signal to containers.
    Kill(kill::KillArgs),
    /// Remove stopped containers.
    Rm(rm::RmArgs),
    /// List attached containers.
    ///
    /// QUERIER is the IGMP querier of the interface's LAN with the version that it speaks: none when none
    /// was heard within 255 seconds, - where no proxy listens. What is wrong is said on standard error,
    /// a line for each thing.
    Ps(ps::PsArgs),
    /// List group memberships.
    ///
    /// STATUS is joined; denied, with the rule; limited, with the limit; or failed, with what the host's
    /// kernel lacks. With --json these are "status" and "reason".
    Groups(groups::GroupsArgs),
    /// Show everything known about a container.
    Inspect(inspect::InspectArgs),
    /// Send or receive a measured multicast stream.
    Probe(probe::ProbeArgs),
    /// Show it live: a media facility in network namespaces of its own.
    Demo(demo::DemoArgs),
    /// Bring the administrator's rules into force for running containers.
    Reload(reload::ReloadArgs),
    /// Tell a container engine of mcrun.
    Setup(setup::SetupArgs),
    /// Remove what dead containers left behind.
    Gc(gc::GcArgs),
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
        Ok(cli) => run(cli),
        Err(error) => return usage(&error),
    };
    result.unwrap_or_else(|error| {
        eprintln!("mcrun: {error:#}");
        ExitCode::from(125)
    })
}

/// Hands a command line that is an engine's on to it; the engine takes this process's place. Returns when
/// it is none: [`run`] has it then.
fn hand_on(arguments: &[OsString]) -> Result<(), EngineError> {
    let (Some(command), Some(rest)) = (arguments.get(1), arguments.get(2..)) else {
        return Ok(());
    };
    match command.to_str() {
        Some(command @ ("run" | "create")) => engine::create(command, rest),
        Some("start") => engine::start(rest),
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
        Command::Stop(args) => stop::run(args),
        Command::Kill(args) => kill::run(args),
        Command::Rm(args) => rm::run(args),
        Command::Ps(args) => ps::run(args),
        Command::Groups(args) => groups::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::Probe(args) => probe::run(args),
        Command::Demo(args) => demo::run(args),
        Command::Reload(args) => reload::run(args),
        Command::Setup(args) => setup::run(args),
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
    fn a_usage_error_is_one_line() {
        let text = complaint(&["mcrun", "ps", "--jsn"]);
        assert_eq!(text, "unexpected argument '--jsn' found; a similar argument exists: '--json'");
        let text = complaint(&["mcrun", "inspect"]);
        assert_eq!(text, "the following required arguments were not provided: <CONTAINER>");
    }
}

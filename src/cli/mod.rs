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
mod start;
mod stop;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::wrapper::{self, WrapperError};

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
    Run(Box<run::RunArgs>),
    /// Create a container of docker, podman or nerdctl, attached when it is started.
    Create(create::CreateArgs),
    /// Start containers that docker, podman or nerdctl have created or stopped.
    Start(start::StartArgs),
    /// Attach a running container to a LAN.
    Attach(attach::AttachArgs),
    /// Take interfaces of a running container away.
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
    Ps(ps::PsArgs),
    /// List group memberships.
    Groups(groups::GroupsArgs),
    /// Show everything known about a container.
    Inspect(inspect::InspectArgs),
    /// Send or receive a measured multicast stream.
    Probe(probe::ProbeArgs),
    /// Show it live: a media facility in network namespaces of its own.
    Demo(demo::DemoArgs),
    /// Bring the administrator's rules into force for running containers.
    Reload(reload::ReloadArgs),
    /// Remove what dead containers left behind.
    Gc(gc::GcArgs),
}

/// Hands a command line that is an engine's on to it; the engine takes this process's place. Returns when
/// it is none: [`run`] has it then.
///
/// # Errors
/// What keeps the engine from being started.
pub fn hand_on(arguments: &[OsString]) -> Result<(), WrapperError> {
    let (Some(command), Some(rest)) = (arguments.get(1), arguments.get(2..)) else {
        return Ok(());
    };
    match command.to_str() {
        Some(command @ ("run" | "create")) => wrapper::create(command, rest),
        Some("start") => wrapper::start(rest),
        _ => Ok(()),
    }
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
        Command::Gc(args) => gc::run(args),
    }
}

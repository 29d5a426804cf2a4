//! The `mcrun` command line: one clap definition, from which help, man pages and completions come.

mod containers;
mod demo;
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
mod stop;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

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

/// Runs the command line; the exit status is the command's.
///
/// # Errors
/// Whatever stopped the command before it had a status of its own.
pub fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Run(args) => run::run(*args),
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

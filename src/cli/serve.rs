//! `mcrun serve`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use crate::docker_network;

/// Arguments of `mcrun serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Whom to serve.
    #[command(subcommand)]
    command: ServeCommand,
}

/// The commands of `mcrun serve`.
#[derive(Debug, Subcommand)]
enum ServeCommand {
    /// Be docker's network driver mcrun.
    ///
    /// docker network create -d mcrun -o parent=eth1 --subnet 192.0.2.0/24 media makes a network whose
    /// containers are attached to the LAN of eth1: by docker run --network media, by docker network
    /// connect, or by compose. The options are the keys of mcrun-attachment(7). Runs until it is ended by
    /// a signal. See mcrun-docker.socket.
    Docker {
        /// Listen at this path. The name of the file without its ending is the driver's name. A service
        /// manager that passes a socket comes first.
        #[arg(long, value_name = "PATH", default_value = docker_network::SOCKET)]
        socket: PathBuf,
    },
}

pub(super) fn run(args: ServeArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        ServeCommand::Docker { socket } => docker_network::serve(&std::path::absolute(socket)?)?,
    }
    Ok(ExitCode::SUCCESS)
}

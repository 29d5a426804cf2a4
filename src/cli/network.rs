//! `mcrun network`.

mod leases;
mod show;
mod users;

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};

use crate::attachment::{Network, NetworkName, Networks, file_text};
use crate::cli::output::print;
use crate::state::{Store, config_dir};
use crate::sys::files;

/// Arguments of `mcrun network`.
#[derive(Debug, Args)]
pub struct NetworkArgs {
    /// What to do.
    #[command(subcommand)]
    command: NetworkCommand,
}

/// The commands of `mcrun network`.
#[derive(Debug, Subcommand)]
enum NetworkCommand {
    /// Make a network: write its file.
    ///
    /// Containers that ask for net=NAME are attached as the file says. Prints the name.
    Create(CreateArgs),
    /// List networks.
    ///
    /// CONTAINERS is the number of running containers on the network. A file with a mistake is named
    /// on standard error.
    Ls {
        /// Print an array of objects instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Show a network and the containers on it.
    Inspect {
        /// The network.
        name: NetworkName,
        /// Print an object instead of text.
        #[arg(long)]
        json: bool,
    },
    /// Show the addresses of networks that containers have, and those of pools that they had.
    ///
    /// A container that starts again gets the address that it had, if it is free.
    Leases {
        /// The networks; the default is all.
        #[arg(value_name = "NAME")]
        names: Vec<NetworkName>,
        /// Print an array of objects instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Remove networks: remove their files.
    ///
    /// A network with running containers stays, except with --force. Containers keep what they have.
    Rm {
        /// The networks.
        #[arg(required = true, value_name = "NAME")]
        names: Vec<NetworkName>,
        /// Also remove a network that running containers are on.
        #[arg(short, long)]
        force: bool,
    },
    /// Check the files of networks.
    ///
    /// Prints each problem as FILE:LINE: and what is wrong. The exit status is 0 if there is none.
    Check {
        /// Names of networks, or files, which have a / or end with .toml; the default is all
        /// networks.
        #[arg(value_name = "NAME|FILE")]
        which: Vec<PathBuf>,
    },
}

/// Arguments of `mcrun network create`.
#[derive(Debug, Args)]
struct CreateArgs {
    /// The name: 1 to 64 letters, digits, _, - and ., the first one a letter or a digit.
    name: NetworkName,
    /// The attachment keys of the network: KEY=VALUE[,KEY=VALUE...], with parent=.
    #[arg(long, value_name = "SPEC")]
    mcast: String,
    /// The subnet, as in 192.0.2.0/24; one of each address family.
    #[arg(long, value_name = "NETWORK/PREFIX")]
    subnet: Vec<String>,
    /// Addresses of the subnet that ip=pool gives; the default is all of them.
    #[arg(long, value_name = "FIRST-LAST")]
    range: Vec<String>,
    /// Addresses that no container can have.
    #[arg(long, value_name = "FIRST-LAST")]
    exclude: Vec<String>,
    /// The gateway; a container with an address of the subnet gets a default route through it.
    #[arg(long, value_name = "ADDRESS")]
    gateway: Vec<String>,
    /// A name server, for engines that ask a plugin for it: CNI's, and podman's networks.
    #[arg(long, value_name = "ADDRESS")]
    dns: Vec<String>,
    /// What people are told about the network.
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
}

impl NetworkArgs {
    /// Whether it writes configuration, or reads what only root can read.
    pub(super) fn needs_root(&self) -> bool {
        !matches!(self.command, NetworkCommand::Check { .. })
    }
}

pub(super) fn run(args: NetworkArgs) -> anyhow::Result<ExitCode> {
    let networks = Networks::of(config_dir());
    match args.command {
        NetworkCommand::Create(args) => create(args, &networks),
        NetworkCommand::Ls { json } => show::list(&networks, json),
        NetworkCommand::Inspect { name, json } => show::inspect(&networks, &name, json),
        NetworkCommand::Leases { names, json } => leases::list(&networks, names, json),
        NetworkCommand::Rm { names, force } => remove(&networks, &names, force),
        NetworkCommand::Check { which } => check(&networks, which),
    }
}

fn create(args: CreateArgs, networks: &Networks) -> anyhow::Result<ExitCode> {
    let mut keys: Vec<(String, String)> = Vec::new();
    keys.extend(args.description.map(|text| ("description".to_owned(), text)));
    for pair in args.mcast.split(',') {
        let (key, value) = pair
            .split_once('=')
            .with_context(|| format!("--mcast: {pair:?} is not KEY=VALUE, as in parent=eth1"))?;
        keys.push((key.trim().to_owned(), value.trim().to_owned()));
    }
    let lists = [
        ("subnet", args.subnet),
        ("range", args.range),
        ("exclude", args.exclude),
        ("gateway", args.gateway),
        ("dns", args.dns),
    ];
    for (key, values) in lists {
        keys.extend(values.into_iter().map(|value| (key.to_owned(), value)));
    }
    let text = file_text(&keys);
    if let Err(problems) = Network::parse(&text) {
        let messages: Vec<_> = problems.into_iter().map(|problem| problem.message).collect();
        bail!("network {}: {}", args.name, messages.join("; "));
    }
    let path = networks.path(&args.name);
    let made = DirBuilder::new().recursive(true).mode(0o755).create(networks.files());
    made.with_context(|| format!("cannot make {}", networks.files().display()))?;
    networks.check_directory()?;
    match files::create(&path, text.as_bytes(), 0o644) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            bail!("network {} exists: {}", args.name, path.display())
        }
        created => created.with_context(|| format!("cannot write {}", path.display()))?,
    }
    print(&format!("{}\n", args.name))?;
    Ok(ExitCode::SUCCESS)
}

fn remove(networks: &Networks, names: &[NetworkName], force: bool) -> anyhow::Result<ExitCode> {
    let users = users::all(&Store::from_env())?;
    let mut status = ExitCode::SUCCESS;
    for name in names {
        let path = networks.path(name);
        let of_it: Vec<_> = users.iter().filter(|user| user.network == *name).collect();
        let removed = match of_it.first() {
            Some(user) if !force => Err(format!(
                "container {} is on it; --force removes it all the same, and the container stays",
                user.name
            )),
            _ => std::fs::remove_file(&path).map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => "there is no such network".to_owned(),
                _ => format!("cannot remove {}: {error}", path.display()),
            }),
        };
        match removed {
            Ok(()) => print(&format!("{name}\n"))?,
            Err(why) => {
                eprintln!("mcrun: network {name}: {why}");
                status = ExitCode::FAILURE;
            }
        }
    }
    Ok(status)
}

fn check(networks: &Networks, which: Vec<PathBuf>) -> anyhow::Result<ExitCode> {
    let files: Vec<PathBuf> = if which.is_empty() {
        networks.names()?.iter().map(|name| networks.path(name)).collect()
    } else {
        let file = |named: PathBuf| match named.to_str().map(str::parse::<NetworkName>) {
            Some(Ok(name)) if named.extension().is_none_or(|end| end != "toml") => {
                networks.path(&name)
            }
            _ => named,
        };
        which.into_iter().map(file).collect()
    };
    let mut status = ExitCode::SUCCESS;
    for path in files {
        for problem in networks.problems(&path)? {
            eprintln!("{}:{}: {}", path.display(), problem.line, problem.message);
            status = ExitCode::FAILURE;
        }
    }
    Ok(status)
}

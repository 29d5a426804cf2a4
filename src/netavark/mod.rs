//! `mcrun-netavark`: an adapter that turns a call of netavark's plugin interface (version 1.0.0,
//! plugin-API.md of netavark) into requests to [`crate::service`]. podman 4.5 and later call it as the
//! network driver `mcrun`.
//!
//! The options of a network are the keys of the attachment. podman gives addresses where a network has a
//! subnet. What an attachment is comes from the network alone, which root has made.

mod options;
mod protocol;
mod subcommands;

use std::io::{Read, Write, stdin, stdout};
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::attachment::SpecError;
use crate::service::AttachError;
use crate::state::{Refusal, StateDirError, Store};
use crate::sys::{program, syslog};

const PROGRAM: &str = "mcrun-netavark";

const USAGE: &str = "usage: called by podman and netavark as a network driver, with create, setup NETNS, teardown NETNS or info, and JSON on standard input";

/// Version of the plugin interface.
const API_VERSION: &str = "1.0.0";
/// Most bytes of a network or of a container's options.
const MAX_JSON: u64 = 1 << 20;

/// Why a call failed: one line.
#[derive(Debug, thiserror::Error)]
enum NetavarkError {
    /// What the network or the call says.
    #[error("{0}")]
    Input(String),
    /// The attachment that the network's options make is none.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// What the service refuses.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// The state directory.
    #[error(transparent)]
    StateDir(#[from] StateDirError),
}

/// What is to be done.
enum Subcommand {
    Create,
    Setup(PathBuf),
    Teardown,
    Info,
}

/// The program, after [`program::begin`].
pub fn main() -> program::Status {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let word = arguments.first().and_then(|argument| argument.to_str());
    let path = || arguments.get(1).filter(|path| !path.is_empty()).map(PathBuf::from);
    let subcommand = match (word, path(), arguments.len()) {
        (Some("--version" | "-V"), ..) => {
            println!("{PROGRAM} {}", env!("CARGO_PKG_VERSION"));
            return program::SUCCESS;
        }
        (Some("--help" | "-h"), ..) => {
            println!("{USAGE}");
            return program::SUCCESS;
        }
        (Some("create"), None, 1) => Subcommand::Create,
        (Some("info"), None, 1) => Subcommand::Info,
        (Some("setup"), Some(path), 2) => Subcommand::Setup(path),
        (Some("teardown"), Some(_), 2) => Subcommand::Teardown,
        _ => {
            eprintln!("{PROGRAM}: {USAGE}");
            return program::FAILURE;
        }
    };
    match run(subcommand) {
        Ok(None) => program::SUCCESS,
        Ok(Some(result)) => match print(&result) {
            Ok(()) => program::SUCCESS,
            Err(_) => program::FAILURE,
        },
        Err(error) => {
            // Who called is told so by the status in any case.
            let _ = print(&json!({"error": error.to_string()}));
            program::FAILURE
        }
    }
}

fn run(subcommand: Subcommand) -> Result<Option<Value>, NetavarkError> {
    if let Subcommand::Info = subcommand {
        let version = env!("CARGO_PKG_VERSION");
        return Ok(Some(json!({"version": version, "api_version": API_VERSION})));
    }
    let mut input = Vec::new();
    let read = stdin().lock().take(MAX_JSON + 1).read_to_end(&mut input);
    read.map_err(|e| NetavarkError::Input(format!("cannot read standard input: {e}")))?;
    if input.len() as u64 > MAX_JSON {
        let why = format!("standard input has more than {MAX_JSON} bytes");
        return Err(NetavarkError::Input(why));
    }
    let store = Store::from_env();
    match subcommand {
        Subcommand::Create => subcommands::create(&input, &store).map(Some),
        Subcommand::Setup(path) => {
            let call = protocol::Call::parse(&input)?;
            let result = subcommands::setup(&call, path, &store);
            if let Err(error) = &result {
                tell("setup", &call, error);
                // Where it cannot be kept, as without a state directory, the log has it.
                let refusal = Refusal::now(call.container_id.as_str(), &error.to_string());
                let _ = store.remember_refusal(&refusal);
            }
            result.map(Some)
        }
        Subcommand::Teardown => {
            let call = protocol::Call::parse(&input)?;
            let result = subcommands::teardown(&call, &store);
            if let Err(error) = &result {
                tell("teardown", &call, error);
            }
            result.map(|()| None)
        }
        Subcommand::Info => Ok(None),
    }
}

/// podman does not always show what a driver says: the system's log has it too.
fn tell(subcommand: &str, call: &protocol::Call, error: &NetavarkError) {
    let id = &call.container_id;
    syslog::error(PROGRAM, format_args!("container {id}: {subcommand}: {error}"));
}

fn print(value: &Value) -> std::io::Result<()> {
    let mut out = stdout().lock();
    writeln!(out, "{value}")?;
    out.flush()
}

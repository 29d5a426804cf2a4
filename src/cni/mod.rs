//! `mcrun-cni`: an adapter that turns a call of the Container Network Interface (CNI specification
//! 0.3.1 to 1.1.0) into requests to [`crate::service`].
//!
//! Environment and standard input -> call -> network configuration ->
//! [`AttachRequest`](crate::service::AttachRequest). As a network's first plugin it makes an
//! interface. Behind another plugin it serves the interface that is there already.
//!
//! What an attachment is comes from the configuration alone, which is a file of the administrator:
//! annotations of pods are not read.

mod call;
mod chained;
mod config;
mod error;
mod ipam;
mod keys;
mod result;
mod verbs;

use std::io::{Read, Write, stdin, stdout};

use serde_json::Value;

use crate::cni::call::{Call, Verb};
use crate::cni::config::NetworkConfig;
use crate::cni::error::CniError;
use crate::state::{Refusal, Store};
use crate::sys::{program, syslog};

const PROGRAM: &str = "mcrun-cni";

const USAGE: &str = "usage: called by container engines as a CNI plugin, with CNI_COMMAND and the other variables of the CNI specification, and the network configuration on standard input";

/// Most bytes of a network configuration or of a result.
const MAX_JSON: u64 = 1 << 20;

/// The program, after [`program::begin`].
pub fn main() -> program::Status {
    match std::env::args_os().nth(1).as_ref().and_then(|argument| argument.to_str()) {
        Some("--version" | "-V") => {
            println!("{PROGRAM} {}", env!("CARGO_PKG_VERSION"));
            return program::SUCCESS;
        }
        Some("--help" | "-h") => {
            println!("{USAGE}");
            return program::SUCCESS;
        }
        Some(_) => {
            eprintln!("{PROGRAM}: {USAGE}");
            return program::FAILURE;
        }
        None => {}
    }
    let mut version = config::NEWEST.to_owned();
    match run(&mut version) {
        Ok(None) => program::SUCCESS,
        Ok(Some(result)) => match print(&result) {
            Ok(()) => program::SUCCESS,
            Err(_) => program::FAILURE,
        },
        Err(error) => {
            // Who called is told so by the status in any case.
            let _ = print(&error.json(&version));
            program::FAILURE
        }
    }
}

/// Carries a call out. `version` becomes that of the configuration, if it names one.
fn run(version: &mut String) -> Result<Option<Value>, CniError> {
    let verb = Verb::from_env()?;
    let mut input = Vec::new();
    stdin()
        .lock()
        .take(MAX_JSON + 1)
        .read_to_end(&mut input)
        .map_err(|error| CniError::io(format!("cannot read standard input: {error}")))?;
    if input.len() as u64 > MAX_JSON {
        return Err(CniError::decode(format!("standard input has more than {MAX_JSON} bytes")));
    }
    if verb == Verb::Version {
        return Ok(Some(result::versions(&input)));
    }
    let config = NetworkConfig::parse(input, verb, version)?;
    let call = Call::from_env(verb)?;
    let store = Store::from_env();
    let result = verbs::run(verb, &call, &config, &store);
    if let Err(error) = &result {
        tell(verb, &call, error, &store);
    }
    result
}

/// Engines do not always show what a plugin says: the system's log has it too, and what kept a
/// container from being attached is shown by `mcrun doctor`.
fn tell(verb: Verb, call: &Call, error: &CniError, store: &Store) {
    let Some(container) = &call.container else {
        syslog::error(PROGRAM, format_args!("{}: {error}", verb.name()));
        return;
    };
    syslog::error(PROGRAM, format_args!("container {container}: {}: {error}", verb.name()));
    if verb == Verb::Add {
        // Where it cannot be kept, as without a state directory, the log has it.
        let _ = store.remember_refusal(&Refusal::now(container.as_str(), &error.to_string()));
    }
}

fn print(value: &Value) -> std::io::Result<()> {
    let mut out = stdout().lock();
    writeln!(out, "{value}")?;
    out.flush()
}

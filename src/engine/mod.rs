//! `mcrun run`, `create` and `start` in front of docker, podman and nerdctl.
//!
//! Command line -> [`EngineCommandLine`] (what is mcrun's, what the engine's) ->
//! [`EngineFacts`] of the engine at hand -> its command line -> execve. The
//! engine takes mcrun's place, so that terminal, signals, output and exit status are its own.

pub mod command_line;
pub mod delivery;
pub mod detect;
pub mod option_table;
mod podman;

use std::convert::Infallible;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::attachment::{Attachment, Networks, SpecError, parse_all};
use crate::engine::command_line::{CommandLineError, EngineCommandLine};
use crate::engine::delivery::{EngineFacts, arguments, plain_arguments};
use crate::engine::detect::{Engine, EngineKind};
use crate::engine::option_table::OptionTable;
use crate::oci::caller;
use crate::oci::caller::CALLER_ANNOTATION;

/// Why no engine was started.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The command line.
    #[error(transparent)]
    Line(#[from] CommandLineError),
    /// An attachment.
    #[error("--mcast: {0}")]
    Spec(#[from] SpecError),
    /// An attachment that is no text.
    #[error("--mcast {0}: not UTF-8")]
    NotText(String),
    /// Of three engines, none is there.
    #[error(
        "no container engine found in PATH: install docker, podman or nerdctl, or run a root file \
         system with --rootfs DIR"
    )]
    NoEngine,
    /// `--engine`, or `MCRUN_ENGINE`, names something else; the text begins with which of them.
    #[error(
        "{0}: images are run by docker, podman or nerdctl; an OCI runtime needs --rootfs or --bundle"
    )]
    UnknownEngine(String),
    /// The same names one whose containers are attached while they run.
    #[error(
        "{0}: mcrun runs no containers of it; start the container with its own command, then mcrun \
         attach attaches it"
    )]
    AttachOnly(String),
    /// The same names what is not there.
    #[error("{0}: no such program")]
    NoSuchEngine(String),
    /// docker's daemon does not answer.
    #[error("docker's daemon does not answer (docker info tells more)")]
    NoDaemon,
    /// docker is not set up.
    #[error("docker does not know mcrun's runtime: run mcrun setup docker first")]
    NoDockerRuntime,
    /// Two runtimes.
    #[error(
        "--runtime {0}: an attachment goes through mcrun's own runtime; leave --runtime out, and tell \
         mcrun-runtime to use {0}"
    )]
    Runtime(String),
    /// podman would restart the container without the hooks.
    #[error(
        "--restart: podman forgets the hooks of a command line when it restarts a container; run \
         mcrun setup podman first"
    )]
    PodmanRestart,
    /// An ordinary user's podman cannot attach anything.
    #[error(
        "podman without root cannot attach a container to a LAN: run mcrun with sudo, or attach the \
         running container with sudo mcrun attach"
    )]
    Rootless,
    /// No namespace of its own.
    #[error(
        "--network {0}: an attachment needs a container with a network namespace of its own; use the \
         default network, another one, or none"
    )]
    Network(String),
    /// `mcrun-hook` is not in the directory of mcrun.
    #[error("{} is missing; mcrun needs it beside itself to attach containers", .0.display())]
    NoHook(PathBuf),
    /// The hook definitions for podman.
    #[error("cannot write podman's hook definitions: {}: {source}", path.display())]
    Hooks {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The note of this process for the hook.
    #[error("cannot note in the state directory who waits for the container: {0}")]
    Caller(io::Error),
    /// The engine's program.
    #[error("cannot run {}: {source}", program.display())]
    Exec {
        /// The program.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Takes `run` or `create` to an engine, with the arguments behind that word. It returns only when
/// the line is no engine's (it asks for help, or for a container of an OCI runtime): otherwise the
/// engine has taken the place of this process.
///
/// `run` is an OCI runtime's when `--rootfs` or `--bundle` is among the options (podman has a
/// `--rootfs` of its own: with `--engine podman` that is meant), or `--engine` names a runtime.
///
/// `before` is called just before the engine takes this process's place: with the attachments, and
/// with whether UDP ports are published, other than on loopback.
///
/// # Errors
/// [`EngineError`]; no engine has been started then.
pub fn create(
    command: &str,
    arguments_given: &[OsString],
    state_dir: &Path,
    networks: &Networks,
    before: impl FnOnce(&[Attachment], bool),
) -> Result<(), EngineError> {
    let mut line = EngineCommandLine::parse(arguments_given, &OptionTable::default())?;
    if is_help(arguments_given, &line) || is_runtimes(&line) {
        return Ok(());
    }
    let mut attachments = check_attachments(&line, networks)?;
    let mut engine = choose(line.engine.as_deref(), state_dir)?;
    if line.unknown.is_some() {
        // The image may be the unknown option's value, and flags of ours may stand behind it.
        line = EngineCommandLine::parse(
            arguments_given,
            &OptionTable::with_help(engine.help(command)),
        )?;
        attachments = check_attachments(&line, networks)?;
        if line.engine.is_some() {
            engine = choose(line.engine.as_deref(), state_dir)?;
        }
    }
    let publishes_udp = line.publishes_udp;
    let arguments = if line.mcast.is_empty() {
        let mut plain = vec![OsString::from(command)];
        plain.extend(line.options.into_iter().chain(line.rest));
        plain
    } else {
        let facts = engine.facts(state_dir)?;
        if matches!(facts, EngineFacts::Podman { .. }) {
            if !nix::unistd::geteuid().is_root() {
                return Err(EngineError::Rootless);
            }
            // `create` ends before any hook runs.
            if command == "run" {
                let caller = caller::announce(state_dir).map_err(EngineError::Caller)?;
                let annotation = format!("{CALLER_ANNOTATION}={caller}");
                line.options.extend(["--annotation".into(), annotation.into()]);
            }
        }
        arguments(command, &line, &facts)?
    };
    before(&attachments, publishes_udp);
    match execute(engine, &arguments)? {}
}

/// Takes `start` to an engine: podman forgets the `--hooks-dir` of the command line that made a
/// container. Returns only when the line asks for help, or for nothing.
///
/// # Errors
/// As [`create`].
pub fn start(arguments: &[OsString], state_dir: &Path) -> Result<(), EngineError> {
    let mut arguments = arguments.iter().peekable();
    let mut named = None;
    while let Some(argument) = arguments.peek() {
        let text = argument.to_string_lossy();
        if matches!(&*text, "--help" | "-h") {
            return Ok(());
        }
        if let Some(name) = text.strip_prefix("--engine=") {
            named = Some(OsString::from(name));
        } else if text == "--engine" {
            arguments.next();
            named = Some(
                arguments.peek().ok_or(CommandLineError::NoValue("engine"))?.to_owned().clone(),
            );
        } else {
            break;
        }
        arguments.next();
    }
    let rest: Vec<_> = arguments.cloned().collect();
    if rest.is_empty() {
        return Ok(());
    }
    let engine = choose(named.as_deref(), state_dir)?;
    let facts = engine.facts(state_dir)?;
    if matches!(facts, EngineFacts::Podman { .. }) && nix::unistd::geteuid().is_root() {
        // The containers that hooks of podman's would be silent about.
        caller::announce_for(state_dir, &engine.ids(&rest)).map_err(EngineError::Caller)?;
    }
    match execute(engine, &plain_arguments("start", &rest, &facts))? {}
}

/// `-h` is docker's `--hostname`, so it asks for help only when it is alone.
fn is_help(arguments: &[OsString], line: &EngineCommandLine) -> bool {
    line.help || arguments.is_empty() || arguments == [OsString::from("-h")]
}

fn is_runtimes(line: &EngineCommandLine) -> bool {
    match &line.engine {
        Some(name) if line.direct => EngineKind::of(name) != Some(EngineKind::Podman),
        None if line.direct => {
            let kind = engine_variable().and_then(|name| EngineKind::of(&name));
            kind != Some(EngineKind::Podman)
        }
        _ => false,
    }
}

/// Checks the attachments before anything is started.
fn check_attachments(
    line: &EngineCommandLine,
    networks: &Networks,
) -> Result<Vec<Attachment>, EngineError> {
    let texts = line.mcast.iter().map(|text| {
        text.to_str().ok_or_else(|| EngineError::NotText(text.to_string_lossy().into()))
    });
    let texts = texts.collect::<Result<Vec<_>, EngineError>>()?;
    Ok(parse_all(texts, networks)?)
}

/// The engine that was named, by the flag or by the environment; else the first that can be used.
fn choose(named: Option<&OsStr>, state_dir: &Path) -> Result<Engine, EngineError> {
    match (named, engine_variable()) {
        (Some(name), _) => Engine::named(name, "--engine "),
        (None, Some(name)) => Engine::named(&name, "MCRUN_ENGINE="),
        (None, None) => Engine::find(state_dir),
    }
}

/// `MCRUN_ENGINE`, which stands for `--engine` where that is not given.
fn engine_variable() -> Option<OsString> {
    std::env::var_os("MCRUN_ENGINE").filter(|value| !value.is_empty())
}

fn execute(engine: Engine, arguments: &[OsString]) -> Result<Infallible, EngineError> {
    let source = Command::new(&engine.program).args(arguments).exec();
    Err(EngineError::Exec { program: engine.program, source })
}

//! `mcrun exec`: a further process in a container.

use std::io;
use std::io::IsTerminal;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::Stdio;

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::unistd::{Pid, pipe2};
use serde_json::Value;

use crate::oci::ConfigDocument;
use crate::oci::user;
use crate::standalone::command_check::CommandCheck;
use crate::standalone::container::{Container, ContainerRecord};
use crate::standalone::process::{Reaper, become_subreaper};
use crate::standalone::runtime::Files;
use crate::standalone::shim_client::{block_signals, user_size};
use crate::standalone::spawn::{ConsoleSocket, failure_text, output_file, read_output, wait_for};
use crate::standalone::stdio::{self, ClientStdio, RawTerminal, SavedTerminal, StdioCopy};
use crate::standalone::teardown::STEP;
use crate::standalone::{StandaloneError, options};

/// The options of `mcrun exec`, as given.
#[derive(Debug, Clone, Default)]
pub struct ExecOptions {
    /// The command and its arguments.
    pub command: Vec<String>,
    /// Do not wait for it.
    pub detach: bool,
    /// Pass stdin on.
    pub interactive: bool,
    /// Give it a terminal.
    pub tty: bool,
    /// `NAME=VALUE`, or `NAME` of mcrun's own environment.
    pub env: Vec<String>,
    /// Files with lines of the same.
    pub env_file: Vec<PathBuf>,
    /// Directory in which it starts.
    pub workdir: Option<String>,
    /// `USER[:GROUP]`.
    pub user: Option<String>,
}

/// Runs a process in a running container with the container's environment and capabilities;
/// returns its exit status (0 for a detached one).
///
/// # Errors
/// 1: the container does not run; 125: mcrun or the runtime; 126 and 127: the
/// command cannot be run or was not found.
pub fn exec(container: &Container, options: &ExecOptions) -> Result<i32, StandaloneError> {
    if options.tty && options.interactive && !options.detach && !io::stdin().is_terminal() {
        return Err(StandaloneError::new("-i -t: stdin is not a terminal; leave out -t, or -i"));
    }
    let record = container.record().filter(ContainerRecord::is_running).ok_or_else(|| {
        StandaloneError::with_status(1, format_args!("container {} is not running", container.id()))
    })?;
    let process = process(options, container, &record)?;
    let scratch = Scratch::new(container);
    std::fs::write(scratch.file("json"), process.to_string())
        .map_err(|e| StandaloneError::new(format_args!("cannot write process.json: {e}")))?;
    let failed =
        |error: io::Error| StandaloneError::new(format_args!("cannot run a process: {error}"));
    let signals = block_signals().map_err(failed)?;
    // The process outlives the runtime's command. Its parent, which learns its status, is then this
    // process.
    if !options.detach {
        become_subreaper().map_err(failed)?;
    }
    let mut reaper = Reaper::new(&[]).map_err(failed)?;
    let Started { pid, stdio, mut raw, master } =
        start(options, container, &record, &scratch, &mut reaper)?;
    drop(scratch);
    if options.detach {
        return Ok(0);
    }
    let mut relay = StdioCopy::start(stdio).map_err(failed)?;
    let mut status = None;
    loop {
        status = status.or_else(|| {
            reaper.reap();
            let status = reaper.status(pid)?;
            relay.finish();
            Some(status)
        });
        let mut fds = vec![
            PollFd::new(reaper.as_fd(), PollFlags::POLLIN),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        ];
        if status.is_some() {
            fds.push(PollFd::new(relay.output_done(), PollFlags::POLLIN));
        }
        let _ = poll(&mut fds, PollTimeout::NONE);
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        if let (Some(status), Some(true)) = (status, ready.get(2)) {
            raw.take();
            return Ok(status);
        }
        reaper.reap();
        while let Ok(Some(info)) = signals.read_signal() {
            let signal = info.ssi_signo as i32;
            if signal == libc::SIGWINCH {
                if let (Some(master), Some(size)) = (&master, user_size()) {
                    stdio::set_size(master.as_fd(), &size);
                }
            } else if let Some(status) = status {
                // Nobody reads our output any more.
                raw.take();
                return Ok(status);
            } else if let (None, Ok(signal)) = (reaper.status(pid), Signal::try_from(signal)) {
                // Not reaped yet, so the pid cannot be another process's.
                let _ = nix::sys::signal::kill(Pid::from_raw(pid), signal);
            }
        }
    }
}

/// A running process, and our ends of its stdio.
struct Started {
    pid: i32,
    stdio: ClientStdio,
    raw: Option<RawTerminal>,
    master: Option<OwnedFd>,
}

fn start(
    options: &ExecOptions,
    container: &Container,
    record: &ContainerRecord,
    scratch: &Scratch,
    reaper: &mut Reaper,
) -> Result<Started, StandaloneError> {
    let failed =
        |error: io::Error| StandaloneError::new(format_args!("cannot run a process: {error}"));
    let pipe = || pipe2(OFlag::O_CLOEXEC).map_err(|error| failed(error.into()));
    let (log, pid_file, json) = (scratch.file("log"), scratch.file("pid"), scratch.file("json"));
    let console = match options.tty {
        true => Some(ConsoleSocket::bind(container.dir()).map_err(failed)?),
        false => None,
    };
    let files = Files {
        bundle: container.dir(),
        log: &log,
        pid: &pid_file,
        console: console.as_ref().map(ConsoleSocket::path),
    };
    let mut command = record.runtime.exec(&files, &json, container.id());
    let captured = output_file().map_err(failed)?;
    let mut stdio = ClientStdio::None;
    if options.tty || options.detach {
        let stderr =
            if options.tty { captured.try_clone().map_err(failed)?.into() } else { Stdio::null() };
        command.stdout(Stdio::null()).stderr(stderr);
    } else {
        let (from_stdout, stdout) = pipe()?;
        let (from_stderr, stderr) = pipe()?;
        command.stdout(stdout).stderr(stderr);
        let mut to_stdin = None;
        if options.interactive {
            let (stdin, writer) = pipe()?;
            command.stdin(stdin);
            to_stdin = Some(writer);
        }
        stdio = ClientStdio::Pipes { stdin: to_stdin, stdout: from_stdout, stderr: from_stderr };
    }
    reaper.keep_all(true);
    let child = command.spawn().map_err(|error| {
        StandaloneError::new(format_args!(
            "cannot run {}: {error}",
            record.runtime.path().display()
        ))
    })?;
    drop(command);
    let status = wait_for(reaper, child.id() as i32, STEP);
    if status != 0 {
        let text = failure_text(&log, &read_output(&captured));
        let process = std::fs::read_to_string(&json).ok();
        let process = process.and_then(|text| serde_json::from_str::<Value>(&text).ok());
        let root = PathBuf::from(format!("/proc/{}/root", record.init.map_or(0, |init| init.pid)));
        let command = CommandCheck::new(&root, process.as_ref());
        return Err(StandaloneError::from_runtime(&record.runtime.name(), &text, &command));
    }
    let pid = std::fs::read_to_string(&pid_file).ok().and_then(|text| text.trim().parse().ok());
    let pid: i32 = pid.ok_or_else(|| {
        StandaloneError::new(format_args!("{} wrote no pid file", record.runtime.name()))
    })?;
    reaper.await_exit(pid);
    reaper.keep_all(false);
    let (mut raw, mut master) = (None, None);
    if let Some(console) = console {
        let console = console.accept()?;
        if let Some(size) = user_size() {
            stdio::set_size(console.as_fd(), &size);
        }
        if !options.detach {
            stdio = ClientStdio::Terminal {
                master: console.try_clone().map_err(failed)?,
                stdin: options.interactive,
            };
            master = Some(console);
            if options.interactive {
                let terminal = SavedTerminal::save(io::stdin().as_fd()).map_err(failed)?;
                raw = Some(terminal.into_raw().map_err(failed)?);
            }
        }
    }
    Ok(Started { pid, stdio, raw, master })
}

/// The container's own process of config.json, with another command.
fn process(
    options: &ExecOptions,
    container: &Container,
    record: &ContainerRecord,
) -> Result<Value, StandaloneError> {
    let mut config = ConfigDocument::read(container.dir()).map_err(StandaloneError::new)?;
    let mut variables = options::environment(&options.env, &options.env_file)?;
    if options.tty && config.variable("TERM").is_none() {
        variables.insert(0, ("TERM".to_owned(), "xterm".to_owned()));
    }
    config
        .set(&["process", "args"], options.command.clone())
        .and_then(|()| config.set(&["process", "terminal"], options.tty))
        .and_then(|()| config.set_env(&variables))
        .map_err(StandaloneError::new)?;
    if let Some(dir) = &options.workdir {
        if !dir.starts_with('/') {
            return Err(StandaloneError::new(format_args!("-w {dir}: expected an absolute path")));
        }
        config.set(&["process", "cwd"], dir.as_str()).map_err(StandaloneError::new)?;
    }
    if let Some(text) = &options.user {
        let user = user::resolve(&record.rootfs, text).map_err(StandaloneError::new)?;
        config
            .set(&["process", "user"], crate::standalone::run::user_json(&user))
            .map_err(StandaloneError::new)?;
    }
    Ok(config.process().cloned().unwrap_or_default())
}

/// Files of one exec in the container's directory, removed at its end.
struct Scratch {
    base: PathBuf,
}

impl Scratch {
    fn new(container: &Container) -> Self {
        Scratch { base: container.dir().join(format!("exec-{}", std::process::id())) }
    }

    fn file(&self, extension: &str) -> PathBuf {
        self.base.with_extension(extension)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        for extension in ["json", "log", "pid"] {
            let _ = std::fs::remove_file(self.file(extension));
        }
    }
}

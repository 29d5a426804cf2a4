//! The process that holds a container, as containerd's shims do. It creates and starts the
//! container, waits for its init, keeps the output of a detached one, and removes it.
//!
//! The shim has a session of its own, so that signals of the terminal do not reach it. When the
//! client dies, the shim ends a foreground container; when the shim dies, the client ends it.
//! SIGTERM makes the shim end any container.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::unistd::{Pid, pipe2, setsid};

use crate::oci::ConfigDocument;
use crate::standalone::StandaloneError;
use crate::standalone::command_check::{CommandCheck, CommandState};
use crate::standalone::container::{Container, ContainerRecord, seconds_since_epoch};
use crate::standalone::error::NO_MESSAGE;
use crate::standalone::output_log::{OutputLog, Stream};
use crate::standalone::process;
use crate::standalone::process::Reaper;
use crate::standalone::runtime::{Files, RuntimeKind};
use crate::standalone::shim_protocol::{ClientRequest, Connection, ShimEvent};
use crate::standalone::spawn::{
    ConsoleSocket, failure_text, output_file, read_output, set_nonblocking, wait_for,
};
use crate::standalone::stdio::SavedTerminal;
use crate::standalone::teardown::{STEP, kill_orphans, teardown};
use crate::sys::inherited_fds::close_inherited;
use crate::sys::process::ProcessRef;
use crate::sys::process::poll_timeout;

/// Longest time `create` and `start` may take, hooks included.
const START: Duration = Duration::from_secs(120);

/// What the container's command has for stdin, stdout and stderr.
#[derive(Debug)]
pub(super) enum CommandStdio {
    /// The log for stdout and stderr (`-d`). stdin is /dev/null, or with `-i` a pipe that stays
    /// silent until the container ends.
    Logged {
        /// Reader for the command, writer to keep.
        stdin: Option<(OwnedFd, OwnedFd)>,
    },
    /// Pipes to the client; without a stdin it is /dev/null.
    Pipes {
        /// Its standard input.
        stdin: Option<OwnedFd>,
        /// Its standard output.
        stdout: OwnedFd,
        /// Its standard error.
        stderr: OwnedFd,
    },
    /// A terminal of its own, of this size.
    Terminal(Option<libc::winsize>),
}

impl CommandStdio {
    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        match self {
            CommandStdio::Logged { stdin: None } | CommandStdio::Terminal(_) => Vec::new(),
            CommandStdio::Logged { stdin: Some((reader, writer)) } => {
                vec![reader.as_fd(), writer.as_fd()]
            }
            CommandStdio::Pipes { stdin, stdout, stderr } => {
                let ends = [stdout.as_fd(), stderr.as_fd()];
                ends.into_iter().chain(stdin.as_ref().map(AsFd::as_fd)).collect()
            }
        }
    }
}

/// What a shim is started with.
#[derive(Debug)]
pub(super) struct ShimTask {
    pub(super) container: Container,
    pub(super) record: ContainerRecord,
    pub(super) stdio: CommandStdio,
    /// The user's terminal, to restore it when the client cannot.
    pub(super) terminal: Option<SavedTerminal>,
}

/// Runs in the forked child: holds the container, and exits.
pub(super) fn main(task: ShimTask, connection: Connection) -> ! {
    let _ = setsid();
    let mut keep = task.stdio.descriptors();
    keep.push(connection.as_fd());
    keep.extend(task.terminal.as_ref().map(SavedTerminal::as_fd));
    let result = detach_stdio(&keep)
        .and_then(|()| process::become_subreaper())
        .and_then(|()| Reaper::new(&[Signal::SIGTERM]));
    drop(keep);
    match result {
        Ok(reaper) => Shim::new(task, connection, reaper).run(),
        Err(error) => {
            let message = format!("cannot supervise the container: {error}");
            let _ = connection.send(&ShimEvent::Failed { status: 125, message }, None);
            let _ = task.container.remove_dir();
        }
    }
    std::process::exit(0)
}

/// Closes what was inherited: a detached shim must not keep the pipes of its starter open.
fn detach_stdio(keep: &[BorrowedFd<'_>]) -> io::Result<()> {
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    nix::unistd::dup2_stdout(&null)?;
    nix::unistd::dup2_stderr(&null)?;
    drop(null);
    // SAFETY: this process has just begun; its descriptors are the standard streams and those in
    // `keep`.
    unsafe { close_inherited(keep) };
    Ok(())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Creating,
    Starting,
    Running,
}

struct Shim {
    container: Container,
    record: ContainerRecord,
    stdio: Option<CommandStdio>,
    terminal: Option<SavedTerminal>,
    /// Gone when the client is.
    connection: Option<Connection>,
    reaper: Reaper,
    /// Where the output of a detached container is read: pipes, or its terminal.
    outputs: Vec<(Stream, OwnedFd)>,
    /// Where it is kept.
    log: Option<OutputLog>,
    /// The silent writer of a detached container's stdin.
    _stdin: Option<OwnedFd>,
    phase: Phase,
    /// Signals that came during `start`, when the command may run already; they are sent after it.
    pending_signals: Vec<i32>,
    /// Set when the container is to end: the status of `mcrun run` if it has not started.
    end: Option<i32>,
}

impl Shim {
    fn new(task: ShimTask, connection: Connection, reaper: Reaper) -> Self {
        Shim {
            container: task.container,
            record: task.record,
            stdio: Some(task.stdio),
            terminal: task.terminal,
            connection: Some(connection),
            reaper,
            outputs: Vec::new(),
            log: None,
            _stdin: None,
            phase: Phase::Creating,
            pending_signals: Vec::new(),
            end: None,
        }
    }

    fn run(mut self) {
        if let Err(error) = self.create().and_then(|()| self.start()) {
            kill_orphans(&mut self.reaper);
            let failures = teardown(&self.container, &self.record, &mut self.reaper);
            let (status, mut message) = match self.end {
                Some(status) => (status, String::new()),
                None => (error.status(), error.to_string()),
            };
            for failure in failures {
                let joint = if message.is_empty() { "" } else { "; " };
                message = format!("{message}{joint}{failure}");
            }
            self.send_event(&ShimEvent::Failed { status, message: cut(message) }, None);
            return;
        }
        let status = self.wait_for_init();
        self.finish_output();
        // Without its directory no command finds the container any more, so it is removed.
        let kept = self.record.detached && !self.record.remove && self.container.dir().is_dir();
        if kept && self.end.is_none() {
            self.record.exit_status = Some(status);
            self.record.finished = Some(seconds_since_epoch());
            let _ = self.container.write_record(&self.record);
            return;
        }
        let failures = teardown(&self.container, &self.record, &mut self.reaper);
        let warning = (!failures.is_empty()).then(|| cut(failures.join("; ")));
        self.send_event(&ShimEvent::Ended { status, warning }, None);
    }

    fn create(&mut self) -> Result<(), StandaloneError> {
        self.record.shim = ProcessRef::current().map_err(StandaloneError::new)?;
        self.save_record()?;
        if self.record.detached {
            let log = OutputLog::create(self.container.dir()).map_err(|error| {
                StandaloneError::new(format_args!("cannot make a log: {error}"))
            })?;
            self.log = Some(log);
        }
        let stdio = self.stdio.take().unwrap_or(CommandStdio::Logged { stdin: None });
        let (log, pid) = (self.container.log(), self.container.pid_file());
        let console = match &stdio {
            CommandStdio::Terminal(_) => {
                Some(ConsoleSocket::bind(self.container.dir()).map_err(|error| {
                    StandaloneError::new(format_args!("console socket: {error}"))
                })?)
            }
            _ => None,
        };
        let files = Files {
            bundle: self.container.dir(),
            log: &log,
            pid: &pid,
            console: console.as_ref().map(ConsoleSocket::path),
        };
        let mut command = self.record.runtime.create(&files, self.container.id());
        let captured = output_file().map_err(StandaloneError::new)?;
        let clone = captured.try_clone().map_err(StandaloneError::new)?;
        let mut winsize = None;
        match stdio {
            CommandStdio::Logged { stdin } => {
                command.stdout(self.add_output(Stream::Stdout)?);
                command.stderr(self.add_output(Stream::Stderr)?);
                if let Some((reader, writer)) = stdin {
                    command.stdin(reader);
                    self._stdin = Some(writer);
                }
            }
            CommandStdio::Pipes { stdin, stdout, stderr } => {
                command.stdout(stdout).stderr(stderr);
                if let Some(stdin) = stdin {
                    command.stdin(stdin);
                }
            }
            CommandStdio::Terminal(size) => {
                command.stdout(Stdio::null()).stderr(clone);
                winsize = size;
            }
        }
        self.reaper.keep_all(true);
        let status = self.run_runtime(command)?;
        if status != 0 || self.end.is_some() {
            return Err(self.runtime_error(status, &captured));
        }
        let pid = self.container.read_pid().ok_or_else(|| {
            StandaloneError::new(format_args!("{} wrote no pid file", self.record.runtime.name()))
        })?;
        self.reaper.await_exit(pid);
        self.reaper.keep_all(false);
        // The init waits for `start`, or is a zombie: the pid cannot be another process's.
        self.record.init = ProcessRef::of(pid).ok();
        self.save_record()?;
        if let Some(console) = console {
            let master = console.accept()?;
            if let Some(size) = winsize {
                crate::standalone::stdio::set_size(master.as_fd(), &size);
            }
            self.pass_console(master)?;
        }
        Ok(())
    }

    /// Sends the terminal to the client; that of a detached container is read here.
    fn pass_console(&mut self, master: OwnedFd) -> Result<(), StandaloneError> {
        if self.record.detached {
            set_nonblocking(master.as_fd()).map_err(StandaloneError::new)?;
            self.outputs.push((Stream::Stdout, master));
        } else {
            self.send_event(&ShimEvent::Console, Some(master.as_fd()));
        }
        Ok(())
    }

    fn start(&mut self) -> Result<(), StandaloneError> {
        let mut command = self.record.runtime.start(&self.container.log(), self.container.id());
        let captured = output_file().map_err(StandaloneError::new)?;
        let clone = captured.try_clone().map_err(StandaloneError::new)?;
        command.stdout(Stdio::null()).stderr(clone);
        self.phase = Phase::Starting;
        let status = self.run_runtime(command)?;
        if status != 0 || self.end.is_some() {
            return Err(self.runtime_error(status, &captured));
        }
        self.phase = Phase::Running;
        for signal in std::mem::take(&mut self.pending_signals) {
            self.forward_signal(signal);
        }
        self.send_event(&ShimEvent::Started, None);
        if self.record.detached {
            self.connection = None;
        }
        Ok(())
    }

    /// Runs a command of the runtime to its end, or until the container is to end.
    fn run_runtime(&mut self, mut command: std::process::Command) -> Result<i32, StandaloneError> {
        let child = command.spawn().map_err(|error| {
            StandaloneError::new(format_args!(
                "cannot run {}: {error}",
                self.record.runtime.path().display()
            ))
        })?;
        // It owns our copies of the command's stdio; the client waits for their end of file.
        drop(command);
        let pid = child.id() as i32;
        self.reaper.await_exit(pid);
        let deadline = Instant::now() + START;
        loop {
            if let Some(status) = self.reaper.status(pid) {
                self.reaper.forget(pid);
                return Ok(status);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if self.end.is_some() || left.is_zero() {
                process::kill_children(&[pid]);
                wait_for(&mut self.reaper, pid, STEP);
                return Err(StandaloneError::new(format_args!(
                    "{} did not finish within {} s",
                    self.record.runtime.name(),
                    START.as_secs()
                )));
            }
            self.poll_once(poll_timeout(left));
        }
    }

    fn runtime_error(&self, status: i32, captured: &File) -> StandaloneError {
        let name = self.record.runtime.name();
        // crun's error does not have the hook's stderr, which is in a file of its own.
        if self.record.runtime.kind() == RuntimeKind::Crun {
            let hook = std::fs::read_to_string(self.container.hook_log()).unwrap_or_default();
            if !hook.trim().is_empty() {
                let text = format!("hook: stderr: {hook}");
                return StandaloneError::from_runtime(&name, &text, &CommandCheck::none());
            }
        }
        let config = ConfigDocument::read(self.container.dir()).ok();
        let process = config.as_ref().and_then(ConfigDocument::process);
        let command = CommandCheck::new(&self.record.rootfs, process);
        let mut stderr = read_output(captured);
        if let Some((_, fd)) = self.outputs.iter().find(|(stream, _)| *stream == Stream::Stderr) {
            // The command has not run: all there is is the runtime's.
            let mut buffer = [0; 4096];
            let length = nix::unistd::read(fd, &mut buffer).unwrap_or(0);
            stderr.push_str(&String::from_utf8_lossy(&buffer[..length]));
        }
        match failure_text(&self.container.log(), &stderr) {
            text if text.is_empty() && command.state() == CommandState::Executable => {
                StandaloneError::new(format_args!("{name} {NO_MESSAGE} (status {status})"))
            }
            text => StandaloneError::from_runtime(&name, &text, &command),
        }
    }

    fn wait_for_init(&mut self) -> i32 {
        let Some(init) = self.record.init else { return 125 };
        loop {
            if let Some(status) = self.reaper.status(init.pid) {
                return status;
            }
            if self.end.is_some() {
                process::kill_children(&[init.pid]);
            }
            self.poll_once(PollTimeout::NONE);
        }
    }

    /// Waits for the next events, and handles them.
    fn poll_once(&mut self, timeout: PollTimeout) {
        let mut fds = vec![PollFd::new(self.reaper.as_fd(), PollFlags::POLLIN)];
        let connection_at = self.connection.as_ref().map(|connection| {
            fds.push(PollFd::new(connection.as_fd(), PollFlags::POLLIN));
            fds.len() - 1
        });
        let outputs_at = fds.len();
        fds.extend(self.outputs.iter().map(|(_, fd)| PollFd::new(fd.as_fd(), PollFlags::POLLIN)));
        if !matches!(poll(&mut fds, timeout), Ok(1..)) {
            return;
        }
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        let connection_ready = connection_at.is_some_and(|at| ready[at]);
        if self.reaper.reap().contains(&libc::SIGTERM) {
            self.end.get_or_insert(128 + libc::SIGTERM);
        }
        if connection_ready {
            self.handle_client();
        }
        // From the last one on: one that has ended is taken out.
        for at in (outputs_at..ready.len()).rev().filter(|at| ready[*at]) {
            self.read_output(at - outputs_at);
        }
    }

    fn handle_client(&mut self) {
        let Some(connection) = &self.connection else { return };
        match connection.receive::<ClientRequest>() {
            Ok(Some((ClientRequest::Signal(signal), _))) => self.forward_signal(signal),
            Ok(Some((ClientRequest::End, _))) => {
                self.end.get_or_insert(128 + libc::SIGKILL);
            }
            Ok(None) | Err(_) => {
                self.connection = None;
                if let Some(terminal) = &self.terminal {
                    terminal.restore();
                }
                self.end.get_or_insert(128 + libc::SIGKILL);
            }
        }
    }

    /// Forwards a signal to the container's init. Before that exists, a signal that would end mcrun
    /// ends the start.
    fn forward_signal(&mut self, signal: i32) {
        const ENDING: [i32; 4] = [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM];
        match (self.phase, self.record.init) {
            (Phase::Creating, _) if ENDING.contains(&signal) => {
                self.end.get_or_insert(128 + signal);
            }
            (Phase::Starting, _) if !self.pending_signals.contains(&signal) => {
                self.pending_signals.push(signal)
            }
            (Phase::Running, Some(init)) if self.reaper.status(init.pid).is_none() => {
                // Not reaped yet, so the pid cannot be another process's.
                if let Ok(signal) = Signal::try_from(signal) {
                    let _ = nix::sys::signal::kill(Pid::from_raw(init.pid), signal);
                }
            }
            _ => {}
        }
    }

    /// A pipe to the log; its writer.
    fn add_output(&mut self, stream: Stream) -> Result<OwnedFd, StandaloneError> {
        let failed = |error: io::Error| StandaloneError::new(format_args!("pipe: {error}"));
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC).map_err(|error| failed(error.into()))?;
        set_nonblocking(reader.as_fd()).map_err(failed)?;
        self.outputs.push((stream, reader));
        Ok(writer)
    }

    /// Keeps what an output has; `false` when there is no more for now, or it has ended.
    fn read_output(&mut self, at: usize) -> bool {
        let (stream, fd) = &self.outputs[at];
        let mut buffer = [0; 16 << 10];
        match nix::unistd::read(fd, &mut buffer) {
            Ok(length @ 1..) => {
                if let Some(log) = &mut self.log {
                    log.append(*stream, &buffer[..length]);
                }
                true
            }
            Err(Errno::EINTR) => true,
            Err(Errno::EAGAIN) => false,
            // All who had it open have closed it.
            Ok(0) | Err(_) => {
                drop(self.outputs.remove(at));
                false
            }
        }
    }

    /// Keeps what the container wrote last. A process that outlives its init, in another pid
    /// namespace, may write for ever: no more is read than a pipe holds (pipe(7)).
    fn finish_output(&mut self) {
        for at in (0..self.outputs.len()).rev() {
            for _ in 0..64 {
                if !self.read_output(at) {
                    break;
                }
            }
        }
        if let Some(log) = &mut self.log {
            log.finish();
        }
    }

    fn save_record(&self) -> Result<(), StandaloneError> {
        self.container.write_record(&self.record).map_err(|error| {
            StandaloneError::new(format_args!(
                "cannot write {}: {error}",
                self.container.dir().join("container.json").display()
            ))
        })
    }

    /// A client that has ended is noticed when the connection is read.
    fn send_event(&self, event: &ShimEvent, fd: Option<BorrowedFd<'_>>) {
        if let Some(connection) = &self.connection {
            let _ = connection.send(event, fd);
        }
    }
}

fn cut(mut message: String) -> String {
    let end = message.char_indices().nth(3000).map_or(message.len(), |(at, _)| at);
    message.truncate(end);
    message
}

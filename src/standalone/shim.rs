//! The process that holds a container, as containerd's shims do: it creates and starts it, waits
//! for its init, and removes it.
//!
//! A session of its own keeps the terminal's signals away. When the client dies, it ends
//! a foreground container; when it dies itself, the client does. SIGTERM makes it end the
//! container, whether in the foreground or not.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::unistd::{Pid, setsid};

use crate::standalone::StandaloneError;
use crate::standalone::container::{Container, ContainerRecord};
use crate::standalone::error::NO_MESSAGE;
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
    /// /dev/null, or for stdin the end of a pipe that stays silent until the container ends
    /// (`-d -i`).
    Null {
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
            CommandStdio::Null { stdin: None } | CommandStdio::Terminal(_) => Vec::new(),
            CommandStdio::Null { stdin: Some((reader, writer)) } => {
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

/// Holds nothing of the starter's: a detached shim must not keep its pipes open.
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
    /// The container's terminal, of a detached container: read so that its command never waits
    /// for a reader.
    master: Option<OwnedFd>,
    /// The silent writer of a detached container's stdin.
    _stdin: Option<OwnedFd>,
    phase: Phase,
    /// Signals that came while it was being started: the command may run already, but nobody
    /// knows yet.
    pending_signals: Vec<i32>,
    /// The container is to end, with this status if it has not started.
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
            master: None,
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
        // One whose directory was lost is kept for nobody: no command finds it any more.
        let kept = self.record.detached && !self.record.remove && self.container.dir().is_dir();
        if kept && self.end.is_none() {
            self.record.exit_status = Some(status);
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
        let stdio = self.stdio.take().unwrap_or(CommandStdio::Null { stdin: None });
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
            CommandStdio::Null { stdin } => {
                command.stdout(Stdio::null()).stderr(Stdio::null());
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
        // It waits for `start`, or has died and waits to be reaped: the pid is its.
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

    /// The terminal is the client's business, or nobody's.
    fn pass_console(&mut self, master: OwnedFd) -> Result<(), StandaloneError> {
        if self.record.detached {
            set_nonblocking(master.as_fd()).map_err(StandaloneError::new)?;
            self.master = Some(master);
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
        // It holds our copies of the command's stdio, whose end the other side waits for.
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
        // crun keeps its hooks' words out of its own; they are in the file we told it.
        if self.record.runtime.kind() == RuntimeKind::Crun {
            let hook = std::fs::read_to_string(self.container.hook_log()).unwrap_or_default();
            if !hook.trim().is_empty() {
                return StandaloneError::from_runtime(&name, &format!("hook: stderr: {hook}"));
            }
        }
        match failure_text(&self.container.log(), &read_output(captured)) {
            text if text.is_empty() => {
                StandaloneError::new(format_args!("{name} {NO_MESSAGE} (status {status})"))
            }
            text => StandaloneError::from_runtime(&name, &text),
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

    /// Waits for something to happen, and deals with it.
    fn poll_once(&mut self, timeout: PollTimeout) {
        let mut fds = vec![PollFd::new(self.reaper.as_fd(), PollFlags::POLLIN)];
        let channel_at = self.connection.as_ref().map(|connection| {
            fds.push(PollFd::new(connection.as_fd(), PollFlags::POLLIN));
            fds.len() - 1
        });
        let master_at = self.master.as_ref().map(|master| {
            fds.push(PollFd::new(master.as_fd(), PollFlags::POLLIN));
            fds.len() - 1
        });
        if !matches!(poll(&mut fds, timeout), Ok(1..)) {
            return;
        }
        let ready = |at: Option<usize>| at.is_some_and(|at| fds[at].any().unwrap_or(false));
        let (channel_ready, master_ready) = (ready(channel_at), ready(master_at));
        if self.reaper.reap().contains(&libc::SIGTERM) {
            self.end.get_or_insert(128 + libc::SIGTERM);
        }
        if channel_ready {
            self.handle_client();
        }
        if master_ready {
            self.drain_master();
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

    /// A signal for the container's init; one that would end mcrun ends a start in progress.
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
                // Not reaped yet: the pid is still its own.
                if let Ok(signal) = Signal::try_from(signal) {
                    let _ = nix::sys::signal::kill(Pid::from_raw(init.pid), signal);
                }
            }
            _ => {}
        }
    }

    fn drain_master(&mut self) {
        let Some(master) = &self.master else { return };
        match nix::unistd::read(master, &mut [0; 4096]) {
            Ok(1..) | Err(Errno::EAGAIN | Errno::EINTR) => {}
            // All who had the terminal open have closed it.
            Ok(0) | Err(_) => self.master = None,
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

    /// A client that is gone shows as the connection's end of file.
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

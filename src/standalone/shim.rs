//! The process that holds a container, as containerd's shims do: it creates and starts it, waits
//! for its init, and removes it.
//!
//! A session of its own keeps the terminal's signals away. When the front process dies, it ends
//! a foreground container; when it dies itself, the front process does. SIGTERM makes it end the
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

use crate::standalone::EngineError;
use crate::standalone::container::{Container, Record};
use crate::standalone::error::WORDLESS;
use crate::standalone::process;
use crate::standalone::process::{Reaper, poll_timeout};
use crate::standalone::relay::SavedTerminal;
use crate::standalone::runtime::{Files, Kind};
use crate::standalone::shim_protocol::{Channel, Event, Request};
use crate::standalone::spawn::{
    ConsoleSocket, failure_text, output_file, read_output, set_nonblocking, wait_for,
};
use crate::standalone::teardown::{STEP, kill_orphans, teardown};
use crate::sys::process::ProcessRef;

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
    /// Pipes to the front process; without a stdin it is /dev/null.
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

/// What a supervisor is started with.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) container: Container,
    pub(super) record: Record,
    pub(super) stdio: CommandStdio,
    /// The user's terminal, to restore it when the front process cannot.
    pub(super) terminal: Option<SavedTerminal>,
}

/// Runs in the forked child: holds the container, and exits.
pub(super) fn main(job: Job, channel: Channel) -> ! {
    let _ = setsid();
    let mut keep = job.stdio.descriptors();
    keep.push(channel.as_fd());
    keep.extend(job.terminal.as_ref().map(SavedTerminal::as_fd));
    let result = detach_stdio(&keep)
        .and_then(|()| process::become_subreaper())
        .and_then(|()| Reaper::new(&[Signal::SIGTERM]));
    drop(keep);
    match result {
        Ok(reaper) => Supervisor::new(job, channel, reaper).run(),
        Err(error) => {
            let message = format!("cannot supervise the container: {error}");
            let _ = channel.send(&Event::Failed { status: 125, message }, None);
            let _ = job.container.remove_dir();
        }
    }
    std::process::exit(0)
}

/// Holds nothing of the starter's: a detached supervisor must not keep its pipes open.
fn detach_stdio(keep: &[BorrowedFd<'_>]) -> io::Result<()> {
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    nix::unistd::dup2_stdout(&null)?;
    nix::unistd::dup2_stderr(&null)?;
    drop(null);
    process::close_inherited(keep);
    Ok(())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Creating,
    Starting,
    Running,
}

struct Supervisor {
    container: Container,
    record: Record,
    stdio: Option<CommandStdio>,
    terminal: Option<SavedTerminal>,
    /// Gone when the front process is.
    channel: Option<Channel>,
    reaper: Reaper,
    /// The container's terminal, of a detached container: read so that its command never waits
    /// for a reader.
    master: Option<OwnedFd>,
    /// The silent writer of a detached container's stdin.
    _stdin: Option<OwnedFd>,
    phase: Phase,
    /// Signals that came while it was being started: the command may run already, but nobody
    /// knows yet.
    held: Vec<i32>,
    /// The container is to end, with this status if it has not started.
    end: Option<i32>,
}

impl Supervisor {
    fn new(job: Job, channel: Channel, reaper: Reaper) -> Self {
        Supervisor {
            container: job.container,
            record: job.record,
            stdio: Some(job.stdio),
            terminal: job.terminal,
            channel: Some(channel),
            reaper,
            master: None,
            _stdin: None,
            phase: Phase::Creating,
            held: Vec::new(),
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
            self.tell(&Event::Failed { status, message: cut(message) }, None);
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
        self.tell(&Event::Ended { status, warning }, None);
    }

    fn create(&mut self) -> Result<(), EngineError> {
        self.record.supervisor = ProcessRef::current().map_err(EngineError::new)?;
        self.save_record()?;
        let stdio = self.stdio.take().unwrap_or(CommandStdio::Null { stdin: None });
        let (log, pid) = (self.container.log(), self.container.pid_file());
        let console = match &stdio {
            CommandStdio::Terminal(_) => Some(
                ConsoleSocket::bind(self.container.dir())
                    .map_err(|error| EngineError::new(format_args!("console socket: {error}")))?,
            ),
            _ => None,
        };
        let files = Files {
            bundle: self.container.dir(),
            log: &log,
            pid: &pid,
            console: console.as_ref().map(ConsoleSocket::path),
        };
        let mut command = self.record.engine.create(&files, self.container.id());
        let captured = output_file().map_err(EngineError::new)?;
        let clone = captured.try_clone().map_err(EngineError::new)?;
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
            EngineError::new(format_args!("{} wrote no pid file", self.record.engine.name()))
        })?;
        self.reaper.await_exit(pid);
        self.reaper.keep_all(false);
        // It waits for `start`, or has died and waits to be reaped: the pid is its.
        self.record.init = ProcessRef::of(pid).ok();
        self.save_record()?;
        if let Some(console) = console {
            let master = console.accept()?;
            if let Some(size) = winsize {
                crate::standalone::relay::set_size(master.as_fd(), &size);
            }
            self.hand_over(master)?;
        }
        Ok(())
    }

    /// The terminal is the front process's business, or nobody's.
    fn hand_over(&mut self, master: OwnedFd) -> Result<(), EngineError> {
        if self.record.detached {
            set_nonblocking(master.as_fd()).map_err(EngineError::new)?;
            self.master = Some(master);
        } else {
            self.tell(&Event::Console, Some(master.as_fd()));
        }
        Ok(())
    }

    fn start(&mut self) -> Result<(), EngineError> {
        let mut command = self.record.engine.start(&self.container.log(), self.container.id());
        let captured = output_file().map_err(EngineError::new)?;
        let clone = captured.try_clone().map_err(EngineError::new)?;
        command.stdout(Stdio::null()).stderr(clone);
        self.phase = Phase::Starting;
        let status = self.run_runtime(command)?;
        if status != 0 || self.end.is_some() {
            return Err(self.runtime_error(status, &captured));
        }
        self.phase = Phase::Running;
        for signal in std::mem::take(&mut self.held) {
            self.pass_on(signal);
        }
        self.tell(&Event::Started, None);
        if self.record.detached {
            self.channel = None;
        }
        Ok(())
    }

    /// Runs a command of the runtime to its end, or until the container is to end.
    fn run_runtime(&mut self, mut command: std::process::Command) -> Result<i32, EngineError> {
        let child = command.spawn().map_err(|error| {
            EngineError::new(format_args!(
                "cannot run {}: {error}",
                self.record.engine.path().display()
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
                return Err(EngineError::new(format_args!(
                    "{} did not finish within {} s",
                    self.record.engine.name(),
                    START.as_secs()
                )));
            }
            self.turn(poll_timeout(left));
        }
    }

    fn runtime_error(&self, status: i32, captured: &File) -> EngineError {
        let name = self.record.engine.name();
        // crun keeps its hooks' words out of its own; they are in the file we told it.
        if self.record.engine.kind() == Kind::Crun {
            let hook = std::fs::read_to_string(self.container.hook_log()).unwrap_or_default();
            if !hook.trim().is_empty() {
                return EngineError::from_runtime(&name, &format!("hook: stderr: {hook}"));
            }
        }
        match failure_text(&self.container.log(), &read_output(captured)) {
            text if text.is_empty() => {
                EngineError::new(format_args!("{name} {WORDLESS} (status {status})"))
            }
            text => EngineError::from_runtime(&name, &text),
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
            self.turn(PollTimeout::NONE);
        }
    }

    /// Waits for something to happen, and deals with it.
    fn turn(&mut self, timeout: PollTimeout) {
        let mut fds = vec![PollFd::new(self.reaper.as_fd(), PollFlags::POLLIN)];
        let channel_at = self.channel.as_ref().map(|channel| {
            fds.push(PollFd::new(channel.as_fd(), PollFlags::POLLIN));
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
        if self.reaper.turn().contains(&libc::SIGTERM) {
            self.end.get_or_insert(128 + libc::SIGTERM);
        }
        if channel_ready {
            self.serve_front();
        }
        if master_ready {
            self.drain_master();
        }
    }

    fn serve_front(&mut self) {
        let Some(channel) = &self.channel else { return };
        match channel.receive::<Request>() {
            Ok(Some((Request::Signal(signal), _))) => self.pass_on(signal),
            Ok(Some((Request::End, _))) => {
                self.end.get_or_insert(128 + libc::SIGKILL);
            }
            Ok(None) | Err(_) => {
                self.channel = None;
                if let Some(terminal) = &self.terminal {
                    terminal.restore();
                }
                self.end.get_or_insert(128 + libc::SIGKILL);
            }
        }
    }

    /// A signal for the container's init; one that would end mcrun ends a start in progress.
    fn pass_on(&mut self, signal: i32) {
        const ENDING: [i32; 4] = [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM];
        match (self.phase, self.record.init) {
            (Phase::Creating, _) if ENDING.contains(&signal) => {
                self.end.get_or_insert(128 + signal);
            }
            (Phase::Starting, _) if !self.held.contains(&signal) => self.held.push(signal),
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

    fn save_record(&self) -> Result<(), EngineError> {
        self.container.write_record(&self.record).map_err(|error| {
            EngineError::new(format_args!(
                "cannot write {}: {error}",
                self.container.dir().join("container.json").display()
            ))
        })
    }

    /// A front process that is gone shows as the channel's end of file.
    fn tell(&self, event: &Event, fd: Option<BorrowedFd<'_>>) {
        if let Some(channel) = &self.channel {
            let _ = channel.send(event, fd);
        }
    }
}

fn cut(mut message: String) -> String {
    let end = message.char_indices().nth(3000).map_or(message.len(), |(at, _)| at);
    message.truncate(end);
    message
}

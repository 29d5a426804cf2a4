//! The client of a shim: the process that a user sees. It copies stdio, forwards signals, and ends
//! with the status of the container.

use std::io;
use std::io::{IsTerminal, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, fork, pipe2};

use crate::standalone::StandaloneError;
use crate::standalone::command_check::CommandCheck;
use crate::standalone::container::{Container, ContainerRecord};
use crate::standalone::options::RunOptions;
use crate::standalone::process::{Reaper, become_subreaper};
use crate::standalone::shim;
use crate::standalone::shim::{CommandStdio, ShimTask};
use crate::standalone::shim_protocol::{ClientRequest, Connection, ShimEvent};
use crate::standalone::stdio::{self, ClientStdio, RawTerminal, SavedTerminal, StdioCopy};
use crate::standalone::teardown::{kill_orphans, teardown};

/// Signals that are forwarded to the container, as docker does.
pub(super) const FORWARDED_SIGNALS: [Signal; 7] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
];

/// Number of SIGINT and SIGTERM signals after which a container that ignores them is killed.
/// docker's client ends after as many.
const KILL_AFTER: u32 = 3;

/// Refuses `-i -t` where there is no terminal, as docker does.
pub(super) fn check_terminal(options: &RunOptions) -> Result<(), StandaloneError> {
    if options.tty && options.interactive && !options.detach && !io::stdin().is_terminal() {
        return Err(StandaloneError::new("-i -t: stdin is not a terminal; leave out -t, or -i"));
    }
    Ok(())
}

/// Starts the shim, and serves as its client until the container ends.
pub(super) fn run(
    container: Container,
    record: ContainerRecord,
    options: &RunOptions,
) -> Result<i32, StandaloneError> {
    let prepared = StdioEnds::make(options).and_then(|ends| {
        let signals = block_signals()?;
        let (connection, theirs) = Connection::pair()?;
        Ok((ends, signals, connection, theirs))
    });
    let (ends, signals, connection, theirs) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => {
            let _ = container.remove_dir();
            return Err(StandaloneError::new(format_args!("cannot start a shim: {error}")));
        }
    };
    // SAFETY: this process has a single thread, so the child may allocate and take locks.
    let shim = match unsafe { fork() } {
        Ok(ForkResult::Child) => {
            drop((connection, signals, ends.client));
            let (stdio, terminal) = (ends.command, ends.shims_terminal);
            shim::main(ShimTask { container, record, stdio, terminal }, theirs)
        }
        Ok(ForkResult::Parent { child }) => child,
        Err(error) => {
            let _ = container.remove_dir();
            return Err(StandaloneError::new(format_args!("cannot fork: {error}")));
        }
    };
    drop((theirs, ends.command, ends.shims_terminal));
    // When the shim is killed, its children become ours, and this process has to end them.
    become_subreaper().map_err(StandaloneError::new)?;
    let client = ShimClient {
        container,
        runtime: record.runtime.name(),
        detached: record.detached,
        interactive: options.interactive,
        connection,
        signals,
        stdio: ends.client,
        terminal: ends.terminal,
        raw: None,
        master: None,
        relay: None,
        terminations: 0,
    };
    let detached = client.detached;
    let result = client.run();
    if !(detached && result == Ok(0)) {
        // The shim has sent its last message, or was killed. Waiting for it leaves no zombie.
        let _ = waitpid(shim, None);
    }
    result
}

/// Both sides of the container's stdio.
struct StdioEnds {
    command: CommandStdio,
    client: ClientStdio,
    terminal: Option<SavedTerminal>,
    shims_terminal: Option<SavedTerminal>,
}

impl StdioEnds {
    fn make(options: &RunOptions) -> io::Result<StdioEnds> {
        let pipe = || pipe2(OFlag::O_CLOEXEC);
        let mut ends = StdioEnds {
            command: CommandStdio::Logged { stdin: None },
            client: ClientStdio::None,
            terminal: None,
            shims_terminal: None,
        };
        if options.tty {
            ends.command = CommandStdio::Terminal(user_size());
            if options.interactive && !options.detach {
                let terminal = SavedTerminal::save(io::stdin().as_fd())?;
                ends.shims_terminal = Some(terminal.try_clone()?);
                ends.terminal = Some(terminal);
            }
        } else if options.detach {
            let stdin = options.interactive.then(pipe).transpose()?;
            ends.command = CommandStdio::Logged { stdin };
        } else {
            let (stdin, to_stdin) = options.interactive.then(pipe).transpose()?.unzip();
            let ((from_stdout, stdout), (from_stderr, stderr)) = (pipe()?, pipe()?);
            ends.command = CommandStdio::Pipes { stdin, stdout, stderr };
            ends.client =
                ClientStdio::Pipes { stdin: to_stdin, stdout: from_stdout, stderr: from_stderr };
        }
        Ok(ends)
    }
}

/// The size of the user's terminal.
pub(super) fn user_size() -> Option<libc::winsize> {
    stdio::size(io::stdin().as_fd()).or_else(|| stdio::size(io::stdout().as_fd()))
}

/// Blocks the signals that are forwarded, SIGWINCH, and SIGCHLD. Client and shim need SIGCHLD
/// blocked before their first child. A signal that was ignored when mcrun started, as by nohup(1),
/// is not forwarded.
pub(super) fn block_signals() -> io::Result<SignalFd> {
    let mut set = SigSet::empty();
    for signal in FORWARDED_SIGNALS.into_iter().filter(|signal| !is_ignored(*signal)) {
        set.add(signal);
    }
    set.add(Signal::SIGWINCH);
    let mut blocked = set;
    blocked.add(Signal::SIGCHLD);
    blocked.thread_block()?;
    Ok(SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}

fn is_ignored(signal: Signal) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: without a new action, sigaction only writes the present one; all zeroes are a valid
    // `struct sigaction`.
    let action = unsafe {
        libc::sigaction(signal as i32, std::ptr::null(), action.as_mut_ptr());
        action.assume_init()
    };
    action.sa_sigaction == libc::SIG_IGN
}

struct ShimClient {
    container: Container,
    runtime: String,
    detached: bool,
    interactive: bool,
    connection: Connection,
    signals: SignalFd,
    stdio: ClientStdio,
    terminal: Option<SavedTerminal>,
    raw: Option<RawTerminal>,
    master: Option<OwnedFd>,
    relay: Option<StdioCopy>,
    terminations: u32,
}

impl ShimClient {
    fn run(mut self) -> Result<i32, StandaloneError> {
        loop {
            let mut fds = vec![
                PollFd::new(self.connection.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            ];
            if let Some(hangup) = self.relay.as_ref().and_then(StdioCopy::input_hangup) {
                fds.push(PollFd::new(hangup, PollFlags::POLLIN));
            }
            let _ = poll(&mut fds, PollTimeout::NONE);
            let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
            if ready[1] {
                self.forward_signals();
            }
            if ready.get(2) == Some(&true) {
                // The user's terminal was closed: the container ends with it.
                if let Some(relay) = &mut self.relay {
                    relay.forget_hangup();
                }
                let _ = self.connection.send(&ClientRequest::End, None);
            }
            if !ready[0] {
                continue;
            }
            match self.connection.receive::<ShimEvent>() {
                Ok(Some((ShimEvent::Console, Some(master)))) => {
                    if let Err(error) = self.take_console(master) {
                        return Err(self.give_up(&format!("terminal: {error}")));
                    }
                }
                Ok(Some((ShimEvent::Console, None))) => {}
                Ok(Some((ShimEvent::Started, _))) => {
                    if self.detached {
                        let mut stdout = io::stdout();
                        let _ = writeln!(stdout, "{}", self.container.id());
                        return Ok(0);
                    }
                    let stdio = std::mem::replace(&mut self.stdio, ClientStdio::None);
                    match StdioCopy::start(stdio) {
                        Ok(relay) => self.relay = Some(relay),
                        Err(error) => return Err(self.give_up(&format!("cannot relay: {error}"))),
                    }
                }
                Ok(Some((ShimEvent::Ended { status, warning }, _))) => {
                    self.finish_output();
                    self.raw = None;
                    if let Some(warning) = warning {
                        eprintln!("mcrun: {}: cleaning up: {warning}", self.container.id());
                    }
                    return Ok(status);
                }
                Ok(Some((ShimEvent::Failed { status, message }, _))) => {
                    self.raw = None;
                    if message.is_empty() {
                        return Ok(status);
                    }
                    return Err(StandaloneError::with_status(
                        status,
                        self.with_runtime_stderr(message),
                    ));
                }
                Ok(None) | Err(_) => return Err(self.clean_up_after_shim()),
            }
        }
    }

    fn forward_signals(&mut self) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            let signal = info.ssi_signo as i32;
            if signal == libc::SIGWINCH {
                if let (Some(master), Some(size)) = (&self.master, user_size()) {
                    stdio::set_size(master.as_fd(), &size);
                }
                continue;
            }
            if signal == libc::SIGINT || signal == libc::SIGTERM {
                self.terminations += 1;
            }
            let request = if self.terminations >= KILL_AFTER {
                ClientRequest::End
            } else {
                ClientRequest::Signal(signal)
            };
            // A shim that has ended is noticed by the end of the connection.
            let _ = self.connection.send(&request, None);
        }
    }

    fn take_console(&mut self, master: OwnedFd) -> io::Result<()> {
        self.stdio = ClientStdio::Terminal { master: master.try_clone()?, stdin: self.interactive };
        self.master = Some(master);
        if let Some(terminal) = self.terminal.take() {
            self.raw = Some(terminal.into_raw()?);
        }
        Ok(())
    }

    /// Copies the rest of the output. A signal ends the copying when the reader of our output has
    /// stopped reading.
    fn finish_output(&mut self) {
        let Some(mut relay) = self.relay.take() else { return };
        relay.finish();
        loop {
            let mut fds = [
                PollFd::new(relay.output_done(), PollFlags::POLLIN),
                PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            ];
            let _ = poll(&mut fds, PollTimeout::NONE);
            if fds[0].any().unwrap_or(true) {
                return;
            }
            while let Ok(Some(info)) = self.signals.read_signal() {
                if info.ssi_signo as i32 != libc::SIGWINCH {
                    return;
                }
            }
        }
    }

    /// Adds the reason to the message about a runtime that logged none. The runtime may have
    /// written it to the stderr that it got for the container; the container has not run, so all
    /// that is there is the runtime's.
    fn with_runtime_stderr(&mut self, message: String) -> String {
        let ClientStdio::Pipes { stderr, .. } = &self.stdio else { return message };
        if !message.contains(crate::standalone::error::NO_MESSAGE) {
            return message;
        }
        let mut buffer = [0; 4096];
        let _ = crate::standalone::spawn::set_nonblocking(stderr.as_fd());
        let length = nix::unistd::read(stderr, &mut buffer).unwrap_or(0);
        let text = String::from_utf8_lossy(&buffer[..length]);
        match text.trim() {
            "" => message,
            text => StandaloneError::from_runtime(&self.runtime, text, &CommandCheck::none())
                .to_string(),
        }
    }

    /// Makes the shim end the container, and waits until it has.
    fn give_up(&mut self, why: &str) -> StandaloneError {
        let _ = self.connection.send(&ClientRequest::End, None);
        while let Ok(Some((event, _))) = self.connection.receive::<ShimEvent>() {
            if matches!(event, ShimEvent::Ended { .. } | ShimEvent::Failed { .. }) {
                break;
            }
        }
        self.raw = None;
        StandaloneError::new(why)
    }

    /// The shim was killed: ends and removes the container in its place.
    fn clean_up_after_shim(&mut self) -> StandaloneError {
        self.raw = None;
        let mut failures = Vec::new();
        match Reaper::new(&[]) {
            Ok(mut reaper) => {
                kill_orphans(&mut reaper);
                if let Some(record) = self.container.record() {
                    failures = teardown(&self.container, &record, &mut reaper);
                }
            }
            Err(error) => failures.push(error.to_string()),
        }
        let mut message = "the shim was killed; the container was ended".to_owned();
        for failure in failures {
            message = format!("{message}; {failure}");
        }
        StandaloneError::new(message)
    }
}

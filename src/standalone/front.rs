//! The process a user sees: it passes on stdio and signals, and ends as the container does.

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

use crate::standalone::EngineError;
use crate::standalone::container::{Container, Record};
use crate::standalone::options::RunOptions;
use crate::standalone::process::{Reaper, become_subreaper};
use crate::standalone::relay;
use crate::standalone::relay::{FrontStdio, RawTerminal, Relay, SavedTerminal};
use crate::standalone::shim;
use crate::standalone::shim::{CommandStdio, Job};
use crate::standalone::shim_protocol::{Channel, Event, Request};
use crate::standalone::teardown::{kill_orphans, teardown};

/// Signals that are passed on to the container, as docker does.
pub(super) const PASSED_ON: [Signal; 7] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
];

/// So many of SIGINT and SIGTERM end a container that ignores them, as they end docker's client.
const PATIENCE: u32 = 3;

/// Refuses `-i -t` where there is no terminal, as docker does.
pub(super) fn check_terminal(options: &RunOptions) -> Result<(), EngineError> {
    if options.tty && options.interactive && !options.detach && !io::stdin().is_terminal() {
        return Err(EngineError::new("-i -t: stdin is not a terminal; leave out -t, or -i"));
    }
    Ok(())
}

/// Starts the supervisor and attends to it.
pub(super) fn run(
    container: Container,
    record: Record,
    options: &RunOptions,
) -> Result<i32, EngineError> {
    let prepared = Ends::make(options).and_then(|ends| {
        let signals = block_signals()?;
        let (channel, theirs) = Channel::pair()?;
        Ok((ends, signals, channel, theirs))
    });
    let (ends, signals, channel, theirs) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => {
            let _ = container.remove_dir();
            return Err(EngineError::new(format_args!("cannot start a supervisor: {error}")));
        }
    };
    // SAFETY: this process has a single thread, so the child may do whatever it likes.
    let supervisor = match unsafe { fork() } {
        Ok(ForkResult::Child) => {
            drop((channel, signals, ends.front));
            let (stdio, terminal) = (ends.command, ends.supervisors_terminal);
            shim::main(Job { container, record, stdio, terminal }, theirs)
        }
        Ok(ForkResult::Parent { child }) => child,
        Err(error) => {
            let _ = container.remove_dir();
            return Err(EngineError::new(format_args!("cannot fork: {error}")));
        }
    };
    drop((theirs, ends.command, ends.supervisors_terminal));
    // When the supervisor is killed, what it held becomes ours to end.
    become_subreaper().map_err(EngineError::new)?;
    let front = Front {
        container,
        engine: record.engine.name(),
        detached: record.detached,
        interactive: options.interactive,
        channel,
        signals,
        stdio: ends.front,
        terminal: ends.terminal,
        raw: None,
        master: None,
        relay: None,
        endings: 0,
    };
    let detached = front.detached;
    let result = front.attend();
    if !(detached && result == Ok(0)) {
        // It has said its last word, or was killed; not leaving before it, we leave no zombie.
        let _ = waitpid(supervisor, None);
    }
    result
}

/// Both sides of the container's stdio.
struct Ends {
    command: CommandStdio,
    front: FrontStdio,
    terminal: Option<SavedTerminal>,
    supervisors_terminal: Option<SavedTerminal>,
}

impl Ends {
    fn make(options: &RunOptions) -> io::Result<Ends> {
        let pipe = || pipe2(OFlag::O_CLOEXEC);
        let mut ends = Ends {
            command: CommandStdio::Null { stdin: None },
            front: FrontStdio::None,
            terminal: None,
            supervisors_terminal: None,
        };
        if options.tty {
            ends.command = CommandStdio::Terminal(user_size());
            if options.interactive && !options.detach {
                let terminal = SavedTerminal::save(io::stdin().as_fd())?;
                ends.supervisors_terminal = Some(terminal.try_clone()?);
                ends.terminal = Some(terminal);
            }
        } else if options.detach {
            let stdin = options.interactive.then(pipe).transpose()?;
            ends.command = CommandStdio::Null { stdin };
        } else {
            let (stdin, to_stdin) = options.interactive.then(pipe).transpose()?.unzip();
            let ((from_stdout, stdout), (from_stderr, stderr)) = (pipe()?, pipe()?);
            ends.command = CommandStdio::Pipes { stdin, stdout, stderr };
            ends.front =
                FrontStdio::Pipes { stdin: to_stdin, stdout: from_stdout, stderr: from_stderr };
        }
        Ok(ends)
    }
}

/// The size of the user's terminal.
pub(super) fn user_size() -> Option<libc::winsize> {
    relay::size(io::stdin().as_fd()).or_else(|| relay::size(io::stdout().as_fd()))
}

/// Blocks what is passed on, what tells of a new size, and SIGCHLD, which both sides may need
/// from before their first child on. What was ignored when mcrun started, as nohup(1) does it, is
/// nothing that the container should hear of either.
pub(super) fn block_signals() -> io::Result<SignalFd> {
    let mut set = SigSet::empty();
    for signal in PASSED_ON.into_iter().filter(|signal| !is_ignored(*signal)) {
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
    // SAFETY: without a new action, sigaction writes the present one, and zeroes are a valid one.
    let action = unsafe {
        libc::sigaction(signal as i32, std::ptr::null(), action.as_mut_ptr());
        action.assume_init()
    };
    action.sa_sigaction == libc::SIG_IGN
}

struct Front {
    container: Container,
    engine: String,
    detached: bool,
    interactive: bool,
    channel: Channel,
    signals: SignalFd,
    stdio: FrontStdio,
    terminal: Option<SavedTerminal>,
    raw: Option<RawTerminal>,
    master: Option<OwnedFd>,
    relay: Option<Relay>,
    endings: u32,
}

impl Front {
    fn attend(mut self) -> Result<i32, EngineError> {
        loop {
            let mut fds = vec![
                PollFd::new(self.channel.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            ];
            if let Some(hangup) = self.relay.as_ref().and_then(Relay::input_hangup) {
                fds.push(PollFd::new(hangup, PollFlags::POLLIN));
            }
            let _ = poll(&mut fds, PollTimeout::NONE);
            let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
            if ready[1] {
                self.pass_on_signals();
            }
            if ready.get(2) == Some(&true) {
                // The user's terminal is gone, and with it the user.
                if let Some(relay) = &mut self.relay {
                    relay.forget_hangup();
                }
                let _ = self.channel.send(&Request::End, None);
            }
            if !ready[0] {
                continue;
            }
            match self.channel.receive::<Event>() {
                Ok(Some((Event::Console, Some(master)))) => {
                    if let Err(error) = self.take_console(master) {
                        return Err(self.give_up(&format!("terminal: {error}")));
                    }
                }
                Ok(Some((Event::Console, None))) => {}
                Ok(Some((Event::Started, _))) => {
                    if self.detached {
                        let mut stdout = io::stdout();
                        let _ = writeln!(stdout, "{}", self.container.id());
                        return Ok(0);
                    }
                    let stdio = std::mem::replace(&mut self.stdio, FrontStdio::None);
                    match Relay::start(stdio) {
                        Ok(relay) => self.relay = Some(relay),
                        Err(error) => return Err(self.give_up(&format!("cannot relay: {error}"))),
                    }
                }
                Ok(Some((Event::Ended { status, warning }, _))) => {
                    self.finish_output();
                    self.raw = None;
                    if let Some(warning) = warning {
                        eprintln!("mcrun: {}: cleaning up: {warning}", self.container.id());
                    }
                    return Ok(status);
                }
                Ok(Some((Event::Failed { status, message }, _))) => {
                    self.raw = None;
                    if message.is_empty() {
                        return Ok(status);
                    }
                    return Err(EngineError::with_status(status, self.explain(message)));
                }
                Ok(None) | Err(_) => return Err(self.replace_supervisor()),
            }
        }
    }

    fn pass_on_signals(&mut self) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            let signal = info.ssi_signo as i32;
            if signal == libc::SIGWINCH {
                if let (Some(master), Some(size)) = (&self.master, user_size()) {
                    relay::set_size(master.as_fd(), &size);
                }
                continue;
            }
            if signal == libc::SIGINT || signal == libc::SIGTERM {
                self.endings += 1;
            }
            let request =
                if self.endings >= PATIENCE { Request::End } else { Request::Signal(signal) };
            // A supervisor that is gone shows as the channel's end.
            let _ = self.channel.send(&request, None);
        }
    }

    fn take_console(&mut self, master: OwnedFd) -> io::Result<()> {
        self.stdio = FrontStdio::Terminal { master: master.try_clone()?, stdin: self.interactive };
        self.master = Some(master);
        if let Some(terminal) = self.terminal.take() {
            self.raw = Some(terminal.into_raw()?);
        }
        Ok(())
    }

    /// Copies what the container wrote last. A reader of ours that takes nothing more cannot
    /// hold us against a signal.
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

    /// A runtime without a word in its log may have spoken on the stderr it was to give to the
    /// container, which has not run: all there is is the runtime's.
    fn explain(&mut self, message: String) -> String {
        let FrontStdio::Pipes { stderr, .. } = &self.stdio else { return message };
        if !message.contains(crate::standalone::error::WORDLESS) {
            return message;
        }
        let mut buffer = [0; 4096];
        let _ = crate::standalone::spawn::set_nonblocking(stderr.as_fd());
        let length = nix::unistd::read(stderr, &mut buffer).unwrap_or(0);
        let text = String::from_utf8_lossy(&buffer[..length]);
        match text.trim() {
            "" => message,
            text => EngineError::from_runtime(&self.engine, text).to_string(),
        }
    }

    /// Ends everything through the supervisor, and waits for that.
    fn give_up(&mut self, why: &str) -> EngineError {
        let _ = self.channel.send(&Request::End, None);
        while let Ok(Some((event, _))) = self.channel.receive::<Event>() {
            if matches!(event, Event::Ended { .. } | Event::Failed { .. }) {
                break;
            }
        }
        self.raw = None;
        EngineError::new(why)
    }

    /// The supervisor was killed: does what it would have done.
    fn replace_supervisor(&mut self) -> EngineError {
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
        let mut message = "the supervisor was killed; the container was ended".to_owned();
        for failure in failures {
            message = format!("{message}; {failure}");
        }
        EngineError::new(message)
    }
}

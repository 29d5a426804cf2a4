//! A receiver that the demonstration runs: `mcrun probe recv` somewhere, read as it goes.

use std::io;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::probe::{Line, ReceiveResult};
use crate::sys::process::PidFd;

/// How long a process may take to end when asked to.
const TO_END: Duration = Duration::from_secs(8);
/// The longest line of output kept.
const MAX_LINE: usize = 1 << 20;

/// A process that ends with this value, and when the demonstration is killed.
pub(super) struct Process(Child);

impl Process {
    /// Starts `command` in a process group of its own: Ctrl-C is for the demonstration, which
    /// ends its processes in order.
    pub(super) fn start(command: &mut Command) -> io::Result<Self> {
        command.stdin(Stdio::null()).process_group(0);
        // SAFETY: between fork and exec, one async-signal-safe system call.
        unsafe {
            command.pre_exec(|| Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGTERM)?));
        }
        command.spawn().map(Process)
    }

    /// Asks it to end.
    pub(super) fn terminate(&self) {
        self.signal(Signal::SIGTERM);
    }

    fn signal(&self, signal: Signal) {
        if let Ok(pid) = i32::try_from(self.0.id()) {
            // It may have ended; it was not waited for yet, so the pid is still its own.
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !matches!(self.0.try_wait(), Ok(None)) {
            return;
        }
        self.terminate();
        if let Ok(process) = PidFd::of_child(&self.0) {
            process.wait(TO_END);
        }
        if matches!(self.0.try_wait(), Ok(None)) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

/// What one receiver shows since it was looked at last.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Recent {
    pub(super) packets: u64,
    pub(super) lost: u64,
    pub(super) time: Duration,
}

/// A running receiver.
pub(super) struct Receiver {
    process: Process,
    stdout: Option<ChildStdout>,
    line: Vec<u8>,
    recent: Recent,
    elapsed: Duration,
    packets: u64,
    heard: Option<Instant>,
    result: Option<ReceiveResult>,
}

impl Receiver {
    /// Starts `command`, which runs `mcrun probe recv --json --interval TIME` in the end.
    pub(super) fn start(command: &mut Command) -> io::Result<Self> {
        let mut process = Process::start(command.stdout(Stdio::piped()))?;
        Ok(Receiver {
            stdout: process.0.stdout.take(),
            process,
            line: Vec::new(),
            recent: Recent::default(),
            elapsed: Duration::ZERO,
            packets: 0,
            heard: None,
            result: None,
        })
    }

    /// Its output, until that ends.
    pub(super) fn output(&self) -> Option<BorrowedFd<'_>> {
        self.stdout.as_ref().map(AsFd::as_fd)
    }

    /// Reads output that is there.
    pub(super) fn read(&mut self) {
        let mut chunk = [0; 4096];
        let Some(stdout) = &mut self.stdout else { return };
        match stdout.read(&mut chunk) {
            Ok(0) => self.stdout = None,
            Ok(length) => {
                for &byte in &chunk[..length] {
                    if byte == b'\n' {
                        let line = std::mem::take(&mut self.line);
                        self.take(&line);
                    } else if self.line.len() < MAX_LINE {
                        self.line.push(byte);
                    }
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => self.stdout = None,
        }
    }

    fn take(&mut self, line: &[u8]) {
        match serde_json::from_slice(line) {
            Ok(Line::Interval(interval)) => {
                let Some(group) = interval.groups.first() else { return };
                self.packets += group.report.packets;
                self.recent.packets += group.report.packets;
                self.recent.lost += group.report.lost.unwrap_or(0);
                self.recent.time += interval.elapsed.saturating_sub(self.elapsed);
                self.elapsed = interval.elapsed;
                if group.report.packets > 0 {
                    self.heard = Some(Instant::now());
                }
            }
            Ok(Line::Result(result)) => self.result = Some(result),
            // What a container runtime says in between is not ours to judge.
            Ok(Line::Sent(_)) | Err(_) => {}
        }
    }

    /// Packets so far.
    pub(super) fn packets(&self) -> u64 {
        self.packets
    }

    /// Whether its output has ended, and it with it.
    pub(super) fn has_ended(&self) -> bool {
        self.stdout.is_none()
    }

    /// For how long nothing came, since something did.
    pub(super) fn silence(&self) -> Option<Duration> {
        self.heard.map(|heard| heard.elapsed())
    }

    /// What is new since the last call.
    pub(super) fn recent(&mut self) -> Recent {
        std::mem::take(&mut self.recent)
    }

    /// Asks it to end and print its result.
    pub(super) fn terminate(&self) {
        self.process.terminate();
    }

    /// The result it printed.
    pub(super) fn result(&self) -> Option<&ReceiveResult> {
        self.result.as_ref()
    }
}

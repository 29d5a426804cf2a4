//! Runs a command from system call to system call, and kills it at one of them.
//!
//! The tracer is the thread that starts the command (ptrace(2)). A command under ptrace stops before
//! and after each of its system calls: what it changes outside of itself lies between two stops, so
//! that a kill at each stop is a kill at each instruction that matters. Processes that the command
//! starts are not traced, and run on when it is killed.

use std::collections::BTreeSet;
use std::io::{Error, Result, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::ptr;
use std::time::{Duration, Instant};

/// When a command is killed.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// The stop, counted from the start of the program; `u64::MAX`: it is not killed.
    pub stop: u64,
    /// Time from that stop on in which the command runs on.
    pub after: Duration,
}

/// What became of a command.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// Whether it was killed before its end.
    pub is_killed: bool,
    /// Its stops until its end or the moment.
    pub stops: u64,
}

/// Runs `nsenter ... PROGRAM`, and counts from the start of the program on.
pub fn run_until(command: &mut Command, input: Option<&str>, moment: Moment) -> Outcome {
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
    command.process_group(0);
    // SAFETY: the closure makes one system call, and touches no memory.
    unsafe {
        command.pre_exec(|| match libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) {
            -1 => Err(Error::last_os_error()),
            _ => Ok(()),
        });
    }
    // The stepper waits for it, by the number of its group.
    #[expect(clippy::zombie_processes)]
    let mut child = command.spawn().expect("the command starts");
    let leader = child.id().cast_signed();
    if let (Some(text), Some(mut pipe)) = (input, child.stdin.take()) {
        // A hook that was killed reads nothing. The pipe holds all of the text.
        let _ = pipe.write_all(text.as_bytes());
    }
    Stepper { leader, stops: 0, is_in_program: false, known: BTreeSet::from([leader]) }.run(moment)
}

struct Stepper {
    leader: i32,
    stops: u64,
    /// The first program is nsenter(1).
    is_in_program: bool,
    /// Threads that have stopped before.
    known: BTreeSet<i32>,
}

impl Stepper {
    fn run(mut self, moment: Moment) -> Outcome {
        let options = libc::PTRACE_O_EXITKILL
            | libc::PTRACE_O_TRACESYSGOOD
            | libc::PTRACE_O_TRACECLONE
            | libc::PTRACE_O_TRACEEXEC;
        let (first, status) = self.wait(0).expect("wait").expect("the command has started");
        assert!(libc::WIFSTOPPED(status), "the first program stops when it has started");
        request(libc::PTRACE_SETOPTIONS, first, options as usize).expect("ptrace options");
        // What has been killed meanwhile cannot be continued.
        let _ = request(libc::PTRACE_SYSCALL, first, 0);
        let mut deadline: Option<Instant> = None;
        loop {
            let waits = deadline.map_or(0, |_| libc::WNOHANG);
            let Some((thread, status)) = self.wait(waits).expect("wait") else {
                if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                    return self.kill();
                }
                std::thread::sleep(Duration::from_micros(20));
                continue;
            };
            if !libc::WIFSTOPPED(status) {
                if thread == self.leader {
                    return Outcome { is_killed: false, stops: self.stops };
                }
                continue;
            }
            let signal = self.stopped(thread, status);
            if self.stops >= moment.stop && deadline.is_none() {
                if moment.after.is_zero() {
                    return self.kill();
                }
                deadline = Some(Instant::now() + moment.after);
            }
            let _ = request(libc::PTRACE_SYSCALL, thread, signal as usize);
        }
    }

    /// Counts a stop; the signal that the thread is to have.
    fn stopped(&mut self, thread: i32, status: i32) -> i32 {
        let signal = libc::WSTOPSIG(status);
        let is_new = self.known.insert(thread);
        if signal == libc::SIGTRAP | 0x80 {
            self.stops += u64::from(self.is_in_program);
            return 0;
        }
        match status >> 16 {
            libc::PTRACE_EVENT_EXEC => self.is_in_program = true,
            0 if signal == libc::SIGSTOP && is_new => {}
            0 => return signal,
            _ => {}
        }
        0
    }

    /// Waits for a thread of the command; `None`: with `WNOHANG`, none has stopped.
    fn wait(&self, flags: i32) -> Result<Option<(i32, i32)>> {
        let mut status = 0;
        // The group has no children of other threads of the test: each command has its own.
        // SAFETY: the status is written by the call.
        match unsafe { libc::waitpid(-self.leader, &raw mut status, libc::__WALL | flags) } {
            -1 => Err(Error::last_os_error()),
            0 => Ok(None),
            thread => Ok(Some((thread, status))),
        }
    }

    fn kill(self) -> Outcome {
        // SAFETY: the process is not reaped, so the number is its own.
        unsafe { libc::kill(self.leader, libc::SIGKILL) };
        loop {
            let (thread, status) = self.wait(0).expect("wait").expect("a status");
            if thread == self.leader && !libc::WIFSTOPPED(status) {
                let is_killed =
                    libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGKILL;
                return Outcome { is_killed, stops: self.stops };
            }
        }
    }
}

fn request(request: libc::c_uint, thread: i32, data: usize) -> Result<()> {
    // SAFETY: requests that touch the tracee only; the address is not used by them.
    match unsafe { libc::ptrace(request, thread, ptr::null_mut::<libc::c_void>(), data) } {
        -1 => Err(Error::last_os_error()),
        _ => Ok(()),
    }
}

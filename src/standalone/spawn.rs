//! Starting programs: clean signals, captured output, the terminal's socket.

use std::fs::File;
use std::io;
use std::io::{Read, Seek};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::SigSet;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, accept4, bind, listen, socket,
};

use crate::standalone::StandaloneError;
use crate::standalone::error::last_error;
use crate::standalone::process::Reaper;
use crate::sys::fd_passing::receive_with_fds;
use crate::sys::process::poll_timeout;

/// Longest output of a runtime that is looked at, in bytes.
const MAX_OUTPUT: u64 = 64 * 1024;

/// Gives the program default signal handling: what mcrun blocks for its signalfd, and what it was
/// started with ignored, would stay so in the runtime, and in the container.
pub(super) fn reset_signals(command: &mut Command) {
    // SAFETY: between fork and exec this makes system calls only, none of which allocates.
    unsafe {
        command.pre_exec(|| {
            SigSet::empty().thread_set_mask()?;
            // The C library refuses its own two of the 64; an all-zero `struct sigaction` of the
            // kernel, whose set has 8 bytes, is SIG_DFL. SIGKILL and SIGSTOP fail, as they may.
            let default = [0u64; 8];
            let none = std::ptr::null::<u64>();
            for signal in 1..=64 {
                libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), none, 8usize);
            }
            Ok(())
        });
    }
}

/// A file in memory for the output of a program: nobody has to read it while the program runs.
pub(super) fn output_file() -> io::Result<File> {
    Ok(memfd_create("output", MFdFlags::MFD_CLOEXEC)?.into())
}

/// What was written to [`output_file`], at most [`MAX_OUTPUT`] bytes.
pub(super) fn read_output(mut file: &File) -> String {
    let mut bytes = Vec::new();
    let _ = file.rewind();
    let _ = file.take(MAX_OUTPUT).read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The reason of a failed runtime: the last error of its log, else its stderr.
pub(super) fn failure_text(log: &Path, stderr: &str) -> String {
    let mut text = Vec::new();
    if let Ok(file) = File::open(log) {
        let _ = file.take(MAX_OUTPUT).read_to_end(&mut text);
    }
    last_error(&String::from_utf8_lossy(&text)).unwrap_or_else(|| stderr.trim().to_owned())
}

/// Runs a program that ends soon, its stdout and stderr captured; kills it after `limit`.
pub(super) fn run_captured(
    reaper: &mut Reaper,
    command: &mut Command,
    limit: Duration,
) -> io::Result<(i32, String, String)> {
    let (stdout, stderr) = (output_file()?, output_file()?);
    command.stdout(stdout.try_clone()?).stderr(stderr.try_clone()?);
    let pid = command.spawn()?.id() as i32;
    let status = wait_for(reaper, pid, limit);
    Ok((status, read_output(&stdout), read_output(&stderr)))
}

/// Waits for a child, killing it after `limit`.
pub(super) fn wait_for(reaper: &mut Reaper, pid: i32, limit: Duration) -> i32 {
    reaper.await_exit(pid);
    let deadline = Instant::now() + limit;
    loop {
        reaper.reap();
        if let Some(status) = reaper.status(pid) {
            reaper.forget(pid);
            return status;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = if left.is_zero() {
            crate::standalone::process::kill_children(&[pid]);
            PollTimeout::NONE
        } else {
            poll_timeout(left)
        };
        let mut fds = [PollFd::new(reaper.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut fds, timeout);
    }
}

/// The socket on which a runtime hands over the master of a container's terminal.
#[derive(Debug)]
pub(super) struct ConsoleSocket {
    listener: OwnedFd,
    _dir: OwnedFd,
    path: PathBuf,
}

impl ConsoleSocket {
    /// Makes `DIR/console.sock`.
    ///
    /// The path handed out goes through /proc: that of a state directory may be longer than
    /// the 108 bytes of a socket address (unix(7)).
    pub(super) fn bind(dir: &Path) -> io::Result<Self> {
        let dir: OwnedFd = File::open(dir)?.into();
        let path = PathBuf::from(format!(
            "/proc/{}/fd/{}/console.sock",
            std::process::id(),
            dir.as_raw_fd()
        ));
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let listener = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
        bind(listener.as_raw_fd(), &UnixAddr::new(&path)?)?;
        listen(&listener, Backlog::new(1)?)?;
        Ok(ConsoleSocket { listener, _dir: dir, path })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the master after the runtime has ended.
    pub(super) fn accept(&self) -> Result<OwnedFd, StandaloneError> {
        let lost =
            |why: &str| StandaloneError::new(format_args!("the runtime sent no terminal{why}"));
        let fd = accept4(self.listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC)
            .map_err(|error| lost(&format!(": {error}")))?;
        // SAFETY: accept4 has just made this descriptor for us.
        let connection = unsafe { <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(fd) };
        let (_, mut fds) = receive_with_fds(&connection, &mut [0; 4096], 1)
            .map_err(|error| lost(&format!(": {error}")))?;
        fds.pop().ok_or_else(|| lost(""))
    }
}

/// Makes a descriptor's reads and writes return instead of wait.
pub(super) fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

//! Copies between the user's stdio and the container's, which are pipes or a terminal.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::thread;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

use crate::standalone::spawn::set_nonblocking;

const CHUNK: usize = 64 * 1024;

/// The user's terminal and its settings, to put back whatever happens.
#[derive(Debug)]
pub(super) struct SavedTerminal {
    fd: OwnedFd,
    settings: Termios,
}

impl SavedTerminal {
    /// The terminal behind `fd`, as it is now.
    pub(super) fn save(fd: BorrowedFd<'_>) -> io::Result<Self> {
        Ok(SavedTerminal { fd: fd.try_clone_to_owned()?, settings: tcgetattr(fd)? })
    }

    /// Another handle on the same terminal and settings.
    pub(super) fn try_clone(&self) -> io::Result<Self> {
        Ok(SavedTerminal { fd: self.fd.try_clone()?, settings: self.settings.clone() })
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Puts the settings back.
    pub(super) fn restore(&self) {
        let _ = tcsetattr(&self.fd, SetArg::TCSANOW, &self.settings);
    }

    /// Turns raw mode on (cfmakeraw(3)) until the guard is dropped.
    pub(super) fn into_raw(self) -> io::Result<RawTerminal> {
        let mut raw = self.settings.clone();
        cfmakeraw(&mut raw);
        tcsetattr(&self.fd, SetArg::TCSANOW, &raw)?;
        Ok(RawTerminal(self))
    }
}

/// A terminal in raw mode; dropping it restores the settings.
#[derive(Debug)]
pub(super) struct RawTerminal(SavedTerminal);

impl Drop for RawTerminal {
    fn drop(&mut self) {
        self.0.restore();
    }
}

/// The size of a terminal; `None` when it is none.
pub(super) fn size(fd: BorrowedFd<'_>) -> Option<libc::winsize> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes one winsize, which `size` is.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCGWINSZ, &mut size) };
    (result == 0).then_some(size)
}

/// Sets the size of a terminal; the kernel sends SIGWINCH to its foreground process group.
pub(super) fn set_size(fd: BorrowedFd<'_>, size: &libc::winsize) {
    // SAFETY: TIOCSWINSZ reads one winsize.
    let _ = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCSWINSZ, size) };
}

/// The client's ends of the container's stdio.
#[derive(Debug)]
pub(super) enum ClientStdio {
    /// Nothing to copy.
    None,
    /// Pipes.
    Pipes {
        /// To the container.
        stdin: Option<OwnedFd>,
        /// From the container.
        stdout: OwnedFd,
        /// From the container.
        stderr: OwnedFd,
    },
    /// A terminal's master.
    Terminal {
        /// The master.
        master: OwnedFd,
        /// Standard input is copied to it.
        stdin: bool,
    },
}

/// Threads that copy until the container closes its side or [`StdioCopy::finish`] is called.
#[derive(Debug)]
pub(super) struct StdioCopy {
    /// When this is dropped, the threads end as soon as nothing is left to read.
    running: Option<OwnedFd>,
    /// Hung up when all output was copied.
    output_done: OwnedFd,
    /// Hung up when stdin, a terminal, was closed.
    input_hangup: Option<OwnedFd>,
}

impl StdioCopy {
    /// Starts copying.
    pub(super) fn start(stdio: ClientStdio) -> io::Result<Self> {
        use nix::fcntl::OFlag;
        let pipe = || nix::unistd::pipe2(OFlag::O_CLOEXEC);
        let (stop, running) = pipe()?;
        let (output_done, copying) = pipe()?;
        let mut input_hangup = None;
        match stdio {
            ClientStdio::None => {}
            ClientStdio::Pipes { stdin, stdout, stderr } => {
                for (source, target) in
                    [(stdout, libc::STDOUT_FILENO), (stderr, libc::STDERR_FILENO)]
                {
                    copy_out(source, target, stop.try_clone()?, copying.try_clone()?)?;
                }
                if let Some(stdin) = stdin {
                    copy_in(stdin, None)?;
                }
            }
            ClientStdio::Terminal { master, stdin } => {
                if stdin {
                    let (hangup, alive) = pipe()?;
                    // The copier writes through a descriptor of its own and must not wait on
                    // the one that is made non-blocking below; the flag is shared, so it polls.
                    copy_in(master.try_clone()?, Some(alive))?;
                    input_hangup = Some(hangup);
                }
                copy_out(master, libc::STDOUT_FILENO, stop, copying.try_clone()?)?;
            }
        }
        drop(copying);
        Ok(StdioCopy { running: Some(running), output_done, input_hangup })
    }

    /// The container has ended: the threads copy what is left and end.
    pub(super) fn finish(&mut self) {
        self.running = None;
        self.input_hangup = None;
    }

    /// Readable (hung up) when all output was copied.
    pub(super) fn output_done(&self) -> BorrowedFd<'_> {
        self.output_done.as_fd()
    }

    /// Readable (hung up) when the user's terminal is gone.
    pub(super) fn input_hangup(&self) -> Option<BorrowedFd<'_>> {
        self.input_hangup.as_ref().map(AsFd::as_fd)
    }

    /// Stops watching for the hang-up of the terminal.
    pub(super) fn forget_hangup(&mut self) {
        self.input_hangup = None;
    }
}

/// Copies from the container to `target`. When nobody reads `target` any more, the container gets a
/// broken pipe.
fn copy_out(source: OwnedFd, target: i32, stop: OwnedFd, copying: OwnedFd) -> io::Result<()> {
    set_nonblocking(source.as_fd())?;
    thread::Builder::new().name("output".into()).spawn(move || {
        let _copying = copying;
        let mut buffer = vec![0; CHUNK];
        // SAFETY: stdout and stderr are open for the life of the process.
        let target = unsafe { BorrowedFd::borrow_raw(target) };
        let mut stopping = false;
        loop {
            match nix::unistd::read(&source, &mut buffer) {
                Ok(0) => break,
                Ok(length) => {
                    if write_all(target, &buffer[..length]).is_err() {
                        break;
                    }
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) if !stopping => {
                    let mut fds = [
                        PollFd::new(source.as_fd(), PollFlags::POLLIN),
                        PollFd::new(stop.as_fd(), PollFlags::POLLIN),
                    ];
                    let _ = poll(&mut fds, PollTimeout::NONE);
                    stopping = fds[1].any().unwrap_or(false);
                }
                // EIO of a terminal: no process has it open any more.
                Err(_) => break,
            }
        }
    })?;
    Ok(())
}

/// Copies stdin to the container until either ends; `alive` is dropped then.
fn copy_in(target: OwnedFd, alive: Option<OwnedFd>) -> io::Result<()> {
    thread::Builder::new().name("input".into()).spawn(move || {
        let mut buffer = vec![0; CHUNK];
        loop {
            match nix::unistd::read(io::stdin(), &mut buffer) {
                Ok(0) => break,
                Ok(length) => {
                    if write_all(target.as_fd(), &buffer[..length]).is_err() {
                        // The container reads no more; the user's terminal is still there.
                        std::mem::forget(alive);
                        return;
                    }
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    let stdin = io::stdin();
                    let _ = poll(
                        &mut [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)],
                        PollTimeout::NONE,
                    );
                }
                Err(_) => break,
            }
        }
        drop(alive);
    })?;
    Ok(())
}

/// Writes everything, also to a non-blocking descriptor.
fn write_all(fd: BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match nix::unistd::write(fd, bytes) {
            Ok(length) => bytes = &bytes[length..],
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => {
                poll(&mut [PollFd::new(fd, PollFlags::POLLOUT)], PollTimeout::NONE)?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

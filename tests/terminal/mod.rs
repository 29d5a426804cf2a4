//! A user's terminal, for the tests of what is started in one.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::stat::Mode;
use nix::sys::termios::{LocalFlags, tcgetattr};

/// Within what an expected text comes.
const PATIENCE: Duration = Duration::from_secs(20);

/// A user at a terminal: types and reads.
pub struct User {
    master: File,
    terminal: OwnedFd,
    seen: String,
}

impl User {
    /// A terminal of 31 rows and 97 columns.
    pub fn new() -> User {
        // Close-on-exec from the start: a terminal whose master another program has inherited is
        // never hung up.
        let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let master = posix_openpt(flags).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let terminal = open(ptsname_r(&master).unwrap().as_str(), flags, Mode::empty()).unwrap();
        let master = File::from(OwnedFd::from(master));
        let user = User { master, terminal, seen: String::new() };
        user.resize(31, 97);
        user
    }

    /// The kernel signals the foreground process group.
    pub fn resize(&self, ws_row: u16, ws_col: u16) {
        let size = libc::winsize { ws_row, ws_col, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: TIOCSWINSZ reads one winsize.
        let result = unsafe { libc::ioctl(self.master.as_raw_fd(), libc::TIOCSWINSZ, &size) };
        assert_eq!(result, 0);
    }

    /// Starts a command in this terminal, as a shell does.
    pub fn start(&self, command: &mut Command) -> Child {
        let stdio = || Stdio::from(self.terminal.try_clone().unwrap());
        command.stdin(stdio()).stdout(stdio()).stderr(stdio());
        // SAFETY: two system calls between fork and exec.
        unsafe {
            command.pre_exec(|| {
                nix::unistd::setsid()?;
                nix::errno::Errno::result(libc::ioctl(0, libc::TIOCSCTTY, 0)).map(drop)?;
                Ok(())
            });
        }
        command.spawn().unwrap()
    }

    /// Types.
    pub fn write(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).unwrap();
    }

    /// Reads until `text` was seen; what came up to now.
    pub fn wait_for(&mut self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        while !self.seen.contains(text) {
            assert!(Instant::now() < deadline, "{text:?} did not come: {:?}", self.seen);
            self.read(PollTimeout::from(100u8));
        }
        std::mem::take(&mut self.seen)
    }

    /// What came and was not read yet: all of it, once the writers have ended.
    pub fn rest(&mut self) -> String {
        while self.read(PollTimeout::ZERO) {}
        std::mem::take(&mut self.seen)
    }

    fn read(&mut self, timeout: PollTimeout) -> bool {
        let mut fds = [PollFd::new(self.master.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, timeout).unwrap() == 0 {
            return false;
        }
        let mut buffer = [0; 4096];
        let length = self.master.read(&mut buffer).unwrap();
        self.seen.push_str(&String::from_utf8_lossy(&buffer[..length]));
        true
    }

    /// Whether the terminal is as a shell wants to find it.
    pub fn is_cooked(&self) -> bool {
        let flags = tcgetattr(&self.terminal).unwrap().local_flags;
        flags.contains(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG)
    }
}

//! Whether a process waits for events, found out without waking it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::sys::process::{ProcessRef, Stat};

/// The calls by which an event loop waits.
const WAITS: &[libc::c_long] = &[
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
];
/// More than a line of either file.
const LONGEST: usize = 1024;

/// Files of one process in /proc. Once it has ended, they cannot be read.
#[derive(Debug)]
pub(crate) struct EventWait {
    stat: File,
    syscall: File,
}

impl EventWait {
    /// Opens the files of a process that lives.
    ///
    /// # Errors
    /// Those of open(2): `ESRCH` or `ENOENT` when it has ended.
    pub(crate) fn open(process: ProcessRef) -> io::Result<Self> {
        let open = |name: &str| File::open(format!("/proc/{}/{name}", process.pid));
        let watch = EventWait { stat: open("stat")?, syscall: open("syscall")? };
        // Its number may be another's.
        if process.is_alive() { Ok(watch) } else { Err(io::ErrorKind::NotFound.into()) }
    }

    /// Whether the process sleeps in epoll_wait(2), and so serves whatever comes. `false` also where
    /// that cannot be known: without CAP_SYS_PTRACE (`proc_pid_syscall` in fs/proc/base.c).
    pub(crate) fn is_waiting(&self) -> bool {
        let sleeps = || Some(Stat::parse(&read(&self.stat)?)?.is_asleep());
        let waits = || Some(is_wait(&read(&self.syscall)?));
        // A stopped process shows the call that it was stopped in.
        waits() == Some(true) && sleeps() == Some(true)
    }
}

fn read(file: &File) -> Option<String> {
    let mut text = [0; LONGEST];
    let length = file.read_at(&mut text, 0).ok()?;
    Some(String::from_utf8_lossy(&text[..length]).into_owned())
}

/// Whether the first number of /proc/PID/syscall (proc_pid_syscall(5)) is that of a wait. It says
/// `running` of a process that runs.
fn is_wait(line: &str) -> bool {
    let number = line.split_ascii_whitespace().next().and_then(|number| number.parse().ok());
    number.is_some_and(|number| WAITS.contains(&number))
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};
    use std::time::{Duration, Instant};

    use nix::sys::signal::{Signal, kill};
    use nix::sys::wait::waitpid;
    use nix::unistd::{ForkResult, Pid, fork};

    use super::*;

    /// Tries it until it is so.
    fn becomes(wait: &EventWait, expected: bool) -> bool {
        let end = Instant::now() + Duration::from_secs(10);
        while wait.is_waiting() != expected {
            if Instant::now() > end {
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        true
    }

    #[test]
    fn a_process_waits_for_events_until_it_is_stopped() {
        // SAFETY: the child calls nothing but the kernel.
        let child = match unsafe { fork() }.unwrap() {
            ForkResult::Parent { child } => child,
            // SAFETY: as above.
            ForkResult::Child => unsafe {
                // Other tests wait for the end of what they have opened.
                libc::syscall(libc::SYS_close_range, 0, libc::c_uint::MAX, 0);
                let epoll = libc::epoll_create1(0);
                let mut event = std::mem::zeroed();
                libc::epoll_wait(epoll, &raw mut event, 1, -1);
                libc::_exit(0)
            },
        };
        let wait = EventWait::open(ProcessRef::of(child.as_raw()).unwrap()).unwrap();
        let waits = becomes(&wait, true);
        kill(child, Signal::SIGSTOP).unwrap();
        let stopped = becomes(&wait, false);
        kill(child, Signal::SIGKILL).unwrap();
        waitpid(child, None).unwrap();
        assert!(waits && stopped, "waits: {waits}, is stopped: {stopped}");
        assert!(!wait.is_waiting(), "it has ended");
    }

    #[test]
    fn a_process_that_sleeps_otherwise_does_not_wait_for_events() {
        struct Sleeper(Child);
        impl Drop for Sleeper {
            fn drop(&mut self) {
                let _ = kill(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGKILL);
                let _ = self.0.wait();
            }
        }
        let sleeper = Sleeper(Command::new("sleep").arg("60").spawn().unwrap());
        let process = ProcessRef::of(sleeper.0.id().cast_signed()).unwrap();
        let wait = EventWait::open(process).unwrap();
        for _ in 0..20 {
            assert!(!wait.is_waiting());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn lines_of_the_kernel_are_understood() {
        let number = libc::SYS_epoll_pwait;
        assert!(is_wait(&format!("{number} 0x5 0x7ffd 0x10 0xffffffff 0x0 0x8 0x7ffd 0x7f\n")));
        assert!(!is_wait("running\n"));
        assert!(!is_wait("-1 0x7ffd 0x7f\n"));
        assert!(!is_wait(&format!("{} 0x5\n", libc::SYS_flock)));
        assert!(!is_wait(""));
    }
}

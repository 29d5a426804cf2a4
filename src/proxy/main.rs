//! The start of a proxy: it opens everything as root, gives up its privileges, and serves.

use std::fs::File;
use std::io;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use nix::sys::signal::{SigHandler, Signal, signal};
use serde::de::DeserializeOwned;

use crate::notice::Notice;
use crate::proxy::config::{CreatedInterface, INSTALLED, KEEP, ProxyTask, READY, REFUSED};
use crate::proxy::event_loop::Proxy;
use crate::proxy::process::memory;
use crate::proxy::process::sandbox;
use crate::proxy::process::sandbox::Confined;
use crate::proxy::setup::{Context, Setup, StartError};
use crate::sys::inherited_fds::close_inherited;
use crate::sys::program;

/// Longest line of the task, in bytes.
const MAX_LINE: u64 = 1 << 20;
/// Bytes of one read: enough for a usual task.
const READ_SIZE: usize = 1024;
/// Most interfaces of one container.
const MAX_INTERFACES: usize = 64;

/// The program `mcrun-proxy`: reads its task, serves the container, and ends with it.
///
/// [`ProxyTask`] describes what it reads and writes on its standard streams. It closes both.
pub fn main() -> program::Status {
    // A runtime waits until all copies of its pipes are closed.
    // SAFETY: this process has opened nothing yet.
    unsafe { close_inherited(&[]) };
    // The task and the answer get descriptors of their own. Numbers 0 to 2 become /dev/null, so
    // that a library that prints does not write into a socket.
    let own = |stream: BorrowedFd<'_>| stream.try_clone_to_owned().map(File::from);
    let (Ok(task), Ok(mut answer)) = (own(io::stdin().as_fd()), own(io::stdout().as_fd())) else {
        return program::FAILURE;
    };
    let mut lines = BufReader::with_capacity(READ_SIZE, task);
    match start(&mut lines, &mut answer) {
        Ok((mut proxy, confined)) => {
            // Who launched this proxy was killed, and no record names it, if nobody reads the
            // answer, or if the task ends without its last line.
            if write_line(&mut answer, READY).is_err() || !is_kept(&mut lines) {
                return program::FAILURE;
            }
            drop((lines, answer));
            // Nobody waits for this any more.
            let now = Instant::now();
            proxy.start_counting(now);
            proxy.start_kernel_relays(now);
            if let Err(error) = confined.complete() {
                proxy.log(now, Notice::NotConfined { error: error.to_string() });
                return program::FAILURE;
            }
            // What only the setup has used.
            memory::give_back();
            memory::keep_heap_small();
            proxy.run();
            program::SUCCESS
        }
        Err(error) => {
            // If nobody reads it, the exit status shows the failure.
            let _ = write_line(&mut answer, &format!("{REFUSED}{error}"));
            program::FAILURE
        }
    }
}

fn start(lines: &mut BufReader<File>, answer: &mut File) -> Result<(Proxy, Confined), StartError> {
    // The waits of a leave and of a join in MLD have some tens of microseconds. By default the kernel adds
    // 50 to each (PR_SET_TIMERSLACK); to longer waits it adds a thousandth all the same
    // (`select_estimate_accuracy` in fs/select.c).
    let _ = nix::sys::prctl::set_timerslack(1);
    // SIGTERM must end the proxy, even where its parent ignored the signal. Whoever sends it cleans
    // up. SAFETY: no handler is installed or replaced.
    unsafe { signal(Signal::SIGTERM, SigHandler::SigDfl) }
        .context(|| "cannot reset SIGTERM".into())?;
    leave_session_and_directory().context(|| "cannot change to the root directory".into())?;
    redirect_standard_streams().context(|| "cannot open /dev/null".into())?;
    set_oom_score();
    shorten_time_slice();

    let task: ProxyTask = read_line(lines)?;
    if task.interfaces.is_empty() || task.interfaces.len() > MAX_INTERFACES {
        let what = format!("{} interfaces", task.interfaces.len());
        return Err(StartError::new(what, "a proxy serves 1 to 64"));
    }
    let now = Instant::now();
    let setup = Setup::open(task, now)?;
    let created: Vec<CreatedInterface> = read_line(lines)?;
    let installed = setup.install(&created)?;
    // The links may come up from here on: the sockets that receive their notifications are open.
    write_line(answer, INSTALLED).context(|| "cannot answer the hook".into())?;
    let resources = installed.complete(now)?;
    let user = resources.user.id;
    let mut proxy = Proxy::new(resources, now).context(|| "cannot set up the event loop".into())?;
    let confined = sandbox::enter(proxy.container_dir(), user, proxy.relays_in_kernel())
        .map_err(io::Error::other)
        .context(|| "cannot give up privileges".into())?;
    if !confined.has_landlock {
        proxy.log(now, Notice::NoLandlock {});
    }
    proxy.join_existing_memberships(now);
    Ok((proxy, confined))
}

/// Reads and parses the next line of the task.
fn read_line<T: DeserializeOwned>(lines: &mut BufReader<File>) -> Result<T, StartError> {
    let mut line = Vec::new();
    let read = lines.by_ref().take(MAX_LINE).read_until(b'\n', &mut line);
    read.context(|| "cannot read the task on standard input".into())?;
    serde_json::from_slice(&line).context(|| "the task on standard input is not valid".into())
}

/// Waits for the last line of the task. `false`: the input has ended without it.
fn is_kept(lines: &mut BufReader<File>) -> bool {
    let mut line = Vec::new();
    let read = lines.by_ref().take(KEEP.len() as u64 + 1).read_until(b'\n', &mut line);
    read.is_ok() && line.trim_ascii_end() == KEEP.as_bytes()
}

/// Writes a line with one system call, so that the reader is woken once.
fn write_line(answer: &mut File, line: &str) -> io::Result<()> {
    answer.write_all(format!("{line}\n").as_bytes())
}

/// Leaves the caller's session, to survive its end, and the caller's directory, to not keep it
/// busy.
fn leave_session_and_directory() -> io::Result<()> {
    // It fails for the leader of a process group, such as a shell's job, which has left the
    // session's foreground already.
    let _ = nix::unistd::setsid();
    std::env::set_current_dir("/")
}

/// Makes the standard streams /dev/null, so that the hook's pipes are closed.
fn redirect_standard_streams() -> io::Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    nix::unistd::dup2_stdout(&null)?;
    nix::unistd::dup2_stderr(&null)?;
    Ok(())
}

/// Sets the OOM score to 0, whatever the caller's is. A runtime protects itself from the OOM
/// killer, and an engine may give its children up to it. Without CAP_SYS_RESOURCE a positive score
/// stays.
fn set_oom_score() {
    // If this fails, the proxy works all the same.
    let _ = std::fs::write("/proc/self/oom_score_adj", "0");
}

/// Asks the scheduler for a time slice of 0.1 ms, about what a join takes. On a processor that the
/// container keeps busy, the proxy then runs at once when a join arrives, and gets no more time in
/// all (`sched_runtime` of a process of normal priority, Linux 6.12).
fn shorten_time_slice() {
    const SLICE_NS: u64 = 100_000;
    // SAFETY: an all-zero sched_attr is valid.
    let mut attributes: libc::sched_attr = unsafe { std::mem::zeroed() };
    attributes.size = size_of::<libc::sched_attr>() as u32;
    attributes.sched_flags = libc::SCHED_FLAG_KEEP_POLICY as u64;
    // SAFETY: the call takes numbers only.
    attributes.sched_nice = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
    attributes.sched_runtime = SLICE_NS;
    // SAFETY: the kernel reads as many bytes as `size` says. If it refuses, the time slice stays as
    // it is.
    unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
}

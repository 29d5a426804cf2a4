//! Running, awaiting and ending processes.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Runs to the end; panics with its error output unless it succeeds. The standard output.
pub fn run(command: &mut Command) -> String {
    let output = output(command);
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("text")
}

/// Runs to the end, without input.
pub fn output(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("{command:?}: {e}"))
}

/// Runs a command with a text on its standard input.
pub fn give(mut command: Command, input: &str) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("it starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    // One that refuses what it is told may not read it.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    child.wait_with_output().expect("it ends")
}

/// Runs to the end; its standard output as JSON.
pub fn json(command: &mut Command) -> Value {
    let text = run(command);
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{command:?}: {e}: {text:?}"))
}

/// Polls until `condition` yields something; panics after `limit`.
pub fn wait_until<T>(what: &str, limit: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(start.elapsed() < limit, "waited {limit:?} in vain until {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A child process that ends with its owner.
pub struct Background {
    child: Child,
    name: String,
}

impl Background {
    /// Starts it without input; outputs go where the command says.
    pub fn start(command: &mut Command) -> Background {
        let child = command
            .stdin(Stdio::null())
            .spawn()
            .unwrap_or_else(|e| panic!("{command:?} does not start: {e}"));
        Background { child, name: format!("{command:?}") }
    }

    /// Process id.
    pub fn pid(&self) -> i32 {
        self.child.id().try_into().expect("a pid fits")
    }

    /// Sends a signal.
    pub fn signal(&self, signal: i32) {
        // SAFETY: plain system call; the child is not reaped, so the pid is its own.
        unsafe { libc::kill(self.pid(), signal) };
    }

    /// Waits for its end; panics after `limit`.
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let name = self.name.clone();
        wait_until(&format!("{name} ends"), limit, || self.child.try_wait().expect("wait"))
    }

    /// Waits for its end; after `limit` its owner kills it.
    pub fn end_within(&mut self, limit: Duration) {
        let start = Instant::now();
        while start.elapsed() < limit && !matches!(self.child.try_wait(), Ok(Some(_))) {
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits for its end and gives what it wrote, where that was piped. For small outputs: the pipe
    /// is read after the end.
    pub fn finish(mut self, limit: Duration) -> Output {
        let status = self.wait(limit);
        let mut output = Output { status, stdout: Vec::new(), stderr: Vec::new() };
        if let Some(mut pipe) = self.child.stdout.take() {
            pipe.read_to_end(&mut output.stdout).expect("stdout");
        }
        if let Some(mut pipe) = self.child.stderr.take() {
            pipe.read_to_end(&mut output.stderr).expect("stderr");
        }
        output
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether a process exists and is not a zombie.
pub fn alive(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|stat| Some(stat.rsplit_once(") ")?.1.starts_with(['Z', 'X'])))
        .is_some_and(|dead| !dead)
}

/// SIGKILL.
pub fn kill(pid: i32) {
    // SAFETY: plain system call; no memory is involved.
    unsafe { libc::kill(pid, libc::SIGKILL) };
}

/// Processes whose network namespace is the one that `file` refers to, with their command lines.
pub fn in_namespace(file: &Path) -> Vec<(i32, String)> {
    let Ok(namespace) = fs::metadata(file) else { return Vec::new() };
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // A process may end while it is looked at.
        let Ok(own) = fs::metadata(entry.path().join("ns/net")) else { continue };
        if (own.dev(), own.ino()) == (namespace.dev(), namespace.ino()) {
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            found.push((pid, String::from_utf8_lossy(&line).replace('\0', " ").trim().to_owned()));
        }
    }
    found
}

/// Unmounts what is mounted in a directory, innermost first.
pub fn unmount_below(directory: &Path) {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    for line in mounts.lines().rev() {
        let Some(point) = line.split(' ').nth(1) else { continue };
        if Path::new(point).starts_with(directory) {
            let _ = Command::new("umount").args(["-l", point]).output();
        }
    }
}

/// Removes the cgroups whose names begin so, one for each controller of version 1 or one in all, as
/// soon as their processes have ended: a runtime that was killed leaves its own.
pub fn remove_cgroups(beginning: &str) {
    let entries = |directory: &Path| fs::read_dir(directory).into_iter().flatten().flatten();
    let root = Path::new("/sys/fs/cgroup");
    let controllers = entries(root).map(|entry| entry.path()).chain([root.to_owned()]);
    let cgroups = controllers.flat_map(|controller| {
        entries(&controller)
            .filter(|entry| entry.file_name().to_string_lossy().starts_with(beginning))
            .map(|entry| entry.path())
            .collect::<Vec<_>>()
    });
    let start = Instant::now();
    for cgroup in cgroups {
        while fs::remove_dir(&cgroup).is_err_and(|e| e.raw_os_error() == Some(libc::EBUSY))
            && start.elapsed() < Duration::from_secs(5)
        {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

//! A machine to run containers on: a state directory, a root filesystem and a copy of mcrun with a
//! hook beside it that tests can make do anything.
//!
//! What a test makes goes with its [`Machine`], also when the test fails.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::timing::Timing;

/// What a test may wait for: far beyond what anything takes on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The runtimes that everything is tried with.
pub const ENGINES: [&str; 2] = ["runc", "crun"];

pub struct Machine {
    prefix: String,
    dir: TempDir,
    _timing: Timing,
}

impl Machine {
    pub fn new() -> Machine {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        assert!(nix::unistd::geteuid().is_root(), "these tests run containers: run them as root");
        for engine in ENGINES {
            assert!(program(engine).is_some(), "{engine} is not installed");
        }
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("mt-{}-{number}-", std::process::id());
        let dir = tempfile::Builder::new().prefix("mcrun-run-").tempdir().expect("tempdir");
        let machine = Machine { prefix, dir, _timing: Timing::start() };
        let rootfs = machine.rootfs();
        for dir in ["bin", "dev", "etc", "proc", "sys", "tmp"] {
            fs::create_dir_all(rootfs.join(dir)).expect("rootfs");
        }
        let busybox = program("busybox").expect("busybox-static is installed");
        install(&busybox, &rootfs.join("bin/busybox"));
        for applet in [
            "cat", "echo", "env", "false", "grep", "head", "hostname", "id", "kill", "ls", "mount",
            "ping", "pwd", "seq", "sh", "sleep", "stty", "touch", "true", "unshare", "wc", "yes",
        ] {
            symlink("busybox", rootfs.join("bin").join(applet)).expect("link");
        }
        let passwd = "root:x:0:0:root:/root:/bin/sh\nmedia:x:1000:100::/home:/bin/sh\n";
        fs::write(rootfs.join("etc/passwd"), passwd).expect("passwd");
        fs::write(rootfs.join("etc/group"), "root:x:0:\nvideo:x:44:media\n").expect("group");
        fs::create_dir(machine.dir.path().join("bin")).expect("bin");
        install(Path::new(env!("CARGO_BIN_EXE_mcrun")), &machine.program());
        machine
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn rootfs(&self) -> PathBuf {
        self.dir.path().join("rootfs")
    }

    pub fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// The copy of mcrun.
    fn program(&self) -> PathBuf {
        self.dir.path().join("bin/mcrun")
    }

    /// Puts a shell script in the hook's place; `$1` is the stage.
    pub fn hook(&self, script: &str) {
        let source = self.dir.path().join("hook.sh");
        fs::write(&source, format!("#!/bin/sh\n{script}\n")).expect("hook");
        install(&source, &self.dir.path().join("bin/mcrun-hook"));
    }

    /// A name that no other test uses.
    pub fn name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// `mcrun`, in a mount namespace where crun gets along with the cgroups.
    pub fn command(&self, engine: &str) -> Command {
        let hybrid = Path::new("/sys/fs/cgroup/unified/cgroup.procs").exists();
        let mut command = if engine == "crun" && hybrid {
            let mut command = Command::new("unshare");
            let script = "umount /sys/fs/cgroup/unified && exec \"$@\"";
            command.args(["-m", "sh", "-c", script, "sh"]).arg(self.program());
            command
        } else {
            Command::new(self.program())
        };
        command.env("MCRUN_STATE_DIR", self.state_dir()).env_remove("MCRUN_CONFIG_DIR");
        command.stdin(Stdio::null());
        command
    }

    /// `mcrun run --engine ENGINE --rootfs ROOTFS`, more to follow.
    pub fn run_command(&self, engine: &str) -> Command {
        let mut command = self.command(engine);
        command.args(["run", "--engine", engine, "--rootfs"]).arg(self.rootfs());
        command
    }

    /// Runs a container to its end.
    pub fn run(&self, engine: &str, args: &[&str]) -> Output {
        self.run_command(engine).args(args).output().expect("mcrun")
    }

    /// Runs another command of mcrun.
    pub fn mcrun(&self, engine: &str, args: &[&str]) -> Output {
        self.command(engine).args(args).output().expect("mcrun")
    }

    /// A foreground container in the background; its command is up when it has made `/tmp/NAME`.
    pub fn start(&self, engine: &str, name: &str, args: &[&str], script: &str) -> Child {
        let script = format!("touch /tmp/{name}; {script}");
        let child = self
            .run_command(engine)
            .args(["--name", name])
            .args(args)
            .args(["sh", "-c", &script])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("mcrun");
        wait_until("the command runs", || self.rootfs().join("tmp").join(name).exists());
        child
    }

    /// What mcrun knows of a container.
    pub fn record(&self, name: &str) -> Value {
        let path = self.state_dir().join("bundles").join(name).join("container.json");
        serde_json::from_slice(&fs::read(path).expect("container.json")).expect("JSON")
    }

    /// What is left of this machine's containers, wherever; empty when all is well.
    pub fn leftovers(&self) -> Vec<String> {
        let mut found = self.bundles();
        let ours = |path: &PathBuf| {
            path.file_name().is_some_and(|n| n.to_string_lossy().contains(&self.prefix))
        };
        for root in ["/run/runc", "/run/crun", "/sys/fs/cgroup"] {
            let entries = read_dir(Path::new(root));
            let below = entries.iter().flat_map(|dir| read_dir(dir)).collect::<Vec<_>>();
            let all = entries.into_iter().chain(below);
            found.extend(all.filter(ours).map(|path| path.display().to_string()));
        }
        let dir = self.dir.path().as_os_str().as_encoded_bytes();
        for process in read_dir(Path::new("/proc")) {
            let command = fs::read(process.join("cmdline")).unwrap_or_default();
            if command.windows(dir.len()).any(|part| part == dir) {
                let command = String::from_utf8_lossy(&command).replace('\0', " ");
                found.push(format!("{}: {command}", process.display()));
            }
        }
        found
    }

    fn bundles(&self) -> Vec<String> {
        let bundles = read_dir(&self.state_dir().join("bundles"));
        bundles.into_iter().map(|path| path.display().to_string()).collect()
    }

    pub fn assert_nothing_left(&self) {
        assert_eq!(self.leftovers(), Vec::<String>::new());
    }

    /// For what is cleaned up by a process that nobody can wait for.
    pub fn wait_until_nothing_left(&self) {
        let deadline = Instant::now() + PATIENCE;
        while !self.leftovers().is_empty() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        self.assert_nothing_left();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        for bundle in read_dir(&self.state_dir().join("bundles")) {
            let name = bundle.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let _ = self.mcrun("crun", &["rm", "-f", &name]);
        }
    }
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The exit status, with all that was said when it is another.
pub fn assert_status(output: &Output, status: i32) {
    assert_eq!(output.status.code(), Some(status), "{}{}", stdout(output), stderr(output));
}

pub fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub fn signal(pid: i64, signal: nix::sys::signal::Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), signal).expect("kill");
}

/// Copies a program, by a process of its own: a descriptor that this one writes through may be
/// inherited by a child that another test is just starting, and the program is busy (ETXTBSY).
fn install(source: &Path, target: &Path) {
    let mut command = Command::new("install");
    let status = command.args(["-m", "755"]).arg(source).arg(target).status().expect("install");
    assert!(status.success(), "{command:?}");
}

fn read_dir(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    entries.flatten().map(|entry| entry.path()).collect()
}

fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|path| path.is_file())
}

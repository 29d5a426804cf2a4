//! `mcrun demo` keeps its promise, and leaves nothing behind on any way out.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::timing::Timing;

/// What the demonstration may take in all.
const LIMIT: Duration = Duration::from_secs(60);

fn demo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mcrun"));
    command.arg("demo").args(arguments).env_remove("NO_COLOR");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A demonstration that ends, at the latest, with the test.
struct Running(Child, #[expect(dead_code, reason = "ends when dropped")] Timing);

impl Running {
    fn start(arguments: &[&str]) -> Self {
        Running(demo(arguments).spawn().unwrap(), Timing::start())
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    /// The exit status, what is left of stdout, and stderr.
    fn finish(&mut self) -> (Option<i32>, String, String) {
        let (mut stdout, mut stderr) = (String::new(), String::new());
        if let Some(mut pipe) = self.0.stdout.take() {
            pipe.read_to_string(&mut stdout).unwrap();
        }
        self.0.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        (self.0.wait().unwrap().code(), stdout, stderr)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            let _ = kill(Pid::from_raw(self.0.id() as i32), Signal::SIGTERM);
            let _ = self.0.wait();
        }
    }
}

/// Asserts that nothing carries the name of this demonstration any more.
fn assert_nothing_left(pid: u32) {
    let name = format!("mcrun-demo-{pid}");
    let mut left: Vec<PathBuf> = Vec::new();
    left.extend(Some(std::env::temp_dir().join(&name)).filter(|path| path.exists()));
    for process in fs::read_dir("/proc").unwrap().flatten() {
        // Also in the environment: MCRUN_STATE_DIR has the name in it.
        for file in ["cmdline", "environ"] {
            let text = fs::read(process.path().join(file)).unwrap_or_default();
            if text.windows(name.len()).any(|window| window == name.as_bytes()) {
                left.push(process.path());
            }
        }
    }
    // Where runc and crun keep what they know of a container.
    for directory in ["/run/runc", "/run/crun", "/run/mcrun/containers"] {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        left.extend(entries.map(|e| e.path()).filter(|p| p.to_string_lossy().contains(&name)));
    }
    assert!(left.is_empty(), "left behind: {left:?}");
}

fn number(half: &Value, field: &str) -> f64 {
    half[field].as_f64().unwrap_or_else(|| panic!("no {field} in {half}"))
}

#[test]
fn mcrun_keeps_its_promise_and_bare_macvlan_does_not() {
    keeps_its_promise(&["--json"], 2);
}

#[test]
fn mcrun_keeps_its_promise_with_ipv6_and_bare_macvlan_does_not() {
    // The host itself has groups to report: those of its addresses.
    keeps_its_promise(&["--json", "--ipv6"], 3);
}

/// `bare_hosts` is what the switch port sees without mcrun.
fn keeps_its_promise(arguments: &[&str], bare_hosts: usize) {
    let start = Instant::now();
    let mut demo = Running::start(arguments);
    let pid = demo.pid();
    let (status, stdout, stderr) = demo.finish();
    let took = start.elapsed();
    assert_eq!(status, Some(0), "{stdout} {stderr}");
    let result: Value = serde_json::from_str(&stdout).unwrap();

    let mcrun = &result["mcrun"];
    assert_eq!(mcrun["lost"], 0, "{mcrun}");
    assert_eq!(mcrun["queries"], 0, "{mcrun}");
    assert_eq!(mcrun["igmp_hosts"].as_array().unwrap().len(), 1, "{mcrun}");
    assert!(number(mcrun, "packets") > 5000.0, "{mcrun}");
    assert!(number(mcrun, "first_container_packets") > 1000.0, "{mcrun}");
    assert_eq!(result["broken"], Value::Array(Vec::new()));

    // The blackout that mcrun is there to prevent is real: else the first half shows nothing.
    let bare = &result["macvlan"];
    assert!(number(bare, "lost") > 500.0, "{bare}");
    assert!(number(bare, "longest_gap_ms") > 500.0, "{bare}");
    assert_eq!(bare["igmp_hosts"].as_array().unwrap().len(), bare_hosts, "{bare}");

    assert!(took < LIMIT, "{took:?}");
    assert_nothing_left(pid);
}

#[test]
fn in_a_pipe_it_is_plain_text_with_a_table() {
    let mut demo = Running::start(&[]);
    let pid = demo.pid();
    let (status, stdout, stderr) = demo.finish();
    assert_eq!(status, Some(0), "{stdout} {stderr}");
    assert!(!stdout.contains('\x1b'), "{stdout}");
    for says in ["container 2 joins", "container 1 leaves", "1000 packets/s, 0 lost", "NOTHING"] {
        assert!(stdout.contains(says), "{says:?} is not in {stdout}");
    }
    let rows: Vec<&str> = stdout.lines().filter(|line| line.starts_with("| ")).collect();
    assert!(rows[0].contains("packets") && rows[0].contains("IGMP hosts"), "{stdout}");
    assert!(rows[1].starts_with("| mcrun ") && rows[2].starts_with("| bare macvlan "), "{stdout}");
    assert!(stdout.contains("mcrun kept its promise"), "{stdout}");
    assert_nothing_left(pid);
}

#[test]
fn interrupted_while_a_container_runs_it_takes_everything_down() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let mut demo = Running::start(&[]);
        let pid = demo.pid();
        let mut stdout = BufReader::new(demo.0.stdout.take().unwrap());
        let mut line = String::new();
        // A live line with packets: the container runs.
        while !line.contains(" packets/s") {
            line.clear();
            assert_ne!(stdout.read_line(&mut line).unwrap(), 0, "{:?}", demo.finish());
        }
        kill(Pid::from_raw(pid as i32), signal).unwrap();
        let (status, _, stderr) = demo.finish();
        assert_eq!((status, stderr.as_str()), (Some(125), "mcrun: interrupted\n"), "{signal}");
        assert_nothing_left(pid);
    }
}

#[test]
fn an_engine_that_does_not_exist_is_an_error_and_leaves_nothing() {
    let mut demo = Running::start(&["--engine", "no-such-engine"]);
    let pid = demo.pid();
    let (status, stdout, stderr) = demo.finish();
    assert_eq!(status, Some(125), "{stdout} {stderr}");
    assert!(stderr.contains("no-such-engine"), "{stderr}");
    assert_nothing_left(pid);
}

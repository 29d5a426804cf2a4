//! Virtual machines with another kernel than this machine's, in which this very test program runs
//! again.
//!
//! Each test is `vm::run(|| ...)`, or `vm::run_with_systemd(|| ...)`. Outside, the first to come boots
//! the machine, which runs all tests that this process was asked for; then each reports what became of
//! it there. Inside, the closure runs.
//!
//! There are two machines: `bare` has a kernel and the programs of the lab, `systemd` is a Debian sid as it
//! boots. Everything is emulated: no virtualization is asked of the processor.

mod archive;
mod bare;
mod kernel;
mod qemu;
mod systemd;

use std::any::type_name;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use archive::Archive;
use qemu::{Further, Machine};

use crate::timing::Timing;

/// The programs under test.
const UNDER_TEST: [&str; 7] = [
    env!("CARGO_BIN_EXE_mcrun"),
    env!("CARGO_BIN_EXE_mcrun-cni"),
    env!("CARGO_BIN_EXE_mcrun-dhcp"),
    env!("CARGO_BIN_EXE_mcrun-hook"),
    env!("CARGO_BIN_EXE_mcrun-netavark"),
    env!("CARGO_BIN_EXE_mcrun-proxy"),
    env!("CARGO_BIN_EXE_mcrun-runtime"),
];

/// How long the machine may take for one test.
const TEST_LIMIT: Duration = Duration::from_secs(240);

/// A machine, which is booted once for all its tests.
struct Guest {
    /// The modules whose tests run there.
    topics: &'static [&'static str],
    /// Its kernel and the modules of that.
    kernel: fn() -> Result<(PathBuf, PathBuf), String>,
    further: fn() -> Result<Further, String>,
    /// Fills the file system that it has in its memory, with the modules of its kernel from a directory.
    fill: fn(&mut Archive, &Path) -> io::Result<()>,
    outcomes: OnceLock<Result<Outcomes, String>>,
}

static BARE: Guest = Guest {
    topics: &[
        "ipvlan::",
        "vlan::",
        "hardening::cgroup2::",
        "older_kernel::",
        "cni::ipvlan::",
        "docker_ipvlan::",
    ],
    kernel: bare::kernel,
    further: bare::further,
    fill: bare::fill,
    outcomes: OnceLock::new(),
};

static SYSTEMD: Guest = Guest {
    topics: &["under_systemd::"],
    kernel: systemd::kernel,
    further: systemd::further,
    fill: systemd::fill,
    outcomes: OnceLock::new(),
};

/// What became of the tests, by name.
type Outcomes = BTreeMap<String, Outcome>;

#[derive(Debug, Default)]
struct Outcome {
    /// What the test printed.
    output: String,
    /// Its exit status; none when it did not end.
    status: Option<i32>,
}

/// Runs the calling test in the virtual machine that has a kernel and the lab's programs.
///
/// # Panics
/// When it failed there, and when it could not be run.
pub(super) fn run<F: FnOnce()>(test: F) {
    run_in(&BARE, test);
}

/// Runs the calling test in the virtual machine that has systemd.
///
/// # Panics
/// As [`run`].
pub(super) fn run_with_systemd<F: FnOnce()>(test: F) {
    run_in(&SYSTEMD, test);
}

fn run_in<F: FnOnce()>(guest: &'static Guest, test: F) {
    if std::env::var_os("MCRUN_TEST_GUEST").is_some() {
        return test();
    }
    let _timing = Timing::start();
    // The closure's type is called `program::topic::test::{{closure}}`.
    let name = type_name::<F>();
    let name = name.trim_end_matches("::{{closure}}");
    let name = name.split_once("::").map_or(name, |(_, name)| name);
    match guest.outcomes.get_or_init(|| boot(guest)) {
        Err(error) => panic!("the virtual machine: {error}"),
        Ok(outcomes) => match outcomes.get(name) {
            Some(Outcome { status: Some(0), output }) => println!("{output}"),
            Some(Outcome { status, output }) => {
                let end = match status {
                    Some(status) => format!("exit status {status}"),
                    None => "it did not end".into(),
                };
                panic!("in the virtual machine: {end}\n{output}")
            }
            None => panic!("the virtual machine did not run {name}: {:?}", outcomes.keys()),
        },
    }
}

/// Boots, waits for the end and reads what came of it.
///
/// A machine that stops before it has run all tests is told of and booted once more: its kernel has
/// crashed, which under emulation it sometimes does. A test that fails has no second chance.
fn boot(guest: &Guest) -> Result<Outcomes, String> {
    let directory = tempfile::Builder::new().prefix("mcrun-vm-").tempdir().map_err(text)?;
    let image = directory.path().join("image");
    let (kernel, modules) = (guest.kernel)()?;
    let further = (guest.further)()?;
    build_image(guest, &image, &modules)
        .map_err(|e| format!("cannot build its file system: {e}"))?;
    let first = Run::of(&kernel, &image, &further, directory.path())?;
    if first.end.is_err() || first.is_whole() {
        return first.outcomes();
    }
    // Not by eprintln!, which is not shown where the test passes in the end.
    let told = writeln!(
        io::stderr(),
        "the virtual machine stopped, and is booted once more:\n{}\n{}",
        first.console,
        first.printed
    );
    told.map_err(text)?;
    Run::of(&kernel, &image, &further, directory.path())?.outcomes()
}

/// What one machine has left.
struct Run {
    end: Result<(), String>,
    /// What its first process wrote.
    printed: String,
    /// What its kernel wrote.
    console: String,
}

impl Run {
    fn of(
        kernel: &Path,
        image: &Path,
        further: &Further,
        directory: &Path,
    ) -> Result<Self, String> {
        let [console, port] = ["console", "port"].map(|name| directory.join(name));
        let end = Machine::start(kernel, image, further, &console, &port)?.wait();
        let read = |path: &Path| {
            let bytes = fs::read(path).unwrap_or_default();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        Ok(Run { end, printed: read(&port), console: read(&console) })
    }

    /// Whether all tests were run.
    fn is_whole(&self) -> bool {
        self.printed.contains("=== all")
    }

    fn outcomes(self) -> Result<Outcomes, String> {
        let Run { end, printed, console } = &self;
        let end = match end {
            Ok(()) if self.is_whole() => return Ok(parse(printed)),
            Ok(()) => "it stopped before it had run all tests",
            Err(error) => error,
        };
        if self.is_whole() || !printed.contains("=== begin ") {
            return Err(format!("{end}\n{console}\n{printed}"));
        }
        // The test that was running has not ended, and those behind it have not begun.
        let mut outcomes = parse(printed);
        for outcome in outcomes.values_mut().filter(|outcome| outcome.status.is_none()) {
            outcome.output += &format!("\n{end}\n{console}");
        }
        Ok(outcomes)
    }
}

/// The file system that the machine has in its memory: what all machines have, and what this one has.
fn build_image(guest: &Guest, image: &Path, modules: &Path) -> io::Result<()> {
    let mut archive = Archive::create(image)?;
    for directory in ["dev", "proc", "sys", "run", "tmp", "root", "etc", "var"] {
        archive.directory(&Path::new("/").join(directory))?;
    }
    archive.file(Path::new("/vm/run-tests"), include_bytes!("run-tests.sh"))?;
    archive.file(Path::new("/vm/test"), &fs::read(std::env::current_exe()?)?)?;
    archive.file(Path::new("/vm/tests"), wanted(guest.topics)?.as_bytes())?;
    archive.file(Path::new("/vm/limit"), TEST_LIMIT.as_secs().to_string().as_bytes())?;
    // Here it is not the machine's own path that counts.
    archive.copy(Path::new("/bin/busybox"))?;
    archive.link(Path::new("/bin/sh"), "busybox")?;
    (guest.fill)(&mut archive, modules)?;
    archive.finish()
}

/// Names of the machine's tests that this process was asked for, each on a line.
fn wanted(topics: &[&str]) -> io::Result<String> {
    let output = Command::new(std::env::current_exe()?)
        .args(std::env::args().skip(1))
        .args(["--list", "--format", "terse"])
        .output()?;
    if !output.status.success() {
        return Err(io::Error::other(format!("cannot list the tests: {output:?}")));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let names = text.lines().filter_map(|line| line.strip_suffix(": test"));
    let names = names.filter(|name| topics.iter().any(|topic| name.starts_with(topic)));
    Ok(names.map(|name| format!("{name}\n")).collect())
}

/// Reads what the machine's first process wrote: see run-tests.sh.
fn parse(printed: &str) -> Outcomes {
    let mut outcomes = Outcomes::new();
    let mut current = None;
    for line in printed.lines() {
        if let Some(name) = line.strip_prefix("=== begin ") {
            outcomes.insert(name.to_owned(), Outcome::default());
            current = Some(name);
        } else if let Some((name, status)) =
            line.strip_prefix("=== end ").and_then(|end| end.rsplit_once(' '))
        {
            if let Some(outcome) = outcomes.get_mut(name) {
                outcome.status = status.parse().ok();
            }
            current = None;
        } else if let Some(outcome) = current.and_then(|name| outcomes.get_mut(name)) {
            outcome.output += line;
            outcome.output.push('\n');
        }
    }
    outcomes
}

fn text(error: io::Error) -> String {
    error.to_string()
}

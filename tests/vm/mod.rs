//! A virtual machine with another kernel than this machine's, in which this very test program runs
//! again.
//!
//! Each test is `vm::run(|| ...)`. Outside, the first to come boots the machine, which runs all
//! tests that this process was asked for; then each reports what became of it there. Inside, the
//! closure runs.
//!
//! The machine has what the lab of `tests/lab` needs: runc, iproute2, nft, tcpdump, busybox and the
//! programs under test, at their paths. Everything is emulated: no virtualization is asked of the
//! processor.

mod archive;

use std::any::type_name;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::fs::File;
use std::io;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use archive::Archive;

use crate::timing::Timing;

/// The modules whose tests run in the machine.
const TOPICS: [&str; 6] = [
    "ipvlan::",
    "vlan::",
    "hardening::cgroup2::",
    "older_kernel::",
    "cni::ipvlan::",
    "docker_ipvlan::",
];

/// What the kernel has as modules and the tests need, beside what these depend on.
const MODULES: [&str; 9] = [
    "veth",
    "bridge",
    "macvlan",
    "ipvlan",
    "nf_tables",
    "nfnetlink_log",
    "nft_log",
    "nft_limit",
    "8021q",
];

/// Programs of this machine that the lab starts, with their libraries.
const PROGRAMS: [&str; 10] =
    ["bash", "bridge", "busybox", "env", "ip", "nft", "nsenter", "runc", "tcpdump", "unshare"];

/// Plugins of the package containernetworking-plugins.
const PLUGINS: [&str; 2] = ["/usr/lib/cni/ipvlan", "/usr/lib/cni/host-local"];

/// How long the machine may take for all tests.
const LIMIT: Duration = Duration::from_secs(1200);
/// How long it may take for one.
const TEST_LIMIT: Duration = Duration::from_secs(240);

/// What became of the tests, by name.
type Outcomes = BTreeMap<String, Outcome>;

#[derive(Debug, Default)]
struct Outcome {
    /// What the test printed.
    output: String,
    /// Its exit status; none when it did not end.
    status: Option<i32>,
}

/// Runs the calling test in the virtual machine.
///
/// # Panics
/// When it failed there, and when it could not be run.
pub(super) fn run<F: FnOnce()>(test: F) {
    if std::env::var_os("MCRUN_TEST_GUEST").is_some() {
        return test();
    }
    let _timing = Timing::start();
    static OUTCOMES: OnceLock<Result<Outcomes, String>> = OnceLock::new();
    // The closure's type is called `program::topic::test::{{closure}}`.
    let name = type_name::<F>();
    let name = name.trim_end_matches("::{{closure}}");
    let name = name.split_once("::").map_or(name, |(_, name)| name);
    match OUTCOMES.get_or_init(boot) {
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
fn boot() -> Result<Outcomes, String> {
    let directory = tempfile::Builder::new().prefix("mcrun-vm-").tempdir().map_err(text)?;
    let image = directory.path().join("image");
    let (kernel, modules) = kernel()?;
    build_image(&image, &modules).map_err(|e| format!("cannot build its file system: {e}"))?;
    let first = Run::of(&kernel, &image, directory.path())?;
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
    Run::of(&kernel, &image, directory.path())?.outcomes()
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
    fn of(kernel: &Path, image: &Path, directory: &Path) -> Result<Self, String> {
        let [console, port] = ["console", "port"].map(|name| directory.join(name));
        let end = Machine::start(kernel, image, &console, &port)?.wait();
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

/// The newest kernel that is unpacked, and the directory of its modules.
fn kernel() -> Result<(PathBuf, PathBuf), String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/debian");
    let newest = fs::read_dir(root.join("boot"))
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter_map(|name| Some(name.strip_prefix("vmlinuz-")?.to_owned()))
        .max();
    let release = newest.ok_or(
        "no kernel: run scripts/apt-unpack 'linux-image-6.12.*-cloud-amd64' target/debian (make \
         test does)",
    )?;
    let kernel = root.join("boot").join(format!("vmlinuz-{release}"));
    // Unpacked, not installed: /lib may be a link on an installed system.
    let modules = ["lib/modules", "usr/lib/modules"].map(|lib| root.join(lib).join(&release));
    let modules = modules.into_iter().find(|path| path.exists());
    Ok((kernel, modules.ok_or(format!("kernel {release} has no modules"))?))
}

/// The file system that the machine has in its memory.
fn build_image(image: &Path, modules: &Path) -> io::Result<()> {
    let mut archive = Archive::create(image)?;
    for directory in ["dev", "proc", "sys", "run", "tmp", "root", "etc", "var"] {
        archive.directory(&Path::new("/").join(directory))?;
    }
    archive.file(Path::new("/init"), include_bytes!("init.sh"))?;
    archive.file(Path::new("/vm/test"), &fs::read(std::env::current_exe()?)?)?;
    archive.file(Path::new("/vm/tests"), wanted()?.as_bytes())?;
    archive.file(Path::new("/vm/limit"), TEST_LIMIT.as_secs().to_string().as_bytes())?;
    for program in [
        env!("CARGO_BIN_EXE_mcrun"),
        env!("CARGO_BIN_EXE_mcrun-hook"),
        env!("CARGO_BIN_EXE_mcrun-proxy"),
        env!("CARGO_BIN_EXE_mcrun-runtime"),
        env!("CARGO_BIN_EXE_mcrun-cni"),
    ] {
        archive.copy(Path::new(program))?;
    }
    let mut files = BTreeSet::new();
    let programs = PROGRAMS.into_iter().map(find_program);
    for path in programs.chain(PLUGINS.map(|path| Ok(path.into()))) {
        let path = path?;
        files.extend(libraries(&path)?);
        files.insert(path);
    }
    for file in files.iter().filter(|file| file.as_path() != Path::new("/bin/busybox")) {
        archive.copy(file)?;
    }
    // Here it is not the machine's own path that counts.
    archive.copy(Path::new("/bin/busybox"))?;
    archive.link(Path::new("/bin/sh"), "busybox")?;
    archive.file(Path::new("/etc/passwd"), b"root:x:0:0:root:/root:/bin/sh\n")?;
    archive.file(Path::new("/etc/group"), b"root:x:0:\n")?;
    for (position, (name, module)) in load_order(modules)?.iter().enumerate() {
        archive.file(Path::new(&format!("/vm/modules/{position:02}-{name}.ko")), module)?;
    }
    archive.finish()
}

/// Names of the machine's tests that this process was asked for, each on a line.
fn wanted() -> io::Result<String> {
    let output = Command::new(std::env::current_exe()?)
        .args(std::env::args().skip(1))
        .args(["--list", "--format", "terse"])
        .output()?;
    if !output.status.success() {
        return Err(io::Error::other(format!("cannot list the tests: {output:?}")));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let names = text.lines().filter_map(|line| line.strip_suffix(": test"));
    let names = names.filter(|name| TOPICS.iter().any(|topic| name.starts_with(topic)));
    Ok(names.map(|name| format!("{name}\n")).collect())
}

fn find_program(name: &str) -> io::Result<PathBuf> {
    let directories = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(Path::new);
    let found = directories.map(|d| d.join(name)).into_iter().find(|path| path.exists());
    found.ok_or_else(|| io::Error::other(format!("{name} is not installed (make test does)")))
}

/// The shared libraries that a program needs, with the loader, as ldd(1) lists them.
fn libraries(program: &Path) -> io::Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output()?;
    // A static program has none, and ldd fails.
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if let Some(missing) = text.lines().find(|line| line.contains("not found")) {
        return Err(io::Error::other(format!("{}: {missing}", program.display())));
    }
    let paths =
        text.split_whitespace().filter(|word| word.starts_with('/') && !word.ends_with(':'));
    Ok(paths.map(PathBuf::from).collect())
}

/// The modules and what they depend on, each behind what it depends on, unpacked.
fn load_order(modules: &Path) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut files = BTreeMap::new();
    list_modules(&modules.join("kernel"), &mut files)?;
    let mut order = Vec::new();
    for name in MODULES {
        load(name, &files, &mut order)?;
    }
    Ok(order)
}

fn list_modules(directory: &Path, files: &mut BTreeMap<String, PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            list_modules(&path, files)?;
        } else if let Some((name, _)) = entry.file_name().to_string_lossy().split_once(".ko") {
            files.insert(name.replace('-', "_"), path);
        }
    }
    Ok(())
}

fn load(
    name: &str,
    files: &BTreeMap<String, PathBuf>,
    order: &mut Vec<(String, Vec<u8>)>,
) -> io::Result<()> {
    if order.iter().any(|(loaded, _)| loaded == name) {
        return Ok(());
    }
    let file = files.get(name);
    let file = file.ok_or_else(|| io::Error::other(format!("the kernel has no module {name}")))?;
    let module = match file.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => {
            let output = Command::new("busybox").args(["xz", "-dc"]).arg(file).output()?;
            if !output.status.success() {
                return Err(io::Error::other(format!("{}: {output:?}", file.display())));
            }
            output.stdout
        }
        _ => fs::read(file)?,
    };
    // The section .modinfo holds `depends=NAME,NAME`, ended by a zero (modinfo(8)).
    let text = b"\0depends=";
    let start = module.windows(text.len()).position(|window| window == text);
    let start = start.ok_or_else(|| io::Error::other(format!("{name}: no dependencies in it")))?;
    let rest = &module[start + text.len()..];
    let end = rest.iter().position(|byte| *byte == 0).unwrap_or(rest.len());
    let needed = String::from_utf8_lossy(&rest[..end]).into_owned();
    for needed in needed.split(',').filter(|needed| !needed.is_empty()) {
        load(&needed.replace('-', "_"), files, order)?;
    }
    order.push((name.to_owned(), module));
    Ok(())
}

/// A running machine, which ends with its owner.
struct Machine {
    qemu: Child,
    log: PathBuf,
}

impl Machine {
    fn start(kernel: &Path, image: &Path, console: &Path, port: &Path) -> Result<Self, String> {
        let log = console.with_extension("log");
        let error = || File::create(&log).map_err(text);
        let chardev = |id: &str, path: &Path| format!("file,id={id},path={}", path.display());
        let mut command = Command::new("qemu-system-x86_64");
        command
            .args(["-accel", "tcg,thread=single", "-cpu", "max", "-smp", "2", "-m", "2048"])
            .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
            .args(["-monitor", "none", "-nic", "none"])
            .arg("-kernel")
            .arg(kernel)
            .arg("-initrd")
            .arg(image)
            // norandmaps: a program is translated once, and not at each of its starts.
            .args([
                "-append",
                "console=ttyS0 panic=-1 quiet loglevel=4 mitigations=off nokaslr norandmaps",
            ])
            .args(["-chardev", &chardev("console", console), "-serial", "chardev:console"])
            .args(["-chardev", &chardev("port", port), "-device", "virtio-serial-pci"])
            .args(["-device", "virtserialport,chardev=port,name=tests"])
            .stdin(Stdio::null())
            .stdout(error()?)
            .stderr(error()?);
        // SAFETY: between fork and exec, one async-signal-safe system call without memory. It ends
        // qemu when this thread ends, however that does; the thread waits for it.
        unsafe {
            command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            });
        }
        let qemu = command.spawn().map_err(|e| {
            format!("qemu-system-x86_64: {e}: install qemu-system-x86 (make test does)")
        })?;
        Ok(Machine { qemu, log })
    }

    /// Waits for its end.
    fn wait(&mut self) -> Result<(), String> {
        let start = Instant::now();
        while start.elapsed() < LIMIT {
            match self.qemu.try_wait().map_err(text)? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => {
                    let log = fs::read_to_string(&self.log).unwrap_or_default();
                    return Err(format!("qemu: {status}\n{log}"));
                }
                None => std::thread::sleep(Duration::from_millis(50)),
            }
        }
        Err(format!("it has not ended after {LIMIT:?}"))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

/// Reads what the machine's first process wrote: see init.sh.
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

//! The machine with a kernel of Debian 12's backports and what the lab of `tests/lab` needs: runc, iproute2, nft,
//! tcpdump, busybox, and the programs under test, at their paths.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::archive::Archive;
use super::qemu::Further;
use super::{UNDER_TEST, kernel};

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
const PROGRAMS: [&str; 9] =
    ["bash", "bridge", "env", "ip", "nft", "nsenter", "runc", "tcpdump", "unshare"];

/// Plugins of the package containernetworking-plugins.
const PLUGINS: [&str; 2] = ["/usr/lib/cni/ipvlan", "/usr/lib/cni/host-local"];

/// The newest kernel that is unpacked.
pub(super) fn kernel() -> Result<(PathBuf, PathBuf), String> {
    kernel::newest(&Path::new(env!("CARGO_MANIFEST_DIR")).join("target/debian"))?.ok_or_else(|| {
        "no kernel: run scripts/apt-unpack 'linux-image-6.12.*-cloud-amd64' target/debian (make \
         test does)"
            .to_owned()
    })
}

pub(super) fn further() -> Result<Further, String> {
    Ok(Further { memory: 2048, kernel_options: "", disk: None })
}

pub(super) fn fill(archive: &mut Archive, modules: &Path) -> io::Result<()> {
    archive.file(Path::new("/init"), include_bytes!("init.sh"))?;
    for program in UNDER_TEST {
        archive.copy(Path::new(program))?;
    }
    let mut files = BTreeSet::new();
    let programs = PROGRAMS.into_iter().map(find_program);
    for path in programs.chain(PLUGINS.map(|path| Ok(path.into()))) {
        let path = path?;
        files.extend(libraries(&path)?);
        files.insert(path);
    }
    for file in files {
        archive.copy(&file)?;
    }
    archive.file(Path::new("/etc/passwd"), b"root:x:0:0:root:/root:/bin/sh\n")?;
    archive.file(Path::new("/etc/group"), b"root:x:0:\n")?;
    for (position, (name, module)) in kernel::load_order(modules, &MODULES)?.iter().enumerate() {
        archive.file(Path::new(&format!("/vm/modules/{position:02}-{name}.ko")), module)?;
    }
    Ok(())
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

//! The machine that boots as users' machines do: Debian sid's kernel, systemd, engines, and the programs under
//! test as `make install` puts them. `scripts/test-vm` makes its disk.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::archive::Archive;
use super::qemu::Further;
use super::{UNDER_TEST, kernel};

/// What its kernel has as modules and the disk needs.
const MODULES: [&str; 1] = ["virtio_blk"];

/// What is put on the disk before systemd starts: path and content.
const FILES: [(&str, &str); 6] = [
    ("/etc/systemd/system/lab-lan.service", include_str!("systemd/lab-lan.service")),
    ("/etc/systemd/system/lab-image.service", include_str!("systemd/lab-image.service")),
    ("/etc/systemd/system/lab-tests.service", include_str!("systemd/lab-tests.service")),
    ("/etc/containers/systemd/receiver.container", include_str!("systemd/receiver.container")),
    (
        "/usr/local/lib/systemd/system/mcrun-keeper.service",
        include_str!("../../contrib/systemd/mcrun-keeper.service"),
    ),
    ("/etc/mcrun/mcrun.toml", ""),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/roots/sid-vm")
}

/// That of the root that the disk was made of.
pub(super) fn kernel() -> Result<(PathBuf, PathBuf), String> {
    kernel::newest(&root())?
        .ok_or_else(|| format!("no kernel below {}: make test-vm makes it", root().display()))
}

pub(super) fn further() -> Result<Further, String> {
    let disk = root().with_extension("ext4");
    match disk.exists() {
        true => Ok(Further {
            memory: 3072,
            kernel_options: "systemd.unit=lab-tests.service systemd.show_status=true",
            disk: Some(disk),
        }),
        false => Err(format!("no disk {}: make test-vm makes it", disk.display())),
    }
}

pub(super) fn fill(archive: &mut Archive, modules: &Path) -> io::Result<()> {
    archive.file(Path::new("/init"), include_bytes!("systemd/init.sh"))?;
    archive.file(Path::new("/vm/make-image"), include_bytes!("systemd/make-image.sh"))?;
    archive.file(
        Path::new("/vm/files/usr/local/share/mcrun/lxc/start-host"),
        include_bytes!("../../hooks/lxc/start-host"),
    )?;
    let directory = Path::new(UNDER_TEST[0]).parent().unwrap_or(Path::new("/"));
    archive.text(Path::new("/vm/directory"), &directory.display().to_string())?;
    for program in UNDER_TEST.map(Path::new) {
        let name = program.file_name().unwrap_or_default();
        archive.file(&Path::new("/vm/bin").join(name), &stripped(program)?)?;
    }
    for (path, content) in FILES {
        archive.text(&Path::new("/vm/files").join(path.trim_start_matches('/')), content)?;
    }
    for (position, (name, module)) in kernel::load_order(modules, &MODULES)?.iter().enumerate() {
        archive.file(Path::new(&format!("/vm/modules/{position:02}-{name}.ko")), module)?;
    }
    Ok(())
}

/// A program without what debuggers need, which is most of it.
fn stripped(program: &Path) -> io::Result<Vec<u8>> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("program");
    let output = Command::new("strip").arg("-o").arg(&path).arg(program).output()?;
    match output.status.success() {
        true => fs::read(path),
        false => Err(io::Error::other(format!("strip: {output:?}"))),
    }
}

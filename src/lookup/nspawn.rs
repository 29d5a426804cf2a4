//! Machines of systemd-nspawn, as systemd-machined keeps them in `/run/systemd/machines`.
//!
//! A file there is named as its machine, and has `LEADER=`, the machine's init: what
//! `machinectl show` tells, but without asking a daemon. A machine of
//! `systemd-nspawn --register=no` has none.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use crate::lookup::{ContainerEngine, Machine};

/// Where systemd-machined keeps its machines.
pub(super) const DIRECTORY: &str = "/run/systemd/machines";

/// A file is read up to this many bytes; it has some five hundred.
const MAX_FILE: u64 = 64 << 10;

/// The machines of systemd-nspawn that a directory has, each with its init in this process's pid
/// namespace. Files that do not belong to `owner`, and
/// machines that a user has registered, are left out: anybody may give those any name.
pub(super) fn machines(directory: &Path, owner: u32) -> Vec<(Machine, i32)> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let read = entries.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let (machine, leader) = parse(&read(&entry.path(), owner)?)?;
        // The name in the file is the file's; a link, `unit:NAME`, leads to another one's.
        (machine.name == name).then_some((machine, leader))
    });
    read.collect()
}

fn read(file: &Path, owner: u32) -> Option<String> {
    // No link is followed, and no pipe waited for.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = fs::OpenOptions::new().read(true).custom_flags(flags).open(file).ok()?;
    let is_its = file.metadata().is_ok_and(|meta| meta.is_file() && meta.uid() == owner);
    let mut bytes = Vec::new();
    is_its.then(|| file.take(MAX_FILE).read_to_end(&mut bytes).ok()).flatten()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// Reads a machine's file; `None` unless it is a container of systemd-nspawn's that root runs.
fn parse(text: &str) -> Option<(Machine, i32)> {
    let value = |key: &str| {
        text.lines()
            .find_map(|line| Some(line.strip_prefix(key)?.strip_prefix('=')?.trim_matches('"')))
    };
    let is_nspawn =
        value("CLASS") == Some("container") && value("SERVICE") == Some("systemd-nspawn");
    let is_roots = value("UID").is_none_or(|uid| uid == "0");
    let leader = value("LEADER")?.parse().ok().filter(|leader| *leader > 0)?;
    let name = value("NAME")?.to_owned();
    let machine = Machine { engine: ContainerEngine::Nspawn, name };
    (is_nspawn && is_roots).then_some((machine, leader))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const CAM: &str = "# This is private data. Do not parse.\nNAME=cam\nSCOPE=machine-cam.scope\n\
        SERVICE=systemd-nspawn\nROOT=/var/lib/machines/cam\nLEADER=4711\nCLASS=container\n";

    fn own() -> u32 {
        nix::unistd::getuid().as_raw()
    }

    #[test]
    fn a_machine_is_read_from_its_file_and_once() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("cam"), CAM).unwrap();
        symlink("cam", directory.path().join("unit:machine-cam.scope")).unwrap();
        let cam = Machine { engine: ContainerEngine::Nspawn, name: "cam".to_owned() };
        assert_eq!(machines(directory.path(), own()), [(cam, 4711)]);
        assert_eq!(machines(directory.path(), own() + 1), []);
        assert_eq!(machines(&directory.path().join("nothing"), own()), []);
    }

    #[test]
    fn what_is_no_machine_of_roots_is_left_out() {
        for (there, instead) in [
            ("CLASS=container", "CLASS=vm"),
            ("SERVICE=systemd-nspawn", "SERVICE=libvirt-lxc"),
            ("LEADER=4711", "LEADER=-1"),
            ("LEADER=4711", "LEADER=0"),
            ("LEADER=4711", "LEADER=many"),
            ("LEADER=4711\n", ""),
            ("NAME=cam\n", ""),
            ("LEADER=4711", "LEADER=4711\nUID=1000"),
        ] {
            assert_eq!(parse(&CAM.replace(there, instead)), None, "{instead}");
        }
        assert_eq!(parse(""), None);
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("cam");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        fs::write(directory.path().join("mic"), CAM).unwrap();
        fs::create_dir(directory.path().join("directory")).unwrap();
        let far = format!("{}{CAM}", "#\n".repeat(MAX_FILE as usize));
        fs::write(directory.path().join("far"), far).unwrap();
        assert_eq!(machines(directory.path(), own()), []);
    }
}

//! Settings below `/proc/sys/net`. That directory shows the namespace of the thread that looks,
//! so these run inside [`super::netns::NetNs::run`].

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::plan::Sysctl;

const ROOT: &str = "/proc/sys/net";

/// Why a setting could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot set net/{path} to {value}: {source}")]
pub struct SysctlError {
    path: String,
    value: u32,
    source: io::Error,
}

/// Carries out one setting in the calling thread's namespace.
///
/// # Errors
/// When the file is absent where it must not be, or cannot be written.
pub fn apply(sysctl: &Sysctl) -> Result<(), SysctlError> {
    match sysctl {
        Sysctl::Set(path, value) => match write(path, *value) {
            Err(error) if error.source.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        },
        Sysctl::Require(path, value) => write(path, *value),
        Sysctl::Raise(path, value) => raise(path, *value),
        Sysctl::AcceptAnySource(name) => accept_any_source(name),
    }
}

/// The kernel takes the stricter of `all` and the interface (`IN_DEV_RPFILTER` in
/// include/linux/inetdevice.h): `all` must go to 0, and the other interfaces keep what it
/// gave them.
fn accept_any_source(name: &str) -> Result<(), SysctlError> {
    let path = |interface: &str| format!("ipv4/conf/{interface}/rp_filter");
    let all = read(&path("all")).unwrap_or(0);
    if all > 0 {
        let interfaces =
            fs::read_dir(Path::new(ROOT).join("ipv4/conf")).into_iter().flatten().flatten();
        for interface in interfaces.filter_map(|entry| entry.file_name().into_string().ok()) {
            if interface != "all"
                && interface != name
                && read(&path(&interface)).is_some_and(|own| own < all)
            {
                write(&path(&interface), all)?;
            }
        }
        write(&path("all"), 0)?;
    }
    Ok(())
}

/// Opens the file once: to find it is most of the work.
fn raise(path: &str, value: u32) -> Result<(), SysctlError> {
    let raise = || {
        let file = File::options().read(true).write(true).open(Path::new(ROOT).join(path))?;
        let mut text = [0; 16];
        let length = file.read_at(&mut text, 0)?;
        let now =
            std::str::from_utf8(&text[..length]).ok().and_then(|text| text.trim().parse().ok());
        match now {
            Some(now) if value <= now => Ok(()),
            _ => file.write_all_at(value.to_string().as_bytes(), 0),
        }
    };
    raise().map_err(|source| SysctlError { path: path.to_owned(), value, source })
}

fn read(path: &str) -> Option<u32> {
    fs::read_to_string(Path::new(ROOT).join(path)).ok()?.trim().parse().ok()
}

fn write(path: &str, value: u32) -> Result<(), SysctlError> {
    fs::write(Path::new(ROOT).join(path), value.to_string()).map_err(|source| SysctlError {
        path: path.to_owned(),
        value,
        source,
    })
}

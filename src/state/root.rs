//! Whether root may follow the path of the state directory.
//!
//! Whoever can replace a directory on the way to a record can make root write, remove and wait
//! where they like. So each directory on the way belongs to root (or to the user that mcrun runs
//! as), and nobody else can replace what is in it: others may not write it, or it is sticky, as
//! /tmp is. The state directory itself may not be written by others at all. A symbolic link counts
//! as what it leads to if it is root's.

use std::ffi::OsString;
use std::fs;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// As many links as the kernel follows (MAXSYMLINKS in include/linux/namei.h).
const MAX_LINKS: u32 = 40;
const GROUP_OR_OTHERS_WRITE: u32 = 0o022;
const STICKY: u32 = 0o1000;

/// What must not be followed, and why.
#[derive(Debug)]
pub(super) struct Unsafe {
    pub(super) path: PathBuf,
    pub(super) source: io::Error,
}

/// Checks the way to a directory and the directory itself. `false`: it does not exist, and may be
/// made.
///
/// # Errors
/// [`Unsafe`]; nothing may be made then.
pub(super) fn check(root: &Path) -> Result<bool, Unsafe> {
    let at = |path: &Path, source| Unsafe { path: path.to_owned(), source };
    let absolute = std::path::absolute(root).map_err(|source| at(root, source))?;
    let mut here = PathBuf::from("/");
    // What is still to be followed, the next one last.
    let mut pending = components(&absolute);
    let mut links = 0;
    // The last link that is being followed: itself, what it leads to, and how much of `pending` is
    // behind it.
    let mut link: Option<(PathBuf, PathBuf, usize)> = None;
    while let Some(component) = pending.pop() {
        if component == ".." {
            here.pop();
            continue;
        }
        let path = here.join(&component);
        let meta = match fs::symlink_metadata(&path) {
            Ok(meta) => meta,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return match link {
                    Some((link, target, behind)) if pending.len() >= behind => {
                        let target = target.display();
                        let why = format!(
                            "it is a symbolic link to {target}, which does not exist; make that \
                             directory, or remove the link"
                        );
                        Err(at(&link, io::Error::other(why)))
                    }
                    _ => Ok(false),
                };
            }
            Err(error) => return Err(at(&path, error)),
        };
        if meta.is_symlink() {
            links += 1;
            if links > MAX_LINKS {
                return Err(at(&path, io::Error::from_raw_os_error(libc::ELOOP)));
            }
            if !is_trusted(meta.uid()) {
                let why = format!(
                    "it is a symbolic link of user {}; a link has to be root's",
                    meta.uid()
                );
                return Err(at(&path, io::Error::other(why)));
            }
            let target = fs::read_link(&path).map_err(|source| at(&path, source))?;
            if target.is_absolute() {
                here = PathBuf::from("/");
            }
            let behind = pending.len();
            pending.extend(components(&target));
            link = Some((path, target, behind));
            continue;
        }
        let is_root = pending.is_empty();
        check_directory(&meta, !is_root).map_err(|source| at(&path, source))?;
        here = path;
    }
    Ok(true)
}

/// Checks a directory: its type, its owner, and whether others may write it, or replace what is in
/// it if `is_sticky_enough`.
pub(super) fn check_directory(meta: &Metadata, is_sticky_enough: bool) -> io::Result<()> {
    check_kind_and_owner(meta)?;
    let mode = meta.mode();
    let is_writable = mode & GROUP_OR_OTHERS_WRITE != 0;
    if is_writable && !(is_sticky_enough && mode & STICKY != 0) {
        let why = format!("others may write it (mode {:o}); chmod go-w", mode & 0o7777);
        return Err(io::Error::other(why));
    }
    Ok(())
}

/// Checks that something is a directory of root's.
pub(super) fn check_kind_and_owner(meta: &Metadata) -> io::Result<()> {
    if meta.is_symlink() {
        return Err(io::Error::other("it is a symbolic link, and has to be a directory"));
    }
    if !meta.is_dir() {
        return Err(io::Error::other("it is no directory"));
    }
    if !is_trusted(meta.uid()) {
        let why = format!("it belongs to user {}, and has to be root's", meta.uid());
        return Err(io::Error::other(why));
    }
    Ok(())
}

/// Whether nobody but root, or the user that this process runs as, is the owner.
pub(super) fn is_trusted(owner: u32) -> bool {
    owner == 0 || owner == nix::unistd::geteuid().as_raw()
}

/// The components of a path except the root and `.`, the last one first.
fn components(path: &Path) -> Vec<OsString> {
    let named = path.components().rev().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    });
    named.collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_path_is_followed_as_the_kernel_does() {
        let base = tempfile::tempdir().unwrap();
        let base = base.path();
        fs::create_dir_all(base.join("a/b")).unwrap();
        symlink("../a/b", base.join("a/up")).unwrap();
        symlink("loop", base.join("loop")).unwrap();
        let known = |path: &str| check(&base.join(path)).map_err(|error| error.source.to_string());
        assert_eq!(known("a/up"), Ok(true));
        assert_eq!(known("a/up/../../a"), Ok(true));
        assert_eq!(known("a/up/new"), Ok(false));
        assert_eq!(known("./new/er"), Ok(false));
        assert!(known("loop").unwrap_err().contains("symbolic links"));
    }
}

//! Configuration files are changed in such a way that the change can be undone.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::setup::{SetupError, content};
use crate::sys::files;
use crate::sys::files::Replacement;

/// Adds mcrun's part to a text, or removes it.
type Rewrite = Box<dyn Fn(&str) -> Result<String, String>>;

/// The change of one file.
pub(super) enum Edit {
    /// The whole file is mcrun's, and has this content.
    Whole(String),
    /// The file is somebody else's, and has a part of mcrun's.
    Part {
        /// Content to which the part is added when there is no file.
        empty: &'static str,
        /// Adds the part; a text that has it stays as it is.
        add: Rewrite,
        /// Removes the part; a text without it stays as it is.
        remove_part: Rewrite,
    },
}

/// What was done to a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The file.
    pub path: PathBuf,
    /// What was done.
    pub outcome: Outcome,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The file was as it should be.
    Unchanged,
    /// It was written. This file has the former content, if there was any.
    Written(Option<PathBuf>),
    /// It has its former content again.
    Restored,
    /// mcrun's part was removed from a file that somebody has changed since.
    PartRemoved,
    /// It was mcrun's alone, and was removed.
    Removed,
}

/// The content after a setup.
pub(super) fn preview(path: &Path, edit: &Edit) -> Result<String, SetupError> {
    let old = read(path)?;
    match edit {
        Edit::Whole(text) => match old {
            Some(old) if !is_ours(&old) => Err(content(path)(
                "this file does not come from mcrun, so that it is not replaced; move it away"
                    .into(),
            )),
            _ => Ok(text.clone()),
        },
        Edit::Part { empty, add, .. } => {
            // For the engines a blank file is an empty one. The part cannot be added to it.
            let old = old.filter(|old| !old.trim().is_empty());
            add(old.as_deref().unwrap_or(empty)).map_err(content(path))
        }
    }
}

/// Whether a file is as [`apply`] would leave it.
pub(super) fn is_applied(path: &Path, edit: &Edit) -> Result<bool, SetupError> {
    let Some(old) = read(path)? else { return Ok(false) };
    match edit {
        // Somebody else's file of this name is not mcrun's.
        Edit::Whole(_) if !is_ours(&old) => Ok(false),
        _ => Ok(preview(path, edit)? == old),
    }
}

/// Whether a file is mcrun's, or has a part of mcrun's, of this version or of another.
pub(super) fn has_part(path: &Path, edit: &Edit) -> bool {
    let Ok(Some(text)) = read(path) else { return false };
    match edit {
        Edit::Whole(_) => is_ours(&text),
        Edit::Part { remove_part, .. } => remove_part(&text).is_ok_and(|without| without != text),
    }
}

pub(super) fn apply(path: &Path, edit: &Edit) -> Result<Change, SetupError> {
    let path = &real(path);
    let new = preview(path, edit)?;
    let old = read(path)?;
    let done = |outcome| Ok(Change { path: path.clone(), outcome });
    if old.as_deref() == Some(&new) {
        return done(Outcome::Unchanged);
    }
    let mut kept = None;
    if let (Some(old), Edit::Part { remove_part, .. }) = (&old, edit) {
        let backup = backup(path);
        // A file with an older part of mcrun's is not the original: the backup there is stays.
        let has_part = remove_part(old).is_ok_and(|without| without != *old);
        if !has_part {
            write(&backup, old, fs::metadata(path).ok().as_ref())?;
        }
        kept = Some(backup).filter(|backup| backup.exists());
    }
    write(path, &new, fs::metadata(path).ok().as_ref())?;
    done(Outcome::Written(kept))
}

pub(super) fn remove(path: &Path, edit: &Edit) -> Result<Change, SetupError> {
    let path = &real(path);
    let done = |outcome| Ok(Change { path: path.clone(), outcome });
    let Some(old) = read(path)? else { return done(Outcome::Unchanged) };
    let Edit::Part { empty, add, remove_part } = edit else {
        if !is_ours(&old) {
            return Err(content(path)(
                "this file does not come from mcrun, so that it is not removed".into(),
            ));
        }
        delete(path)?;
        return done(Outcome::Removed);
    };
    let backup = backup(path);
    let before = read(&backup)?;
    // A file that nobody has changed since becomes what it was, to the byte.
    let undone = |before: &str| {
        let filled = if before.trim().is_empty() { empty } else { before };
        add(filled).is_ok_and(|added| added == old)
    };
    match before {
        Some(before) if undone(&before) => {
            write(path, &before, fs::metadata(path).ok().as_ref())?;
            delete(&backup)?;
            return done(Outcome::Restored);
        }
        None if undone(empty) => {
            delete(path)?;
            return done(Outcome::Removed);
        }
        _ => {}
    }
    if old.trim().is_empty() {
        return done(Outcome::Unchanged);
    }
    let without = remove_part(&old).map_err(content(path))?;
    if without == old {
        return done(Outcome::Unchanged);
    }
    write(path, &without, fs::metadata(path).ok().as_ref())?;
    delete(&backup)?;
    done(Outcome::PartRemoved)
}

/// Whether the content of a file that has a name of mcrun's comes from mcrun.
fn is_ours(text: &str) -> bool {
    text.contains("mcrun-hook") || text.contains("mcrun-runtime")
}

/// The file that a symbolic link leads to: the link itself stays.
fn real(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

fn backup(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".before-mcrun");
    name.into()
}

fn read(path: &Path) -> Result<Option<String>, SetupError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(SetupError::File { action: "read", path: path.to_owned(), source }),
    }
}

fn delete(path: &Path) -> Result<(), SetupError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(SetupError::File { action: "remove", path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// Writes a file whole or not at all, with the mode and the owner of `like`, else mode 0644.
fn write(path: &Path, text: &str, like: Option<&fs::Metadata>) -> Result<(), SetupError> {
    let failed = |source| SetupError::File { action: "write", path: path.to_owned(), source };
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(failed)?;
    }
    let how = Replacement { mode: 0o644, like, fsync: true, locked: false };
    files::replace(path, text.as_bytes(), how).map_err(failed)
}

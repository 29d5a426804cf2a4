//! Changing configuration files so that they can be changed back.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::setup::{SetupError, content};
use crate::sys::files;
use crate::sys::files::Replacement;

/// Adds our part to a text, or takes it away.
type Rewrite = Box<dyn Fn(&str) -> Result<String, String>>;

/// What is to be done to a file.
pub(super) enum Edit {
    /// It is all ours, and has this content.
    Whole(String),
    /// It is somebody else's, with a part of ours.
    Part {
        /// What a file has before ours comes into it, where there is none.
        empty: &'static str,
        /// Adds the part; a text that has it stays as it is.
        add: Rewrite,
        /// Takes the part away; a text without it stays as it is.
        take_back: Rewrite,
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
    /// It is as it should be.
    Unchanged,
    /// It was written; what was there before is kept in this file.
    Written(Option<PathBuf>),
    /// What was there before is there again.
    Restored,
    /// Our part was taken out of a text that has been changed since.
    TakenOut,
    /// It was ours and is gone.
    Removed,
}

/// The content after a setup.
pub(super) fn preview(path: &Path, edit: &Edit) -> Result<String, SetupError> {
    let old = read(path)?;
    match edit {
        Edit::Whole(text) => match old {
            Some(old) if !is_ours(&old) => {
                Err(content(path)("is there and does not come from mcrun; move it away".into()))
            }
            _ => Ok(text.clone()),
        },
        Edit::Part { empty, add, .. } => {
            // Blank is empty for those who read it, and no text to put something in.
            let old = old.filter(|old| !old.trim().is_empty());
            add(old.as_deref().unwrap_or(empty)).map_err(content(path))
        }
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
    if let (Some(old), Edit::Part { take_back, .. }) = (&old, edit) {
        let backup = backup(path);
        // An older part of ours is no reason to forget what was there before it.
        let has_part = take_back(old).is_ok_and(|without| without != *old);
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
    let Edit::Part { empty, add, take_back } = edit else {
        if !is_ours(&old) {
            return Err(content(path)("does not come from mcrun; it is left alone".into()));
        }
        delete(path)?;
        return done(Outcome::Removed);
    };
    let backup = backup(path);
    let before = read(&backup)?;
    // Where nobody has changed the file since, it becomes what it was, to the byte.
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
    let without = take_back(&old).map_err(content(path))?;
    if without == old {
        return done(Outcome::Unchanged);
    }
    write(path, &without, fs::metadata(path).ok().as_ref())?;
    delete(&backup)?;
    done(Outcome::TakenOut)
}

/// Whether a file that is all ours by its name is so by its content.
fn is_ours(text: &str) -> bool {
    text.contains("mcrun-hook") || text.contains("mcrun-runtime")
}

/// The file that a link leads to: replacing the link would tear it from what it belongs to.
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

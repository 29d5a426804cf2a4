//! The records of the host's own legs on parents, its shims: `shims/PARENT.json`.

use std::fs;
use std::fs::{DirBuilder, File};
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

use nix::fcntl::AT_FDCWD;
use serde::{Deserialize, Serialize};

use crate::primitives::InterfaceName;
use crate::state::store::{at, held, read_file};
use crate::state::{StateDirError, Store, lock};
use crate::sys::files;
use crate::sys::files::Replacement;

/// The record of a shim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shim {
    /// The parent.
    pub parent: InterfaceName,
    /// The name of the link.
    pub link: InterfaceName,
    /// Its own addresses; without one the host's address on the parent is the source.
    pub addresses: Vec<IpAddr>,
    /// Whether it is made. If not, it is being made or removed, or the program that did so was killed.
    pub made: bool,
}

/// The records of all shims, locked: nobody else makes or removes one, or changes its routes.
#[derive(Debug)]
pub struct LockedShims {
    directory: PathBuf,
    /// Of the directory; it ends with the descriptor.
    _lock: File,
}

impl Store {
    /// The shims, sorted by parent. A record that cannot be understood is no shim's.
    ///
    /// # Errors
    /// Those of readdir(3), and of [`Store::check`].
    pub fn shims(&self) -> Result<Vec<Shim>, StateDirError> {
        let directory = self.shim_directory();
        if !self.check()? {
            return Ok(Vec::new());
        }
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(at("list", &directory)(e)),
        };
        let files = entries.flatten().map(|entry| entry.path());
        let files = files.filter(|path| path.extension().is_some_and(|end| end == "json"));
        let texts = files.filter_map(|path| read_file(AT_FDCWD, &path).ok());
        let mut shims: Vec<Shim> =
            texts.filter_map(|text| serde_json::from_slice(&text).ok()).collect();
        shims.sort_by(|a, b| a.parent.cmp(&b.parent));
        Ok(shims)
    }

    /// Locks the records of shims. `None`: there is none, and `make` is not set.
    ///
    /// # Errors
    /// When the directory cannot be made or locked.
    pub fn lock_shims(&self, make: bool) -> Result<Option<LockedShims>, StateDirError> {
        let directory = self.shim_directory();
        if make {
            self.make()?;
            match DirBuilder::new().mode(0o700).create(&directory) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(at("make", &directory)(e));
                }
                _ => {}
            }
        } else if !self.check()? {
            return Ok(None);
        }
        let file = match File::open(&directory) {
            Ok(file) => file,
            Err(e) if !make && e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(at("open", &directory)(e)),
        };
        match lock::lock_within(&file, lock::LIMIT).map_err(at("lock", &directory))? {
            true => Ok(Some(LockedShims { directory, _lock: file })),
            false => Err(held(&file, &directory)),
        }
    }

    fn shim_directory(&self) -> PathBuf {
        self.root().join("shims")
    }
}

impl LockedShims {
    /// Replaces the record of a shim whole.
    ///
    /// # Errors
    /// `ENOSPC`, `EROFS` and their like.
    pub fn write(&self, shim: &Shim) -> Result<(), StateDirError> {
        let path = self.path(&shim.parent);
        let text = serde_json::to_vec(shim).map_err(io::Error::from);
        // No fsync: after a crash of the machine there is no link.
        let how = Replacement { locked: true, ..Replacement::PRIVATE };
        let written = text.and_then(|text| files::replace(&path, &text, how));
        written.map_err(at("write", &path))
    }

    /// Removes a record.
    ///
    /// # Errors
    /// Those of unlink(2), other than that there is none.
    pub fn remove(&self, parent: &InterfaceName) -> Result<(), StateDirError> {
        let path = self.path(parent);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(at("remove", &path)(e)),
            _ => Ok(()),
        }
    }

    /// Removes what is no record of a shim, such as the file of a writer that was killed.
    ///
    /// # Errors
    /// Those of readdir(3) and unlink(2).
    pub fn remove_others(&self, shims: &[Shim]) -> Result<(), StateDirError> {
        let entries = fs::read_dir(&self.directory).map_err(at("list", &self.directory))?;
        for path in entries.flatten().map(|entry| entry.path()) {
            if shims.iter().all(|shim| self.path(&shim.parent) != path) {
                fs::remove_file(&path).map_err(at("remove", &path))?;
            }
        }
        Ok(())
    }

    fn path(&self, parent: &InterfaceName) -> PathBuf {
        self.directory.join(format!("{parent}.json"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written_and_garbage_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::at(dir.path().join("state"));
        assert!(store.lock_shims(false).unwrap().is_none());
        let locked = store.lock_shims(true).unwrap().unwrap();
        let shim = Shim {
            parent: "eth1".parse().unwrap(),
            link: "mcshim-eth1".parse().unwrap(),
            addresses: vec![[192, 0, 2, 7].into()],
            made: true,
        };
        locked.write(&shim).unwrap();
        fs::write(locked.directory.join("eth2.json"), "{").unwrap();
        fs::write(locked.directory.join("eth1.json.new"), "{").unwrap();
        assert_eq!(store.shims().unwrap(), std::slice::from_ref(&shim));
        locked.remove_others(&store.shims().unwrap()).unwrap();
        assert_eq!(fs::read_dir(&locked.directory).unwrap().count(), 1);
        locked.remove(&shim.parent).unwrap();
        assert_eq!(store.shims().unwrap(), []);
    }
}

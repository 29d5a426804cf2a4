//! An archive as the kernel unpacks it at its start: cpio in the "newc" format
//! (Documentation/driver-api/early-userspace/buffer-format.rst).

use std::collections::BTreeSet;
use std::fs;
use std::fs::File;
use std::io;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// A growing archive.
pub(super) struct Archive {
    file: BufWriter<File>,
    entries: u32,
    directories: BTreeSet<PathBuf>,
}

impl Archive {
    /// An empty one.
    pub(super) fn create(path: &Path) -> io::Result<Archive> {
        let file = BufWriter::new(File::create(path)?);
        Ok(Archive { file, entries: 0, directories: BTreeSet::new() })
    }

    /// Adds a directory and those that lead to it.
    pub(super) fn directory(&mut self, path: &Path) -> io::Result<()> {
        if path.parent().is_none() || !self.directories.insert(path.to_owned()) {
            return Ok(());
        }
        self.directory(path.parent().unwrap_or(Path::new("/")))?;
        self.entry(path, 0o040_755, &[])
    }

    /// Adds an executable file with this content.
    pub(super) fn file(&mut self, path: &Path, content: &[u8]) -> io::Result<()> {
        self.directory(path.parent().unwrap_or(Path::new("/")))?;
        self.entry(path, 0o100_755, content)
    }

    /// Adds a file that is no program.
    pub(super) fn text(&mut self, path: &Path, content: &str) -> io::Result<()> {
        self.directory(path.parent().unwrap_or(Path::new("/")))?;
        self.entry(path, 0o100_644, content.as_bytes())
    }

    /// Adds a file of this machine, at the same path.
    pub(super) fn copy(&mut self, path: &Path) -> io::Result<()> {
        self.file(path, &fs::read(path)?)
    }

    /// Adds a symbolic link.
    pub(super) fn link(&mut self, path: &Path, target: &str) -> io::Result<()> {
        self.directory(path.parent().unwrap_or(Path::new("/")))?;
        self.entry(path, 0o120_777, target.as_bytes())
    }

    /// Completes the archive.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.entry(Path::new("/TRAILER!!!"), 0, &[])?;
        self.file.flush()
    }

    fn entry(&mut self, path: &Path, mode: u32, content: &[u8]) -> io::Result<()> {
        let name = path.to_str().unwrap_or_default().trim_start_matches('/');
        let size = u32::try_from(content.len()).map_err(io::Error::other)?;
        let name_size = name.len() as u32 + 1;
        self.entries += 1;
        write!(self.file, "070701")?;
        // Inode, mode, owner, group, links, time, size, device (2), special device (2), length of
        // the name, checksum.
        let fields = [self.entries, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        for field in fields {
            write!(self.file, "{field:08x}")?;
        }
        self.file.write_all(name.as_bytes())?;
        const HEADER: usize = 110;
        let zeros = |length: usize| &[0; 4][..length.next_multiple_of(4) - length];
        // The name ends with a zero; name and content fill whole words.
        self.file.write_all(&[0])?;
        self.file.write_all(zeros(HEADER + name_size as usize))?;
        self.file.write_all(content)?;
        self.file.write_all(zeros(content.len()))
    }
}

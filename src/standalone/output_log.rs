//! The output of a detached container, kept in its directory.
//!
//! `output.log` has a line for each line of output, in the format of the Kubernetes container
//! runtime interface, which log shippers read:
//!
//! ```text
//! 2026-11-28T12:00:00.123456789Z stdout F the line
//! ```
//!
//! The third word is `F` for a full line and `P` for a part that the next entry of the same stream
//! continues. When the file is full it becomes `output.log.1`, and the one before it goes.

use std::fs::{File, OpenOptions};
use std::io;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Size in bytes at which a file is full; an entry or two may go beyond it. There are two files, in
/// a state directory that is usually memory.
const MAX_FILE: u64 = 5 << 20;

/// Bytes of a line that are kept until its end comes; a longer line is written in parts.
const MAX_PART: usize = 16 << 10;

/// The file that is written, and the one before it.
pub(super) const FILES: [&str; 2] = ["output.log", "output.log.1"];

/// A stream of the container's command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    /// Its standard output, or its terminal.
    Stdout,
    /// Its standard error.
    Stderr,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}

/// Writes the log. What cannot be written, as on a full disk, is lost: the container does not wait.
#[derive(Debug)]
pub(super) struct OutputLog {
    paths: [PathBuf; 2],
    file: Option<File>,
    length: u64,
    max: u64,
    /// The line that each stream has begun.
    begun: [Vec<u8>; 2],
}

impl OutputLog {
    /// Makes an empty log in a container's directory.
    ///
    /// # Errors
    /// That of open(2).
    pub(super) fn create(dir: &Path) -> io::Result<Self> {
        Self::create_with(dir, MAX_FILE)
    }

    fn create_with(dir: &Path, max: u64) -> io::Result<Self> {
        let paths = FILES.map(|name| dir.join(name));
        let file = Some(open(&paths[0])?);
        Ok(OutputLog { paths, file, length: 0, max, begun: Default::default() })
    }

    /// Takes output as it was read.
    pub(super) fn append(&mut self, stream: Stream, bytes: &[u8]) {
        let time = humantime::format_rfc3339_nanos(SystemTime::now()).to_string();
        let mut entries = Vec::with_capacity(bytes.len() + 256);
        let mut begun = std::mem::take(&mut self.begun[stream as usize]);
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            for chunk in piece.chunks(MAX_PART) {
                begun.extend_from_slice(chunk);
                match begun.strip_suffix(b"\n") {
                    Some(line) => entry(&mut entries, &time, stream, 'F', line),
                    None if begun.len() >= MAX_PART => {
                        entry(&mut entries, &time, stream, 'P', &begun);
                    }
                    None => continue,
                }
                begun.clear();
            }
        }
        self.begun[stream as usize] = begun;
        self.write(&entries);
    }

    /// Writes the lines that no line end will come for.
    pub(super) fn finish(&mut self) {
        let time = humantime::format_rfc3339_nanos(SystemTime::now()).to_string();
        let mut entries = Vec::new();
        for stream in [Stream::Stdout, Stream::Stderr] {
            let line = std::mem::take(&mut self.begun[stream as usize]);
            if !line.is_empty() {
                entry(&mut entries, &time, stream, 'P', &line);
            }
        }
        self.write(&entries);
    }

    fn write(&mut self, entries: &[u8]) {
        if entries.is_empty() {
            return;
        }
        if self.length > 0 && self.length + entries.len() as u64 > self.max {
            let _ = std::fs::rename(&self.paths[0], &self.paths[1]);
            self.file = open(&self.paths[0]).ok();
            self.length = 0;
        }
        if let Some(file) = &mut self.file {
            let _ = file.write_all(entries);
            self.length += entries.len() as u64;
        }
    }
}

/// Truncated: a file that could not be renamed must not grow.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

fn entry(entries: &mut Vec<u8>, time: &str, stream: Stream, tag: char, line: &[u8]) {
    entries.extend_from_slice(format!("{time} {} {tag} ", stream.name()).as_bytes());
    entries.extend_from_slice(line);
    entries.push(b'\n');
}

/// An entry of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry<'a> {
    /// RFC 3339, UTC, with nanoseconds.
    pub(super) time: &'a [u8],
    /// Where it was written to.
    pub(super) stream: Stream,
    /// Whether a line ends here.
    pub(super) full: bool,
    /// The line or its part, without the line end.
    pub(super) text: &'a [u8],
}

impl<'a> Entry<'a> {
    /// Parses a line of the log without its line end; `None` when it is none.
    pub(super) fn parse(line: &'a [u8]) -> Option<Self> {
        let mut words = line.splitn(4, |byte| *byte == b' ');
        let time = words.next()?;
        let stream = match words.next()? {
            b"stdout" => Stream::Stdout,
            b"stderr" => Stream::Stderr,
            _ => return None,
        };
        let full = words.next()? == b"F";
        Some(Entry { time, stream, full, text: words.next()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(dir: &Path, name: &str) -> String {
        String::from_utf8(std::fs::read(dir.join(name)).unwrap()).unwrap()
    }

    /// Stream, tag and text of each entry.
    fn entries(text: &str) -> Vec<(Stream, bool, &str)> {
        let parse = |line| {
            let entry = Entry::parse(line).unwrap();
            (entry.stream, entry.full, std::str::from_utf8(entry.text).unwrap())
        };
        text.lines().map(str::as_bytes).map(parse).collect()
    }

    #[test]
    fn lines_are_entries_with_their_stream() {
        use Stream::*;
        let dir = tempfile::tempdir().unwrap();
        let mut log = OutputLog::create(dir.path()).unwrap();
        log.append(Stdout, b"one\ntw");
        log.append(Stderr, b"error \n");
        log.append(Stdout, b"o\n\nend");
        log.finish();
        let text = read(dir.path(), FILES[0]);
        let expected = [
            (Stdout, true, "one"),
            (Stderr, true, "error "),
            (Stdout, true, "two"),
            (Stdout, true, ""),
            (Stdout, false, "end"),
        ];
        assert_eq!(entries(&text), expected);
        let time = text.split(' ').next().unwrap();
        assert!(humantime::parse_rfc3339(time).is_ok(), "{time}");
    }

    #[test]
    fn a_line_without_an_end_takes_bounded_memory() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = OutputLog::create(dir.path()).unwrap();
        for _ in 0..5 {
            log.append(Stream::Stdout, &[b'x'; MAX_PART - 1]);
            assert!(log.begun[0].len() < 2 * MAX_PART);
        }
        log.append(Stream::Stdout, b"\n");
        let text = read(dir.path(), FILES[0]);
        let entries = entries(&text);
        let total: usize = entries.iter().map(|(_, _, text)| text.len()).sum();
        assert_eq!(total, 5 * (MAX_PART - 1));
        assert_eq!(entries.iter().filter(|(_, full, _)| *full).count(), 1);
    }

    #[test]
    fn two_files_of_bounded_size_hold_the_end_of_the_output() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = OutputLog::create_with(dir.path(), 4096).unwrap();
        for number in 0..1000 {
            log.append(Stream::Stdout, format!("line {number}\n").as_bytes());
        }
        let [new, old] = FILES.map(|name| read(dir.path(), name));
        assert!(new.len() <= 4096 && old.len() <= 4096 && old.len() > 3500);
        let text = old + &new;
        let lines = entries(&text);
        let first = 1000 - lines.len();
        for (position, (_, _, text)) in lines.iter().enumerate() {
            assert_eq!(*text, format!("line {}", first + position));
        }
    }
}

//! The history: events in a file of limited size, an object of JSON on each line.
//!
//! When `events.jsonl` is full, it becomes `events.jsonl.1`, in place of the one before it. A reader
//! finds at least the events of the last 4 MiB, some 30 000. One process writes: the keeper, which
//! holds its own lock. A line that a crash has torn is left out by readers.

use std::fs;
use std::fs::File;
use std::io;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::events::HostEvent;

/// Most bytes of one of the two files.
const LIMIT: u64 = 4 << 20;
/// Longest line in bytes: an event of a proxy, and its container's names.
const MAX_LINE: u64 = 80 << 10;

/// The file that events are appended to.
#[derive(Debug)]
pub struct History {
    path: PathBuf,
    file: File,
    size: u64,
    limit: u64,
}

impl History {
    /// Opens the history in this directory for a writer, and makes both if they are not there, for
    /// root alone.
    ///
    /// # Errors
    /// Those of mkdir(2) and open(2).
    pub fn open(directory: &Path) -> io::Result<Self> {
        History::with_limit(directory, LIMIT)
    }

    /// The files in this directory that are there.
    pub fn files(directory: &Path) -> Vec<PathBuf> {
        let newest = file(directory);
        let files = [newest.clone(), before(&newest)];
        files.into_iter().filter(|path| path.is_file()).collect()
    }

    fn with_limit(directory: &Path, limit: u64) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o750).create(directory)?;
        let path = file(directory);
        let mut file = File::options()
            .create(true)
            .read(true)
            .append(true)
            .mode(0o640)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path)?;
        let mut size = file.metadata()?.len();
        // A writer may have been killed in the middle of a line.
        let mut last = [b'\n'];
        if size > 0 {
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
        }
        if last != [b'\n'] {
            file.write_all(b"\n")?;
            size += 1;
        }
        Ok(History { path, file, size, limit })
    }

    /// Appends an event.
    ///
    /// # Errors
    /// Those of write(2) and rename(2). The next event is tried anew.
    pub fn append(&mut self, event: &HostEvent) -> io::Result<()> {
        let mut line = serde_json::to_vec(event)?;
        line.push(b'\n');
        if self.size > 0 && self.size + line.len() as u64 > self.limit {
            fs::rename(&self.path, before(&self.path))?;
            if let Some(directory) = self.path.parent() {
                *self = History::with_limit(directory, self.limit)?;
            }
        }
        self.file.write_all(&line)?;
        self.size += line.len() as u64;
        Ok(())
    }

    /// Calls `each` for all events in this directory, oldest first, until it returns an error. A
    /// history that is not there is empty.
    ///
    /// # Errors
    /// Those of open(2) and read(2), and that of `each`.
    pub fn read(
        directory: &Path,
        mut each: impl FnMut(HostEvent) -> io::Result<()>,
    ) -> io::Result<()> {
        let path = file(directory);
        for path in [before(&path), path] {
            let mut reader = match File::open(&path) {
                Ok(file) => BufReader::new(file),
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(cannot_read(&path, &error)),
            };
            let mut line = Vec::new();
            loop {
                line.clear();
                let read = reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut line);
                if read.map_err(|error| cannot_read(&path, &error))? == 0 {
                    break;
                }
                // One that was torn, or that a later version has written.
                if let Ok(event) = serde_json::from_slice(&line) {
                    each(event)?;
                }
            }
        }
        Ok(())
    }
}

fn cannot_read(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot read {}: {error}", path.display()))
}

fn file(directory: &Path) -> PathBuf {
    directory.join("events.jsonl")
}

fn before(path: &Path) -> PathBuf {
    path.with_extension("jsonl.1")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{AttachmentChange, Occurrence};

    fn event(number: u64) -> HostEvent {
        let what = Occurrence::Attachment(AttachmentChange::Suppressed { events: number });
        HostEvent { time_ms: number, container: "c1".into(), name: "cam".into(), what }
    }

    fn numbers(directory: &Path) -> Vec<u64> {
        let mut all = Vec::new();
        History::read(directory, |event| {
            all.push(event.time_ms);
            Ok(())
        })
        .unwrap();
        all
    }

    #[test]
    fn events_stay_in_their_order_and_the_files_stay_small() {
        let base = tempfile::tempdir().unwrap();
        let directory = base.path().join("log/mcrun");
        assert!(numbers(&directory).is_empty());
        let mut history = History::with_limit(&directory, 1000).unwrap();
        for number in 0..100 {
            history.append(&event(number)).unwrap();
            if number % 7 == 0 {
                // Another keeper goes on.
                history = History::with_limit(&directory, 1000).unwrap();
            }
        }
        let kept = numbers(&directory);
        assert!(kept.len() > 10 && kept.len() < 30, "{kept:?}");
        let first = 100 - kept.len() as u64;
        assert_eq!(kept, (first..100).collect::<Vec<_>>());
        let files: Vec<_> = fs::read_dir(&directory).unwrap().map(|f| f.unwrap()).collect();
        assert_eq!(files.len(), 2);
        assert!(files.iter().all(|file| file.metadata().unwrap().len() <= 1000));
    }

    #[test]
    fn a_torn_line_costs_itself_alone() {
        let base = tempfile::tempdir().unwrap();
        let mut history = History::open(base.path()).unwrap();
        history.append(&event(1)).unwrap();
        history.file.write_all(b"{\"time_ms\":2,\"cont").unwrap();
        let mut history = History::open(base.path()).unwrap();
        history.append(&event(3)).unwrap();
        history.file.write_all(b"\xff\n{\"time_ms\":4,\"event\":\"of-later\"}\n\n").unwrap();
        history.append(&event(5)).unwrap();
        assert_eq!(numbers(base.path()), [1, 3, 5]);
    }

    #[test]
    fn a_link_in_place_of_the_file_is_not_followed() {
        let base = tempfile::tempdir().unwrap();
        let elsewhere = base.path().join("elsewhere");
        fs::write(&elsewhere, "theirs").unwrap();
        std::os::unix::fs::symlink(&elsewhere, file(base.path())).unwrap();
        assert!(History::open(base.path()).is_err());
        assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "theirs");
    }
}

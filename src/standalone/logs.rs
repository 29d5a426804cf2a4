//! `mcrun logs`: the kept output of a detached container.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::fs::inotify;

use crate::standalone::StandaloneError;
use crate::standalone::container::Container;
use crate::standalone::output_log::{Entry, FILES, Stream};

/// The options of `mcrun logs`.
#[derive(Debug, Clone, Copy, Default)]
pub struct LogOptions {
    /// Go on until the container ends.
    pub follow: bool,
    /// Only so many lines from the end.
    pub tail: Option<usize>,
    /// Begin each line with the time at which it was read.
    pub timestamps: bool,
}

/// Writes what a container has written to its stdout and stderr to our own.
///
/// # Errors
/// Status 1: the container has not started, or keeps no output; 125: the log cannot be read.
pub fn logs(container: &Container, options: &LogOptions) -> Result<(), StandaloneError> {
    let id = container.id();
    let unkept = |why: &str| StandaloneError::with_status(1, format_args!("container {id} {why}"));
    let record = container.record().ok_or_else(|| unkept("has not started"))?;
    if !record.detached {
        return Err(unkept("runs in the foreground: mcrun run itself shows its output"));
    }
    let failed = |error: io::Error| {
        StandaloneError::new(format_args!("cannot read the log of {id}: {error}"))
    };
    // Watched before it is read, so that nothing is missed in between.
    let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
    let changes = inotify::init(flags).map_err(|error| failed(error.into()))?;
    let events = inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE;
    inotify::add_watch(&changes, container.dir(), events).map_err(|error| failed(error.into()))?;
    let shim = record.shim.open().ok().map(OwnedFd::from);

    let mut reader = match Reader::open(container) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(unkept("keeps no output: an earlier version of mcrun started it"));
        }
        result => result.map_err(failed)?,
    };
    let mut printer = Printer { timestamps: options.timestamps, inside: [false; 2] };
    let mut lines = reader.read().map_err(failed)?;
    if let Some(tail) = options.tail {
        lines.drain(..lines.len().saturating_sub(tail));
    }
    let mut shim = shim.filter(|_| options.follow);
    loop {
        if printer.print(&lines).is_err() {
            // Nobody reads any more.
            return Ok(());
        }
        let Some(process) = &shim else { return Ok(()) };
        let mut fds = [
            PollFd::new(changes.as_fd(), PollFlags::POLLIN),
            PollFd::new(process.as_fd(), PollFlags::POLLIN),
        ];
        let _ = poll(&mut fds, PollTimeout::NONE);
        let ended = fds[1].any().unwrap_or(true);
        let _ = nix::unistd::read(&changes, &mut [0; 4096]);
        if ended {
            // What it wrote last is there now.
            shim = None;
        }
        lines = reader.read().map_err(failed)?;
    }
}

/// Reads the log through its changes of file.
struct Reader<'a> {
    container: &'a Container,
    /// The file before the current one, while it is still unread.
    old: Option<File>,
    current: File,
    /// An entry whose end is not written yet.
    rest: Vec<u8>,
}

impl<'a> Reader<'a> {
    fn open(container: &'a Container) -> io::Result<Self> {
        let current = File::open(container.dir().join(FILES[0]))?;
        let old = File::open(container.dir().join(FILES[1])).ok();
        // Renamed just now: the two are one.
        let inode = current.metadata()?.ino();
        let old = old.filter(|old| old.metadata().is_ok_and(|meta| meta.ino() != inode));
        Ok(Reader { container, old, current, rest: Vec::new() })
    }

    /// The entries that were added since.
    fn read(&mut self) -> io::Result<VecDeque<Vec<u8>>> {
        let mut lines = VecDeque::new();
        if let Some(old) = self.old.take() {
            self.take(&old, &mut lines)?;
        }
        loop {
            // Looked at before the read: what is in the file then is all that comes.
            let next = File::open(self.container.dir().join(FILES[0])).ok();
            let inode = self.current.metadata()?.ino();
            let next = next.filter(|next| next.metadata().is_ok_and(|meta| meta.ino() != inode));
            let current = self.current.try_clone()?;
            self.take(&current, &mut lines)?;
            match next {
                Some(next) => self.current = next,
                None => return Ok(lines),
            }
        }
    }

    fn take(&mut self, mut file: &File, lines: &mut VecDeque<Vec<u8>>) -> io::Result<()> {
        let mut bytes = std::mem::take(&mut self.rest);
        file.read_to_end(&mut bytes)?;
        let end = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        self.rest = bytes.split_off(end);
        lines.extend(bytes.split(|byte| *byte == b'\n').map(<[u8]>::to_vec));
        // Behind the last line end.
        lines.pop_back();
        Ok(())
    }
}

struct Printer {
    timestamps: bool,
    /// A line of stdout or stderr has begun and not ended.
    inside: [bool; 2],
}

impl Printer {
    fn print(&mut self, lines: &VecDeque<Vec<u8>>) -> io::Result<()> {
        let (mut stdout, mut stderr) = (io::stdout().lock(), io::stderr().lock());
        for entry in lines.iter().filter_map(|line| Entry::parse(line)) {
            let out: &mut dyn Write = match entry.stream {
                Stream::Stdout => &mut stdout,
                Stream::Stderr => &mut stderr,
            };
            let inside = &mut self.inside[entry.stream as usize];
            if self.timestamps && !*inside {
                out.write_all(entry.time)?;
                out.write_all(b" ")?;
            }
            out.write_all(entry.text)?;
            if entry.full {
                out.write_all(b"\n")?;
            }
            *inside = !entry.full;
        }
        stdout.flush()
    }
}

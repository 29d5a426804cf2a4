//! Structured entries of systemd's journal (systemd.journal-fields(7), "Native Journal Protocol").

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

/// The socket of journald.
pub(crate) const SOCKET: &str = "/run/systemd/journal/socket";

/// A connection to the journal that never blocks.
#[derive(Debug)]
pub(crate) struct Journal(UnixDatagram);

impl Journal {
    /// # Errors
    /// If nobody serves the socket.
    pub(crate) fn connect(path: &Path) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(path)?;
        socket.set_nonblocking(true)?;
        Ok(Journal(socket))
    }

    /// Sends one entry. The names of fields are upper case letters, digits and underscores.
    ///
    /// # Errors
    /// Those of send(2): the journal has gone, does not keep up, or the entry is too long.
    pub(crate) fn send(&self, fields: &[(&str, &str)]) -> io::Result<()> {
        self.0.send(&entry(fields)).map(drop)
    }
}

/// A value with a line end has its length before it, in 8 bytes, little-endian.
fn entry(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut entry = Vec::new();
    for (name, value) in fields {
        entry.extend_from_slice(name.as_bytes());
        if value.contains('\n') {
            entry.push(b'\n');
            entry.extend_from_slice(&(value.len() as u64).to_le_bytes());
        } else {
            entry.push(b'=');
        }
        entry.extend_from_slice(value.as_bytes());
        entry.push(b'\n');
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_has_its_fields() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let theirs = UnixDatagram::bind(&path).unwrap();
        let journal = Journal::connect(&path).unwrap();
        journal.send(&[("MESSAGE", "joined"), ("PRIORITY", "6"), ("TEXT", "a\nb")]).unwrap();
        let mut received = [0; 100];
        let length = theirs.recv(&mut received).unwrap();
        let expected = b"MESSAGE=joined\nPRIORITY=6\nTEXT\n\x03\0\0\0\0\0\0\0a\nb\n";
        assert_eq!(&received[..length], expected);
    }
}

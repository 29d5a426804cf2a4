//! syslog, which the journal serves too (RFC 3164, syslog(3)).

use std::io;
use std::os::unix::net::UnixDatagram;

/// The socket of syslogd and journald.
const DEV_LOG: &str = "/dev/log";
/// Facility daemon (RFC 5424 §6.2.1).
const DAEMON: u8 = 3;

/// A connection to syslog that never blocks.
#[derive(Debug)]
pub(crate) struct Syslog(UnixDatagram);

impl Syslog {
    /// # Errors
    /// If nobody serves `/dev/log`.
    pub(crate) fn connect() -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(DEV_LOG)?;
        socket.set_nonblocking(true)?;
        Ok(Syslog(socket))
    }

    /// Sends one line. `severity` is 0 to 7 (RFC 5424 §6.2.1); `tag` is the program with its
    /// process id in brackets. An error is ignored: nobody could be told of it.
    pub(crate) fn send(&self, severity: u8, tag: &str, line: impl std::fmt::Display) {
        let priority = DAEMON << 3 | severity & 7;
        let _ = self.0.send(format!("<{priority}>{tag}: {line}").as_bytes());
    }
}

/// Tells whoever reads the terminal or the system's log: one line on standard error, and the same
/// in syslog with severity warning. Engines often throw the standard error of hooks away.
pub(crate) fn warn(program: &str, line: &str) {
    const WARNING: u8 = 4;
    eprintln!("{program}: {line}");
    log(WARNING, program, line);
}

/// One line in syslog with severity error.
pub(crate) fn error(program: &str, line: impl std::fmt::Display) {
    const ERROR: u8 = 3;
    log(ERROR, program, line);
}

fn log(severity: u8, program: &str, line: impl std::fmt::Display) {
    if let Ok(syslog) = Syslog::connect() {
        syslog.send(severity, &format!("{program}[{}]", std::process::id()), line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_syslog_message() {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        Syslog(ours).send(4, "mcrun-proxy[7]: c1", "text");
        let mut message = [0; 128];
        let length = theirs.recv(&mut message).unwrap();
        assert_eq!(message[..length], *b"<28>mcrun-proxy[7]: c1: text");
    }
}

//! The proxy's log: syslog (which the journal serves too), else a file of bounded size.

use std::fs::File;
use std::io::Write;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use crate::notice::Notice;
use crate::primitives::token_bucket::TokenBucket;
use crate::proxy::process::container_dir::ContainerDir;

/// Where syslogd and journald listen.
const DEV_LOG: &str = "/dev/log";
/// Size beyond which the file begins anew.
const FILE_LIMIT: u64 = 64 * 1024;
/// Lines at once, and the time in which one more is earned.
const BURST: u32 = 20;
const EARN: Duration = Duration::from_secs(5);

/// Writes notices, and no more lines than a container may cause.
#[derive(Debug)]
pub(crate) struct Log {
    sink: Sink,
    /// Begins every line.
    prefix: String,
    budget: Budget,
    /// What was told since [`Log::take_copies`], with what the budget left out; `None` while
    /// nobody has subscribed.
    copies: Option<Vec<Notice>>,
}

#[derive(Debug)]
enum Sink {
    Syslog(UnixDatagram),
    File(File, u64),
    Nowhere,
}

impl Log {
    /// Opens the log; without any place to write to, lines go nowhere.
    pub(crate) fn open(home: &ContainerDir, container: &str, now: Instant) -> Self {
        let short: String = container.chars().take(12).collect();
        Log {
            sink: syslog().or_else(|| file(home)).unwrap_or(Sink::Nowhere),
            prefix: format!("mcrun-proxy[{}]: {short}: ", std::process::id()),
            budget: Budget::new(now),
            copies: None,
        }
    }

    /// Writes a notice. Never blocks and never fails: a log is not worth a stream.
    pub(crate) fn notice(&mut self, now: Instant, notice: Notice) {
        if let Some(suppressed) = self.budget.take(now) {
            if suppressed > 0 {
                self.write(&Notice::LogLinesSuppressed { count: suppressed });
            }
            self.write(&notice);
        }
        if let Some(copies) = &mut self.copies {
            copies.push(notice);
        }
    }

    /// Whether notices are copied for subscribers.
    pub(crate) fn set_copying(&mut self, copying: bool) {
        match copying {
            true => _ = self.copies.get_or_insert_default(),
            false => self.copies = None,
        }
    }

    /// The notices since the last call, if they are copied. To be called often: they pile up.
    pub(crate) fn take_copies(&mut self) -> Vec<Notice> {
        self.copies.as_mut().map(std::mem::take).unwrap_or_default()
    }

    fn write(&mut self, notice: &Notice) {
        /// Facility daemon (RFC 5424 §6.2.1).
        const DAEMON: u8 = 3;
        let prefix = &self.prefix;
        match &mut self.sink {
            Sink::Syslog(socket) => {
                let priority = DAEMON << 3 | notice.severity() as u8;
                let _ = socket.send(format!("<{priority}>{prefix}{notice}").as_bytes());
            }
            Sink::File(file, size) => {
                let line = format!("{prefix}{notice}\n");
                if *size + line.len() as u64 > FILE_LIMIT && file.set_len(0).is_ok() {
                    *size = 0;
                }
                if *size + line.len() as u64 <= FILE_LIMIT
                    && file.write_all(line.as_bytes()).is_ok()
                {
                    *size += line.len() as u64;
                }
            }
            Sink::Nowhere => {}
        }
    }
}

fn syslog() -> Option<Sink> {
    let socket = UnixDatagram::unbound().ok()?;
    socket.connect(DEV_LOG).ok()?;
    socket.set_nonblocking(true).ok()?;
    Some(Sink::Syslog(socket))
}

fn file(home: &ContainerDir) -> Option<Sink> {
    let file = File::from(home.log_file().ok()?);
    let size = file.metadata().ok()?.len();
    Some(Sink::File(file, size))
}

/// How many lines may be written, and how many were not.
#[derive(Debug)]
struct Budget {
    lines: TokenBucket,
    suppressed: u32,
}

impl Budget {
    fn new(now: Instant) -> Self {
        Budget { lines: TokenBucket::new(BURST, EARN, now), suppressed: 0 }
    }

    /// Takes one line: the number refused since the last one that was granted, or `None` when this
    /// one is refused too.
    fn take(&mut self, now: Instant) -> Option<u32> {
        if self.lines.take(now) {
            return Some(std::mem::take(&mut self.suppressed));
        }
        self.suppressed = self.suppressed.saturating_add(1);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Budget {
        fn exhausted(now: Instant) -> Self {
            let mut budget = Budget::new(now);
            budget.lines.take_many(now, BURST);
            budget
        }
    }

    #[test]
    fn a_flood_is_cut_and_the_cut_is_told() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        let granted = (0..100).filter(|_| budget.take(start).is_some()).count();
        assert_eq!(granted as u32, BURST);
        assert_eq!(budget.take(start + EARN), Some(100 - BURST));
        assert_eq!(budget.take(start + EARN), None);
        assert_eq!(budget.take(start + EARN * 1000), Some(1));
    }

    #[test]
    fn a_line_is_a_syslog_message() {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        let now = Instant::now();
        let mut log = Log {
            sink: Sink::Syslog(ours),
            prefix: "mcrun-proxy[7]: c1: ".into(),
            budget: Budget::new(now),
            copies: None,
        };
        log.notice(now, Notice::from_text("text".into()));
        let mut message = [0; 128];
        let length = theirs.recv(&mut message).unwrap();
        assert_eq!(message[..length], *b"<28>mcrun-proxy[7]: c1: text");
    }

    #[test]
    fn the_file_stays_bounded_and_has_the_newest_lines() {
        let base = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(base.path().join("containers/c")).unwrap();
        let home = ContainerDir::open(base.path(), "c").unwrap();
        let now = Instant::now();
        let mut log = Log {
            sink: file(&home).unwrap(),
            prefix: "p: ".into(),
            budget: Budget::new(now),
            copies: None,
        };
        for n in 0..3000u32 {
            let text = format!("{n} {}", "x".repeat(50));
            log.notice(now + EARN * n, Notice::from_text(text));
        }
        let text = std::fs::read_to_string(base.path().join("containers/c/proxy.log")).unwrap();
        assert!(text.len() as u64 <= FILE_LIMIT, "{}", text.len());
        assert!(text.lines().last().unwrap().starts_with("p: 2999 "));
    }

    #[test]
    fn subscribers_get_what_the_log_leaves_out() {
        let now = Instant::now();
        let mut log = Log {
            sink: Sink::Nowhere,
            prefix: String::new(),
            budget: Budget::exhausted(now),
            copies: None,
        };
        let notice = || Notice::InterfaceGone { interface: "mc0".into() };
        log.notice(now, notice());
        log.set_copying(true);
        assert!(log.take_copies().is_empty());
        log.notice(now, notice());
        log.set_copying(true);
        assert_eq!(log.take_copies(), [notice()]);
        assert!(log.take_copies().is_empty());
    }
}

//! The proxy's log: syslog, which the journal serves too, or else a file of limited size.

use std::fs::File;
use std::io::Write;
use std::time::{Duration, Instant, SystemTime};

use crate::notice::{Notice, Severity};
use crate::primitives::token_bucket::TokenBucket;
use crate::proxy::process::container_dir::ContainerDir;
use crate::sys::syslog::Syslog;

/// Most bytes of the file. When it is full it is emptied.
const FILE_LIMIT: u64 = 64 * 1024;
/// Most lines at once, and the time after which one more is allowed.
const BURST: u32 = 20;
const INTERVAL: Duration = Duration::from_secs(5);

/// Writes notices, at a limited rate: a container can cause notices, and must not fill the log.
#[derive(Debug)]
pub(crate) struct Log {
    sink: Sink,
    /// The program with its process id, and the container. They begin every line.
    prefix: String,
    bucket: TokenBucket,
    /// Lines left out since the last one that was written.
    suppressed: u32,
    /// The notices since [`Log::take_copies`], with those that the rate limit left out of the log;
    /// `None` without subscribers.
    copies: Option<Vec<Notice>>,
}

#[derive(Debug)]
enum Sink {
    Syslog(Syslog),
    File { file: File, size: u64 },
    None,
}

impl Log {
    /// Opens syslog, or else the file in the container's directory. If both fail, lines are
    /// discarded.
    pub(crate) fn open(container_dir: &ContainerDir, container: &str, now: Instant) -> Self {
        let short: String = container.chars().take(12).collect();
        let prefix = format!("mcrun-proxy[{}]: {short}", std::process::id());
        Log::new(
            (Syslog::connect().ok().map(Sink::Syslog))
                .or_else(|| open_file(container_dir))
                .unwrap_or(Sink::None),
            prefix,
            now,
        )
    }

    fn new(sink: Sink, prefix: String, now: Instant) -> Self {
        let bucket = TokenBucket::new(BURST, INTERVAL, now);
        Log { sink, prefix, bucket, suppressed: 0, copies: None }
    }

    /// Writes a notice. It never blocks, and an error is ignored: the proxy goes on without a log.
    pub(crate) fn notice(&mut self, now: Instant, notice: Notice) {
        if self.bucket.take(now) {
            let count = std::mem::take(&mut self.suppressed);
            if count > 0 {
                self.write(&Notice::LogLinesSuppressed { count });
            }
            self.write(&notice);
        } else {
            self.suppressed = self.suppressed.saturating_add(1);
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

    /// The notices since the last call, if they are copied. Call it often: copies use memory.
    pub(crate) fn take_copies(&mut self) -> Vec<Notice> {
        self.copies.as_mut().map(std::mem::take).unwrap_or_default()
    }

    fn write(&mut self, notice: &Notice) {
        let prefix = &self.prefix;
        match &mut self.sink {
            Sink::Syslog(syslog) => syslog.send(notice.severity() as u8, prefix, notice),
            Sink::File { file, size } => {
                let time = humantime::format_rfc3339_millis(SystemTime::now());
                let severity = severity_name(notice.severity());
                let line = format!("{time} {severity} {prefix}: {notice}\n");
                let length = line.len() as u64;
                if *size + length > FILE_LIMIT && file.set_len(0).is_ok() {
                    *size = 0;
                }
                if *size + length <= FILE_LIMIT && file.write_all(line.as_bytes()).is_ok() {
                    *size += length;
                }
            }
            Sink::None => {}
        }
    }
}

fn severity_name(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Info => "info",
    }
}

fn open_file(container_dir: &ContainerDir) -> Option<Sink> {
    let file = File::from(container_dir.log_file().ok()?);
    let size = file.metadata().ok()?.len();
    Some(Sink::File { file, size })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warning(text: &str) -> Notice {
        Notice::from_text(text.into())
    }

    fn file_log(base: &std::path::Path, now: Instant) -> Log {
        std::fs::create_dir_all(base.join("containers/c")).unwrap();
        let container_dir = ContainerDir::open(base, "c").unwrap();
        Log::new(open_file(&container_dir).unwrap(), "p".into(), now)
    }

    fn lines_of_file(base: &std::path::Path) -> Vec<String> {
        let text = std::fs::read_to_string(base.join("containers/c/proxy.log")).unwrap();
        assert!(text.len() as u64 <= FILE_LIMIT, "{} bytes", text.len());
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_flood_is_limited_and_the_log_says_how_many_lines_are_missing() {
        let base = tempfile::tempdir().unwrap();
        let start = Instant::now();
        let mut log = file_log(base.path(), start);
        for _ in 0..100 {
            log.notice(start, warning("flood"));
        }
        assert_eq!(lines_of_file(base.path()).len(), BURST as usize);
        log.notice(start + INTERVAL, warning("later"));
        let lines = lines_of_file(base.path());
        let [.., missing, last] = lines.as_slice() else { panic!("{lines:?}") };
        let suppressed = Notice::LogLinesSuppressed { count: 80 };
        assert!(missing.ends_with(&format!(" warning p: {suppressed}")), "{missing}");
        assert!(last.ends_with(" warning p: later"), "{last}");
    }

    #[test]
    fn a_line_of_the_file_has_the_time_and_the_level() {
        let base = tempfile::tempdir().unwrap();
        let now = Instant::now();
        let mut log = file_log(base.path(), now);
        // The file has milliseconds, so the time before is cut to them too.
        let begin = SystemTime::now() - Duration::from_millis(1);
        log.notice(now, warning("first"));
        log.notice(now, Notice::ContainerEnded {});
        log.notice(now, Notice::EventLoopFailed { error: "EBADF".into() });
        let end = SystemTime::now();
        let lines = lines_of_file(base.path());
        let expected = [
            "warning p: first".to_owned(),
            format!("info p: {}", Notice::ContainerEnded {}),
            format!("error p: {}", Notice::EventLoopFailed { error: "EBADF".into() }),
        ];
        assert_eq!(lines.len(), expected.len());
        for (line, expected) in lines.iter().zip(expected) {
            let (time, rest) = line.split_once(' ').unwrap();
            assert_eq!(rest, expected);
            assert!(
                time.ends_with('Z') && time.len() == "2026-01-01T00:00:00.000Z".len(),
                "{time}"
            );
            let time = humantime::parse_rfc3339(time).unwrap();
            assert!(begin <= time && time <= end, "{line}");
        }
    }

    #[test]
    fn the_file_stays_limited_and_has_the_newest_lines() {
        let base = tempfile::tempdir().unwrap();
        let now = Instant::now();
        let mut log = file_log(base.path(), now);
        for n in 0..3000u32 {
            let text = format!("{n} {}", "x".repeat(50));
            log.notice(now + INTERVAL * n, warning(&text));
        }
        let lines = lines_of_file(base.path());
        let last = lines.last().unwrap();
        assert!(last.contains(" warning p: 2999 x"), "{last}");
    }

    #[test]
    fn subscribers_get_what_the_log_leaves_out() {
        let now = Instant::now();
        let mut log = Log::new(Sink::None, String::new(), now);
        let notice = || Notice::InterfaceGone { interface: "mc0".into() };
        for _ in 0..=BURST {
            log.notice(now, notice());
        }
        log.set_copying(true);
        assert!(log.take_copies().is_empty());
        log.notice(now, notice());
        log.set_copying(true);
        assert_eq!(log.take_copies(), [notice()]);
        assert!(log.take_copies().is_empty());
    }
}

//! Errors, reported where engines look for them.
//!
//! runc writes its errors to the file of `--log`, and docker and containerd show what they find
//! there rather than what was on standard error.

use std::fs;
use std::fs::OpenOptions;
use std::io;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::SystemTime;

use serde_json::json;

use crate::runtime_wrapper::command_line::RuntimeCommandLine;

/// Reports one line on standard error and in the log that was asked for.
pub(super) fn failure(line: &RuntimeCommandLine, message: &str) {
    eprintln!("{message}");
    if let Some(path) = &line.log {
        // Nothing more can be done: the line is on standard error.
        let _ = append(path, &entry(line.log_json, message, SystemTime::now()));
    }
}

/// Where a log ended before the runtime was run.
pub(super) struct LogEnd(Option<u64>);

impl LogEnd {
    /// The end of the log that was asked for.
    pub(super) fn of(line: &RuntimeCommandLine) -> Self {
        LogEnd(line.log.as_ref().map(|log| fs::metadata(log).map_or(0, |log| log.len())))
    }

    /// Reports one line as [`failure`] does, in place of what the runtime has logged since: engines show
    /// the last entry, and podman reads no two.
    pub(super) fn failure(self, line: &RuntimeCommandLine, message: &str) {
        if let (Some(log), Some(length)) = (&line.log, self.0) {
            let _ = OpenOptions::new().write(true).open(log).and_then(|log| log.set_len(length));
        }
        failure(line, message);
    }
}

fn append(path: &Path, entry: &str) -> io::Result<()> {
    let mut log = OpenOptions::new().append(true).create(true).mode(0o644).open(path)?;
    log.write_all(entry.as_bytes())
}

/// A line as runc's logger writes it, which engines parse.
fn entry(json: bool, message: &str, now: SystemTime) -> String {
    let time = humantime::format_rfc3339_seconds(now).to_string();
    if json {
        format!("{}\n", json!({ "level": "error", "msg": message, "time": time }))
    } else {
        format!("time=\"{time}\" level=error msg={message:?}\n")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn entries_are_what_engines_parse() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_709_210_096);
        assert_eq!(
            entry(true, "a \"b\"", now),
            "{\"level\":\"error\",\"msg\":\"a \\\"b\\\"\",\"time\":\"2024-02-29T12:34:56Z\"}\n"
        );
        assert_eq!(
            entry(false, "a \"b\"", now),
            "time=\"2024-02-29T12:34:56Z\" level=error msg=\"a \\\"b\\\"\"\n"
        );
    }
}

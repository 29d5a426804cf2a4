//! Saying what is wrong where engines look for it.
//!
//! runc writes its errors to the file of `--log`, and docker and containerd show what they find
//! there rather than what was on standard error.

use std::fs::OpenOptions;
use std::io;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::SystemTime;

use serde_json::json;

use crate::runtime_wrapper::command_line::RuntimeCommandLine;

/// Reports one line on standard error and in the log that was asked for.
pub(super) fn failure(line: &RuntimeCommandLine, error: &str) {
    let message = format!("mcrun-runtime: {error}");
    eprintln!("{message}");
    if let Some(path) = &line.log {
        // The line on standard error stands for itself.
        let _ = append(path, &entry(line.log_json, &message, SystemTime::now()));
    }
}

fn append(path: &Path, entry: &str) -> io::Result<()> {
    let mut log = OpenOptions::new().append(true).create(true).mode(0o644).open(path)?;
    log.write_all(entry.as_bytes())
}

/// A line as runc's logger writes it, which engines parse.
fn entry(json: bool, message: &str, now: SystemTime) -> String {
    let time = timestamp(now);
    if json {
        format!("{}\n", json!({ "level": "error", "msg": message, "time": time }))
    } else {
        format!("time=\"{time}\" level=error msg={message:?}\n")
    }
}

/// UTC to the second (RFC 3339 §5.6).
fn timestamp(now: SystemTime) -> String {
    let seconds = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let (day, second) = (seconds / 86400, seconds % 86400);
    // Days are counted in years that begin with March, so that the day that leap years have comes
    // last; 719468 of them passed between March of the year 0 and 1970, and each 400 years have
    // 146097.
    let days = day + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
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

    #[test]
    fn days_around_the_edges_of_the_calendar() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!(timestamp(time), expected);
        }
    }
}

//! What went wrong, in one line and with docker's exit status.

use std::fmt;

/// What is said of a runtime that failed without a word in its log.
pub(super) const NO_MESSAGE: &str = "failed without saying why";

/// A failure with the exit status `mcrun` ends with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StandaloneError {
    status: i32,
    message: String,
}

impl StandaloneError {
    /// An error of mcrun itself or of the runtime: status 125.
    pub fn new(message: impl fmt::Display) -> Self {
        Self::with_status(125, message)
    }

    /// An error with another status.
    pub fn with_status(status: i32, message: impl fmt::Display) -> Self {
        StandaloneError { status, message: message.to_string() }
    }

    /// What a runtime said when it could not start a command: 127 when the command was not
    /// found, 126 when it cannot be run, else 125.
    pub(super) fn from_runtime(name: &str, text: &str) -> Self {
        let message = condense(text);
        if message.is_empty() {
            return Self::new(format_args!("{name} {NO_MESSAGE}"));
        }
        Self::with_status(classify(&message), format_args!("{name}: {message}"))
    }

    /// 125: an error of mcrun or the runtime; 126: the command cannot be run; 127: it was not
    /// found; 1: the container does not exist or is in the wrong state.
    pub fn status(&self) -> i32 {
        self.status
    }
}

impl fmt::Display for StandaloneError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for StandaloneError {}

/// What of a runtime's error chain tells a person something.
fn condense(text: &str) -> String {
    // runc appends a failed hook's output after this marker: that is the cause.
    let text = match text.rsplit_once("stderr: ") {
        Some((_, hook)) if !hook.trim().is_empty() => hook,
        _ => text,
    };
    let mut line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    const CHAIN: [&str; 7] = [
        "runc create failed: ",
        "runc run failed: ",
        "exec failed: ",
        "unable to start container process: ",
        "error during container init: ",
        "error during container start: ",
        "error starting container process: ",
    ];
    while let Some(rest) = CHAIN.iter().find_map(|prefix| line.strip_prefix(prefix)) {
        line = rest.to_owned();
    }
    let end = line.char_indices().nth(2000).map_or(line.len(), |(at, _)| at);
    line.truncate(end);
    line
}

/// docker's status for a command that did not start.
fn classify(message: &str) -> i32 {
    let lower = message.to_lowercase();
    let of_command = lower.starts_with("exec:")
        || lower.starts_with("exec ")
        || lower.starts_with("executable ")
        || lower.starts_with("open executable")
        || lower.contains("executable file");
    if !of_command {
        return 125;
    }
    if lower.contains("not found") || lower.contains("no such file") { 127 } else { 126 }
}

/// The error texts of a runtime's JSON log, the last one first in importance; lines that are no
/// JSON count as they are.
pub(super) fn last_error(log: &str) -> Option<String> {
    let mut last = None;
    for line in log.lines().filter(|line| !line.trim().is_empty()) {
        match serde_json::from_str::<serde_json::Value>(line) {
            Ok(entry) => {
                let level = entry.get("level").and_then(|l| l.as_str()).unwrap_or("error");
                let text = entry.get("msg").and_then(|m| m.as_str());
                if let (true, Some(text)) = (matches!(level, "error" | "fatal" | "panic"), text) {
                    last = Some(text.to_owned());
                }
            }
            Err(_) => last = Some(line.to_owned()),
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hooks_own_line_is_what_remains() {
        let text = "runc create failed: unable to start container process: error during \
                    container init: error running hook #0: error running hook: exit status 1, \
                    stdout: , stderr: mcrun-hook: parent lan9: no such interface\n";
        let error = StandaloneError::from_runtime("runc", text);
        assert_eq!(error.to_string(), "runc: mcrun-hook: parent lan9: no such interface");
        assert_eq!(error.status(), 125);
    }

    #[test]
    fn the_status_is_dockers() {
        let cases = [
            ("exec: \"nope\": executable file not found in $PATH", 127),
            ("exec: \"/nope\": stat /nope: no such file or directory", 127),
            ("exec: \"/etc/passwd\": permission denied", 126),
            ("exec /x: exec format error", 126),
            ("executable file `nope` not found in $PATH: No such file or directory", 127),
            ("open executable: Permission denied", 126),
            ("mount /nope: no such file or directory", 125),
        ];
        for (text, status) in cases {
            assert_eq!(StandaloneError::from_runtime("runc", text).status(), status, "{text}");
        }
    }

    #[test]
    fn a_log_yields_its_last_error() {
        let log = "{\"level\":\"warning\",\"msg\":\"a\"}\n{\"level\":\"error\",\"msg\":\"b\"}\n\
                   {\"level\":\"info\",\"msg\":\"c\"}\n";
        assert_eq!(last_error(log).as_deref(), Some("b"));
        assert_eq!(last_error("{\"msg\":\"x\"}").as_deref(), Some("x"));
        assert_eq!(last_error("plain").as_deref(), Some("plain"));
        assert_eq!(last_error("{\"level\":\"info\",\"msg\":\"c\"}"), None);
    }
}

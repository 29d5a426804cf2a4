//! Errors in one line, with the exit status that docker has for them.

use std::fmt;

use serde_json::Value;

use crate::standalone::command_check::{CommandCheck, CommandState};

/// The message about a runtime that failed and logged no error.
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

    /// What a runtime said when it could not start `command`: 127 when the command was not found,
    /// 126 when it cannot be run, else 125.
    pub(super) fn from_runtime(name: &str, text: &str, command: &CommandCheck) -> Self {
        let message = condense(text);
        if message.is_empty() {
            return match command.state() {
                CommandState::Missing => Self::with_status(
                    127,
                    format_args!("{name}: command {:?} not found", command.name()),
                ),
                _ => Self::new(format_args!("{name} {NO_MESSAGE}")),
            };
        }
        Self::with_status(classify(&message, command), format_args!("{name}: {message}"))
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

/// A runtime's error chain without the links that only name functions of the runtime.
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
///
/// Every runtime and version has words of its own. So mcrun looks for the command itself, and a
/// message that names a command which cannot be run is taken to be about that. Only where the
/// look finds nothing wrong do the words decide.
fn classify(message: &str, command: &CommandCheck) -> i32 {
    if command.is_named_in(message) {
        match command.state() {
            CommandState::Missing => return 127,
            CommandState::NotExecutable => return 126,
            CommandState::Executable => {}
        }
    }
    let lower = message.to_lowercase();
    let of_command = lower.starts_with("exec:")
        || lower.starts_with("exec ")
        || lower.starts_with("executable ")
        || lower.starts_with("open executable")
        || lower.contains("executable file")
        || lower.contains("executable '")
        || (lower.starts_with("the path `") && lower.contains("executable"))
        || (lower.starts_with("the path `") && lower.contains("is not a regular file"));
    if !of_command {
        return 125;
    }
    if lower.contains("not found") || lower.contains("no such file") { 127 } else { 126 }
}

/// The last error of a runtime's log, which is a stream of JSON values, each on one line or on
/// several (crun since 1.28). What is no JSON counts line by line as it is.
pub(super) fn last_error(log: &str) -> Option<String> {
    let mut last = None;
    let mut rest = log.trim_start();
    while !rest.is_empty() {
        let mut values = serde_json::Deserializer::from_str(rest).into_iter::<Value>();
        let end = match values.next() {
            Some(Ok(Value::Object(entry))) => {
                let level = entry.get("level").and_then(Value::as_str).unwrap_or("error");
                let text = entry.get("msg").and_then(Value::as_str);
                if let (true, Some(text)) = (matches!(level, "error" | "fatal" | "panic"), text) {
                    last = Some(text.to_owned());
                }
                values.byte_offset()
            }
            _ => {
                let end = rest.find('\n').unwrap_or(rest.len());
                last = Some(rest[..end].trim_end().to_owned());
                end
            }
        };
        rest = rest[end..].trim_start();
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
        let error = StandaloneError::from_runtime("runc", text, &CommandCheck::none());
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
            assert_eq!(
                StandaloneError::from_runtime("runc", text, &CommandCheck::none()).status(),
                status,
                "{text}"
            );
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

    /// As crun 1.28 logs it.
    const CRUN_1_28: &str = "{\n  \"msg\": \"executable file `nosuch` not found in $PATH: No such \
                             file or directory\",\n  \"level\": \"error\",\n  \"time\": \
                             \"2026-11-20T10:00:00.000000Z\"\n}\n";

    #[test]
    fn a_log_over_several_lines_is_read() {
        let text = last_error(CRUN_1_28).unwrap();
        assert_eq!(text, "executable file `nosuch` not found in $PATH: No such file or directory");
        assert_eq!(last_error(&format!("{CRUN_1_28}{CRUN_1_28}")), Some(text.clone()));
        assert_eq!(last_error(&format!("[warning] x\n{CRUN_1_28}")), Some(text));
        assert_eq!(last_error(&format!("{CRUN_1_28}cut {{")).as_deref(), Some("cut {"));
    }

    #[test]
    fn the_command_itself_decides_whatever_the_runtime_calls_it() {
        let missing = CommandCheck::of("nosuch", CommandState::Missing);
        let barred = CommandCheck::of("/etc/passwd", CommandState::NotExecutable);
        let fine = CommandCheck::of("/bin/x", CommandState::Executable);
        for (text, command, status) in [
            (
                "executable file `nosuch` not found in $PATH: No such file or directory",
                &missing,
                127,
            ),
            (
                "failed to create container: exec process failed with error error in executing \
              process : executable 'nosuch' not found in $PATH",
                &missing,
                127,
            ),
            (
                "the path `/etc/passwd` exists but it is not executable: Operation not permitted",
                &barred,
                126,
            ),
            ("words of the year 2030 on \"nosuch\"", &missing, 127),
            ("mount /srv/nosuch-data: permission denied", &missing, 125),
            ("exec /bin/x: exec format error", &fine, 126),
            ("", &missing, 127),
            ("", &fine, 125),
        ] {
            let error = StandaloneError::from_runtime("crun", text, command);
            assert_eq!(error.status(), status, "{text}");
        }
        // Without a look at the root filesystem the known words do.
        for text in [
            "the path `/etc/passwd` exists but it is not executable: Operation not permitted",
            "the path `/some/dir` is not a regular file: Operation not permitted",
        ] {
            let error = StandaloneError::from_runtime("crun", text, &CommandCheck::none());
            assert_eq!(error.status(), 126, "{text}");
        }
    }
}

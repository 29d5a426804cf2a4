//! One finding: a line that is shown, and what to do.

use std::fmt;
use std::net::Ipv4Addr;

use serde::Serialize;

use crate::primitives::printable;

/// Longest text of a finding, in characters. Names come from containers.
const MAX_TEXT: usize = 600;

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    /// As it should be.
    Ok,
    /// It could not be found out; the text says why.
    Unknown,
    /// It works, and may not go on working.
    Warning,
    /// It does not work.
    Failure,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Level::Ok => "ok",
            Level::Unknown => "unknown",
            Level::Warning => "warning",
            Level::Failure => "failure",
        })
    }
}

/// What a finding is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "about", rename_all = "lowercase")]
pub(crate) enum Subject {
    /// The host.
    Host,
    /// An interface of the host.
    Parent {
        /// Its name.
        parent: String,
    },
    /// A group, as a container receives it.
    Stream {
        /// The container's name.
        container: String,
        /// The group.
        group: Ipv4Addr,
    },
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Host => f.write_str("host"),
            Subject::Parent { parent } => write!(f, "parent {}", printable(parent, MAX_TEXT)),
            Subject::Stream { container, group } => {
                write!(f, "{group} in container {}", printable(container, MAX_TEXT))
            }
        }
    }
}

/// The result of one check. The contract of `mcrun doctor --json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// What it is about.
    #[serde(flatten)]
    pub(crate) subject: Subject,
    /// Which check; the same from version to version.
    pub(crate) check: &'static str,
    /// How it ended.
    pub(crate) level: Level,
    /// One line.
    pub(crate) text: String,
    /// What to do; none if there is nothing to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) advice: Option<String>,
}

/// The findings about one subject.
pub(super) struct Findings {
    subject: Subject,
    list: Vec<Finding>,
}

impl Findings {
    pub(super) fn of(subject: Subject) -> Self {
        Findings { subject, list: Vec::new() }
    }

    pub(super) fn ok(&mut self, check: &'static str, text: impl fmt::Display) {
        self.add(check, Level::Ok, text, None);
    }

    pub(super) fn unknown(&mut self, check: &'static str, text: impl fmt::Display) {
        self.add(check, Level::Unknown, text, None);
    }

    pub(super) fn warning(
        &mut self,
        check: &'static str,
        text: impl fmt::Display,
        advice: impl fmt::Display,
    ) {
        self.add(check, Level::Warning, text, Some(advice.to_string()));
    }

    pub(super) fn failure(
        &mut self,
        check: &'static str,
        text: impl fmt::Display,
        advice: impl fmt::Display,
    ) {
        self.add(check, Level::Failure, text, Some(advice.to_string()));
    }

    fn add(
        &mut self,
        check: &'static str,
        level: Level,
        text: impl fmt::Display,
        advice: Option<String>,
    ) {
        self.list.push(Finding {
            subject: self.subject.clone(),
            check,
            level,
            text: printable(&text.to_string(), MAX_TEXT),
            advice: advice.map(|advice| printable(&advice, MAX_TEXT)),
        });
    }

    pub(super) fn extend(&mut self, others: Vec<Finding>) {
        self.list.extend(others);
    }

    pub(super) fn done(self) -> Vec<Finding> {
        self.list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_name_reaches_no_terminal() {
        let mut findings = Findings::of(Subject::Host);
        findings.warning("x", "a\u{1b}[2J\n\u{202e}b \"c\" \u{e4}", "d".repeat(1000));
        let finding = findings.done().remove(0);
        assert_eq!(finding.text, "a\\u{1b}[2J\\n\\u{202e}b \"c\" \u{e4}");
        assert_eq!(finding.advice.map(|advice| advice.len()), Some(MAX_TEXT + 3));
        let subject = Subject::Parent { parent: "x\u{7}".into() };
        assert_eq!(subject.to_string(), "parent x\\u{7}");
    }
}

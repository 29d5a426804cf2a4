//! The findings as people are shown them.

use std::io;
use std::io::IsTerminal;

use crate::cli::output;
use crate::cli::output::{terminal_width, wants_colour};
use crate::doctor::{Finding, Level};

/// Columns of the level, and of the blanks around it.
const INDENT: usize = 11;
/// Narrower terminals get lines that are too long.
const NARROWEST: usize = 40;

/// The findings, with a heading for each subject, and a line that counts them.
pub(super) fn text(findings: &[Finding]) -> String {
    let terminal = io::stdout().is_terminal();
    render(findings, terminal.then(terminal_width).flatten(), terminal && wants_colour())
}

/// `width`: columns in which lines are folded; none: they are not.
fn render(findings: &[Finding], width: Option<usize>, colour: bool) -> String {
    let mut text = String::new();
    let mut before = None;
    for finding in findings {
        if before != Some(&finding.subject) {
            text += &format!("{}\n", finding.subject);
            before = Some(&finding.subject);
        }
        let level = paint(finding.level, &format!("{:<9}", finding.level), colour);
        text += &format!("  {level}{}\n", fold(&finding.text, width));
        if let Some(advice) = &finding.advice {
            text += &format!("{:INDENT$}{}\n", "", fold(&format!("-> {advice}"), width));
        }
    }
    text + &summary(findings)
}

/// Text in lines of so many columns, of which all are indented except the first.
fn fold(text: &str, width: Option<usize>) -> String {
    let Some(width) = width.map(|width| width.max(NARROWEST) - INDENT) else {
        return text.to_owned();
    };
    output::fold(text, width).join(&format!("\n{:INDENT$}", ""))
}

fn paint(level: Level, text: &str, colour: bool) -> String {
    let code = match level {
        Level::Ok => "32",
        Level::Unknown => "36",
        Level::Warning => "33",
        Level::Failure => "1;31",
    };
    if colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}

/// `1 failure, 2 warnings, 0 unknown, 17 ok`.
fn summary(findings: &[Finding]) -> String {
    let number = |level| findings.iter().filter(|finding| finding.level == level).count();
    let end = |number: usize| if number == 1 { "" } else { "s" };
    let (failures, warnings) = (number(Level::Failure), number(Level::Warning));
    format!(
        "{failures} failure{}, {warnings} warning{}, {} unknown, {} ok\n",
        end(failures),
        end(warnings),
        number(Level::Unknown),
        number(Level::Ok)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Subject;

    fn finding(level: Level, text: &str, advice: Option<&str>) -> Finding {
        Finding {
            subject: Subject::Parent { parent: "eth1".into() },
            check: "x",
            level,
            text: text.into(),
            advice: advice.map(str::to_owned),
        }
    }

    #[test]
    fn a_screen_has_headings_and_folded_lines() {
        let host = Finding { subject: Subject::Host, ..finding(Level::Ok, "Linux 6.12", None) };
        let long = "the host's firewall drops the IGMP that the host sends";
        let findings = [host, finding(Level::Failure, long, Some("let IGMP out"))];
        let expected = "\
host
  ok       Linux 6.12
parent eth1
  failure  the host's firewall drops the
           IGMP that the host sends
           -> let IGMP out
1 failure, 0 warnings, 0 unknown, 1 ok
";
        assert_eq!(render(&findings, Some(42), false), expected);
        let folded = render(&findings, Some(80), false);
        assert!(folded.lines().all(|line| line.chars().count() <= 80), "{folded}");
        assert!(render(&findings, None, false).contains(long));
        assert!(render(&findings, None, true).contains("\x1b[1;31mfailure  \x1b[0m"));
    }
}

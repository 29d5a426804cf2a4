//! Tables for people, JSON for programs.

use std::io;
use std::io::Write;

use comfy_table::{ColumnConstraint, ContentArrangement, Table, Width, presets};
use serde::Serialize;

/// Writes to standard output; a reader that has gone away (`mcrun ps | head -1`) is no error.
pub(super) fn print(text: &str) -> io::Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// Writes a value as JSON, indented, with a line end.
pub(super) fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    Ok(print(&text)?)
}

/// A table without lines, as docker prints: headings, and two spaces between columns. On a terminal that
/// is narrower, the longest texts are folded within their columns.
pub(super) fn table(headings: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    table_within(terminal_width(), headings, rows)
}

/// Columns whose texts may be folded. Numbers and addresses of groups stay whole.
const FOLDED: [&str; 8] =
    ["NAME", "WHAT", "CONTAINER", "SOURCES", "STATUS", "ADDRESSES", "QUERIER", "LIMITS"];
/// They are not folded to less. A terminal that is narrower wraps lines.
const NARROWEST: u16 = 8;

fn table_within(
    terminal: Option<usize>,
    headings: &[&str],
    rows: impl IntoIterator<Item = Vec<String>>,
) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(headings);
    table.add_rows(rows);
    let widths = table.column_max_content_widths();
    let narrow = terminal.and_then(|terminal| narrow(terminal, headings, &widths));
    let gap = if narrow.is_some() { 1 } else { 2 };
    for column in table.column_iter_mut() {
        column.set_padding((0, gap));
    }
    if let Some(widths) = narrow {
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(u16::MAX);
        let fixed = widths.into_iter().map(|n| ColumnConstraint::Absolute(Width::Fixed(n + gap)));
        table.set_constraints(fixed);
    }
    let lines = table.lines().map(|line| line.trim_end().to_owned() + "\n");
    lines.collect()
}

/// The widths of columns one space apart that a terminal of this width has room for; `None`: no texts
/// need to be folded, or folding is not enough.
fn narrow(terminal: usize, headings: &[&str], widths: &[u16]) -> Option<Vec<u16>> {
    let room = u32::try_from(terminal).unwrap_or(u32::MAX);
    let gaps = u32::try_from(widths.len().saturating_sub(1)).unwrap_or(u32::MAX);
    let sum = |widths: &[u16]| widths.iter().map(|n| u32::from(*n)).sum::<u32>();
    if sum(widths) + 2 * gaps <= room {
        return None;
    }
    let within = |most: u16| -> Vec<u16> {
        let columns = headings.iter().zip(widths);
        columns.map(|(h, n)| if FOLDED.contains(h) { most.min(*n) } else { *n }).collect()
    };
    let widest = *widths.iter().max()?;
    (NARROWEST..=widest).rev().map(within).find(|widths| sum(widths) + gaps <= room)
}

/// Columns of the terminal that standard output is; `None`: it is none, or does not know.
pub(super) fn terminal_width() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
    (size.ws_col > 0).then_some(size.ws_col.into())
}

/// Text in lines of at most so many columns. A word that is longer has a line of its own.
pub(super) fn fold(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let (mut line, mut column) = (String::new(), 0);
    for word in text.split(' ') {
        let length = word.chars().count();
        if column > 0 && column + 1 + length > width {
            lines.push(std::mem::take(&mut line));
            column = 0;
        } else if column > 0 {
            line.push(' ');
            column += 1;
        }
        line += word;
        column += length;
    }
    lines.push(line);
    lines
}

/// Whether the user has not asked for a screen without colours (<https://no-color.org>).
pub(super) fn wants_colour() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// An age as docker would write it: the largest unit that fits, and the next where it is small.
pub(super) fn age(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds}s"),
        120..=7199 => format!("{}m", seconds / 60),
        7200..=172_799 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86400),
    }
}

/// A rate of bytes a second, as people call it: in bits.
pub(super) fn bit_rate(bytes: u64) -> String {
    let bits = u128::from(bytes) * 8;
    let (unit, name) = match bits {
        0..1_000 => return format!("{bits} bit/s"),
        1_000..1_000_000 => (1_000, "kbit/s"),
        1_000_000..1_000_000_000 => (1_000_000, "Mbit/s"),
        _ => (1_000_000_000, "Gbit/s"),
    };
    format!("{}.{} {name}", bits / unit, bits % unit / (unit / 10))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_aligned_and_has_no_trailing_spaces() {
        let text = table_within(
            None,
            &["A", "LONG"],
            [vec!["one".into(), "1".into()], vec!["b".into(), String::new()]],
        );
        assert_eq!(text, "A    LONG\none  1\nb\n");
    }

    #[test]
    fn a_table_is_folded_within_its_columns_where_the_terminal_is_narrow() {
        let rows = || {
            let row = |name: &str, status: &str| {
                vec![name.into(), "mc0@eth1".into(), "239.9.1.1".into(), status.into(), "9s".into()]
            };
            [row("camera", "joined"), row("guest", "denied (deny=239.9.0.0/16)")]
        };
        let headings = ["NAME", "INTERFACE", "GROUP", "STATUS", "AGE"];
        let expected = "\
NAME   INTERFACE GROUP     STATUS             AGE
camera mc0@eth1  239.9.1.1 joined             9s
guest  mc0@eth1  239.9.1.1 denied (deny=239.9 9s
                           .0.0/16)
";
        assert_eq!(table_within(Some(49), &headings, rows()), expected);
        let whole = table_within(None, &headings, rows());
        let width = whole.lines().map(str::len).max().unwrap();
        assert_eq!(table_within(Some(width), &headings, rows()), whole);
        for columns in 0..width {
            table_within(Some(columns), &headings, rows());
        }
    }

    #[test]
    fn bit_rates() {
        let rates: Vec<_> = [0, 124, 125, 1_250_000, 1_249_999, 400_000_000].map(bit_rate).into();
        let wanted =
            ["0 bit/s", "992 bit/s", "1.0 kbit/s", "10.0 Mbit/s", "9.9 Mbit/s", "3.2 Gbit/s"];
        assert_eq!(rates, wanted);
    }

    #[test]
    fn ages() {
        let ages: Vec<_> = [0, 119, 120, 7199, 7200, 172_800].map(age).into();
        assert_eq!(ages, ["0s", "119s", "2m", "119m", "2h", "2d"]);
    }
}

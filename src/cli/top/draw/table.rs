//! The page of all rows.

use ratatui::Frame;
use ratatui::layout::{Constraint, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Cell, Row as Cells, Table};

use crate::cli::top::draw::{BOLD, Look, fit, short, short_bits};
use crate::cli::top::model::Model;
use crate::cli::top::row::{Querier, Row};
use crate::stream_count::RtpCount;

/// Wide as the screen where that is less.
const ANY: u16 = u16::MAX;

/// A column.
struct Column {
    heading: &'static str,
    /// In characters; 0: what the others leave.
    width: u16,
    is_number: bool,
    /// The widths of the screen at which it is there: from, and up to.
    screen: (u16, u16),
    text: fn(&Row) -> String,
}

const fn text(
    heading: &'static str,
    width: u16,
    screen: (u16, u16),
    text: fn(&Row) -> String,
) -> Column {
    Column { heading, width, is_number: false, screen, text }
}

const fn number(
    heading: &'static str,
    width: u16,
    screen: (u16, u16),
    text: fn(&Row) -> String,
) -> Column {
    Column { heading, width, is_number: true, screen, text }
}

const COLUMNS: [Column; 15] = [
    text("STATUS", 7, (0, ANY), |row| row.health().word().into()),
    text("NAME", 0, (0, ANY), |row| row.name.clone()),
    text("IF", 5, (70, 99), |row| row.interface.clone()),
    text("INTERFACE", 18, (100, ANY), |row| format!("{}@{}", row.interface, row.parent)),
    text("GROUP", 15, (0, ANY), |row| row.key.group.to_string()),
    text("SOURCES", 15, (118, ANY), |row| row.sources.clone()),
    number("PKT/S", 6, (0, ANY), |row| rate(row, |a| a.packet_rate.map(short))),
    number("BIT/S", 6, (0, ANY), |row| rate(row, |a| a.byte_rate.map(short_bits))),
    number("LAST", 5, (0, ANY), Row::last),
    number("LOST", 6, (0, ANY), |row| rtp(row, |rtp| short(rtp.lost))),
    number("REORD", 6, (132, ANY), |row| rtp(row, |rtp| short(rtp.reordered))),
    number("DUP", 6, (132, ANY), |row| rtp(row, |rtp| short(rtp.duplicated))),
    number("PT", 3, (132, ANY), |row| rtp(row, |rtp| rtp.payload_type.to_string())),
    number("QUERIER", 7, (76, 149), |row| querier(&row.querier)),
    number("QUERIER", 23, (150, ANY), |row| match &row.querier {
        Querier::Heard { address, version, .. } => {
            format!("{address} v{version} {}", querier(&row.querier))
        }
        other => querier(other),
    }),
];

pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, model: &mut Model, look: Look) {
    let columns: Vec<_> = COLUMNS
        .iter()
        .filter(|column| (column.screen.0..=column.screen.1).contains(&area.width))
        .collect();
    // A column for the sign of the selected row, and one between any two.
    let fixed: u16 = columns.iter().map(|column| column.width + 1).sum();
    let rest = area.width.saturating_sub(fixed + 1);
    let width = |column: &Column| if column.width == 0 { rest } else { column.width };
    let filter = !model.filter.is_empty();
    let (window, selected) = model.window(usize::from(area.height.saturating_sub(1)));
    let rows: Vec<_> = window
        .enumerate()
        .map(|(at, row)| {
            let is_selected = at == selected;
            let sign = Cell::from(if is_selected { ">" } else { " " });
            let cells = columns.iter().map(|column| {
                let text = fit(&(column.text)(row), width(column).into());
                cell(text, column.is_number)
            });
            let style = look.health(row.health());
            let style = if is_selected { style.add_modifier(Modifier::REVERSED) } else { style };
            Cells::new([sign].into_iter().chain(cells)).style(style)
        })
        .collect();
    if rows.is_empty() {
        let text =
            if filter { "no row has these words" } else { "no container has joined a group" };
        frame.render_widget(Line::raw(text), area);
        return;
    }
    let headings = columns.iter().map(|column| cell(column.heading.into(), column.is_number));
    let headings = Cells::new([Cell::from(" ")].into_iter().chain(headings)).style(BOLD);
    let widths = [1].into_iter().chain(columns.iter().map(|column| width(column)));
    let table = Table::new(rows, widths.map(Constraint::Length)).header(headings);
    frame.render_widget(table.column_spacing(1).style(Style::new()), area);
}

fn cell(text: String, is_number: bool) -> Cell<'static> {
    let line = Line::raw(text);
    Cell::from(if is_number { line.right_aligned() } else { line })
}

fn rate(row: &Row, text: fn(&crate::cli::top::row::Arrival) -> Option<String>) -> String {
    row.arrival.as_ref().and_then(text).unwrap_or_else(|| "-".into())
}

fn rtp(row: &Row, text: fn(&RtpCount) -> String) -> String {
    row.rtp().map_or_else(|| "-".into(), text)
}

/// In how many seconds it counts as gone.
fn querier(querier: &Querier) -> String {
    match querier {
        Querier::Gone => "none".into(),
        Querier::Unheard { .. } => "unheard".into(),
        Querier::Heard { .. } => format!("{}s", querier.gone_in().unwrap_or(0)),
        Querier::Unknown => "-".into(),
    }
}

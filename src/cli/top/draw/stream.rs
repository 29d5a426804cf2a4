//! The page of one row: what a table has no room for, and each source.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Paragraph, Row as Cells, Table};

use crate::cli::output::{age, bit_rate, fold};
use crate::cli::top::draw::{BOLD, Look, short, short_bits};
use crate::cli::top::model::Model;
use crate::cli::top::row::{Arrival, Health, Querier, Row, Source};

/// The columns of the sources: heading, width, whether it is a number.
const COLUMNS: [(&str, u16, bool); 11] = [
    (" ", 1, false),
    ("SOURCE", 15, false),
    ("PKT/S", 6, true),
    ("BIT/S", 6, true),
    ("LAST", 5, true),
    ("PACKETS", 7, true),
    ("LOST", 6, true),
    ("REORD", 6, true),
    ("DUP", 6, true),
    ("PT", 3, true),
    ("SSRC", 8, true),
];

pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, model: &mut Model, look: Look) {
    let Some(row) = model.row() else {
        let text = match model.selected() {
            Some(key) => {
                format!("{} at {}: left, or the container has ended", key.group, key.interface)
            }
            None => "left, or the container has ended".into(),
        };
        frame.render_widget(Line::raw(text), area);
        return;
    };
    let about = about(row, usize::from(area.width), look);
    let rows: Vec<_> = row.streams.iter().map(cells).collect();
    let lines = u16::try_from(about.len()).unwrap_or(u16::MAX);
    let [above, below] =
        Layout::vertical([Constraint::Max(lines.saturating_add(1)), Constraint::Min(3)])
            .areas(area);
    frame.render_widget(Paragraph::new(about), above);
    let count = rows.len();
    if count == 0 {
        return;
    }
    let first = model.source_window(count, usize::from(below.height.saturating_sub(1)));
    let headings =
        COLUMNS.iter().map(|(heading, _, is_number)| cell((*heading).into(), *is_number));
    let table = Table::new(
        rows.into_iter().skip(first),
        COLUMNS.iter().map(|(_, width, _)| Constraint::Length(*width)),
    );
    frame.render_widget(table.header(Cells::new(headings).style(BOLD)).column_spacing(1), below);
}

/// All of a row, in lines of so many columns.
fn about(row: &Row, width: usize, look: Look) -> Vec<Line<'static>> {
    let health = row.health();
    let why = match (health, &row.reason) {
        (Health::Dead, _) => match row.arrival.as_ref().and_then(|a| a.last_packet_ms) {
            Some(ms) => format!(": joined, and no packet for {}", age(ms / 1000)),
            None => ": joined, and no packet ever".into(),
        },
        (_, Some(reason)) => format!(" ({reason})"),
        (_, None) => String::new(),
    };
    let mut about = Lines { width, lines: Vec::new() };
    about.add("container", &row.name, PLAIN);
    about.add("group", &format!("{} from {}", row.key.group, sources(row)), PLAIN);
    about.add("status", &format!("{}{why}", health.word()), look.health(health));
    about.add("joined", &joined(row), PLAIN);
    about.add("interface", &format!("{} on {}", row.interface, row.parent), PLAIN);
    about.add("querier", &querier(row), PLAIN);
    about.add("arrived", &row.arrival.as_ref().map_or("not counted".into(), arrived), PLAIN);
    if let Some(rtp) = row.rtp() {
        let text = format!(
            "lost {}, reordered {}, duplicated {}, SSRC changes {}, restarts {}",
            rtp.lost, rtp.reordered, rtp.duplicated, rtp.ssrc_changes, rtp.restarts
        );
        about.add("rtp", &text, PLAIN);
    }
    if let Some(relay) = row.relay {
        let text = format!(
            "relayed {}, dropped {}, limited {}, denied {}",
            relay.relayed, relay.dropped, relay.limited, relay.denied
        );
        about.add("relay", &text, PLAIN);
    }
    for warning in row.warnings.iter() {
        about.add("warning", warning, look.warning());
    }
    about.lines
}

/// The sources that are wanted, as far as there is room for them.
fn sources(row: &Row) -> String {
    let all: Vec<_> = row.sources.split(',').collect();
    match all.get(MAX_SOURCES..) {
        Some(more @ [_, ..]) => {
            format!("{} and {} more", all[..MAX_SOURCES].join(", "), more.len())
        }
        _ => all.join(", "),
    }
}

/// Sources that are told one by one.
const MAX_SOURCES: usize = 12;
const PLAIN: Style = Style::new();
/// Columns of a label and the blanks behind it.
const LABEL: usize = 11;

/// Lines with a label each.
struct Lines {
    width: usize,
    lines: Vec<Line<'static>>,
}

impl Lines {
    fn add(&mut self, label: &'static str, text: &str, style: Style) {
        for (at, part) in fold(text, self.width.saturating_sub(LABEL)).into_iter().enumerate() {
            let label = if at == 0 { label } else { "" };
            let label = Span::styled(format!("{label:<LABEL$}"), BOLD);
            self.lines.push(Line::from(vec![label, Span::styled(part, style)]));
        }
    }
}

fn arrived(arrival: &Arrival) -> String {
    let mut text = format!("{} packets", arrival.packets);
    if let Some(rate) = arrival.packet_rate {
        text += &format!(", {rate} packets/s");
    }
    if let Some(rate) = arrival.byte_rate {
        text += &format!(", {}", bit_rate(rate));
    }
    match arrival.last_packet_ms {
        Some(ms) => text + &format!(", the last {} ago", age(ms / 1000)),
        None => text,
    }
}

fn joined(row: &Row) -> String {
    format!("{} ago, with {}v{}", age(row.age_s), row.protocol().name(), row.version)
}

fn querier(row: &Row) -> String {
    let protocol = row.protocol().name();
    let gone_in = row.querier.gone_in().unwrap_or(0);
    match &row.querier {
        Querier::Gone => "none".into(),
        Querier::Unheard { seconds, .. } => {
            format!("none heard for {seconds} s; there is none if none asks for {gone_in} s more")
        }
        Querier::Heard { address, version, last_query_s, .. } => format!(
            "{address} ({protocol}v{version}), last query {} ago, counts as gone in {gone_in} s",
            age(*last_query_s)
        ),
        Querier::Unknown => "nobody listens".into(),
    }
}

fn cells(source: &Source) -> Cells<'static> {
    let Source { count, is_wanted } = source;
    let rtp = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    let texts = [
        if *is_wanted { " ".into() } else { "x".into() },
        count.source.to_string(),
        short(count.packet_rate),
        short_bits(count.byte_rate),
        age(count.last_packet_ms / 1000),
        short(count.packets),
        rtp(count.rtp.map(|rtp| short(rtp.lost))),
        rtp(count.rtp.map(|rtp| short(rtp.reordered))),
        rtp(count.rtp.map(|rtp| short(rtp.duplicated))),
        rtp(count.rtp.map(|rtp| rtp.payload_type.to_string())),
        rtp(count.rtp.map(|rtp| format!("{:08x}", rtp.ssrc))),
    ];
    let cells =
        texts.into_iter().zip(COLUMNS).map(|(text, (_, _, is_number))| cell(text, is_number));
    let style = match is_wanted {
        true => Style::new(),
        false => Style::new().add_modifier(Modifier::DIM),
    };
    Cells::new(cells).style(style)
}

fn cell(text: String, is_number: bool) -> Cell<'static> {
    let line = Line::raw(text);
    Cell::from(if is_number { line.right_aligned() } else { line })
}

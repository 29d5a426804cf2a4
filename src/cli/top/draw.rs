//! The screens of `mcrun top`. What a colour says is also said by a word or a sign.

mod stream;
mod table;

use std::time::Duration;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Wrap};

use crate::cli::output::{age, bit_rate};
use crate::cli::top::keys::KEYS;
use crate::cli::top::model::{Model, Overlay, Page};
use crate::cli::top::row::Health;

/// Columns and rows below which nothing can be shown.
const SMALLEST: (u16, u16) = (60, 8);
/// Looks that come so much later than they should are told of. A proxy that hangs is waited for 2 s.
const LATE: Duration = Duration::from_secs(3);

/// How things look.
#[derive(Debug, Clone, Copy)]
pub(super) struct Look {
    /// Whether there may be colours.
    pub(super) colour: bool,
    /// Time between two looks at the containers.
    pub(super) interval: Duration,
    /// How long mcrun top runs.
    pub(super) now: Duration,
}

impl Look {
    fn health(self, health: Health) -> Style {
        let style = match health {
            Health::Dead => Style::new().add_modifier(Modifier::BOLD),
            _ => Style::new(),
        };
        match (health, self.colour) {
            (_, false) | (Health::Joined, _) => style,
            (Health::Dead | Health::Failed, true) => style.fg(Color::Red),
            (Health::Denied | Health::Limited, true) => style.fg(Color::Yellow),
        }
    }

    fn warning(self) -> Style {
        if self.colour { Style::new().fg(Color::Yellow) } else { Style::new() }
    }
}

const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);

/// Draws all of the screen.
pub(super) fn draw(frame: &mut Frame<'_>, model: &mut Model, look: Look) {
    let area = frame.area();
    if area.width < SMALLEST.0 || area.height < SMALLEST.1 {
        let text = format!(
            "{}x{} is too small: mcrun top needs {}x{}",
            area.width, area.height, SMALLEST.0, SMALLEST.1
        );
        frame.render_widget(Paragraph::new(text).wrap(Wrap { trim: true }), area);
        return;
    }
    let note = u16::from(!model.notes().is_empty());
    let [title, above, body, notes, below] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Fill(1),
        Constraint::Length(note),
        Constraint::Length(1),
    ])
    .areas(area);
    frame.render_widget(totals(model, look), title);
    if model.overlay == Overlay::Help {
        help(frame, body);
        frame.render_widget("any key: back", below);
        return;
    }
    frame.render_widget(notes_line(model, look), notes);
    match model.page {
        Page::Table => {
            frame.render_widget(order(model, look), above);
            table::draw(frame, body, model, look);
            frame.render_widget(table_keys(model), below);
        }
        Page::Stream => {
            stream::draw(frame, above.union(body), model, look);
            frame.render_widget("Esc back  up, down more sources  ? help  q quit", below);
        }
    }
}

/// The title, and what there is of everything.
fn totals(model: &Model, look: Look) -> Line<'static> {
    let arrivals = || model.rows().iter().filter_map(|row| row.arrival.as_ref());
    let packets: u64 = arrivals().filter_map(|arrival| arrival.packet_rate).sum();
    let bytes: u64 = arrivals().filter_map(|arrival| arrival.byte_rate).sum();
    let dead = model.dead();
    let style = if dead > 0 { look.health(Health::Dead) } else { Style::new() };
    Line::from(vec![
        Span::styled("mcrun top", BOLD),
        Span::raw(format!("  {}", number(model.containers(), "container"))),
        Span::raw(format!("  {}", number(model.rows().len(), "group"))),
        Span::raw("  "),
        Span::styled(format!("{dead} DEAD"), style),
        Span::raw(format!("  {packets} packets/s  {}", bit_rate(bytes))),
    ])
}

fn number(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// In which order rows stand, and which are left out.
fn order(model: &Model, look: Look) -> Line<'static> {
    if let Overlay::Typing(_) = model.overlay {
        return Line::from(vec![
            Span::raw("filter: "),
            Span::styled(format!("{}_", model.filter), BOLD),
            Span::raw(format!("  {} of {}", model.shown(), model.rows().len())),
        ]);
    }
    let (by, first) = model.sort.words();
    let mut text = format!("by {by}, {}", first[usize::from(model.is_reversed)]);
    if !model.filter.is_empty() {
        let (shown, all) = (model.shown(), model.rows().len());
        text += &format!("  filter: {} ({shown} of {all})", model.filter);
    }
    let since = look.now.saturating_sub(model.updated);
    if since > look.interval + LATE {
        text += &format!("  no answer for {}", age(since.as_secs()));
    }
    Line::raw(text)
}

fn notes_line(model: &Model, look: Look) -> Line<'static> {
    let more = match model.notes().len() {
        0 | 1 => String::new(),
        all => format!(" (and {} more)", all - 1),
    };
    let first = model.notes().first();
    Line::styled(format!("! {}{more}", first.map_or("", String::as_str)), look.warning())
}

fn table_keys(model: &Model) -> &'static str {
    match model.overlay {
        Overlay::Typing(_) => "Enter keeps the filter  Esc drops it",
        _ => "q quit  ? help  Enter details  / filter  s sort  r reverse",
    }
}

fn help(frame: &mut Frame<'_>, area: Rect) {
    let keys = KEYS.iter().map(|(keys, what)| Line::raw(format!("{keys:<22} {what}")));
    let words = [
        "",
        "DEAD     joined, and nothing has come for 5 s or ever",
        "LAST     time since the last packet",
        "LOST     RTP packets lost since the join; REORD, DUP likewise",
        "QUERIER  when the LAN's querier counts as gone, unless it asks before",
        "-        not known: not counted, not RTP, or nobody listens",
    ];
    let lines: Vec<_> = keys.chain(words.map(Line::raw)).collect();
    frame.render_widget(Paragraph::new(lines), area);
}

/// A number of at most six characters.
fn short(n: u64) -> String {
    if n < 1_000_000 { n.to_string() } else { scaled(n.into()) }
}

/// A rate of bytes a second in bits, of at most six characters.
fn short_bits(bytes: u64) -> String {
    scaled(u128::from(bytes) * 8)
}

fn scaled(n: u128) -> String {
    let mut unit = 1;
    for name in ["", "k", "M", "G", "T", "P"] {
        if n < unit * 1000 {
            return match name {
                "" => n.to_string(),
                _ => format!("{}.{}{name}", n / unit, n % unit / (unit / 10)),
            };
        }
        unit *= 1000;
    }
    "many".into()
}

/// Text in so many columns: the middle of what is longer gives way to a `~`.
fn fit(text: &str, width: usize) -> String {
    let columns = |text: &str| Span::raw(text).width();
    if columns(text) <= width {
        return text.to_owned();
    }
    let take = |letters: &mut dyn Iterator<Item = char>, room: usize| {
        let mut taken = String::new();
        for letter in letters {
            taken.push(letter);
            if columns(&taken) > room {
                taken.pop();
                break;
            }
        }
        taken
    };
    let room = width.saturating_sub(1);
    let head = take(&mut text.chars(), room / 2);
    let tail = take(&mut text.chars().rev(), room - columns(&head));
    format!("{head}~{}", tail.chars().rev().collect::<String>())
}

#[cfg(test)]
mod tests;

//! What `mcrun top` shows: rows, their order, the filter, the selection. No terminal, and time is an
//! argument.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::time::Duration;

use crate::cli::top::keys::Action;
use crate::cli::top::row::{Arrival, Health, Key, Row};

/// Letters of a filter.
const MAX_FILTER: usize = 60;

/// Everything that was found out at one time.
#[derive(Debug, Default)]
pub(super) struct Look {
    pub(super) rows: Vec<Row>,
    /// Containers that were looked at, those without groups included.
    pub(super) containers: usize,
    /// What could not be found out.
    pub(super) notes: Vec<String>,
}

/// In what order rows stand. Each begins with what is looked for: the worst, the most, the soonest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sort {
    Status,
    Name,
    Group,
    Packets,
    Rate,
    Last,
    Lost,
    Querier,
}

impl Sort {
    const ALL: [Sort; 8] = [
        Sort::Status,
        Sort::Name,
        Sort::Group,
        Sort::Packets,
        Sort::Rate,
        Sort::Last,
        Sort::Lost,
        Sort::Querier,
    ];

    /// What people are told, and what comes first.
    pub(super) fn words(self) -> (&'static str, [&'static str; 2]) {
        match self {
            Sort::Status => ("status", ["worst first", "best first"]),
            Sort::Name => ("name", ["a to z", "z to a"]),
            Sort::Group => ("group", ["lowest first", "highest first"]),
            Sort::Packets => ("packets/s", ["most first", "fewest first"]),
            Sort::Rate => ("bit/s", ["most first", "fewest first"]),
            Sort::Last => ("last packet", ["oldest first", "newest first"]),
            Sort::Lost => ("lost packets", ["most first", "fewest first"]),
            Sort::Querier => ("querier", ["soonest gone first", "soonest gone last"]),
        }
    }

    fn next(self) -> Sort {
        let at = Sort::ALL.iter().position(|sort| *sort == self).unwrap_or_default();
        Sort::ALL[(at + 1) % Sort::ALL.len()]
    }

    fn compare(self, a: &Row, b: &Row) -> Ordering {
        let rate = |row: &Row, of: fn(&Arrival) -> Option<u64>| row.arrival.as_ref().and_then(of);
        // A stream that has never come is older than any packet; what is not counted is the newest.
        let silence = |row: &Row| {
            row.arrival.as_ref().map(|arrival| arrival.last_packet_ms.unwrap_or(u64::MAX))
        };
        let lost = |row: &Row| row.rtp().map(|rtp| rtp.lost);
        let gone_in = |row: &Row| row.querier.gone_in().unwrap_or(u64::MAX);
        match self {
            Sort::Status => a.health().cmp(&b.health()),
            Sort::Name => a.name.cmp(&b.name),
            Sort::Group => a.key.group.cmp(&b.key.group),
            Sort::Packets => rate(b, |r| r.packet_rate).cmp(&rate(a, |r| r.packet_rate)),
            Sort::Rate => rate(b, |r| r.byte_rate).cmp(&rate(a, |r| r.byte_rate)),
            Sort::Last => silence(b).cmp(&silence(a)),
            Sort::Lost => lost(b).cmp(&lost(a)),
            Sort::Querier => gone_in(a).cmp(&gone_in(b)),
        }
    }
}

/// What the screen is filled with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Page {
    /// All rows.
    Table,
    /// The selected row, and each of its sources.
    Stream,
}

/// Where keys go to besides a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Overlay {
    None,
    Help,
    /// The filter is typed; with the one before, which comes back if the new one is dropped.
    Typing(String),
}

/// What a relay has carried for a group, as it was seen.
#[derive(Debug, Clone, Copy)]
struct Carried {
    packets: u64,
    /// When the number was seen, and when it had changed, both since the start.
    seen: Duration,
    changed: Duration,
}

/// The state of the screen.
#[derive(Debug)]
pub(super) struct Model {
    look: Look,
    /// When the look ended, since the start.
    pub(super) updated: Duration,
    /// The rows that pass the filter, by their place in the look.
    shown: Vec<usize>,
    pub(super) sort: Sort,
    pub(super) is_reversed: bool,
    pub(super) filter: String,
    pub(super) page: Page,
    pub(super) overlay: Overlay,
    selected: Option<Key>,
    /// The place of the selected row among those that are shown, for when the row has gone.
    position: usize,
    /// The first line on the screen, and how many there is room for.
    first: usize,
    room: usize,
    /// The first source on the page of a stream.
    first_source: usize,
    carried: HashMap<Key, Carried>,
}

impl Model {
    pub(super) fn new() -> Self {
        Model {
            look: Look::default(),
            updated: Duration::ZERO,
            shown: Vec::new(),
            sort: Sort::Status,
            is_reversed: false,
            filter: String::new(),
            page: Page::Table,
            overlay: Overlay::None,
            selected: None,
            position: 0,
            first: 0,
            room: 1,
            first_source: 0,
            carried: HashMap::new(),
        }
    }

    /// Takes what was found out at this time since the start.
    pub(super) fn update(&mut self, mut look: Look, now: Duration) {
        self.count_relays(&mut look.rows, now);
        self.look = look;
        self.updated = now;
        self.arrange();
    }

    /// Relays count packets and nothing else: the rest follows from how the number grows.
    fn count_relays(&mut self, rows: &mut [Row], now: Duration) {
        let mut carried = HashMap::new();
        for row in rows.iter_mut().filter(|row| row.arrival.is_none()) {
            let Some(packets) = row.relay.map(|relay| relay.relayed) else { continue };
            let before = self.carried.get(&row.key);
            let is_unchanged = before.is_some_and(|before| before.packets == packets);
            let changed = before.filter(|_| is_unchanged).map_or(now, |before| before.changed);
            let packet_rate = before.and_then(|before| {
                let millis = u64::try_from((now - before.seen).as_millis()).ok()?;
                (packets.saturating_sub(before.packets) * 1000).checked_div(millis)
            });
            let silent = u64::try_from((now - changed).as_millis()).unwrap_or(u64::MAX);
            row.arrival = Some(Arrival {
                packets,
                packet_rate,
                byte_rate: None,
                last_packet_ms: (packets > 0).then_some(silent),
                rtp: None,
            });
            carried.insert(row.key.clone(), Carried { packets, seen: now, changed });
        }
        self.carried = carried;
    }

    /// The looks have failed with this error since the last one.
    pub(super) fn fail(&mut self, error: String) {
        self.look.notes = vec![error];
    }

    /// Filters and sorts.
    fn arrange(&mut self) {
        let words: Vec<_> = self.filter.to_lowercase().split(' ').map(str::to_owned).collect();
        let rows = &self.look.rows;
        let mut shown: Vec<_> = (0..rows.len()).filter(|at| is_match(&rows[*at], &words)).collect();
        let order = |a: &Row, b: &Row| {
            let by_sort = self.sort.compare(a, b);
            let by_sort = if self.is_reversed { by_sort.reverse() } else { by_sort };
            // So that equal rows keep their places.
            let place = |row: &Row| (row.name.clone(), row.key.group, row.key.interface.clone());
            by_sort.then_with(|| place(a).cmp(&place(b)))
        };
        shown.sort_by(|a, b| order(&rows[*a], &rows[*b]));
        self.shown = shown;
        let found = self
            .selected
            .as_ref()
            .and_then(|key| self.shown.iter().position(|at| self.look.rows[*at].key == *key));
        match found {
            Some(position) => self.position = position,
            // A stream that is looked at stays the one that is looked at, also when it has gone.
            None if self.page == Page::Stream => {}
            None => self.select(self.position),
        }
    }

    fn select(&mut self, position: usize) {
        self.position = position.min(self.shown.len().saturating_sub(1));
        self.selected = self.shown.get(self.position).map(|at| self.look.rows[*at].key.clone());
    }

    /// Does what a key asks for.
    pub(super) fn act(&mut self, action: Action) {
        match (&self.overlay, self.page, action) {
            (Overlay::Typing(_), _, action) => self.type_filter(action),
            (Overlay::Help, ..) => self.overlay = Overlay::None,
            (_, _, Action::Help) => self.overlay = Overlay::Help,
            (_, Page::Table, Action::Open) if self.row().is_some() => {
                self.page = Page::Stream;
                self.first_source = 0;
            }
            (_, Page::Table, Action::Back) => {
                self.filter.clear();
                self.arrange();
            }
            (_, Page::Table, Action::Filter) => {
                self.overlay = Overlay::Typing(self.filter.clone());
            }
            (_, Page::Table, Action::Sort) => {
                self.sort = self.sort.next();
                self.is_reversed = false;
                self.arrange();
            }
            (_, Page::Table, Action::Reverse) => {
                self.is_reversed = !self.is_reversed;
                self.arrange();
            }
            (_, Page::Table, action) => self.select(self.moved(self.position, action)),
            (_, Page::Stream, Action::Back) => {
                self.page = Page::Table;
                self.arrange();
            }
            (_, Page::Stream, action) => self.first_source = self.moved(self.first_source, action),
        }
    }

    fn type_filter(&mut self, action: Action) {
        match action {
            Action::Type(letter) if self.filter.chars().count() < MAX_FILTER => {
                self.filter.push(letter);
            }
            Action::Erase => _ = self.filter.pop(),
            Action::Open => self.overlay = Overlay::None,
            Action::Back => {
                if let Overlay::Typing(before) = std::mem::replace(&mut self.overlay, Overlay::None)
                {
                    self.filter = before;
                }
            }
            _ => {}
        }
        self.arrange();
    }

    /// Where a key leads from this place.
    fn moved(&self, from: usize, action: Action) -> usize {
        match action {
            Action::Up => from.saturating_sub(1),
            Action::Down => from.saturating_add(1),
            Action::PageUp => from.saturating_sub(self.room),
            Action::PageDown => from.saturating_add(self.room),
            Action::First => 0,
            Action::Last => usize::MAX,
            _ => from,
        }
    }

    /// The rows that a screen with room for so many shows, and which of them is selected.
    pub(super) fn window(&mut self, room: usize) -> (impl Iterator<Item = &Row>, usize) {
        self.room = room.max(1);
        let lowest = self.position.saturating_sub(self.room - 1);
        let highest = self.shown.len().saturating_sub(self.room).min(self.position);
        self.first = self.first.clamp(lowest.min(highest), highest);
        let shown = self.shown.iter().skip(self.first).take(self.room);
        (shown.map(|at| &self.look.rows[*at]), self.position - self.first)
    }

    /// The first source that a screen with room for so many of this number shows.
    pub(super) fn source_window(&mut self, count: usize, room: usize) -> usize {
        self.room = room.max(1);
        self.first_source = self.first_source.min(count.saturating_sub(room));
        self.first_source
    }

    /// The selected row; `None`: there is none, or it has gone.
    pub(super) fn row(&self) -> Option<&Row> {
        let key = self.selected.as_ref()?;
        self.look.rows.iter().find(|row| row.key == *key)
    }

    /// What the selected row is about, also when it has gone.
    pub(super) fn selected(&self) -> Option<&Key> {
        self.selected.as_ref()
    }

    /// Rows that pass the filter.
    pub(super) fn shown(&self) -> usize {
        self.shown.len()
    }

    /// All rows.
    pub(super) fn rows(&self) -> &[Row] {
        &self.look.rows
    }

    /// Containers, those without groups included.
    pub(super) fn containers(&self) -> usize {
        self.look.containers
    }

    /// What could not be found out.
    pub(super) fn notes(&self) -> &[String] {
        &self.look.notes
    }

    /// Rows that are dead.
    pub(super) fn dead(&self) -> usize {
        self.look.rows.iter().filter(|row| row.health() == Health::Dead).count()
    }
}

/// Whether a row has all the words.
fn is_match(row: &Row, words: &[String]) -> bool {
    if words.iter().all(String::is_empty) {
        return true;
    }
    let Row { name, interface, parent, .. } = row;
    let status = row.health().word();
    let text = format!("{name} {interface}@{parent} {} {status}", row.key.group).to_lowercase();
    words.iter().all(|word| text.contains(word.as_str()))
}

#[cfg(test)]
pub(super) mod tests;

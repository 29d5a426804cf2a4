//! Keys, and what they ask for.

use std::io;
use std::thread;

use ratatui::crossterm::event;
use ratatui::crossterm::event::{Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use tokio::sync::mpsc;

/// Events that wait until the screen is drawn.
const QUEUE: usize = 64;

/// What a key asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Quit,
    /// To the shell, until that one says go on.
    Suspend,
    Help,
    /// The selected row in detail; while a filter is typed, keep the filter.
    Open,
    Back,
    Up,
    Down,
    PageUp,
    PageDown,
    First,
    Last,
    Sort,
    Reverse,
    /// Begin to type a filter.
    Filter,
    /// A letter of it.
    Type(char),
    /// Take its last letter away.
    Erase,
}

/// The keys as the help shows them, and what they do.
pub(super) const KEYS: [(&str, &str); 10] = [
    ("up, down, k, j", "select a row"),
    ("PgUp, PgDn, Home, End", "the same, by a page or to the end"),
    ("Enter", "the selected row in detail, with each source"),
    ("Esc, Backspace", "back; on the first page, show all rows again"),
    ("s", "sort by the next column"),
    ("r", "reverse the order"),
    ("/", "show only rows with these words: a name, a group, dead"),
    ("?, h", "this help"),
    ("q, Ctrl-C", "quit"),
    ("Ctrl-Z", "back to the shell; fg goes on"),
];

/// What a key asks for, if anything. `is_typing`: letters are those of a filter.
pub(super) fn action(key: KeyEvent, is_typing: bool) -> Option<Action> {
    if key.kind == KeyEventKind::Release {
        return None;
    }
    let with = |modifier| key.modifiers.contains(modifier);
    if with(KeyModifiers::CONTROL) {
        return match key.code {
            KeyCode::Char('c') => Some(Action::Quit),
            KeyCode::Char('z') => Some(Action::Suspend),
            // What Backspace sends on some terminals.
            KeyCode::Char('h') => Some(if is_typing { Action::Erase } else { Action::Back }),
            _ => None,
        };
    }
    Some(match key.code {
        KeyCode::Enter => Action::Open,
        KeyCode::Esc => Action::Back,
        KeyCode::Backspace if is_typing => Action::Erase,
        KeyCode::Char(_) if with(KeyModifiers::ALT) => return None,
        KeyCode::Char(letter) if is_typing => Action::Type(letter),
        KeyCode::Backspace => Action::Back,
        KeyCode::Up | KeyCode::Char('k') => Action::Up,
        KeyCode::Down | KeyCode::Char('j') => Action::Down,
        KeyCode::PageUp => Action::PageUp,
        KeyCode::PageDown | KeyCode::Char(' ') => Action::PageDown,
        KeyCode::Home => Action::First,
        KeyCode::End => Action::Last,
        KeyCode::Char('s') => Action::Sort,
        KeyCode::Char('r') => Action::Reverse,
        KeyCode::Char('/') => Action::Filter,
        KeyCode::Char('?' | 'h') => Action::Help,
        KeyCode::Char('q') => Action::Quit,
        _ => return None,
    })
}

/// What comes from the terminal, from now on until the process ends: the read blocks.
pub(super) fn read() -> io::Result<mpsc::Receiver<io::Result<Event>>> {
    let (sender, events) = mpsc::channel(QUEUE);
    thread::Builder::new().name("keys".into()).spawn(move || {
        loop {
            let event = event::read();
            let is_last = event.is_err();
            if sender.blocking_send(event).is_err() || is_last {
                return;
            }
        }
    })?;
    Ok(events)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asks(code: KeyCode, modifiers: KeyModifiers, is_typing: bool) -> Option<Action> {
        action(KeyEvent::new(code, modifiers), is_typing)
    }

    #[test]
    fn letters_are_commands_or_those_of_a_filter() {
        let none = KeyModifiers::NONE;
        assert_eq!(asks(KeyCode::Char('q'), none, false), Some(Action::Quit));
        assert_eq!(asks(KeyCode::Char('q'), none, true), Some(Action::Type('q')));
        assert_eq!(asks(KeyCode::Char('C'), KeyModifiers::SHIFT, true), Some(Action::Type('C')));
        assert_eq!(asks(KeyCode::Backspace, none, true), Some(Action::Erase));
        assert_eq!(asks(KeyCode::Backspace, none, false), Some(Action::Back));
        assert_eq!(asks(KeyCode::Char('x'), none, false), None);
    }

    #[test]
    fn control_c_quits_whatever_is_typed() {
        for is_typing in [false, true] {
            let asked = asks(KeyCode::Char('c'), KeyModifiers::CONTROL, is_typing);
            assert_eq!(asked, Some(Action::Quit));
        }
        assert_eq!(asks(KeyCode::Char('s'), KeyModifiers::CONTROL, false), None);
        assert_eq!(asks(KeyCode::Char('s'), KeyModifiers::ALT, true), None);
    }
}

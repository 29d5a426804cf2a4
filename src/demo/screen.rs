//! What the demonstration prints as it goes.

use std::io;
use std::io::{IsTerminal, Write};

/// Standard output: coloured on a terminal, plain in a pipe or with `NO_COLOR`, silent when
/// only a result is wanted.
pub(super) struct Screen {
    colour: bool,
    silent: bool,
}

/// How to set a text off.
#[derive(Debug, Clone, Copy)]
pub(super) enum Paint {
    Bold,
    Dim,
    Green,
    Red,
}

impl Screen {
    pub(super) fn new(silent: bool) -> Self {
        // https://no-color.org: set and not empty.
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Screen { colour: io::stdout().is_terminal() && !plain, silent }
    }

    /// The text with its colour, where there are colours.
    pub(super) fn paint(&self, paint: Paint, text: &str) -> String {
        if !self.colour {
            return text.to_owned();
        }
        let code = match paint {
            Paint::Bold => 1,
            Paint::Dim => 2,
            Paint::Green => 32,
            Paint::Red => 31,
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }

    /// Prints a heading and space around it.
    pub(super) fn heading(&self, text: &str) {
        self.line(&format!("\n{}\n", self.paint(Paint::Bold, text)));
    }

    /// Prints a line. That nobody reads it any more is no reason to stop: the result counts.
    pub(super) fn line(&self, text: &str) {
        if !self.silent {
            let _ = writeln!(io::stdout(), "{text}");
        }
    }
}

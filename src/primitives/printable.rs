//! Text of strangers, for terminals.

/// Text as a terminal may be shown it: what is no printable character is escaped, and what is longer
/// than `max` characters ends early.
pub fn printable(text: &str, max: usize) -> String {
    let mut shown = String::new();
    for c in text.chars().take(max) {
        match c {
            '"' | '\'' | '\\' => shown.push(c),
            _ => shown.extend(c.escape_debug()),
        }
    }
    if text.chars().nth(max).is_some() {
        shown.push_str("...");
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_terminal_should_get_is_escaped() {
        let text = "a\u{1b}[2J\r\n\u{7}\u{9b}31m\u{202e}b \"c\" \u{e4}\u{4e2d}";
        let shown = printable(text, 100);
        assert_eq!(shown, "a\\u{1b}[2J\\r\\n\\u{7}\\u{9b}31m\\u{202e}b \"c\" \u{e4}\u{4e2d}");
        assert_eq!(printable("abc", 3), "abc");
        assert_eq!(printable("abcd", 3), "abc...");
    }
}

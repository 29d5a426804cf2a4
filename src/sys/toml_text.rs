//! TOML texts that people wrote.

use serde::de::DeserializeOwned;

/// Parses a TOML text.
///
/// # Errors
/// One line: `line N: ` and what is wrong there.
pub(crate) fn parse<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    toml::from_str(text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start.min(text.len()));
        let line = text[..start].matches('\n').count() + 1;
        format!("line {line}: {}", error.message().replace('\n', " "))
    })
}

#[cfg(test)]
mod tests {
    use toml::Table;

    use super::*;

    #[test]
    fn an_error_is_one_line_with_its_number() {
        assert!(parse::<Table>("a = 1\n[b]\nc = 2\n").is_ok());
        let error = parse::<Table>("a = 1\nb = \n").unwrap_err();
        assert!(error.starts_with("line 2: ") && !error.contains('\n'), "{error}");
    }
}

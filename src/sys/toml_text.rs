//! TOML texts that people wrote, and parts that are added to them.

use serde::de::DeserializeOwned;
use toml::Value;

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

/// A value on one line.
pub(crate) fn value(value: &Value) -> String {
    match value {
        Value::String(text) => quoted(text),
        Value::Integer(number) => number.to_string(),
        Value::Float(number) if number.is_nan() => "nan".to_owned(),
        Value::Float(number) => format!("{number:?}"),
        Value::Boolean(yes) => yes.to_string(),
        Value::Datetime(time) => time.to_string(),
        Value::Array(values) => {
            let values: Vec<_> = values.iter().map(self::value).collect();
            format!("[{}]", values.join(", "))
        }
        Value::Table(table) => {
            let entries =
                table.iter().map(|(name, of)| format!("{} = {}", key(name), self::value(of)));
            let entries: Vec<_> = entries.collect();
            format!("{{ {} }}", entries.join(", "))
        }
    }
}

/// A key.
pub(crate) fn key(name: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if !name.is_empty() && name.chars().all(bare) { name.to_owned() } else { quoted(name) }
}

/// A basic string (TOML 1.0, String).
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => quoted += &format!("\\u{:04X}", u32::from(c)),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use toml::Table;

    use super::*;

    #[test]
    fn what_is_written_is_read_as_the_same() {
        let text = "a = 'it\\s \"so\"'\nb = -7\nc = [1.0, -inf, 1e300]\nd = 1979-05-27T07:32:00Z\n\
                    e = {}\n[\"f.g h\"]\n\"\" = \"\\u0000\\u007F\\t\\n\\u00E9\"\nh = [true, [], {i = [{}]}]\n";
        let table: Table = parse(text).unwrap();
        let lines: String =
            table.iter().map(|(name, of)| format!("{} = {}\n", key(name), value(of))).collect();
        assert_eq!(parse::<Table>(&lines).unwrap(), table, "{lines}");
    }

    #[test]
    fn an_error_is_one_line_with_its_number() {
        assert!(parse::<Table>("a = 1\n[b]\nc = 2\n").is_ok());
        let error = parse::<Table>("a = 1\nb = \n").unwrap_err();
        assert!(error.starts_with("line 2: ") && !error.contains('\n'), "{error}");
    }
}

//! The text of a network's file, for `mcrun network create`.

use toml::Value;

use crate::sys::toml_text;

/// A file with these keys. A key with several values has a list.
pub fn file_text(keys: &[(String, String)]) -> String {
    let mut text = String::new();
    for (position, (key, _)) in keys.iter().enumerate() {
        if keys[..position].iter().any(|(before, _)| before == key) {
            continue;
        }
        let of_key = keys.iter().filter(|(other, _)| other == key);
        let mut values: Vec<Value> = of_key.map(|(_, text)| value(text)).collect();
        let value = match values.len() {
            1 => values.swap_remove(0),
            _ => Value::Array(values),
        };
        text += &format!("{} = {}\n", toml_text::key(key), toml_text::value(&value));
    }
    text
}

/// A number where the text is one.
fn value(text: &str) -> Value {
    match text.parse::<i64>() {
        Ok(number) if number.to_string() == text => Value::Integer(number),
        _ => Value::String(text.to_owned()),
    }
}

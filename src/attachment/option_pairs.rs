//! Options of an engine's network, which are attachment keys with their values.

use crate::attachment::keys::KEYS;

/// An option as pairs of the attachment syntax, `KEY=VALUE`. The values of a repeatable key are
/// separated by commas or spaces. Whether the key exists, and what its values mean, is told when the
/// pairs are parsed; no option becomes a pair of another key.
///
/// # Errors
/// What is wrong, for people.
pub(crate) fn option_pairs(name: &str, value: &str) -> Result<Vec<String>, &'static str> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if name.is_empty() || !name.chars().all(is_word) {
        return Err("the name of an option has letters, digits and hyphens");
    }
    let repeatable = KEYS.iter().any(|key| key.name == name && key.repeatable);
    let values: Vec<&str> = match repeatable {
        true => value.split([',', ' ']).filter(|value| !value.is_empty()).collect(),
        false => vec![value],
    };
    if value.contains(';') || values.iter().any(|value| value.contains(',')) {
        return Err("it has one value");
    }
    if values.is_empty() {
        return Ok(vec![format!("{name}=")]);
    }
    Ok(values.iter().map(|value| format!("{name}={value}")).collect())
}

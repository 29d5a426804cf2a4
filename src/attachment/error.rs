//! Why an attachment text is refused.

/// Why an attachment text is refused: one line that names the key, the value and what would be
/// right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SpecError(String);

impl SpecError {
    /// Longest message in characters; a value that is quoted may be much longer.
    const MAX: usize = 500;

    /// A line that can be shown on a terminal, whatever text is quoted in it: control characters
    /// are escaped, and what is too long is cut.
    pub(super) fn new(message: &str) -> Self {
        let visible = message.chars().flat_map(|c| {
            let escaped = c.is_control().then(|| c.escape_default());
            let plain = escaped.is_none().then_some(c);
            escaped.into_iter().flatten().chain(plain)
        });
        SpecError(visible.take(Self::MAX).collect())
    }
}

pub(super) fn fail<T>(message: impl AsRef<str>) -> Result<T, SpecError> {
    Err(SpecError::new(message.as_ref()))
}

/// `did you mean NAME?` where a known name is near to `value`, else `there are` and all of them.
pub(super) fn suggestion(value: &str, known: &[&str]) -> String {
    match nearest(value, known.iter().copied()) {
        Some(name) => format!("did you mean {name}?"),
        None => format!("there are {}", known.join(", ")),
    }
}

/// The known name that is so near to `value` that it may have been meant.
pub(crate) fn nearest<'k>(
    value: &str,
    known: impl IntoIterator<Item = &'k str>,
) -> Option<&'k str> {
    known
        .into_iter()
        .map(|k| (strsim::damerau_levenshtein(value, k), k))
        .min()
        .filter(|(distance, k)| *distance <= k.len().max(3) / 2)
        .map(|(_, k)| k)
}

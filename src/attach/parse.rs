//! The attachment syntax: text to [`Attachment`].

use super::Attachment;

/// Why an attachment text is refused.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct SpecError(pub String);

/// Parses one `KEY=VALUE[,KEY=VALUE...]`.
///
/// # Errors
/// A text that names the key, the value and what would be right.
pub fn parse_spec(_text: &str) -> Result<Attachment, SpecError> {
    Err(SpecError("not implemented".into()))
}

/// Parses several attachments separated by `;`, as annotations and variables hold them.
///
/// # Errors
/// That of the first bad one.
pub fn parse_list(_text: &str) -> Result<Vec<Attachment>, SpecError> {
    Err(SpecError("not implemented".into()))
}
